"""`make demo`: what it prints is what the experiment's own predictions say, and nothing of the
user's changes."""

import json
import re
import shutil

import pandas as pd
import pytest
from conftest import clone_of
from dvc.api import DVCFileSystem

from ser import params


@pytest.mark.slow
def test_demo(done, tmp_path):
    project = clone_of(done, tmp_path / "clone", "main")
    project.run("git", "remote", "remove", "origin")  # which has a branch `demo`
    (project.path / "metrics" / "search").mkdir()
    (project.path / "metrics" / "search" / "real.csv").write_text("of the real corpus\n")
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "A search on the real corpus")
    with (project.path / "params.yaml").open("a") as file:
        file.write("# being edited\n")
    (project.path / "metrics" / "svm.json").write_text("{}\n")
    before = project.run("git", "status", "--porcelain").stdout

    printed = project.run("make", "demo").stdout
    assert project.run("git", "status", "--porcelain").stdout == before
    results = project.path / "demo"
    assert json.loads((results / "corpus.json").read_text())["clips"] == 192
    assert (results / "compare.json").exists()
    assert "03-01-05-01-01-01-08" in (results / "index.html").read_text()
    assert not (results / "search").exists()

    table = printed[printed.index("| model |") :]
    project.run("git", "stash", "--quiet")
    assert "Ran experiment" in project.run("make", "demo").stdout  # what was edited may matter
    again = project.run("make", "demo").stdout
    assert "stage" not in again and again.endswith(table)
    project.run("git", "stash", "pop", "--quiet")
    experiment = DVCFileSystem(str(project.path), rev="demo")
    models = params.load(project.path / "params.yaml").models
    for model, title in models.items():
        assert (results / model / "confusion.png").exists()
        with experiment.open(f"data/predictions/{model}/predictions.csv") as file:
            rows = pd.read_csv(file).query("fold < 2")
        right = 100 * (rows["actual"] == rows["predicted"]).mean()
        assert f"| {title} | {len(rows)} | {right:.1f} [" in table
    assert table.count(": SYNTHETIC demo corpus, not RAVDESS;") == len(models)
    assert "These figures are of the SYNTHETIC demo corpus" in table

    project.run("git", "restore", ".")
    project.run("bash", "-ec", re.search(r"Go on with it +(.*)", table)[1])
    project.run("dvc", "repro", "sources")  # of which no cache has a copy
    assert project.run("dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    assert project.run("git", "status", "--porcelain").stdout == ""


@pytest.mark.slow
def test_a_demo_that_stops_is_one_more_line(project):
    (project.path / "demo.yaml").write_text("corpus: demo\nlr: fast\n")
    before = project.run("git", "status", "--porcelain").stdout
    stopped = [project.command("demo")]
    assert stopped[0].stderr.splitlines()[-1].startswith("demo: the pipeline stopped")
    assert "lr = 'fast'" in stopped[0].stdout + stopped[0].stderr
    assert project.run("git", "status", "--porcelain").stdout == before
    assert not (project.path / "demo").exists()
    shutil.rmtree(project.path / ".git")  # as unpacked from a downloaded archive
    stopped.append(project.command("demo"))
    assert "git" in stopped[1].stderr
    assert [each.returncode for each in stopped] == [1, 1]
    assert not any("Traceback" in each.stderr for each in stopped)
