"""The ledger of results: what is recorded, the tables made of it, and that the pages hold these."""

import json
import re

import pandas as pd
import pytest
from conftest import ROOT, one_line

from commands import results
from ser import scoring
from ser.corpus import EMOTIONS
from ser.report import ledger

NAMES = sorted(path.parent.name for path in (ROOT / "results").glob("*/run.json"))


@pytest.mark.parametrize("page", results.PAGES)
def test_pages_hold_the_tables_that_the_ledger_makes(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / page).read_text()
    assert "<!-- end of " in text
    assert ledger.filled(text) == text, "edited by hand? `python -m commands.results --pages`"


def test_a_figure_edited_by_hand_is_noticed(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "README.md").read_text()
    figure = scoring.as_text(ledger.read("svm").metrics, "accuracy")
    edited = text.replace(f"| {figure} |", f"| {figure.replace('.', '.1')} |")
    assert edited != text
    assert ledger.filled(edited) == text


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_those_of_the_predictions(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    result = ledger.read(name)
    table = result.predictions
    assert tuple(table.columns) == scoring.COLUMNS
    assert table[list(EMOTIONS)].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
    assert (table[list(EMOTIONS)].idxmax(axis=1) == table["predicted"]).mean() > 0.999  # ties
    figures = scoring.summary(table)
    assert list(result.metrics) == list(figures)
    assert result.metrics == pytest.approx(figures, abs=2e-4)


def test_each_result_is_in_the_tables_and_the_default_is_the_committed_one():
    words = ledger.settings() if (ROOT / "results").exists() else {}
    seeds = [seed for row in words["measured"].values() for seed in row.get("seeds", [])]
    assert sorted([*words["measured"], *seeds]) == NAMES
    committed = (ROOT / "metrics" / "svm.json").read_text()
    assert json.loads((ROOT / "results" / "svm" / "metrics.json").read_text()) == json.loads(
        committed
    )


def test_several_seeds_are_their_mean_and_deviation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, accuracy in {"a": 0.70, "a-seed1": 0.72, "a-seed2": 0.74}.items():
        (tmp_path / "results" / name).mkdir(parents=True)
        figures = {"accuracy": accuracy, "accuracy_low": 0.6, "accuracy_high": 0.8}
        (tmp_path / "results" / name / "metrics.json").write_text(json.dumps(figures))
        (tmp_path / "results" / name / "run.json").write_text("{}")
        pd.DataFrame().to_csv(tmp_path / "results" / name / "predictions.csv")
    text = ledger.figure("a", "accuracy", ["a-seed1", "a-seed2"])
    assert text == "72.0 ± 2.0 (first seed 70.0 [60.0, 80.0])"


@pytest.mark.slow
def test_record_keeps_what_was_run_and_refuses_what_was_not(project):
    """On the demo corpus: figures, parameters, what it took."""
    settings = ("corpus=demo", "demo.seconds=0.6", "demo.takes=1", "svm_train.kernel=[rbf]")
    changes = [word for setting in settings for word in ("-S", setting)]
    project.run("git", "rm", "-r", "--quiet", "--ignore-unmatch", "metrics")
    one_line(project.command("record", "tried", "svm"), "metrics/svm.json", "dvc repro")
    project.run("dvc", "exp", "run", *changes, "evaluate@svm")
    one_line(project.command("record", "../tried", "svm"), "../tried", "letters")
    recorded = project.command("record", "tried", "svm")
    assert recorded.returncode == 0, recorded.stderr
    folder = project.path / "results" / "tried"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == json.loads((project.path / "metrics" / "svm.json").read_text())
    run = json.loads((folder / "run.json").read_text())
    assert run["command"].startswith("dvc exp run -S corpus=demo")
    assert run["command"].endswith(" evaluate@svm")
    assert 1 < run["seconds"] < 600
    assert 1e8 < run["memory_bytes"] < 3e10
    assert run["checkpoint"] is None
    assert "svm_train.kernel: [rbf]" in (folder / "params.yaml").read_text()
    assert "SYNTHETIC" in (folder / "protocol.txt").read_text()
    made = pd.read_csv(project.path / "data" / "svm" / "predictions.csv")
    pd.testing.assert_frame_equal(pd.read_csv(folder / "predictions.csv"), made, atol=1e-6)
    text = (project.path / "params.yaml").read_text()
    (project.path / "params.yaml").write_text(re.sub("n_fft: 512", "n_fft: 400", text))
    one_line(project.command("record", "tried", "svm"), "metrics/svm.json", "dvc repro")
    assert json.loads((folder / "metrics.json").read_text()) == metrics, "the older one is kept"
