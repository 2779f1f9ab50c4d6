"""The search as users run it: what it may see, and what happens when workers are killed or share
the work."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
import soundfile
from conftest import SHRUNK, Project, make_project, one_line
from optuna.trial import TrialState
from ruamel.yaml import YAML
from ser.search.trial_store import STATE, opened

from commands import search
from ser import params
from ser.classifier import crossval
from ser.run.errors import UserError
from ser.search import outcome, space, worth
from ser.search.fold_search import FoldSearch
from stages import checkpoint, download, resample, split, w2v_features
from studies import samplers as benchmark

JOURNAL = STATE / "journal.log"

pytestmark = pytest.mark.slow

# Few candidates, features computed twice, and the rest of the pipeline as in the shrunken demo.
CHANGES = {
    **dict(setting.split("=") for setting in SHRUNK),
    "mfcc.warps": "[1.0]",
    "mfcc.statistics": "[mean, std]",
    "mfcc.segments": "[]",
    "mfcc.covariance": "false",
    "svm_train.blocks": "[{stat: 1, dct: 1}]",
    "svm_train.kernel": "[rbf]",
    "svm_train.C": "[3, 10]",
    "svm_train.gamma": "[0.5]",
}
SPACES = {
    "startup": "2",
    "svm": "{mfcc.trim_db: [20, 25], svm_train.C: log 0.3..100, svm_train.gamma: log 0.1..10}",
    "w2v": "{lr: log 1e-4..1e-2, epochs: int 1..2, warmup: 0..0.3}",
}
SEEN_BY_FOLD_0 = set(range(5, 25))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with the shrunken demo corpus, all that a search reads, and a small space; nothing
    searched."""
    path = tmp_path_factory.mktemp("search")
    (path / "project").mkdir()
    project = make_project(path / "project", path)
    yaml = YAML()
    for name, changes in (("params.yaml", CHANGES), ("search.yaml", SPACES)):
        values = yaml.load((project.path / name).read_text())
        for key, text in changes.items():
            section, _, last = key.rpartition(".")
            (values[section] if section else values)[last] = yaml.load(text)
        yaml.dump(values, project.path / name)
    with pytest.MonkeyPatch.context() as here:
        here.chdir(project.path)
        for stage in (download, resample, split, checkpoint, w2v_features):
            stage.main()
    project.run("git", "commit", "--quiet", "--all", "--message", "demo")
    return project


@pytest.fixture
def project(made: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of that project, which is the current folder."""
    shutil.copytree(made.path, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("SEARCH_STORAGE", raising=False)
    return Project(tmp_path / "project", tmp_path)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """`python -m commands.search`, in this process, which has loaded everything already."""
    monkeypatch.setattr(sys, "argv", ["search", *arguments])
    search.main()


def start(project: Project, *arguments: str) -> subprocess.Popen:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "commands.search", *arguments]
    return subprocess.Popen(
        command,
        cwd=project.path,
        env=project.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def trials() -> list[optuna.trial.FrozenTrial]:
    """Every trial in the journal, those of dead workers included."""
    backend = optuna.storages.journal.JournalFileBackend(str(JOURNAL))
    storage = optuna.storages.JournalStorage(backend)
    names = [summary.study_name for summary in optuna.get_all_study_summaries(storage)]
    return [
        trial
        for name in names
        for trial in optuna.load_study(study_name=name, storage=storage).trials
    ]


def completed() -> dict[int, tuple]:
    """Score and parameters of the trials that are done, by number."""
    return {
        trial.number: (trial.value, trial.params)
        for trial in trials()
        if trial.state == TrialState.COMPLETE
    }


def table(branch: str, name: str = "trials") -> pd.DataFrame:
    """A table as the search wrote it."""
    return pd.read_csv(f"metrics/search/{branch}_{name}.csv")


def figures(branch: str) -> dict:
    """The search's figures as it wrote them."""
    return json.loads(Path(f"metrics/search/{branch}.json").read_text())


def protocol(branch: str) -> str:
    """How they came about."""
    return Path(f"metrics/search/{branch}_protocol.txt").read_text()


def wait_for_trials(worker: subprocess.Popen, number: int) -> None:
    """Wait until so many trials are done, while a worker lives."""
    for _ in range(1200):
        if JOURNAL.exists() and len(completed()) >= number:
            return
        assert worker.poll() is None, worker.stderr.read()
        time.sleep(0.05)
    raise AssertionError(f"no {number} trials within a minute")


def test_a_bad_space_stops_before_the_first_trial(project, monkeypatch):
    file = Path("search.yaml")
    text = file.read_text()
    file.write_text(text.replace("mfcc.trim_db: [20, 25]", "mfcc.trim_db: 30..20"))
    expected = r"search: search.yaml: svm.mfcc.trim_db = '30..20': an empty range"
    with pytest.raises(SystemExit, match=expected):
        run(monkeypatch, "svm")
    file.write_text(text.replace("mfcc.trim_db: [20, 25]", "mfcc.trim_db: [30, 35]"))
    with pytest.raises(SystemExit, match="mfcc.trim_db = 25.*outside the space in search.yaml"):
        run(monkeypatch, "svm")
    with pytest.raises(SystemExit, match="--trials"):
        run(monkeypatch, "svm", "--trials", "0")
    assert not trials()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nosuch://user:secret@host/name", ["nosuch://…", "postgresql://user@host/name"]),
        ("sqlite:///trials.db", ["sqlite://…", "postgresql://user@host/name"]),
        ("postgresql://user:secret@localhost:1/name", ["connection", "port 1"]),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line_without_its_password(project, url, words):
    done = project.run(
        sys.executable, "-m", "commands.search", "svm", check=False, SEARCH_STORAGE=url
    )
    one_line(done, "search: SEARCH_STORAGE", *words)
    assert "secret" not in done.stderr


@pytest.mark.slow
def test_trials_are_experiments_and_the_best_is_chosen(project, monkeypatch, capsys):
    run(monkeypatch, "svm", "--trials", "9")
    printed = capsys.readouterr()
    assert "9/9" in printed.err
    (choice,) = table("svm", "choices").to_dict("records")
    rows = table("svm")
    assert len(rows) == choice["trials"] == 9
    assert f"best {choice['best']:.4f}" in printed.err
    assert choice["best"] == pytest.approx(rows["score"].max(), abs=1e-4)
    # The first trial is what params.yaml says.
    assert (rows.loc[0, "mfcc.trim_db"], rows.loc[0, "svm_train.gamma"]) == (25, 0.5)
    assert choice["first"] == pytest.approx(rows.loc[0, "score"], abs=1e-4)
    assert rows["best"].to_list() == rows["score"].cummax().to_list()

    assert protocol("svm").startswith("one choice")
    folds = table("svm", "folds")
    # `folds` of the shrunken demo, of which one is clean.
    assert dict(zip(folds["fold"], folds["clean"], strict=True)) == {0: True, 1: False}
    predictions = table("svm", "predictions")
    clean = predictions[predictions["fold"] == 0]
    accuracy = (clean["after"] == clean["actual"]).mean()
    assert figures("svm")["accuracy"] == pytest.approx(accuracy, abs=1e-4)
    gain = accuracy - (clean["before"] == clean["actual"]).mean()
    assert figures("svm")["gain_accuracy"] == pytest.approx(gain, abs=1e-4)
    assert figures("svm")["gain_accuracy_low"] <= figures("svm")["gain_accuracy_high"]
    assert folds.loc[0, "accuracy_after"] == pytest.approx(accuracy, abs=1e-4)

    assert f"dvc exp apply {choice['experiment']}" in printed.out
    assert project.run("git", "status", "--porcelain").stdout.split() == ["??", "metrics/search/"]
    listed = json.loads(project.run("dvc", "exp", "show", "--json").stdout)[1]["experiments"]
    assert len(listed) == 9
    worst = int(rows.loc[rows["score"].idxmin(), "trial"])
    name = f"{choice['experiment'][:-3]}{worst:03}"
    (shown,) = [each["revs"][0]["data"] for each in listed if each["name"] == name]
    assert shown["metrics"]["metrics/search/trial/svm.json"]["data"] == {
        "inner_accuracy": pytest.approx(rows["score"].min(), abs=1e-4)
    }
    # This pipeline has not run: DVC misses its outputs, and says so.
    project.run("dvc", "exp", "apply", name, check=False)
    assert params.load().svm_train.C[0] == pytest.approx(rows.loc[worst, "svm_train.C"], rel=1e-3)
    plots = json.loads(project.run("dvc", "plots", "show", "--json", check=False).stdout)
    assert {"svm_trials", "svm_importance", "svm_parallel"} <= {
        plot.rpartition("::")[2] for plot in plots["data"]
    }


@pytest.mark.slow
def test_killed_and_started_again_it_goes_on_as_it_would_have(project, monkeypatch):
    worker = start(project, "svm", "--trials", "7")
    wait_for_trials(worker, 3)
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    before = completed()
    run(monkeypatch, "svm", "--trials", "7")
    after = completed()
    assert 3 <= len(before) < 7 == len(after)
    assert before.items() <= after.items()
    assert len({str(drawn) for _, drawn in after.values()}) == 7
    resumed = table("svm").drop(columns=["trial"])

    shutil.rmtree(STATE)
    run(monkeypatch, "svm", "--trials", "7")
    pd.testing.assert_frame_equal(table("svm").drop(columns=["trial"]), resumed)


@pytest.mark.slow
def test_two_workers_never_run_the_same_trial(project, monkeypatch):
    other = start(project, "svm", "--trials", "16")
    wait_for_trials(other, 1)
    run(monkeypatch, "svm", "--trials", "16")
    _, errors = other.communicate(timeout=100)
    assert other.returncode == 0, errors
    scored = [trial for trial in trials() if "same_as" not in trial.user_attrs]
    assert len(scored) == 16
    assert all(trial.state == TrialState.COMPLETE for trial in scored)
    assert len({str(trial.params) for trial in scored}) == 16
    assert len({trial.user_attrs["worker"] for trial in scored}) == 2
    assert table("svm", "choices").loc[0, "trials"] == 16


@pytest.mark.slow
def test_a_bug_stops_the_search_and_its_trial_is_run_again(project, monkeypatch):
    choose, calls = crossval.choose, []

    def buggy(*arguments):
        calls.append(1)
        if len(calls) >= 4:  # the first two are for params.yaml: what svm_train chooses, a trial
            raise ZeroDivisionError("a bug of ours")
        return choose(*arguments)

    monkeypatch.setattr(crossval, "choose", buggy)
    with pytest.raises(ZeroDivisionError, match="a bug of ours"):
        run(monkeypatch, "svm", "--trials", "6")
    assert len(completed()) == 2
    monkeypatch.setattr(crossval, "choose", choose)
    run(monkeypatch, "svm", "--trials", "6")
    assert table("svm")["ending"].to_list() == 6 * ["done"]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_training_that_falls_behind_is_given_up_and_keeps_its_score(project, monkeypatch):
    changes = {"lr": 1e-3, "head_lr": 1e-3}
    Path("params.yaml").write_text(space.edit(Path("params.yaml").read_text(), changes))
    spaces = {"startup": 1, "w2v": {"lr": [1e-3, 1e-6], "head_lr": [1e-3, 2e-3]}}
    Path("search.yaml").write_text(space.edit(Path("search.yaml").read_text(), spaces))
    # As the quarters of a training, which would take minutes.
    learning = {1e-3: [0.2, 0.3, 0.4, 0.5], 1e-6: [0.1, 0.1, 0.1, 0.9]}
    monkeypatch.setattr(
        worth.Finetuning, "scores", lambda _, settings, fold: enumerate(learning[settings.lr], 1)
    )
    with opened() as store:
        fold_search = FoldSearch(store, "w2v", 0, params.load(), space.load())
        fold_search.run(4, 60)
        rows = outcome.trials(fold_search)
    distinct = rows[~rows["ending"].str.startswith("as trial")]
    assert set(zip(distinct["lr"], distinct["ending"], distinct["score"], strict=True)) == {
        (1e-3, "done", 0.5),
        (1e-6, "given up at 25%", 0.1),
    }


@pytest.mark.slow
def test_held_out_actors_as_noise_change_no_choice(project, monkeypatch):
    def both() -> None:
        run(monkeypatch, "svm", "--trials", "4")
        run(monkeypatch, "w2v", "--trials", "2")

    both()
    first = {branch: table(branch) for branch in worth.BRANCHES}
    assert protocol("w2v").startswith("one choice")
    assert table("w2v", "folds")["fold"].to_list() == [0]
    held_out = table("svm", "predictions")

    folds, noise = pd.read_csv("data/folds.csv"), np.random.default_rng(0)
    for clip in folds.loc[folds["fold"] == 0, "clip"]:
        samples = noise.normal(0, 0.2, noise.integers(8000, 30000))
        soundfile.write(f"data/audio/{clip}.wav", samples, 16000)
    w2v_features.main()
    shutil.rmtree(STATE)
    both()
    for branch, rows in first.items():
        pd.testing.assert_frame_equal(table(branch), rows)
    now = table("svm", "predictions")
    before, after = (rows.loc[rows["fold"] == 0, "after"] for rows in (held_out, now))
    assert not after.equals(before)  # noise it was


def test_nested_every_outer_fold_chooses_for_itself(project, monkeypatch):
    run(monkeypatch, "svm", "--trials", "2", "--nested")
    assert protocol("svm").startswith("nested")
    assert table("svm", "choices")["fold"].to_list() == [0, 1]
    assert table("svm", "folds")["fold"].to_list() == [0, 1]
    assert table("svm", "folds")["clean"].all()
    assert set(worth.may_see(0)["actor"]) == SEEN_BY_FOLD_0
    with pytest.raises(UserError, match="fold 9: not in data/folds.csv"):
        worth.may_see(9)


@pytest.mark.slow
def test_the_benchmark_compares_the_samplers(project, monkeypatch, capsys):
    for name in ("search.csv", "search.png"):
        Path("benchmarks", name).unlink()
    monkeypatch.setattr(sys, "argv", ["search", "--trials", "5", "--seeds", "2"])
    benchmark.main()
    rows = pd.read_csv("studies/samplers.csv")
    assert rows.groupby(["sampler", "seed"]).size().to_list() == 6 * [5]
    assert rows.loc[rows["trial"] == 1, "score"].nunique() == 1  # the plain values
    assert Path("studies/samplers.png").stat().st_size > 10_000
    assert "gp - random after 5 trials, by seed: " in capsys.readouterr().out
