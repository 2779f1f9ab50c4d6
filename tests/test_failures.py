"""Faults under a real `dvc repro`: the next one makes the same bytes as if nothing had
happened, and older figures stay until there are new ones."""

import os
import subprocess

import pytest
import workplace
from conftest import Project, clone_of
from ruamel.yaml import YAML

pytestmark = pytest.mark.slow

# Read by every Python process: in the stage's own, the fault strikes when its output, complete,
# leaves the work folder.
FAULT = """
import os, resource, signal, sys

stage, fault = os.environ["FAULT"].split()
if f"stages.{stage}" in sys.orig_argv:
    if fault == "full":
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        sys.dont_write_bytecode = True  # which Python would cut short without noticing

    def strike(event, arguments):
        if event == "os.rename" and ".partial" in str(arguments[0]) and fault != "full":
            os.killpg(0, signal.Signals[fault])

    sys.addaudithook(strike)
"""


def state(project: Project) -> dict[str, object]:
    """All that the pipeline makes."""
    lock = YAML(typ="safe").load(project.path / "dvc.lock")
    return {**workplace.digest(project.path / "data"), "dvc.lock": lock}


def forget(project: Project, stage: str) -> None:
    """Have a stage run again that DVC would otherwise take from its cache."""
    lock = YAML(typ="safe").load(project.path / "dvc.lock")
    del lock["stages"][stage]
    YAML(typ="safe").dump(lock, project.path / "dvc.lock")


@pytest.fixture(scope="module")
def chain(done: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone of the shrunken demo, as far as the SVM, for faults in a Python of its own."""
    path = tmp_path_factory.mktemp("chain")
    clone = clone_of(done, path / "project")
    clone.run("dvc", "checkout", "--quiet", "--with-deps", "svm_train")
    clone.stage("sources")  # of which no cache has a copy
    (path / "sitecustomize.py").write_text(FAULT)
    return clone


@pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")
@pytest.mark.parametrize(
    ("stage", "fault", "line"),
    [
        ("svm_train", "SIGKILL", None),
        ("mfcc", "SIGTERM", "mfcc: interrupted"),
        ("resample", "full", "resample: data/audio: File too large"),
    ],
)
def test_the_next_run_makes_up_for_a_fault(chain, stage, fault, line):
    before = state(chain)
    forget(chain, stage)
    cold = Project(chain.path, chain.path.parent).env
    struck = subprocess.run(
        ["dvc", "repro", "--no-run-cache", "--single-item", stage],
        cwd=chain.path,
        env={**cold, "PYTHONPATH": str(chain.path.parent), "FAULT": f"{stage} {fault}"},
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    assert struck.returncode != 0
    assert "Traceback" not in struck.stdout + struck.stderr
    assert line is None or line in struck.stderr.splitlines()
    left = list((chain.path / "data").rglob(".*.partial"))
    assert bool(left) == (fault == "SIGKILL")
    chain.run("dvc", "repro", "--no-run-cache", "svm_train")
    assert state(chain) == before


def test_whatever_git_keeps_stays_until_there_is_a_new_one(project):
    older = workplace.digest(project.path / "metrics")
    assert "corpus.json" in older
    failed = project.run("dvc", "repro", check=False, RAVDESS_ARCHIVE="nowhere")
    assert failed.returncode != 0
    assert "RAVDESS_ARCHIVE=nowhere: no such zip" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert workplace.digest(project.path / "metrics") == older
    assert project.run("git", "status", "--porcelain").stdout == ""
