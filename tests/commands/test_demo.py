"""`make demo`: what it prints is what the experiment's own predictions say, and nothing of the
user's changes."""

import io
import json
import re
import shutil
import sys

import pandas as pd
import pytest
from conftest import shrink_demo
from dvc.api import DVCFileSystem

from ser import scoring


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo(project, tmp_path_factory):
    shrink_demo(project, tmp_path_factory)
    (project.path / "metrics" / "search").mkdir()
    (project.path / "metrics" / "search" / "real.csv").write_text("of the real corpus\n")
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "A search on the real corpus")
    params = project.path / "params.yaml"
    params.write_text(f"{params.read_text()}# being edited\n")
    (project.path / "metrics" / "svm.json").write_text("{}\n")
    before = project.run("git", "status", "--porcelain").stdout

    done = project.run(sys.executable, "-m", "commands.demo")
    assert project.run("git", "status", "--porcelain").stdout == before
    experiment = DVCFileSystem(str(project.path), rev="demo")
    made = {path.name: path for path in (project.path / "demo").iterdir()}
    assert {"corpus.json", "corpus.csv", "compare.json"} <= set(made)
    assert {f"{model}_confusion.png" for model in scoring.MODELS} <= set(made)
    assert "03-01-05-01-01-01-08" in made["index.html"].read_text()
    assert "real.csv" not in made and "search" not in made
    assert json.loads(made["corpus.json"].read_text())["clips"] == 192

    table = done.stdout[done.stdout.index("| model |") :]
    for model, title in scoring.MODELS.items():
        paths = [f"{source}/predictions.csv" for source in scoring.sources(model, [0, 1])]
        texts = [experiment.read_text(path) for path in paths]
        rows = pd.concat([pd.read_csv(io.StringIO(text)) for text in texts])
        rows = rows[rows["fold"] < 2]
        right = 100 * (rows["actual"] == rows["predicted"]).mean()
        assert f"| {title} | {len(rows)} | {right:.1f} [" in table
    protocols = table.count(": SYNTHETIC demo corpus, not RAVDESS;")
    assert protocols == len(scoring.MODELS)
    assert "configs/demo, frozen, with random weights; blocks, kernel" in table
    assert "These figures are of the SYNTHETIC demo corpus" in table

    project.run("git", "restore", ".")
    advice = re.search(r"Go on with it +(.*)", table)[1]
    project.run("bash", "-ec", advice)
    assert project.run("dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    assert project.run("git", "status", "--porcelain").stdout == ""


@pytest.mark.slow
def test_a_demo_that_stops_is_one_more_line(project):
    params = project.path / "params.yaml"
    params.write_text(params.read_text().replace("takes:", "take:"))
    done = project.run(sys.executable, "-m", "commands.demo", check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("demo: the pipeline stopped")
    assert not (project.path / "demo").exists()


@pytest.mark.slow
def test_a_folder_without_git_is_no_traceback(project):
    """As unpacked from a downloaded archive."""
    shutil.rmtree(project.path / ".git")
    done = project.run(sys.executable, "-m", "commands.demo", check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "git" in done.stderr
