"""The ledger of results: its records, the tables of them, and the pages that hold these."""

import json
import shlex

import pandas as pd
import pytest
from conftest import ROOT, one_line
from dvc.utils.hydra import apply_overrides
from scipy import stats

from commands import results
from ser import scoring
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


def test_each_result_is_in_the_tables_and_the_default_is_the_committed_one():
    words = ledger.settings() if (ROOT / "results").exists() else {}
    seeds = [seed for row in words["measured"].values() for seed in row.get("seeds", [])]
    assert sorted([*words["measured"], *seeds]) == NAMES
    files = (ROOT / "results" / "svm" / "metrics.json", ROOT / "metrics" / "svm.json")
    recorded, committed = (json.loads(file.read_text()) for file in files)
    assert recorded == committed


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


def right(name: str, column: str) -> pd.Series:
    """The share of right clips of each actor or fold, averaged over the result's seeds."""
    names = [name, *ledger.settings()["measured"][name].get("seeds", [])]
    tables = [pd.read_csv(ROOT / "results" / each / "predictions.csv") for each in names]
    shares = [(t["predicted"] == t["actual"]).groupby(t[column]).mean() for t in tables]
    return pd.concat(shares, axis=1).mean(axis=1)


@pytest.mark.parametrize("second", ["whisper-tiny.en-probe", "whisper-tiny.en-mean"])
def test_differences_and_folds_are_over_all_seeds(second, monkeypatch):
    """Three seeds less one, and three less three: each actor's mean over the seeds, then paired."""
    monkeypatch.chdir(ROOT)
    first = "whisper-tiny.en-finetuned"
    gains = right(first, "actor") - right(second, "actor")
    bounds = stats.t.interval(0.95, len(gains) - 1, gains.mean(), stats.sem(gains))
    points = ledger.difference(first, second)
    names = ("accuracy", "accuracy_low", "accuracy_high")
    assert [points[name] for name in names] == pytest.approx([gains.mean(), *bounds])
    cells = [f"{share:.1f}" for share in 100 * right(first, "fold")]
    assert f"| {first} | {' | '.join(cells)} |" in ledger.folds()


@pytest.mark.slow
def test_record_keeps_what_was_run_and_refuses_what_was_not(clone):
    metrics = clone.path / "metrics" / "svm.json"
    figures = json.loads(metrics.read_text())
    one_line(clone.command("record", "../tried", "svm"), "../tried", "letters")
    for model in ("svm", "w2v"):
        recorded = clone.command("record", f"tried-{model}", model)
        assert recorded.returncode == 0, recorded.stderr
    folder = clone.path / "results" / "tried-svm"
    assert json.loads((folder / "metrics.json").read_text()) == figures
    assert "SYNTHETIC" in (folder / "protocol.txt").read_text()
    written = pd.read_csv(clone.path / "data/predictions/svm/predictions.csv")
    kept = pd.read_csv(folder / "predictions.csv")
    expected = written[written["fold"] < 2].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, expected, atol=1e-6)
    run = json.loads((folder / "run.json").read_text())
    assert run["command"] == "dvc repro evaluate@svm"
    assert run["checkpoint"] is None
    assert run["seconds"] is None, "it was run in another clone"
    run = json.loads((folder.parent / "tried-w2v" / "run.json").read_text())
    own = json.loads((clone.path / "data/predictions/w2v/run.json").read_text())
    assert run.items() >= own.items()

    changes = ("-S", "mfcc.deltas=0", "-S", 'svm_train.kernel=["linear"]')
    clone.run("dvc", "exp", "run", *changes, "evaluate@svm")
    assert clone.command("record", "tried-svm", "svm").returncode == 0
    run = json.loads((folder / "run.json").read_text())
    assert shlex.split(run["command"]) == ["dvc", "exp", "run", *changes, "evaluate@svm"]
    assert 1 < run["seconds"] < 600
    assert 1e8 < run["memory_bytes"] < 3e10
    assert "svm_train.kernel: [linear]" in (folder / "params.yaml").read_text()

    figures = (folder / "metrics.json").read_text()
    apply_overrides(clone.path / "params.yaml", ["mfcc.n_fft=256"])
    one_line(clone.command("record", "tried-svm", "svm"), "metrics/svm.json", "dvc repro")
    assert (folder / "metrics.json").read_text() == figures, "the older one is kept"
