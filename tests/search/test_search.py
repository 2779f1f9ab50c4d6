"""The search: its space, what it may see, and what happens when workers are killed or share the
work."""

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
from conftest import ROOT, SHRUNK, Project, make_project
from optuna.trial import TrialState

from commands import search
from ser import params
from ser.run.errors import UserError
from ser.search import outcome, space, study, worth
from ser.search.fold_search import Choice
from stages import checkpoint, download, resample, split, w2v_features

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
    "search.startup": "2",
    "search.svm": "{mfcc.trim_db: [20, 25], svm_train.C: log 0.3..100, svm_train.gamma: log 0.1..10}",
    "search.w2v": "{lr: log 1e-4..1e-2, epochs: int 1..2, warmup: 0..0.3}",
}
SEEN_BY_FOLD_0 = set(range(5, 25))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with the shrunken demo corpus, all that a search reads, and a small space; nothing
    searched."""
    path = tmp_path_factory.mktemp("search")
    (path / "project").mkdir()
    project = make_project(path / "project", path)
    yaml = space.YAML()
    file = project.path / "params.yaml"
    values = yaml.load(file.read_text())
    for name, text in CHANGES.items():
        section, _, key = name.rpartition(".")
        (values[section] if section else values)[key] = yaml.load(text)
    yaml.dump(values, file)
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
    backend = optuna.storages.journal.JournalFileBackend(str(study.STATE / "journal.log"))
    storage = optuna.storages.JournalStorage(backend)
    names = [one.study_name for one in optuna.get_all_study_summaries(storage)]
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


def table(branch: str) -> pd.DataFrame:
    """The trials as the search wrote them."""
    return pd.read_csv(f"metrics/search/{branch}_trials.csv")


def found(branch: str) -> dict:
    """The search's metrics."""
    return json.loads(Path(f"metrics/search/{branch}.json").read_text())


def with_space(branch: str, declared: dict) -> params.Params:
    """params.yaml with another space."""
    settings = params.load(ROOT / "params.yaml")
    return settings.model_copy(
        update={"search": settings.search.model_copy(update={branch: declared})}
    )


# The space


@pytest.mark.parametrize(
    ("branch", "name", "declared", "words"),
    [
        ("svm", "mfcc.trim", "15..40", ("mfcc.trim", "nothing is called trim")),
        ("svm", "mfcc.trim_db", "40..15", ("mfcc.trim_db: 40..15", "empty range")),
        ("svm", "mfcc.trim_db", "-3..15", ("trim_db = -3.0", "greater than 0")),
        ("svm", "mfcc.trim_db", "from 3 to 15", ("expected `1..5`",)),
        ("svm", "svm_train.C", "log 0..100", ("must be above 0",)),
        ("svm", "svm_train.kernel", ["rbf", "cubic"], ("kernel", "cubic", "rbf")),
        ("svm", "svm_train.kernel", [], ("nothing to choose from",)),
        ("svm", "svm_train.C.9", "1..2", ("nothing is called 9",)),
        ("svm", "lr", "log 1e-6..1e-3", ("svm searches the parameters of mfcc and svm_train",)),
        ("w2v", "epochs", "3..20", ("epochs = 3.0", "integer")),
        ("w2v", "epochs", "int 3.5..20", ("no whole numbers",)),
        ("w2v", "freeze_cnn", [True, False], ("w2v searches", "freeze_cnn")),
        ("w2v", "adam_betas.1", "0.9..1", ("adam_betas.1 = 1.0", "less than 1")),
    ],
)
def test_a_space_that_cannot_be_searched_is_one_line(branch, name, declared, words):
    with pytest.raises(UserError) as error:
        space.read(branch, with_space(branch, {name: declared}))
    assert "\n" not in str(error.value)
    assert f"search.{branch}" in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_the_shipped_spaces_hold_what_params_say():
    settings = params.load(ROOT / "params.yaml")
    possible = space.read("svm", settings)
    for name in ("blocks", "kernel", "C", "gamma"):
        for candidate in getattr(settings.svm_train, name):
            one = {
                key: getattr(settings.svm_train, key)[0]
                for key in ("blocks", "kernel", "C", "gamma")
            } | {name: candidate}
            values = space.put(
                settings.model_dump(), {f"svm_train.{key}": value for key, value in one.items()}
            )
            assert space.current(values, possible, "svm").keys() == possible.keys()
    possible = space.read("w2v", settings)
    assert space.current(settings.model_dump(), possible, "w2v")["lr"] == settings.lr


def test_params_keep_every_comment_and_take_values_as_dvc_writes_them(tmp_path):
    text = (ROOT / "params.yaml").read_text()
    assert space.apply(text, {}) == text
    changes = {
        "lr": 3e-5,
        "adam_betas.1": 0.95,
        "svm_train.C": 2.5,
        "mfcc.trim_db": None,
        "mfcc.segments": [2, 4],
    }
    changed = space.apply(text, changes)
    assert changed.count("#") == text.count("#")
    (tmp_path / "params.yaml").write_text(changed)
    read = params.load(tmp_path / "params.yaml")
    assert (read.lr, read.adam_betas[1], read.svm_train.C) == (3e-5, 0.95, [2.5])
    assert (read.mfcc.trim_db, read.mfcc.segments) == (None, [2, 4])


def test_a_bad_space_stops_before_the_first_trial(project, monkeypatch):
    file = Path("params.yaml")
    text = file.read_text()
    file.write_text(text.replace("mfcc.trim_db: [20, 25]", "mfcc.trim_db: 30..20"))
    with pytest.raises(
        SystemExit, match=r"search: params.yaml: search.svm: mfcc.trim_db: 30..20: an empty range"
    ):
        run(monkeypatch, "svm")
    file.write_text(text.replace("mfcc.trim_db: [20, 25]", "mfcc.trim_db: [30, 35]"))
    with pytest.raises(SystemExit, match="mfcc.trim_db = 25.*outside the space search.svm"):
        run(monkeypatch, "svm")
    with pytest.raises(SystemExit, match="--trials"):
        run(monkeypatch, "svm", "--trials", "0")
    monkeypatch.setenv("SEARCH_STORAGE", "nosuch://user:secret@host/name")
    with pytest.raises(SystemExit) as error:
        run(monkeypatch, "svm")
    assert "SEARCH_STORAGE = nosuch://" in str(error.value)
    assert "secret" not in str(error.value)
    assert not trials()


@pytest.mark.parametrize("sampler", ["gp", "tpe", "random"])
def test_what_is_proposed_depends_on_seed_and_history_alone(sampler):
    settings = params.load(ROOT / "params.yaml").search.model_copy(
        update={"sampler": sampler, "startup": 3}
    )
    values = {
        "x": optuna.distributions.FloatDistribution(0, 1),
        "y": optuna.distributions.CategoricalDistribution(["a", "b"]),
    }

    def proposals(seed: int) -> list[dict]:
        made = optuna.create_study(direction="maximize")
        for position in range(6):
            made.sampler = study.make_sampler(settings.model_copy(update={"seed": seed}), position)
            trial = made.ask()
            drawn = {name: study.draw(trial, name, one) for name, one in values.items()}
            made.tell(trial, -((drawn["x"] - 0.3) ** 2) + (drawn["y"] == "a"))
        return [trial.params for trial in made.trials]

    first = proposals(0)
    assert proposals(0) == first
    assert proposals(1) != first
    assert len({one["x"] for one in first}) == 6


# Searches, as users run them


def test_trials_are_experiments_and_the_best_is_chosen(project, monkeypatch, capsys):
    run(monkeypatch, "svm", "--trials", "9")
    printed = capsys.readouterr()
    assert "9/9" in printed.err
    (choice,) = found("svm")["choices"].values()
    rows = table("svm")
    assert len(rows) == choice["trials"] == 9
    assert f"best {choice['inner_accuracy_best']:.4f}" in printed.err
    assert choice["inner_accuracy_best"] == pytest.approx(rows["score"].max(), abs=1e-4)
    assert (rows.loc[0, "mfcc.trim_db"], rows.loc[0, "svm_train.gamma"]) == (
        25,
        0.5,
    )  # what params.yaml says
    assert choice["inner_accuracy_first"] == pytest.approx(rows.loc[0, "score"], abs=1e-4)
    assert rows["best"].to_list() == rows["score"].cummax().to_list()

    assert found("svm")["selection"].startswith("one choice")
    assert (found("svm")["clean"]["folds"], found("svm")["not_clean"]["folds"]) == (
        "0",
        "1",
    )  # `folds` of the shrunken demo
    predictions = pd.read_csv("metrics/search/svm_predictions.csv")
    clean = predictions[predictions["fold"] == 0]
    assert found("svm")["clean"]["accuracy_after"] == pytest.approx(
        (clean["after"] == clean["actual"]).mean(), abs=1e-4
    )

    assert f"dvc exp apply {choice['experiment']}" in printed.out
    assert project.run("git", "status", "--porcelain").stdout.split() == ["??", "metrics/search/"]
    listed = json.loads(project.run("dvc", "exp", "show", "--json").stdout)[1]["experiments"]
    assert len(listed) == 9
    worst = int(rows.loc[rows["score"].idxmin(), "trial"])
    name = f"{choice['experiment'][:-3]}{worst:03}"
    (shown,) = [one["revs"][0]["data"] for one in listed if one["name"] == name]
    assert shown["metrics"]["metrics/search/trial/svm.json"]["data"]["trial"] == worst
    project.run(
        "dvc", "exp", "apply", name, check=False
    )  # this pipeline has not run: DVC misses its outputs, and says so
    assert params.load().svm_train.C[0] == pytest.approx(rows.loc[worst, "svm_train.C"], rel=1e-3)
    plots = json.loads(project.run("dvc", "plots", "show", "--json", check=False).stdout)
    assert {"svm_trials", "svm_importance", "svm_parallel"} <= {
        plot.rpartition("::")[2] for plot in plots["data"]
    }


def test_killed_and_started_again_it_goes_on_as_it_would_have(project, monkeypatch):
    worker = start(project, "svm", "--trials", "7")
    for _ in range(1200):
        if (study.STATE / "journal.log").exists() and len(completed()) >= 3:
            break
        assert worker.poll() is None, worker.stderr.read()
        time.sleep(0.05)
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    before = completed()
    run(monkeypatch, "svm", "--trials", "7")
    after = completed()
    assert 3 <= len(before) < 7 == len(after)
    assert before.items() <= after.items()
    assert len({str(drawn) for _, drawn in after.values()}) == 7
    resumed = table("svm").drop(columns=["trial"])

    shutil.rmtree(study.STATE)
    run(monkeypatch, "svm", "--trials", "7")
    pd.testing.assert_frame_equal(table("svm").drop(columns=["trial"]), resumed)


def test_two_workers_never_run_the_same_trial(project, monkeypatch):
    other = start(project, "svm", "--trials", "16")
    for _ in range(1200):
        if (study.STATE / "journal.log").exists() and completed():
            break
        assert other.poll() is None, other.stderr.read()
        time.sleep(0.05)
    run(monkeypatch, "svm", "--trials", "16")
    _, errors = other.communicate(timeout=100)
    assert other.returncode == 0, errors
    scored = [trial for trial in trials() if "same_as" not in trial.user_attrs]
    assert len(scored) == 16
    assert all(trial.state == TrialState.COMPLETE for trial in scored)
    assert len({str(trial.params) for trial in scored}) == 16
    assert len({trial.user_attrs["worker"] for trial in scored}) == 2
    assert found("svm")["choices"]["without_fold_0"]["trials"] == 16


def test_lost_trials_are_taken_up_and_failed_ones_do_not_stop_the_search(project, monkeypatch):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings = params.load().search.model_copy(update={"sampler": "random"})
    scored = []

    def score(drawn: dict, trial: optuna.Trial) -> float:
        scored.append(drawn["x"])
        if drawn["x"] == 1:
            raise ValueError("not one")
        return float(drawn["x"])

    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        made = study.Study(
            study.Storage(), "s", {"x": optuna.distributions.IntDistribution(0, 3)}, settings
        )
        made.optuna.enqueue_trial({"x": 3})
        made.optuna.ask().suggest_int("x", 0, 3)  # by a worker that dies before it signs for it
        while made.step(8, dict, score):
            pass
    ended = made.finished()
    assert len(made.new()) == 8 or len(ended) == 16
    assert scored[0] == 3
    assert [scored.count(x) for x in (0, 2, 3)] == [
        1,
        1,
        1,
    ]  # a value drawn again is not scored again
    failed = [trial for trial in ended if trial.state == TrialState.FAIL]
    assert failed
    assert {trial.user_attrs["reason"] for trial in failed} == {"ValueError: not one"}
    assert made.best().value == 3


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_training_that_falls_behind_is_given_up_and_keeps_its_score(project, monkeypatch):
    changes = {
        "lr": 1e-3,
        "head_lr": 1e-3,
        "search.startup": 1,
        "search.w2v": {"lr": [1e-3, 1e-6], "head_lr": [1e-3, 2e-3]},
    }
    Path("params.yaml").write_text(space.apply(Path("params.yaml").read_text(), changes))
    learning = {
        1e-3: [0.2, 0.3, 0.4, 0.5],
        1e-6: [0.1, 0.1, 0.1, 0.9],
    }  # as the quarters of a training, which would take minutes
    monkeypatch.setattr(
        worth, "scores", lambda branch, settings, fold: enumerate(learning[settings.lr], 1)
    )
    choice = Choice(study.Storage(), "w2v", 0, params.load())
    choice.run(4, 60)
    rows = outcome.history(choice)
    new = rows[~rows["state"].str.startswith("as trial")]
    assert set(zip(new["lr"], new["state"], new["score"], strict=True)) == {
        (1e-3, "done", 0.5),
        (1e-6, "given up at 25%", 0.1),
    }


def test_held_out_actors_as_noise_change_no_choice(project, monkeypatch):
    def both() -> None:
        run(monkeypatch, "svm", "--trials", "4")
        run(monkeypatch, "w2v", "--trials", "2")

    both()
    first = {branch: table(branch) for branch in worth.SCORE}
    held_out = pd.read_csv("metrics/search/svm_predictions.csv")

    folds, noise = pd.read_csv("data/folds.csv"), np.random.default_rng(0)
    for clip in folds.loc[folds["fold"] == 0, "clip"]:
        soundfile.write(
            f"data/audio/{clip}.wav", noise.normal(0, 0.2, noise.integers(8000, 30000)), 16000
        )
    w2v_features.main()
    shutil.rmtree(study.STATE)
    both()
    for branch, rows in first.items():
        pd.testing.assert_frame_equal(table(branch), rows)
    now = pd.read_csv("metrics/search/svm_predictions.csv")
    assert not now.loc[now["fold"] == 0, "after"].equals(
        held_out.loc[held_out["fold"] == 0, "after"]
    )  # noise it was


def test_nested_every_outer_fold_chooses_for_itself(project, monkeypatch):
    run(monkeypatch, "svm", "--trials", "2", "--nested")
    assert found("svm")["selection"].startswith("nested")
    assert set(found("svm")["choices"]) == {"without_fold_0", "without_fold_1"}
    assert found("svm")["clean"]["folds"] == "0 1"
    assert "not_clean" not in found("svm")
    assert set(worth.may_see(0)["actor"]) == SEEN_BY_FOLD_0
    with pytest.raises(UserError, match="fold 9: not in data/folds.csv"):
        worth.may_see(9)
