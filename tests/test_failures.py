"""A stage that fails under a real `dvc repro`: git's work tree and older figures stay as they were,
and nothing passes for new."""

import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pytest
from conftest import ROOT, SHRUNK, Project
from ruamel.yaml import YAML

from ser import corpus, protocols, scoring
from ser.corpora import ravdess
from stages import split

STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
pytestmark = pytest.mark.slow


class NotThere(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(404)

    def log_message(self, *args):
        pass


@pytest.fixture
def dead_url() -> Iterator[str]:
    """A server that has what is asked for no longer, which is not worth asking again."""
    with ThreadingHTTPServer(("127.0.0.1", 0), NotThere) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/archive.zip"
        server.shutdown()


def files(project: Project, folder: str) -> dict[str, bytes]:
    """All files below a folder of the project, by path."""
    paths = (project.path / folder).rglob("*")
    return {
        path.relative_to(project.path).as_posix(): path.read_bytes()
        for path in paths
        if path.is_file()
    }


def fails(project: Project, *command: str, **env: str) -> str:
    """What a command prints that fails and leaves git's work tree, and data/, as they were."""
    assert project.run("git", "status", "--porcelain").stdout == ""
    done = project.run(*command, check=False, NO_PROXY="*", **env)
    printed = done.stdout + done.stderr
    assert done.returncode != 0, printed
    assert "Traceback" not in printed
    assert project.run("git", "status", "--porcelain").stdout == "", printed
    assert not list((project.path / "data").rglob(".*")), "no half outputs, no .gitignore"
    return printed


def test_whatever_git_keeps_stays_until_there_is_a_new_one():
    """DVC removes other outputs before the stage runs."""
    for name, stage in STAGES.items():
        definition = stage.get("do", stage)
        for out in (*definition.get("outs", []), *definition.get("metrics", [])):
            path, options = next(iter(out.items())) if isinstance(out, dict) else (out, {})
            kept_by_git = path.startswith("metrics/")
            assert options.get("persist", False) == kept_by_git, (name, path)
            assert options.get("cache", True) != kept_by_git, (name, path)


def test_no_corpus_or_no_network(project, dead_url):
    older = files(project, "metrics")
    assert "metrics/corpus.json" in older
    assert f"download: {dead_url}: HTTP 404" in fails(project, "dvc", "repro", RAVDESS_URL=dead_url)
    assert "RAVDESS_ARCHIVE=nowhere: no such zip" in fails(
        project, "dvc", "exp", "run", "--temp", RAVDESS_ARCHIVE="nowhere"
    )
    assert files(project, "metrics") == older
    assert files(project, "data") == {}


def test_figures_of_an_earlier_run_do_not_pass_for_new_and_its_data_can_be_had_back(
    project, dead_url
):
    before = files(project, "metrics")
    changes = [word for change in SHRUNK for word in ("-S", change)]
    project.run("dvc", "exp", "run", *changes, "download")
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "The demo corpus")
    raw, figures = files(project, "data"), files(project, "metrics")
    changed = {path for path in figures if figures[path] != before.get(path)}
    assert changed == {"metrics/corpus.json", "metrics/corpus.csv"}, "the older ones are replaced"
    assert b'"clips": 192' in figures["metrics/corpus.json"]
    assert "up to date" in project.run("dvc", "status", "download").stdout

    project.run("dvc", "exp", "run", "-S", "corpus=ravdess", check=False, RAVDESS_URL=dead_url)
    assert files(project, "metrics") == figures
    assert "download:" in project.run("dvc", "status", "download").stdout, "DVC knows"
    project.run("git", "restore", "params.yaml")
    assert project.run("git", "status", "--porcelain").stdout == ""
    assert files(project, "data") == {}, "DVC takes data away before the stage runs"
    project.run("dvc", "checkout", "data/raw")
    assert files(project, "data") == raw


@pytest.mark.parametrize(
    ("stage", "words"),
    {
        "evaluate@svm": "data/svm/predictions.csv: columns",
        "evaluate@w2v": "data/w2v/fold_0/predictions.csv: columns",
        "mean": "data/svm/predictions.csv: columns",
        "compare": "data/svm/predictions.csv: columns",
        "curves": "data/w2v/fold_5/epochs.csv: no such table",
    }.items(),
)
def test_scoring_that_fails(project, stage, words):
    for model in scoring.MODELS:
        for folder in scoring.sources(model, range(6)):
            (project.path / folder).mkdir(parents=True)
            for name in ("predictions.csv", "curve.csv", "epochs.csv", "protocol.txt"):
                (project.path / folder / name).write_text("step\n1\n")
    (project.path / "data/w2v/fold_5/epochs.csv").unlink()
    older = files(project, "metrics")
    assert f"{stage.partition('@')[0]}: {words}" in fails(
        project, "dvc", "repro", "--single-item", stage
    )
    assert files(project, "metrics") == older


@pytest.mark.skipif(os.name != "posix", reason="ulimit")
def test_a_disk_that_fills_up_while_scoring_leaves_no_new_figure_beside_old_ones(project):
    """The tables fit, the picture does not."""
    clips = split.assign(
        corpus.table(ravdess.read_manifest(ravdess.MANIFEST)), protocols.folds("six")
    )
    right = clips[["clip", "actor", "fold"]].assign(
        actual=clips["emotion"], predicted=clips["emotion"]
    )
    table = right.join(pd.get_dummies(clips["emotion"])[list(corpus.EMOTIONS)].astype(float))
    (project.path / "data/svm").mkdir(parents=True)
    table.to_csv(project.path / "data/svm/predictions.csv", index=False)
    (project.path / "data/svm/protocol.txt").write_text("made up\n")
    older = files(project, "metrics")
    project.run(sys.executable, "-c", "import matplotlib.font_manager")  # which keeps a large list
    command = f"ulimit -f 40; exec {sys.executable} -m stages.evaluate svm"
    printed = fails(project, "bash", "-c", command)
    assert printed.startswith("evaluate: metrics/svm_confusion.png: File too large")
    assert files(project, "metrics") == older
    project.run(sys.executable, "-m", "stages.evaluate", "svm")
    newer = files(project, "metrics")
    changed = {path for path in newer if newer[path] != older.get(path)}
    assert {"metrics/svm.json", "metrics/svm_confusion.png", "metrics/svm_folds.csv"} <= changed
    assert all("svm" in path for path in changed)
