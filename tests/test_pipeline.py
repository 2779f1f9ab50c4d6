"""The pipeline as its users run it: the real dvc.yaml on a shrunken demo corpus, in a clone of its
own."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest
import requests
from conftest import ROOT, SHRUNK, Project, make_project, one_line
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from ser import params, scoring
from ser.corpus import EMOTIONS

pytestmark = pytest.mark.slow

FINETUNING = {"w2v_finetune@0", "w2v_finetune@1"}
SCORES = {"evaluate@svm", "evaluate@probe", "evaluate@w2v", "evaluate@mean"}
TOGETHER = {"mean", "evaluate@mean", "compare", "report"}
W2V = {*FINETUNING, "evaluate@w2v", "curves", *TOGETHER}


def ran(output: str) -> set[str]:
    """The stages that DVC says it ran; those it took from its run cache did not run."""
    return set(re.findall(r"Running stage '([^']+)'", output))


def fits(printed: str, *words: str) -> str:
    """Assert that lines are at most 120 wide and that all `words` stand there; return the lines."""
    assert max(map(len, printed.splitlines())) <= 120, printed
    assert [word for word in words if word not in printed] == [], printed
    return printed


def experiments_of_dvc(project: Project, *words: str) -> None:
    """Assert that the command for `dvc exp show` in docs/pipeline.md fits a screen."""
    text = (ROOT / "docs" / "pipeline.md").read_text()
    command = re.search(r"^dvc exp show --.*", text, flags=re.MULTILINE)
    assert command
    fits(project.run("bash", "-c", command[0]).stdout, *words)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project on the branch `demo` in which the whole shrunken pipeline has run and is
    committed."""
    path = tmp_path_factory.mktemp("done")
    (path / "project").mkdir()
    project = make_project(path / "project", path)
    project.run("git", "switch", "--quiet", "--create", "demo")
    changes = [word for change in SHRUNK for word in ("-S", change)]
    output = project.run("dvc", "exp", "run", *changes).stdout
    assert {"download", "svm_train", "compare"} <= ran(output), output
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "The shrunken demo corpus")
    return project


@pytest.fixture
def clone(done: Project, tmp_path: Path) -> Project:
    """A clone of the finished project that shares its DVC cache, with the outputs checked out."""
    done.run("git", "clone", "--quiet", done.path, tmp_path / "clone")
    project = Project(tmp_path / "clone", tmp_path)
    shutil.copy(done.path / ".dvc" / "config.local", project.path / ".dvc" / "config.local")
    project.run("dvc", "checkout", "--quiet")
    return project


def test_predictions_hold_every_clip_of_the_folds_once(done):
    clips = pd.read_csv(done.path / "data" / "folds.csv")
    svm, probe = (
        pd.read_csv(done.path / "data" / model / "predictions.csv") for model in ("svm", "probe")
    )
    w2v = pd.concat(
        pd.read_csv(done.path / "data" / "w2v" / f"fold_{fold}" / "predictions.csv")
        for fold in (0, 1)
    )
    assert list(svm["clip"]) == list(probe["clip"]) == list(clips["clip"])
    assert sorted(w2v["clip"]) == sorted(clips.loc[clips["fold"] < 2, "clip"])
    for table in (svm, probe, w2v):
        assert table[list(EMOTIONS)].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
        assert (table[list(EMOTIONS)].idxmax(axis=1) == table["predicted"]).all()
        assert (
            table.set_index("clip")["actual"]
            == clips.set_index("clip").loc[table["clip"], "emotion"]
        ).all()


def test_metrics_have_their_contract_and_say_that_the_corpus_is_synthetic(done):
    corpus = json.loads((done.path / "metrics" / "corpus.json").read_text())
    assert (corpus["clips"], corpus["actors"]) == (192, 24)
    for model in scoring.MODELS:
        figures = json.loads((done.path / "metrics" / f"{model}.json").read_text())
        assert {"accuracy", "uar", "macro_f1"} <= set(figures)
        assert figures["accuracy_low"] <= figures["accuracy"] <= figures["accuracy_high"]
        assert all(isinstance(value, float) for value in figures.values())
        protocol = (done.path / "metrics" / f"{model}_protocol.txt").read_text()
        assert "SYNTHETIC" in protocol
        assert "1,2,3,4 | 5,6,7,8" in protocol
        for table in ("folds", "actors", "emotions"):
            assert pd.read_csv(done.path / "metrics" / f"{model}_{table}.csv")["clips"].sum() == 64
    pairs = json.loads((done.path / "metrics" / "compare.json").read_text())
    assert list(pairs) == [
        f"{first} - {second}" for second, first in itertools.combinations(scoring.MODELS, 2)
    ]
    assert {pair["clips"] for pair in pairs.values()} == {64}
    printed = done.command("results").stdout
    assert printed.count("| 64 |") == 4
    assert printed.count("SYNTHETIC") == 4
    assert f"{scoring.MODELS['w2v']} - {scoring.MODELS['svm']}: accuracy -" in printed


def test_nothing_runs_twice_and_nothing_is_left_for_git(done):
    assert not ran(done.run("dvc", "repro").stdout)
    done.run("dvc", "plots", "show")
    assert done.run("git", "status", "--porcelain").stdout == ""
    assert done.run("dvc", "status").stdout.strip() == "Data and pipelines are up to date."


def test_lr_reruns_fine_tuning_and_its_scores_alone_and_metrics_diff_shows_it(clone):
    clone.run("git", "switch", "--quiet", "--create", "other")
    output = clone.run("dvc", "exp", "run", "-S", "lr=2e-5", "--name", "smaller-step").stdout
    assert ran(output) == W2V
    experiments_of_dvc(clone, "smaller-step", "lr")
    assert re.search(r"^lr: 2e-05\b", (clone.path / "params.yaml").read_text(), flags=re.MULTILINE)
    clone.run("git", "add", "--all")
    clone.run("git", "commit", "--quiet", "--message", "A smaller step")
    changes = json.loads(
        clone.run("dvc", "metrics", "diff", "origin/demo", "other", "--json").stdout
    )
    assert set(changes) == {"metrics/w2v.json", "metrics/mean.json"}
    fits(clone.run("dvc", "metrics", "diff", "origin/demo", "other").stdout, "uar_low", "-")


def test_tables_fit_a_screen(clone):
    files = [f"metrics/{model}.json" for model in scoring.MODELS]
    fits(clone.run("dvc", "metrics", "show").stdout, *files, "uar")
    output = clone.run("dvc", "exp", "run", "-S", "svm_train.C=[1e-4]", "--name", "one-cost").stdout
    assert {"svm_train"} <= ran(output) <= {"svm_train", "evaluate@svm", *TOGETHER}
    shown = fits(clone.command("experiments", COLUMNS="120").stdout, "accuracy", "uar")
    assert re.search(r"^ +one-cost .* svm_train\.C=\[0\.0001\]", shown, flags=re.MULTILINE)
    one_line(clone.command("experiments", "--nonsense"), "dvc exp show", "--nonsense")
    experiments_of_dvc(clone, "one-cost", "svm_train.C", "metrics/svm.json:accuracy")


def test_a_page_shows_two_experiments_side_by_side(clone):
    before = (clone.path / "report" / "index.html").read_bytes()
    done = clone.stage("report", "--no-audio", "--beside", "origin/demo")
    assert done.returncode == 0, done.stderr
    page = (clone.path / "report" / "beside-no-audio.html").read_text()
    for title in scoring.MODELS.values():
        assert f"<dt>{title}, origin/demo</dt>" in page
        assert f"{title}, origin/demo - {title}</th>" in page
    assert "#model=svm%40origin/demo&amp;emotion=" in page
    assert (clone.path / "report" / "index.html").read_bytes() == before
    assert clone.run("git", "status", "--porcelain").stdout == ""
    one_line(clone.stage("report", "--beside", "nonsense"), "nonsense", "no such commit")
    clone.run("git", "commit", "--quiet", "--allow-empty", "--message", "Nothing")
    start = clone.run("git", "rev-list", "--max-parents=0", "HEAD").stdout.strip()
    one_line(clone.stage("report", "--beside", start), f"data@{start}", "no model")


def test_seeds_are_experiments_whose_mean_is_printed(clone):
    printed = clone.command("seeds", "0", "1", "-S", "folds=[0]")
    assert printed.returncode == 0, printed.stderr
    rows = [line.strip("| ").split(" | ") for line in printed.stdout.splitlines()[2:5]]
    assert [row[0] for row in rows[:2]] == ["seed 0", "seed 1"]
    accuracy = [float(row[1].partition(" ")[0]) for row in rows[:2]]
    committed = pd.read_csv(clone.path / "metrics" / "w2v_folds.csv")["accuracy"]
    assert accuracy[0] == pytest.approx(100 * committed[0], abs=0.06)
    assert accuracy[1] != accuracy[0]
    mean, deviation = (float(word) for word in rows[2][1].split(" ± "))
    assert mean == pytest.approx(sum(accuracy) / 2, abs=0.1)
    assert deviation == pytest.approx(abs(accuracy[1] - accuracy[0]) / 2**0.5, abs=0.15)
    one_line(clone.command("seeds", "1", "1"), "[1, 1]", "each once")
    one_line(clone.command("seeds", "0", "1", "-S", "seed=3"), "without -S")
    assert clone.run("git", "status", "--porcelain").stdout == ""


def test_a_word_for_a_number_stops_before_any_work(clone):
    before = (clone.path / "data" / "w2v" / "fold_0" / "predictions.csv").read_bytes()
    failed = clone.run("dvc", "exp", "run", "--temp", "-S", "lr=abc", check=False)
    assert failed.returncode != 0
    assert "lr = 'abc'" in failed.stdout + failed.stderr
    assert "Traceback" not in failed.stdout + failed.stderr
    assert (clone.path / "data" / "w2v" / "fold_0" / "predictions.csv").read_bytes() == before
    assert clone.run("git", "status", "--porcelain").stdout == ""


@pytest.mark.parametrize(
    ("change", "surely", "perhaps"),
    [
        ("mfcc.n_mfcc=20", {"mfcc", "svm_train"}, {"evaluate@svm", *TOGETHER}),
        ("folds=[0]", {*SCORES, "curves", "mean", "compare", "report"}, set()),
    ],
)
def test_what_a_parameter_reruns(clone, change, surely, perhaps):
    """Perhaps: where the stage before it made other bytes."""
    reran = ran(clone.run("dvc", "exp", "run", "-S", change).stdout)
    assert surely <= reran <= surely | perhaps
    section = change.partition("=")[0].partition(".")[0]
    assert clone.run("dvc", "params", "diff", "--md").stdout.count(section) >= 1


def test_one_raw_file_reruns_what_reads_it(clone):
    changed = sorted((clone.path / "data" / "raw").glob("*/*.wav"))[0]
    shutil.copy(sorted((clone.path / "data" / "raw").glob("*/*.wav"))[1], changed)
    reads_it = ("split", "resample", "mfcc")
    assert ran(clone.run("dvc", "repro", "--single-item", *reads_it).stdout) == {*reads_it}


def test_the_same_bytes_again(clone):
    """Of the fine-tuning, the folds side by side say it."""
    before = (clone.path / "dvc.lock").read_text()
    clone.run("dvc", "repro", "--force", "evaluate@svm", "evaluate@probe")
    assert (clone.path / "dvc.lock").read_text() == before


def test_a_branch_that_cannot_go_on_does_not_stop_the_other(clone):
    changes = ("-S", "checkpoint=no-such/model", "-S", "svm_train.C=[5]")
    failed = clone.run(
        "dvc", "exp", "run", "--keep-going", *changes, check=False, HF_HUB_OFFLINE="1"
    )
    assert failed.returncode != 0
    assert "no-such/model" in failed.stdout + failed.stderr
    assert {"svm_train", "evaluate@svm"} <= ran(failed.stdout)


def test_results_say_which_figures_are_out_of_date(clone):
    results = (sys.executable, "-m", "commands.results")
    assert "Out of date" not in clone.run(*results).stdout
    shutil.rmtree(clone.path / "data")  # as before `dvc pull`: the figures are the committed ones
    assert "Out of date" not in clone.run(*results).stdout
    apply_overrides(clone.path / "params.yaml", ["svm_train.C=[2]"])
    said = "Out of date, until `dvc repro` has run: MFCC + SVM, mean of the three.\n"
    assert said in clone.run(*results).stdout
    shutil.rmtree(clone.path / ".dvc")
    done = clone.run(*results)
    assert "| MFCC + SVM | 64 |" in done.stdout and "DVC cannot say" in done.stdout


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[str]:
    """Where an S3 server is that has the bucket `store`."""
    log = tmp_path / "s3.log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        server = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        while not (address := re.search(r"Running on (http://127\.0\.0\.1:\d+)", log.read_text())):
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        with requests.Session() as session:
            session.trust_env = False  # no proxy
            session.put(f"{address[1]}/store", timeout=60).raise_for_status()
        yield address[1]
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_second_clone_that_pulls_from_a_shared_cache_reruns_nothing(
    done, clone, tmp_path, kind, request
):
    fresh = Project(tmp_path / "fresh", tmp_path)
    done.run("git", "clone", "--quiet", done.path, fresh.path)
    for project in (clone, fresh):
        place = "s3://store/ravdess" if kind == "s3" else tmp_path / "store"
        project.run("dvc", "remote", "add", "--local", "--default", "store", place)
        if kind == "s3":
            address = request.getfixturevalue("s3")
            project.run("dvc", "remote", "modify", "--local", "store", "endpointurl", address)
            keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
            region = {"AWS_DEFAULT_REGION": "us-east-1", "NO_PROXY": "127.0.0.1"}
            project.env |= {**dict.fromkeys(keys, "test"), **region}
    clone.run("dvc", "push", "--quiet")
    fresh.run("dvc", "pull", "--quiet")
    assert not ran(fresh.run("dvc", "repro").stdout)
    assert fresh.run("dvc", "status").stdout.strip() == "Data and pipelines are up to date."


@pytest.fixture
def folds_to_do(clone: Project, tmp_path: Path) -> str:
    """What dvc.lock is when the folds of `clone` are done; they are not, and DVC's run cache has
    nothing of them."""
    lock = clone.path / "dvc.lock"
    complete = lock.read_text()
    yaml = YAML(typ="safe")
    values = yaml.load(complete)
    for fold in FINETUNING:
        del values["stages"][fold]
    yaml.dump(values, lock)
    shutil.rmtree(clone.path / "data/w2v")
    shutil.rmtree(clone.path / "data/models/w2v")
    shared = tmp_path / "dvc"  # of its own, without what ran
    config = clone.path / ".dvc" / "config.local"
    cache = re.search(r"dir = (.*)", config.read_text())
    shutil.copytree(cache[1], shared, ignore=shutil.ignore_patterns("runs"))
    config.write_text(f"[cache]\n    dir = {shared}\n")
    return complete


def test_folds_side_by_side_make_the_same_bytes(clone, folds_to_do):
    """And dvc.lock holds both, each written by a DVC of its own. Threads as in `dvc repro`, since
    the last digits depend on their number."""
    threads = str(os.cpu_count())
    printed = clone.command("folds", "--at-a-time", "2", OMP_NUM_THREADS=threads)
    assert printed.returncode == 0, printed
    logs = [(clone.path / f"runs/folds/fold_{fold}.log").read_text() for fold in (0, 1)]
    assert ran("".join(logs)) == FINETUNING
    started, ended = printed.stdout.rindex("started"), printed.stdout.index("up to date")
    assert started < ended, "at the same time"
    locked = YAML(typ="safe").load((clone.path / "dvc.lock").read_text())
    assert locked == YAML(typ="safe").load(folds_to_do)
    assert not ran(clone.run("dvc", "repro").stdout)


def test_a_signal_stops_all_folds_and_saves_them(clone, folds_to_do):
    apply_overrides(clone.path / "params.yaml", ["epochs=2000"])
    process = subprocess.Popen(
        [sys.executable, "-m", "commands.folds", "--at-a-time", "2"],
        cwd=clone.path,
        env={**clone.env, "RAVDESS_SAVE_SECONDS": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while len(list((clone.path / ".checkpoints").glob("*.pt"))) < 2:
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        below = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        _, error = process.communicate(timeout=150)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert error.splitlines()[-1:] == ["folds: stopped; the same command goes on from there"]
    assert not psutil.wait_procs(below, timeout=10)[1]
    for fold in (0, 1):
        log = (clone.path / f"runs/folds/fold_{fold}.log").read_text()
        assert "w2v_finetune: stopped after step" in log
    assert not FINETUNING & set(
        YAML(typ="safe").load((clone.path / "dvc.lock").read_text())["stages"]
    )


def test_a_fold_that_fails_is_one_line(clone, folds_to_do):
    apply_overrides(clone.path / "params.yaml", ["mask_time_length=500"])
    failed = clone.command("folds", "--at-a-time", "1")
    one_line(failed, "folds: fold 0: w2v_finetune: mask_time_length = 500", "fold_0.log")
    one_line(clone.command("folds", "--at-a-time", "0"), "--at-a-time = 0: expected at least 1")


def test_a_stage_outside_the_project_is_one_line(tmp_path):
    elsewhere, here = Project(tmp_path, tmp_path), {"PYTHONPATH": str(ROOT)}
    one_line(elsewhere.stage("split", **here), "params.yaml", "no such file", "project's folder")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    one_line(elsewhere.stage("split", **here), "data/raw", "no WAV files", "project's folder")


EDITS = {  # file, text in it, what takes its place, and the stages that this makes void
    "a message, in what runs things": ("ser/run/errors.py", "interrupted", "stopped", set()),
    "the model card": ("ser/finetune/card.py", "Acted emotions", "Played emotions", set()),
    "a command": ("commands/results.py", "Print", "Show", set()),
    "features": ("ser/mfcc.py", r"\A", "# edited\n", {"mfcc"}),
    "the SVM": ("ser/classifier/model.py", r"\A", "# edited\n", {"svm_train", "probe_train"}),
    "fine-tuning": ("ser/finetune/training.py", r"\A", "# edited\n", FINETUNING),
    "pictures": ("ser/report/plots.py", r"\A", "# edited\n", SCORES),
    "scores": ("ser/scoring.py", r"\A", "# edited\n", {*SCORES, "mean", "compare", "report"}),
    "a knob of the probe": (
        "params.yaml",
        r"^(probe_train:.*\n(?:  .*\n)*?  inner_folds: )4",
        r"\g<1>3",
        {"probe_train", "report"},
    ),
    "the page": ("ser/report/web/page.js", r"\A", "// edited\n", {"report"}),
}


def test_an_edit_makes_void_what_it_can_change_and_nothing_else(clone):
    def edit(name: str, pattern: str, replacement: str) -> None:
        path = clone.path / name
        text, count = re.subn(pattern, replacement, path.read_text(), flags=re.MULTILINE)
        assert count, (name, pattern)
        path.write_text(text)

    def void() -> set[str]:
        return set(json.loads(clone.run("dvc", "status", "--json").stdout))

    for what, (name, pattern, replacement, expected) in EDITS.items():
        edit(name, pattern, replacement)
        assert void() == expected, what
        clone.run("git", "checkout", "--quiet", ".")

    edit("ser/params.py", r"^class Params\(.*\n( +\"\"\".*\n)", r"\g<0>\n    new_knob: int\n")
    edit("params.yaml", r"^lr: ", "new_knob: 1 # nobody reads it yet\nlr: ")
    edit("ser/params.py", "What `mfcc` computes", "What `mfcc` makes of a clip")
    assert clone.stage("split").returncode == 0
    assert void() == {"report"}, "which shows every parameter"


# Appended to ser/params.py: every parameter that is read goes to the file named by READS, from
# whichever process.
RECORDER = """
import os

SECTIONS = {
    field.annotation: name + "."
    for name, field in Params.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}
validate, plain, loading = load, Section.__getattribute__, []


def recorded(self, name):
    field = type(self).model_fields.get(name)
    if field and field.annotation not in SECTIONS and not loading:
        with open(os.environ["READS"], "a") as file:
            file.write(SECTIONS.get(type(self), "") + name + "\\n")
    return plain(self, name)


def load(*arguments, **named):
    loading.append(True)
    try:
        return validate(*arguments, **named)
    finally:
        loading.pop()


Section.__getattribute__ = recorded
"""

# In one process, since each would import PyTorch anew.
ONE_AFTER_THE_OTHER = """
import importlib, json, os, sys

for name, (module, *arguments) in json.loads(sys.argv[1]).items():
    os.environ["READS"] = f"{name}.reads"
    sys.argv = [module, *arguments]
    importlib.import_module(module).main()
"""


def leaves(section: type[params.Section], prefix: str = "") -> set[str]:
    """The dotted names of all parameters in a section."""
    names = set()
    for name, field in section.model_fields.items():
        kind = field.annotation
        below = isinstance(kind, type) and issubclass(kind, params.Section)
        names |= leaves(kind, f"{prefix}{name}.") if below else {prefix + name}
    return names


def test_each_stage_declares_the_parameters_that_it_reads(clone):
    with (clone.path / "ser" / "params.py").open("a") as file:
        file.write(RECORDER)
    every = leaves(params.Params)
    commands, declared = {}, {}
    for name, stage in (
        YAML(typ="safe").load((clone.path / "dvc.yaml").read_text())["stages"].items()
    ):
        item = {"w2v_finetune": "0", "evaluate": "svm"}.get(name)
        listed = stage.get("do", stage).get("params", [])
        if {"params.yaml": None} in listed:
            continue  # all of the file
        commands[name] = stage.get("do", stage)["cmd"].replace("${item}", item or "").split()[2:]
        declared[name] = {
            leaf for key in listed for leaf in every if leaf == key or leaf.startswith(f"{key}.")
        }
    clone.run(sys.executable, "-c", ONE_AFTER_THE_OTHER, json.dumps(commands))
    read = {name: clone.path / f"{name}.reads" for name in commands}
    assert {
        name: set(file.read_text().split()) if file.exists() else set()
        for name, file in read.items()
    } == declared
