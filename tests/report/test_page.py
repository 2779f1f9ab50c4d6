"""The page: all it shows is in it, its figures are those of the predictions, and it says what is
wrong where it cannot be made."""

import base64
import contextlib
import html
import json
import re
import shutil
import sys
from pathlib import Path

import made_up
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, Project, one_line
from dvc.utils.hydra import apply_overrides

from ser import audio, scoring
from ser.corpora import ravdess
from stages import report

pytestmark = pytest.mark.slow


class Parsed:
    """A page's scripts by id, its data, and its tables as lists of rows."""

    def __init__(self, text: str):
        pattern = r'<script type="[^"]+"(?: id="(\w+)")?>(.*?)</script>'
        self.scripts = dict(re.findall(pattern, text, flags=re.DOTALL))
        self.data = json.loads(self.scripts["data"])
        body = re.sub(pattern, "", text, flags=re.DOTALL)
        self.tables = [
            [self.cells(row) for row in re.findall("<tr>.*?</tr>", table, flags=re.DOTALL)]
            for table in re.findall("<table.*?</table>", body, flags=re.DOTALL)
        ]

    @staticmethod
    def cells(row: str) -> list[str]:
        cells = re.findall("<t[hd].*?</t[hd]>", row, flags=re.DOTALL)
        return [html.unescape(re.sub("<.*?>", "", cell)).strip() for cell in cells]


def write(folder: Path, *arguments: str) -> Path:
    """Run the stage in `folder`, in this process; the page that it wrote."""
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setattr(sys, "argv", ["report", *arguments])
        report.main()
    return folder / "report" / ("no-audio.html" if arguments else "index.html")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results and their page."""
    folder = made_up.make(tmp_path_factory.mktemp("results"))
    write(folder)
    return folder


@pytest.fixture(scope="module")
def page(results: Path) -> Parsed:
    return Parsed((results / "report/index.html").read_text())


def test_every_held_out_clip_is_there_once_with_each_models_answer(results, page):
    described = pd.DataFrame(page.data["clips"]).set_index("clip")
    assert [model["name"] for model in page.data["models"]] == ["svm", "probe"]
    for model in page.data["models"]:
        table = pd.read_csv(results / f"data/predictions/{model['name']}/predictions.csv")
        assert list(described.index) == list(table["clip"])
        assert list(described["label"]) == list(table["actual"])
        assert [ravdess.EMOTIONS[i] for i in model["predicted"]] == list(table["predicted"])
        chances = table[list(ravdess.EMOTIONS)].to_numpy()
        assert np.array(model["permille"]) == pytest.approx(1000 * chances, abs=0.51)
    one = described.loc["03-01-05-01-01-01-12", ["speaker", "gender", "statement", "fold"]]
    assert list(one) == [12, "female", 1, 2]


def test_figures_are_those_of_the_predictions(results, page):
    head, *rows = page.tables[0]
    assert head[:4] == ["model", "clips", "accuracy, %", "UAR, %"]
    for row, (model, title) in zip(rows, made_up.TITLES.items(), strict=True):
        table = pd.read_csv(results / f"data/predictions/{model}/predictions.csv")
        right = table["actual"] == table["predicted"]
        recalls = right.groupby(table["actual"]).mean()
        assert row[:2] == [title, "96"]
        assert row[2].startswith(f"{100 * right.mean():.1f} [")
        assert row[3].startswith(f"{100 * recalls.mean():.1f} [")
        assert row[2] == scoring.as_text(scoring.bounded(table), "accuracy")
        assert row[5] == f"{scoring.log_loss(table):.3f}"


def test_a_player_plays_its_clip(results, page, tmp_path):
    sounds = page.scripts["sounds"].split("\n")
    assert len(sounds) == len(page.scripts["pictures"].split("\n")) == 96
    for number in (0, 50, 95):
        (tmp_path / "sound").write_bytes(base64.b64decode(sounds[number]))
        heard, _ = audio.decode(tmp_path / "sound")
        clip = audio.read(results / f"data/audio/{page.data['clips']['clip'][number]}.wav")
        assert len(heard) == pytest.approx(len(clip), abs=480)
        length = min(len(heard), len(clip))
        assert np.corrcoef(heard[:length], clip[:length])[0, 1] > 0.9


def test_the_corpus_the_protocol_the_machine_and_others_figures_are_there(results, page):
    text = (results / "report/index.html").read_text()
    for words in (
        "default-src 'none'", "SYNTHETIC",
        "made up; seed 1 &lt;of none&gt;", "held-out speakers 1,2,3,4 |",
        "frozen encoder + probe was trained on: device abacus; beads 1.0.",
        "Learning: frozen encoder + probe", "stereo files", "corpus: demo",
    ):  # fmt: skip
        assert words in text, words
    [published] = [table for table in page.tables if table and table[0][:1] == ["system"]]
    assert any("EmoBox" in row[1] and row[2] == "55.4" for row in published)
    assert "RAVDESS. Its licence" not in text, "the demo's voices are synthetic"


def test_pictures_are_those_of_what_there_is(results):
    names = {"labels.png", "speakers.png", "calibration.png", "learning-probe.png"}
    assert {path.name for path in (results / "metrics/charts").iterdir()} == names
    for name in names:
        content = (results / "metrics/charts" / name).read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 10_000


def test_the_same_bytes_again_and_the_licence_of_ravdess(results, tmp_path):
    first = (results / "report/index.html").read_bytes()
    assert write(results).read_bytes() == first
    folder = Path(shutil.copytree(results, tmp_path / "ravdess"))
    apply_overrides(folder / "params.yaml", ["corpus=ravdess"])
    text = write(folder).read_text()
    assert "forbids passing it on commercially" in " ".join(text.split())


def test_one_model_alone_will_do_and_mistakes_are_one_line(results, warm, tmp_path):
    ignored = shutil.ignore_patterns("probe", "report")
    folder = Path(shutil.copytree(results, tmp_path / "one", ignore=ignored))
    page = Parsed(write(folder, "--no-audio").read_text())
    assert not {"sounds", "pictures"} & set(page.scripts)
    assert [model["name"] for model in page.data["models"]] == ["svm"]
    assert len(page.data["clips"]["clip"]) == 96

    project, here = Project(folder, tmp_path, warm), {"PYTHONPATH": str(ROOT)}
    table = pd.read_parquet(folder / "data/sounds.parquet")
    table[1:].to_parquet(folder / "data/sounds.parquet")
    one_line(project.stage("report", **here), "03-01-01-01-01-01-02", "`dvc repro sounds`")
    (folder / "data/sounds.parquet").unlink()
    one_line(project.stage("report", **here), "data/sounds.parquet", "`dvc repro sounds`")
    table = folder / "data/predictions/svm/predictions.csv"
    head, *rows = table.read_text().splitlines(keepends=True)
    table.write_text(head + "".join(rows).replace("angry", "bored"))
    one_line(project.stage("report", **here), "data/predictions/svm/predictions.csv", "'bored'")
    shutil.rmtree(table.parent)
    one_line(project.stage("report", **here), "no model's predictions", "dvc repro")
    assert not (folder / "report/index.html").exists()
