"""Charts of results, as SVG for the page and as PNG files that need no browser."""

import re
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

RECALL = alt.Scale(domain=[0, 1])
COLOURS = ("#3b82c4", "#d9822b", "#2e9d68", "#a56cc1", "#c4453b")  # legible in light and dark mode


def stacked(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The models' tables one under the other, with a column `model`."""
    return pd.concat(tables, names=["model"]).reset_index("model")


def colour(models: list[str]) -> alt.Color:
    """One colour for each model, the same in all charts."""
    scale = alt.Scale(domain=models, range=COLOURS)
    return alt.Color("model:N", scale=scale, legend=alt.Legend(title=None, orient="top"))


def by_label(tables: dict[str, pd.DataFrame], labels: list[str]) -> alt.Chart:
    """Recall of each label, in this order, under each model, from `scoring.by_label`'s tables by
    title."""
    return (
        alt.Chart(stacked(tables))
        .mark_bar()
        .encode(
            x=alt.X("label:N", sort=labels, title=None, axis=alt.Axis(labelAngle=0)),
            xOffset=alt.XOffset("model:N", sort=list(tables)),
            y=alt.Y("recall:Q", scale=RECALL, title="recall"),
            color=colour(list(tables)),
            href="link:N",
            description="text:N",
        )
        .transform_calculate(
            link="'#label=' + datum.label",
            text="datum.model + ', ' + datum.label + ': recall ' + format(datum.recall, '.1%')",
        )
        .properties(width=820, height=220)
    )


def by_speaker(tables: dict[str, pd.DataFrame], genders: pd.Series | None) -> alt.Chart:
    """Mean recall over the labels (UAR) of each speaker under each model, from `scoring.by_group`'s
    tables by title; genders apart, where the speakers' are known."""
    table = stacked(tables)
    table["gender"] = "" if genders is None else table["speaker"].map(genders).fillna("unknown")
    parts = table["gender"].nunique()
    return (
        alt.Chart(table)
        .mark_point(filled=True, size=70, opacity=1)
        .encode(
            x=alt.X("speaker:O", title="speaker", axis=alt.Axis(labelAngle=0, grid=True)),
            y=alt.Y("uar:Q", scale=RECALL, title="mean recall (UAR)"),
            color=colour(list(tables)),
            shape=alt.Shape("model:N", sort=list(tables), legend=None),
            column=alt.Column("gender:N", title=None),
            href="link:N",
            description="text:N",
        )
        .transform_calculate(
            link="'#speaker=' + datum.speaker",
            text="datum.model + ', speaker ' + datum.speaker + ': UAR ' + format(datum.uar, '.1%')",
        )
        .properties(width=820 / parts - 20, height=220)
        .resolve_scale(x="independent")
    )


def calibration(tables: dict[str, pd.DataFrame]) -> alt.LayerChart:
    """Share of clips that are right against how sure the model is of them, and the diagonal, on
    which a model knows what it does not know; from `scoring.calibration`'s tables by title."""
    points = (
        alt.Chart(stacked(tables))
        .mark_line(point=alt.OverlayMarkDef(size=60))
        .encode(
            x=alt.X("confidence:Q", scale=RECALL, title="confidence, mean of a group of clips"),
            y=alt.Y("accuracy:Q", scale=RECALL, title="share that is right"),
            color=colour(list(tables)),
            description="text:N",
        )
        .transform_calculate(
            text="datum.model + ', ' + datum.clips + ' clips of confidence '"
            " + format(datum.confidence, '.2f') + ': ' + format(datum.accuracy, '.1%') + ' right'"
        )
    )
    ends = pd.DataFrame({"confidence": [0, 1], "accuracy": [0, 1]})
    diagonal = alt.Chart(ends).mark_line(strokeDash=[4, 4], color="#888888")
    return (diagonal.encode(x="confidence:Q", y="accuracy:Q") + points).properties(
        width=380, height=320
    )


def curves(epochs: pd.DataFrame) -> alt.HConcatChart:
    """Loss and UAR of the training clips, from columns fold, epoch, loss and uar: a line a fold."""
    base = (
        alt.Chart(epochs)
        .mark_line(point=len(epochs) <= 200)
        .encode(
            x=alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1, format="d")),
            color=alt.Color("fold:N", scale=alt.Scale(scheme="tableau10")),
        )
        .properties(width=360, height=220)
    )
    return base.encode(alt.Y("loss:Q")) | base.encode(alt.Y("uar:Q", scale=RECALL, title="UAR"))


def svg(chart: Any) -> str:
    """A chart as an SVG element, in the page's own text colour, its links within the page."""
    ink = "currentColor"
    themed = (
        chart.configure(background="transparent")
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=ink, titleColor=ink, gridColor=ink, gridOpacity=0.15, domainColor=ink,
            tickColor=ink, labelFontSize=12, titleFontSize=12, titleFontWeight="normal",
        )
        .configure_legend(labelColor=ink, titleColor=ink, labelFontSize=13, labelLimit=400)
        .configure_header(labelColor=ink, titleColor=ink, labelFontSize=13)
    )  # fmt: skip
    drawn = vl_convert.vegalite_to_svg(themed.to_json())
    return re.sub(r'href="https://[^"#]*#', 'href="#', drawn)  # Vega gives them an address


def png(drawn: str) -> bytes:
    """What `svg` returns as a PNG picture, black on white, twice as fine as a screen, for pages
    that are zoomed."""
    paper = '<rect width="100%" height="100%" fill="white"/>'
    return vl_convert.svg_to_png(drawn.replace("<g ", f"{paper}<g ", 1), scale=2)
