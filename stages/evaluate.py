"""Score the held-out predictions of one model over all folds of params.yaml.

    python -m stages.evaluate NAME

Reads:  data/predictions/NAME/: predictions.csv, protocol.txt; data/clips.csv; params `corpus`,
            `folds`, `models.NAME`, `split.scheme`
Writes: metrics/NAME.json: accuracy, uar, macro_f1, the first two with 95 % bounds over speakers
            (accuracy_low, …), ece
        metrics/NAME/:
            protocol.txt     how the figures came about, in one line
            folds.csv        fold, speakers, clips, accuracy, uar, macro_f1; a row per fold
            speakers.csv     speaker, fold, clips, accuracy, uar, macro_f1; a row per speaker
            kinds.csv        kind, value, clips, accuracy, uar, macro_f1; a row per gender, or
                             whatever else data/clips.csv tells clips apart by
            labels.csv       label, clips, recall, precision, f1; a row per label
            calibration.csv  low, high (bounds of the confidence), clips, confidence, accuracy
                             (means); a row per tenth of the range that holds any clips
            confusion.csv    actual, predicted; a row per clip, for DVC's confusion plot
            confusion.png    its picture
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ser import corpus, params, protocols, scoring, tables
from ser.run import errors, outputs


def draw(predictions: pd.DataFrame, title: str, path: Path) -> None:
    """Draw the confusion matrix as a PNG file, each row as shares: the diagonal is the recall."""
    labels = tables.labels(predictions)
    side = max(6.4, 0.45 * len(labels))
    # Without pyplot, which needs a screen.
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    counts = scoring.confusion(predictions)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, interpolation="nearest", cmap="Blues")
    middle = (shares.max() + shares.min()) / 2
    for (row, column), share in np.ndenumerate(shares):
        colour = image.cmap(1.0 if share < middle else 0)
        axes.text(column, row, f"{share:.2f}", ha="center", va="center", color=colour)
    places = range(len(labels))
    axes.set(xticks=places, xticklabels=labels, yticks=places, yticklabels=labels)
    axes.tick_params("x", labelrotation=45)
    axes.set(xlabel="predicted", ylabel="actual", title=title)
    figure.savefig(path, dpi=110, format="png", metadata={"Software": None})


@errors.one_line
def main() -> None:
    """Read the predictions, write figures, tables and picture."""
    settings = params.load()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=list(settings.models))
    model = parser.parse_args().model

    predictions = tables.predictions(model, settings.folds)
    text = (tables.MODELS / model / "protocol.txt").read_text(encoding="utf-8")
    protocol = protocols.sentence(settings.corpus, settings.split.scheme, predictions, text)
    figures = scoring.summary(predictions)
    leaky = ", LEAKY random split" if protocols.leaky(settings.split.scheme) else ""
    title = (
        f"{settings.models[model]} on {corpus.title(settings.corpus)}{leaky}\n"
        f"accuracy {figures['accuracy']:.1%}, UAR {figures['uar']:.1%}, "
        f"{len(predictions)} held-out clips of {predictions['speaker'].nunique()} speakers"
    )
    by_name = {
        "folds": scoring.by_group(predictions, "fold"),
        "speakers": scoring.by_group(predictions, "speaker"),
        "kinds": scoring.by_kind(predictions, tables.clips()),
        "labels": scoring.by_label(predictions),
        "calibration": scoring.calibration(predictions),
        "confusion": predictions[["actual", "predicted"]],
    }
    with outputs.together() as output:
        folder = output(f"metrics/{model}")
        folder.mkdir()
        (folder / "protocol.txt").write_text(protocol + "\n", encoding="utf-8")
        for name, table in by_name.items():
            table.to_csv(folder / f"{name}.csv", index=False, float_format="%.4f")
        draw(predictions, title, folder / "confusion.png")
        outputs.write_json(output(f"metrics/{model}.json"), figures)
    print(title)


if __name__ == "__main__":
    main()
