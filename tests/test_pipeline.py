"""The pipeline as its users run it: the real dvc.yaml on a shrunken demo corpus, in a clone of its
own."""

import itertools
import json
import re
import shutil

import pandas as pd
import pytest
import workplace
from conftest import ROOT, one_line
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from ser import params
from ser.corpora.ravdess import EMOTIONS

pytestmark = pytest.mark.slow

MODELS = params.load(ROOT / "params.yaml").models
FINETUNING = {"w2v_finetune@0", "w2v_finetune@1"}
SCORES = {f"evaluate@{name}" for name in MODELS}
TOGETHER = {"mean", "evaluate@mean", "compare", "report"}
UP_TO_DATE = "Data and pipelines are up to date."


def ran(output: str) -> set[str]:
    """The stages that DVC says it ran; those it took from its run cache did not run."""
    return set(re.findall(r"Running stage '([^']+)'", output))


def fits(printed: str, *words: str) -> None:
    """Assert that lines are at most 120 wide and that all `words` stand there."""
    assert max(map(len, printed.splitlines())) <= 120, printed
    assert [word for word in words if word not in printed] == [], printed


def test_each_model_predicts_every_clip_of_its_folds_once(done):
    clips = pd.read_csv(done.path / "data/folds.csv").set_index("clip")
    for name in MODELS:
        table = pd.read_csv(done.path / f"data/predictions/{name}/predictions.csv")
        expected = clips if name in ("svm", "probe") else clips[clips["fold"] < 2]
        assert list(table["clip"]) == list(expected.index)
        assert list(table["actual"]) == list(expected["label"])
        assert table[list(EMOTIONS)].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
        assert (table[list(EMOTIONS)].idxmax(axis=1) == table["predicted"]).all()
    run = json.loads((done.path / "data/predictions/w2v/run.json").read_text())
    assert {"device", "precision", "versions"} <= set(run)
    assert list(pd.read_csv(done.path / "data/predictions/w2v/epochs.csv")["fold"]) == [0, 1]


def test_metrics_have_their_contract_and_say_that_the_corpus_is_synthetic(done):
    assert json.loads((done.path / "metrics/corpus.json").read_text())["clips"] == 192
    for name in MODELS:
        figures = json.loads((done.path / f"metrics/{name}.json").read_text())
        assert figures["accuracy_low"] <= figures["accuracy"] <= figures["accuracy_high"]
        assert all(isinstance(value, float) for value in figures.values())
        protocol = (done.path / f"metrics/{name}/protocol.txt").read_text()
        assert "SYNTHETIC" in protocol and "1,2,3,4 | 5,6,7,8" in protocol
        for table in ("folds", "speakers", "labels", "calibration"):
            assert pd.read_csv(done.path / f"metrics/{name}/{table}.csv")["clips"].sum() == 64
    pairs = json.loads((done.path / "metrics/compare.json").read_text())
    assert list(pairs) == [f"{one} - {two}" for two, one in itertools.combinations(MODELS, 2)]
    printed = done.command("results").stdout
    assert printed.count("| 64 |") == printed.count("SYNTHETIC") == len(MODELS)
    assert f"{MODELS['w2v']} - {MODELS['svm']}: accuracy -" in printed


def test_nothing_runs_twice_and_nothing_is_left_for_git(clone):
    assert not ran(clone.run("dvc", "repro").stdout)
    clone.run("dvc", "plots", "show")
    assert clone.run("git", "status", "--porcelain").stdout == ""
    assert clone.run("dvc", "status").stdout.strip() == UP_TO_DATE


def test_what_changes_in_a_folder_of_one_s_own_is_seen(project):
    """Recordings and a checkpoint, which stay where they are when params.yaml names others."""
    for name in ("calls", "encoder"):
        (project.path.parent / name).mkdir()
        (project.path.parent / name / "file").write_text("1")
    path = project.path / "params.yaml"
    before = path.read_text()
    apply_overrides(path, ["corpus=../calls", "split.scheme=6", "checkpoint=../encoder"])
    assert ran(project.run("dvc", "repro", "sources").stdout) == {"sources"}
    assert project.run("dvc", "status", "sources").stdout.strip() == UP_TO_DATE
    for name, source in (("calls", "corpus"), ("encoder", "checkpoint")):
        (project.path.parent / name / "more").write_text("2")
        assert f"data/sources/{source}" in project.run("dvc", "status", "sources").stdout
        assert ran(project.run("dvc", "repro", "sources").stdout) == {"sources"}
    path.write_text(before)
    project.run("dvc", "repro", "sources")
    assert (project.path / "data/sources/corpus").read_text() == "ravdess\n"
    assert (project.path.parent / "calls/more").read_text() == "2"


def test_lr_reruns_fine_tuning_and_its_scores_alone(clone):
    """The tables of metrics and experiments show it, and fit a screen."""
    clone.run("git", "switch", "--quiet", "--create", "other")
    output = clone.run("dvc", "exp", "run", "-S", "lr=3e-5", "--name", "smaller-step").stdout
    assert ran(output) == {*FINETUNING, "gather", "evaluate@w2v", *TOGETHER}
    assert re.search(r"^lr: 3e-05\b", (clone.path / "params.yaml").read_text(), flags=re.MULTILINE)
    text = (ROOT / "docs" / "pipeline.md").read_text()
    experiments = re.search(r"^dvc exp show --.*", text, flags=re.MULTILINE)[0]
    fits(clone.run("bash", "-c", experiments).stdout, "smaller-step", "lr")
    fits(clone.run("dvc", "metrics", "show").stdout, *(f"metrics/{name}.json" for name in MODELS))
    clone.run("git", "add", "--all")
    clone.run("git", "commit", "--quiet", "--message", "A smaller step")
    (clone.path / ".dvc" / "config.local").unlink()  # as in a clone without data
    shutil.rmtree(clone.path / "data")
    difference = ("dvc", "metrics", "diff", "origin/demo", "other")
    fits(clone.run(*difference).stdout, "ece")
    changes = json.loads(clone.run(*difference, "--json").stdout)
    assert set(changes) == {"metrics/w2v.json", "metrics/mean.json"}


def test_a_model_is_added_as_contributing_says(clone):
    """Its code blocks are the script, the stage, the name, and what to run."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = re.search(r"^## Add your own model\n(.*?)^## ", text, flags=re.M | re.S)[1]
    script, stage, name, commands = re.findall(r"^```\w+\n(.*?)^```", section, flags=re.M | re.S)
    (clone.path / "stages" / "knn.py").write_text(script)
    for file, place, addition in (
        ("dvc.yaml", r"^  evaluate:", f"{stage}\n"),
        ("params.yaml", r"^mean:", name),  # which follows `models`
    ):
        text, count = re.subn(f"(?={place})", addition, (clone.path / file).read_text(), flags=re.M)
        assert count == 1
        (clone.path / file).write_text(text)
    printed = clone.run("bash", "-ec", commands).stdout
    assert ran(printed) <= {"knn", "mean", "evaluate@knn", "compare", "report"}
    assert "metrics/knn.json" in printed
    assert "| nearest neighbours | 64 |" in printed
    assert "knn - svm" in json.loads((clone.path / "metrics/compare.json").read_text())
    assert "<dt>nearest neighbours</dt>" in (clone.path / "report/index.html").read_text()


def test_a_page_shows_two_experiments_side_by_side(clone):
    before = (clone.path / "report" / "index.html").read_bytes()
    made = clone.stage("report", "--no-audio", "--beside", "origin/demo")
    assert made.returncode == 0, made.stderr
    page = (clone.path / "report" / "beside-no-audio.html").read_text()
    for title in MODELS.values():
        assert f"<dt>{title}, origin/demo</dt>" in page
    assert (clone.path / "report" / "index.html").read_bytes() == before
    assert clone.run("git", "status", "--porcelain").stdout == ""
    one_line(clone.stage("report", "--beside", "nonsense"), "nonsense", "no such commit")
    one_line(clone.stage("report", "--beside", "origin/main"), "origin/main")


def test_a_branch_that_cannot_go_on_does_not_stop_the_other(clone):
    changes = ("-S", "checkpoint=no-such/model", "-S", "svm_train.C=[5]")
    failed = clone.run(
        "dvc", "exp", "run", "--keep-going", *changes, check=False, HF_HUB_OFFLINE="1"
    )
    assert failed.returncode != 0
    assert "no-such/model" in failed.stdout + failed.stderr
    assert {"svm_train", "evaluate@svm"} <= ran(failed.stdout)


def test_results_say_which_figures_are_out_of_date(clone):
    shutil.rmtree(clone.path / "data")  # as before `dvc pull`: the figures are the committed ones
    assert "Out of date" not in clone.command("results").stdout
    apply_overrides(clone.path / "params.yaml", ["svm_train.C=[2]"])
    line = "Out of date, until `dvc repro` has run: MFCC + SVM, mean of the three.\n"
    assert line in clone.command("results").stdout
    shutil.rmtree(clone.path / ".dvc")
    printed = clone.command("results").stdout
    assert "| MFCC + SVM | 64 |" in printed and "DVC cannot say" in printed


def test_a_stage_outside_the_project_is_one_line(tmp_path):
    outside = workplace.outcome(tmp_path, "stages.split")
    one_line(outside, "params.yaml", "no such file", "project's folder")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    outside = workplace.outcome(tmp_path, "stages.split")
    one_line(outside, "data/clips.csv", "no such table", "dvc repro")


EDITS = [  # files with a line more at their top, and the stages that this makes void
    (("ser/run/errors.py", "ser/finetune/card.py", "commands/results.py"), set()),
    (("ser/mfcc.py", "ser/finetune/head.py"), {"mfcc", *FINETUNING}),
    (("ser/scoring.py", "ser/report/web/page.js"), {*SCORES, "compare", "report"}),
]
CHANGES = [  # the same of parameters
    (["mfcc.n_mfcc=20", "probe_train.inner_folds=3"], {"mfcc", "probe_train", "report"}),
    (["folds=[0]"], {"gather", *SCORES, *TOGETHER}),
    (["models.svm=another", "+new_knob=1"], {"mean", "evaluate@svm", "compare", "report"}),
]


def test_a_change_makes_void_what_it_can_change_and_nothing_else(clone):
    def void() -> set[str]:
        return set(json.loads(clone.run("dvc", "status", "--json").stdout))

    for names, expected in EDITS:
        for file in (clone.path / name for name in names):
            file.write_text(f"\n{file.read_text()}")
        assert void() == expected, names
        clone.run("git", "checkout", "--quiet", ".")
    for changes, expected in CHANGES:
        apply_overrides(clone.path / "params.yaml", changes)
        assert void() == expected, changes
        clone.run("git", "checkout", "--quiet", ".")
    first, second = sorted((clone.path / "data" / "raw").glob("*/*.wav"))[:2]
    first.unlink()
    shutil.copy(second, first)
    assert void() == {"download", "resample"}


def leaves(section: type[params.Section], prefix: str = "") -> dict[str, type[params.Section]]:
    """The sections of all parameters, by dotted name."""
    names = {}
    for name, field in section.model_fields.items():
        kind = field.annotation
        below = isinstance(kind, type) and issubclass(kind, params.Section)
        names |= leaves(kind, f"{prefix}{name}.") if below else {prefix + name: section}
    return names


def test_each_stage_declares_the_parameters_that_it_reads(clone, monkeypatch):
    apply_overrides(clone.path / "params.yaml", ["head=layers"])  # which alone reads head_probe
    every, read = leaves(params.Params), set()
    load, attribute = params.load, params.Section.__getattribute__

    def recorded(section: params.Section, name: str) -> object:
        read.add((type(section), name))
        return attribute(section, name)

    def loaded() -> params.Params:
        settings = load()
        read.clear()  # of what the validation reads
        return settings

    monkeypatch.setattr(params.Section, "__getattribute__", recorded)
    monkeypatch.setattr(params, "load", loaded)
    for name, stage in YAML(typ="safe").load(clone.path / "dvc.yaml")["stages"].items():
        stage = stage.get("do", stage)
        listed = [key for key in stage.get("params", []) if key != {"params.yaml": None}]
        if stage.get("params", []) != listed:
            continue  # all of the file
        read.clear()
        item = {"w2v_finetune": " 0", "evaluate": " svm"}.get(name, "")
        workplace.run(clone.path, f"{name}{item}")
        listed = [key.replace(".${key}", "") for key in listed]
        declared = {leaf for leaf in every for key in listed if f"{leaf}.".startswith(f"{key}.")}
        used = {leaf for leaf, kind in every.items() if (kind, leaf.rpartition(".")[2]) in read}
        assert used == declared, name
