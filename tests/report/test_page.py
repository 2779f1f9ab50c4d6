"""The page: all it shows is in it, its figures are those of the predictions, and it says what is
wrong where it cannot be made."""

import base64
import contextlib
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import made_up
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, Project, one_line

from ser import audio, corpus, scoring
from stages import report

pytestmark = pytest.mark.slow


class Parsed(HTMLParser):
    """A page's addresses, texts of scripts by id, tables as lists of rows, links to clips."""

    def __init__(self, text: str):
        super().__init__()
        self.addresses: list[str] = []
        self.scripts: dict[str, str] = {}
        self.tables: list[list[list[str]]] = []
        self.links: dict[str, str] = {}
        self.script: str | None = None
        self.feed(text)
        self.data = json.loads(self.scripts["data"])

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.addresses += [
            values[name] for name in ("src", "href", "xlink:href", "action") if name in values
        ]
        self.script = values.get("id", "") if tag == "script" else None
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "a" and values.get("href", "").startswith("#model="):
            self.links[values["href"]] = values["aria-label"]

    def handle_endtag(self, tag):
        self.script = None

    def handle_data(self, data):
        if self.script is not None:
            self.scripts[self.script] = self.scripts.get(self.script, "") + data
        elif self.tables and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data.strip()


def write(folder: Path, *arguments: str) -> Path:
    """Run the stage in `folder`, in this process; the page that it wrote."""
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setattr(sys, "argv", ["report", *arguments])
        report.main()
    return folder / "report" / ("no-audio.html" if arguments else "index.html")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results and their page."""
    folder = made_up.make(tmp_path_factory.mktemp("made"))
    write(folder)
    return folder


@pytest.fixture(scope="module")
def page(made: Path) -> Parsed:
    return Parsed((made / "report/index.html").read_text())


def test_nothing_comes_from_elsewhere(made, page):
    assert len(page.addresses) > 50
    assert {address for address in page.addresses if not address.startswith("#")} == {"data:,"}
    assert "default-src 'none'" in (made / "report/index.html").read_text()


def test_every_held_out_clip_is_there_once_with_each_models_answer(made, page):
    described = pd.DataFrame(page.data["clips"]).set_index("clip")
    assert [model["name"] for model in page.data["models"]] == ["svm", "probe"]
    for model in page.data["models"]:
        table = pd.read_csv(made / f"data/predictions/{model['name']}/predictions.csv")
        assert list(described.index) == list(table["clip"])
        assert list(described["emotion"]) == list(table["actual"])
        assert [corpus.EMOTIONS[i] for i in model["predicted"]] == list(table["predicted"])
        chances = table[list(corpus.EMOTIONS)].to_numpy()
        assert np.array(model["permille"]) == pytest.approx(1000 * chances, abs=0.51)
    one = described.loc["03-01-05-01-01-01-12", ["actor", "gender", "intensity", "fold"]]
    assert list(one) == [12, "female", "normal", 2]


def test_figures_are_those_of_the_predictions(made, page):
    head, *rows = page.tables[0]
    assert head[:4] == ["model", "clips", "accuracy, %", "UAR, %"]
    for row, (model, title) in zip(rows, made_up.TITLES.items(), strict=True):
        table = pd.read_csv(made / f"data/predictions/{model}/predictions.csv")
        right = table["actual"] == table["predicted"]
        recalls = right.groupby(table["actual"]).mean()
        assert row[:2] == [title, "96"]
        assert row[2].startswith(f"{100 * right.mean():.1f} [")
        assert row[3].startswith(f"{100 * recalls.mean():.1f} [")
        assert row[2] == scoring.as_text(scoring.bounded(table), "accuracy")
        assert row[5] == f"{scoring.log_loss(table):.3f}"


def test_each_cell_of_a_confusion_matrix_leads_to_as_many_clips_as_it_says(page):
    clips, total = page.data["clips"], 0
    heard = {model["name"]: model["predicted"] for model in page.data["models"]}
    for link, label in page.links.items():
        asked = dict(pair.split("=") for pair in link[1:].split("&"))
        number = sum(
            (emotion, corpus.EMOTIONS[answer]) == (asked["emotion"], asked["predicted"])
            for emotion, answer in zip(clips["emotion"], heard[asked["model"]], strict=True)
        )
        assert label.split()[0] == str(number)
        total += number
    assert total == 2 * 96


def test_a_player_plays_its_clip(made, page, tmp_path):
    sounds = page.scripts["sounds"].split("\n")
    assert len(sounds) == len(page.scripts["pictures"].split("\n")) == 96
    for number in (0, 50, 95):
        (tmp_path / "sound").write_bytes(base64.b64decode(sounds[number]))
        heard = audio.decode(tmp_path / "sound")
        clip = audio.read(made / f"data/audio/{page.data['clips']['clip'][number]}.wav")
        assert len(heard) == pytest.approx(len(clip), abs=480)
        length = min(len(heard), len(clip))
        assert np.corrcoef(heard[:length], clip[:length])[0, 1] > 0.9


def test_the_corpus_the_protocol_the_machine_and_others_figures_are_told(made, page):
    text = (made / "report/index.html").read_text()
    for words in (
        "SYNTHETIC", "made up; seed 1 &lt;of none&gt;", "held-out actors 1,2,3,4 |",
        "frozen encoder + probe was trained on: device abacus; beads 1.0.",
        "Learning: frozen encoder + probe", "stereo files", "corpus: demo",
    ):  # fmt: skip
        assert words in text, words
    [published] = [table for table in page.tables if table and table[0][:1] == ["system"]]
    assert any("EmoBox" in row[1] and row[2] == "55.4" for row in published)
    assert "RAVDESS. Its licence" not in text, "the demo's voices are synthetic"


def test_pictures_are_those_of_what_there_is(made):
    names = {"emotions.png", "actors.png", "calibration.png", "learning-probe.png"}
    assert {path.name for path in (made / "metrics/charts").iterdir()} == names
    for name in names:
        content = (made / "metrics/charts" / name).read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 10_000


def test_the_same_bytes_again_and_the_licence_of_ravdess(made):
    first = (made / "report/index.html").read_bytes()
    assert write(made).read_bytes() == first
    params = made / "params.yaml"
    try:
        params.write_text(params.read_text().replace("corpus: demo", "corpus: ravdess"))
        text = write(made).read_text()
        assert "forbids passing it on commercially" in " ".join(text.split())
    finally:
        params.write_text(params.read_text().replace("corpus: ravdess", "corpus: demo"))
        write(made)


def test_one_model_alone_will_do_and_mistakes_are_one_line(made, tmp_path):
    ignored = shutil.ignore_patterns("probe", "report")
    folder = Path(shutil.copytree(made, tmp_path / "one", ignore=ignored))
    page = Parsed(write(folder, "--no-audio").read_text())
    assert not {"sounds", "pictures"} & set(page.scripts)
    assert [model["name"] for model in page.data["models"]] == ["svm"]
    assert len(page.data["clips"]["clip"]) == 96

    project, here = Project(folder, tmp_path), {"PYTHONPATH": str(ROOT)}
    (folder / "data/audio/03-01-05-01-01-01-12.wav").write_bytes(b"")
    one_line(project.stage("report", **here), "data/audio/03-01-05", "not a WAV file")
    table = folder / "data/predictions/svm/predictions.csv"
    table.write_text(re.sub("angry", "bored", table.read_text()))
    one_line(project.stage("report", **here), "data/predictions/svm/predictions.csv", "columns")
    shutil.rmtree(table.parent)
    one_line(project.stage("report", **here), "no model's predictions", "dvc repro")
    assert not (folder / "report/index.html").exists()
