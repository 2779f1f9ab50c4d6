"""The page: all it shows is in it, its figures are those of the predictions, and it says what is
wrong where it cannot be made."""

import base64
import contextlib
import json
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import made_up
import numpy as np
import pandas as pd
import pytest
from conftest import Project, one_line

from ser import audio, calibration, corpus, scoring
from stages import report


class Parsed(HTMLParser):
    """What a page holds: elements' addresses, texts of scripts by id, tables as lists of rows."""

    def __init__(self, text: str):
        super().__init__()
        self.addresses: list[str] = []
        self.scripts: dict[str, str] = {}
        self.tables: list[list[list[str]]] = []
        self.links: dict[str, str] = {}
        self.open: str | None = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.addresses += [
            values[name] for name in ("src", "href", "xlink:href", "action") if name in values
        ]
        self.open = None
        if tag == "script":
            self.open = values.get("id", "")
            self.scripts[self.open] = ""
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "a" and values.get("href", "").startswith("#model="):
            self.links[values["href"]] = values["aria-label"]

    def handle_endtag(self, tag):
        self.open = None

    def handle_data(self, data):
        if self.open is not None:
            self.scripts[self.open] += data
        elif self.tables and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data.strip()

    @property
    def data(self) -> dict:
        return json.loads(self.scripts["data"])


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


pytestmark = pytest.mark.slow


def test_nothing_comes_from_elsewhere(made, page):
    assert len(page.addresses) > 50
    assert {address for address in page.addresses if not address.startswith("#")} == {"data:,"}
    assert "default-src 'none'" in (made / "report/index.html").read_text()


def test_every_held_out_clip_is_there_once_with_what_each_model_says(made, page):
    described = pd.DataFrame(page.data["clips"]).set_index("clip")
    assert [model["name"] for model in page.data["models"]] == ["svm", "probe"]
    for model in page.data["models"]:
        table = pd.read_csv(made / f"data/{model['name']}/predictions.csv")
        assert list(described.index) == list(table["clip"])
        assert list(described["emotion"]) == list(table["actual"])
        assert [corpus.EMOTIONS[i] for i in model["predicted"]] == list(table["predicted"])
        chances = table[list(corpus.EMOTIONS)].to_numpy()
        assert np.array(model["permille"]) == pytest.approx(1000 * chances, abs=0.51)
    one = described.loc["03-01-05-01-01-01-12"]
    assert [one["actor"], one["gender"], one["intensity"], one["fold"]] == [
        12,
        "female",
        "normal",
        2,
    ]


def test_figures_are_those_of_the_predictions(made, page):
    head, *rows = page.tables[0]
    assert head[:4] == ["model", "clips", "accuracy, %", "UAR, %"]
    for row, (model, title) in zip(rows, made_up.TITLES.items(), strict=True):
        table = pd.read_csv(made / f"data/{model}/predictions.csv")
        right = table["actual"] == table["predicted"]
        recalls = right.groupby(table["actual"]).mean()
        assert row[:2] == [title, "96"]
        assert row[2].startswith(f"{100 * right.mean():.1f} [")
        assert row[3].startswith(f"{100 * recalls.mean():.1f} [")
        assert row[2] == scoring.as_text(scoring.bounded(table), "accuracy")
        losses = [
            -np.log(chances[actual])
            for actual, chances in zip(table["actual"], table.to_dict("records"), strict=True)
        ]
        assert row[5] == f"{np.mean(losses):.3f}"


def test_each_cell_of_a_confusion_matrix_leads_to_as_many_clips_as_it_says(page):
    clips, models = page.data["clips"], page.data["models"]
    total = 0
    for link, label in page.links.items():
        asked = dict(pair.split("=") for pair in link[1:].split("&"))
        [model] = [model for model in models if model["name"] == asked["model"]]
        number = sum(
            (emotion, corpus.EMOTIONS[heard]) == (asked["emotion"], asked["predicted"])
            for emotion, heard in zip(clips["emotion"], model["predicted"], strict=True)
        )
        assert label.split()[0] == str(number)
        total += number
    assert total == 2 * 96


def test_what_one_hears_is_the_clip(made, page, tmp_path):
    sounds = page.scripts["sounds"].split("\n")
    assert len(sounds) == len(page.scripts["pictures"].split("\n")) == 96
    for number in (0, 50, 95):
        (tmp_path / "sound").write_bytes(base64.b64decode(sounds[number]))
        heard = audio.decode(tmp_path / "sound")
        clip = audio.read(made / f"data/audio/{page.data['clips']['clip'][number]}.wav")
        assert len(heard) == pytest.approx(len(clip), abs=480)
        length = min(len(heard), len(clip))
        assert np.corrcoef(heard[:length], clip[:length])[0, 1] > 0.9


def test_the_corpus_the_protocol_and_others_figures_are_told(made, page):
    text = (made / "report/index.html").read_text()
    for words in ("SYNTHETIC", "made up; seed 1 &lt;of none&gt;", "stereo files", "corpus: demo"):
        assert words in text, words
    [published] = [table for table in page.tables if table and table[0][:1] == ["system"]]
    assert any(row[1] == "six folds of EmoBox" and row[2] == "55.4" for row in published)
    assert "RAVDESS. Its licence" not in text, "the demo's voices are synthetic"


def test_pictures_and_calibration_table(made):
    for name in ("emotions", "actors", "calibration"):
        content = (made / f"metrics/{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 10_000
    assert not (made / "metrics/learning.png").exists()
    table = pd.read_csv(made / "metrics/calibration.csv")
    assert table.groupby("model")["clips"].sum().to_dict() == dict.fromkeys(made_up.TITLES, 96)


def test_the_same_bytes_again(made):
    first = (made / "report/index.html").read_bytes()
    (made / "report/index.html").unlink()
    assert write(made).read_bytes() == first


def test_one_model_alone_will_do_and_mistakes_are_one_line(tmp_path):
    folder = made_up.make(tmp_path / "one", sound=False)
    shutil.rmtree(folder / "data/probe")
    page = Parsed(write(folder, "--no-audio").read_text())
    assert not {"sounds", "pictures"} & set(page.scripts)
    assert [model["name"] for model in page.data["models"]] == ["svm"]
    assert len(page.data["clips"]["clip"]) == 96
    assert not (folder / "report/index.html").exists()

    project = Project(folder, tmp_path)
    here = {"PYTHONPATH": str(Path(report.__file__).parents[1])}
    one_line(project.stage("report", **here), "data/audio/03-01-", "not a WAV file")
    assert not (folder / "report/index.html").exists()
    shutil.rmtree(folder / "data/svm")
    one_line(project.stage("report", **here), "predictions of no model", "dvc repro")


def test_a_page_of_ravdess_says_what_its_licence_forbids(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    params = tmp_path / "copy/params.yaml"
    params.write_text(params.read_text().replace("corpus: demo", "corpus: ravdess"))
    text = write(tmp_path / "copy").read_text()
    assert "forbids passing it on commercially" in " ".join(text.split())


def test_calibration_error():
    """Sure to 0.9 and right in 3 of 4, sure to 0.4 and right in 1 of 2: 4/6 * 0.15 + 2/6 * 0.1."""
    rows = []
    for confidence, right in [(0.9, 1), (0.9, 1), (0.9, 1), (0.9, 0), (0.4, 1), (0.4, 0)]:
        others = (1 - confidence) / 7
        rows.append(["calm", "calm" if right else "sad", *[others] * 7, confidence])
    table = pd.DataFrame(rows, columns=["actual", "predicted", *corpus.EMOTIONS])
    assert calibration.expected_error(table) == pytest.approx((4 * 0.15 + 2 * 0.1) / 6)
    assert list(calibration.bins(table)["clips"]) == [2, 4]
    assert list(calibration.bins(table)["low"]) == pytest.approx([0.4, 0.9])
