"""The search as users run it: what it chooses, what it may see, and what it writes."""

import json
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import workplace
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from commands import search
from ser import params
from ser.search import objective, space
from ser.search.study import FoldSearch, storage
from stages import w2v_features
from studies import samplers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]

# Few candidates, and features that are computed twice.
FEW = (
    "folds=[0,1]", "epochs=2", "mfcc.warps=[1.0]", "mfcc.statistics=[mean,std]",
    "mfcc.segments=[]", "mfcc.covariance=false", "svm_train.blocks=[{stat: 1, dct: 1}]",
    "svm_train.kernel=[rbf]", "svm_train.C=[3,10]", "svm_train.gamma=[0.5]",
)  # fmt: skip
SPACES = """
seed: 0
sampler: gp
startup: 2
fold: 0
svm:
  mfcc.trim_db: [20, 25]
  svm_train.C: {low: 0.3, high: 100, log: true}
  svm_train.gamma: {low: 0.1, high: 10, log: true}
w2v:
  lr: {low: 1e-4, high: 1e-2, log: true}
  adam_betas: [[0.9, 0.98], [0.9, 0.999]]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that a search reads, and a small space; nothing searched."""
    folder = workplace.make(tmp_path_factory.mktemp("search"), weights=True, labels=4)
    noise = np.random.default_rng(1)
    for path in sorted(folder.glob("data/audio/*.wav")):  # so that not every trial is right
        samples, rate = soundfile.read(path)
        soundfile.write(path, samples + noise.normal(0, 0.15, len(samples)), rate)
    apply_overrides(folder / "params.yaml", list(FEW))
    (folder / "search.yaml").write_text(SPACES)
    workplace.run(folder, "checkpoint", "w2v_features")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of that folder, which is the current one."""
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.delenv("SEARCH_STORAGE", raising=False)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """`python -m commands.search`, in this process, which has loaded everything already."""
    monkeypatch.setattr(sys, "argv", ["search", *arguments])
    search.main()


def table(branch: str, name: str = "trials") -> pd.DataFrame:
    """A table as the search wrote it."""
    return pd.read_csv(f"metrics/search/{branch}_{name}.csv")


def test_the_best_trial_is_scored_on_the_held_out_fold_and_printed(folder, monkeypatch, capsys):
    run(monkeypatch, "svm", "--trials", "4")
    first = table("svm")
    run(monkeypatch, "svm", "--trials", "10")
    trials = table("svm")
    pd.testing.assert_frame_equal(trials[:4], first)
    assert trials["state"].to_list() == 10 * ["COMPLETE"]
    # The first trial is what params.yaml says.
    assert (trials["params_mfcc.trim_db"][0], trials["params_svm_train.gamma"][0]) == (25, 0.5)

    folds, predictions = table("svm", "folds"), table("svm", "predictions")
    assert dict(zip(folds["fold"], folds["clean"], strict=True)) == {0: True, 1: False}
    clean = predictions[predictions["fold"] == 0]
    right, right_before = ((clean[when] == clean["actual"]).mean() for when in ("after", "before"))
    figures = json.loads(Path("metrics/search/svm.json").read_text())
    assert figures["accuracy"] == pytest.approx(right, abs=1e-4)
    assert figures["gain_accuracy"] == pytest.approx(right - right_before, abs=1e-4)
    assert folds.loc[0, "accuracy_after"] == pytest.approx(right, abs=1e-4)
    assert Path("metrics/search/svm_protocol.txt").read_text().startswith("one choice")

    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[:3] + words[-1:] == ["dvc", "exp", "run", "evaluate@svm"]
    apply_overrides("params.yaml", words[4:-1:2])
    chosen = params.load()
    best = trials.loc[trials["value"].idxmax()]
    assert chosen.mfcc.trim_db == best["params_mfcc.trim_db"]
    assert [pytest.approx(best["params_svm_train.C"], rel=1e-3)] == chosen.svm_train.C


def test_held_out_speakers_as_noise_change_no_choice(folder, monkeypatch):
    def both() -> None:
        run(monkeypatch, "svm", "--trials", "4")
        run(monkeypatch, "w2v", "--trials", "2")

    both()
    first = {branch: table(branch) for branch in objective.BRANCHES}
    predictions = table("svm", "predictions")
    assert table("w2v", "folds")["fold"].to_list() == [0]

    clips, noise = pd.read_csv("data/folds.csv"), np.random.default_rng(0)
    for clip in clips.loc[clips["fold"] == 0, "clip"]:
        samples = noise.normal(0, 0.2, noise.integers(8000, 30000))
        soundfile.write(f"data/audio/{clip}.wav", samples, 16000)
    w2v_features.main()
    shutil.rmtree(objective.STATE)
    both()
    for branch, trials in first.items():
        pd.testing.assert_frame_equal(table(branch), trials)
    held_out = predictions["fold"] == 0
    now = table("svm", "predictions")
    assert not now.loc[held_out, "after"].equals(predictions.loc[held_out, "after"])  # noise it was


def test_nested_every_outer_fold_chooses_for_itself(folder, monkeypatch):
    run(monkeypatch, "svm", "--trials", "2", "--nested")
    assert Path("metrics/search/svm_protocol.txt").read_text().startswith("nested")
    assert table("svm")["fold"].to_list() == [0, 0, 1, 1]
    assert table("svm", "folds")["clean"].to_list() == [True, True]
    assert set(objective.clips_outside(0)["speaker"]) == set(range(3, 13))


def test_a_training_that_falls_behind_is_pruned_and_keeps_its_score(folder, monkeypatch):
    curves = {1e-3: [0.2, 0.3, 0.4, 0.5], 1e-6: [0.1, 0.1, 0.1, 0.9]}  # at each quarter
    monkeypatch.setattr(
        objective.Finetuning, "scores", lambda _, values, fold: enumerate(curves[values.lr], 1)
    )
    apply_overrides("params.yaml", ["lr=1e-3"])
    spaces = YAML().load(SPACES) | {"startup": 1, "w2v": {"lr": [1e-3, 1e-6]}}
    found = params.check(spaces, "here", space.Search)
    with storage() as database:
        fold_search = FoldSearch(database, "w2v", 0, params.load(), found)
        fold_search.run(8, float("inf"))
        trials = fold_search.study.trials
    ended = {(trial.params["lr"], trial.value) for trial in trials}
    assert ended == {(1e-3, 0.5), (1e-6, 0.1)}
    assert [trial.user_attrs for trial in trials if trial.user_attrs] == [{"pruned_at": 0.25}]


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ("svm: {lr: [1]}", [], "search.yaml: svm: lr: a search of svm may vary mfcc, svm_train"),
        ("svm: {mfcc.trim_db: [30, 35]}", [], "mfcc.trim_db = 25.*outside the space"),
        ("fold: 9", [], "fold 9: not in data/folds.csv"),
        ("seed: 0", ["--trials", "0"], "--trials: expected at least 1"),
    ],
)
def test_a_mistake_stops_the_search_before_the_first_trial(
    folder, monkeypatch, change, arguments, message
):
    yaml = YAML()
    yaml.dump(yaml.load(SPACES) | yaml.load(change), Path("search.yaml"))
    with pytest.raises(SystemExit, match=message):
        run(monkeypatch, "svm", *arguments)
    assert not Path("metrics").exists()


def test_the_study_of_samplers_compares_them(folder, monkeypatch, capsys):
    apply_overrides("params.yaml", ["mfcc.segments=[3]", "mfcc.covariance=true"])
    Path("studies").mkdir()
    monkeypatch.setattr(sys, "argv", ["samplers", "--trials", "5", "--seeds", "1"])
    samplers.main()
    rows = pd.read_csv("studies/samplers.csv")
    assert rows.groupby("sampler").size().to_dict() == {"gp": 5, "random": 5, "tpe": 5}
    assert rows.loc[rows["trial"] == 1, "score"].nunique() == 1  # the plain values
    assert Path("studies/samplers.png").stat().st_size > 10_000
    assert "gp - random after 5 trials, by seed: " in capsys.readouterr().out
