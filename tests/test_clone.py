"""A fresh clone: the same bytes whatever git is told, and a way back from experiments that works
from the lock that is shipped, on any processor."""

import pytest
from conftest import clone_of
from ruamel.yaml import YAML
from test_readme import BACK, COMMANDS

COMMIT = next(command for command, _ in COMMANDS if "As run on this machine" in command)
SHIPPED = ("sources", "download", "resample", "split", "mfcc", "svm_train", "evaluate@svm")


def test_line_ends_stay_as_they_are(project, tmp_path):
    """Or DVC would take each file for changed."""
    path = tmp_path / "clone"
    project.run("git", "clone", "--quiet", "-c", "core.autocrlf=true", project.path, path)
    for name in project.run("git", "ls-files").stdout.splitlines():
        assert (path / name).read_bytes() == (project.path / name).read_bytes(), name
    (path / "windows.csv").write_bytes(b"clip\r\n1\r\n")
    project.run("git", "-C", path, "add", "windows.csv")
    shown = project.run("git", "-C", path, "cat-file", "-s", ":windows.csv").stdout
    assert int(shown) == 9


@pytest.mark.slow
def test_the_way_back_works_from_the_lock_that_is_shipped(done, tmp_path):
    """The lock is of the SVM alone and of another processor: it names files that are nowhere here.
    DVC takes what this machine computes from its run cache."""
    clone = clone_of(done, tmp_path / "clone")
    lock = YAML().load(clone.path / "dvc.lock")
    lock["stages"] = {name: lock["stages"][name] for name in SHIPPED}
    for name in ("mfcc", "svm_train"):
        for out in lock["stages"][name]["outs"]:
            out["md5"] = f"{'0' * 31}1{out['md5'][32:]}"
    YAML().dump(lock, clone.path / "dvc.lock")
    for name in ("probe", "w2v", "mean"):
        clone.run("git", "rm", "-rq", f"metrics/{name}", f"metrics/{name}.json")
    clone.run("git", "rm", "-q", "metrics/compare.json")
    clone.run("git", "commit", "--quiet", "--all", "--message", "As shipped")

    clone.run("dvc", "repro", "evaluate@svm")
    clone.run("bash", "-ec", COMMIT)
    before = (clone.path / "data/models/svm/model.json").read_bytes()
    clone.run("dvc", "exp", "run", "-S", "svm_train.C=[3]", "evaluate@svm", "evaluate@probe")
    assert (clone.path / "data/models/svm/model.json").read_bytes() != before
    assert (clone.path / "metrics/probe.json").exists()

    clone.run("bash", "-ec", BACK)
    assert clone.run("git", "status", "--porcelain").stdout == ""
    status = clone.run("dvc", "status", "evaluate@svm", "--with-deps").stdout
    assert status.strip() == "Data and pipelines are up to date."
    assert (clone.path / "data/models/svm/model.json").read_bytes() == before
    assert not (clone.path / "data/predictions/probe").exists()
    printed = clone.command("results").stdout
    assert "MFCC + SVM" in printed and "probe" not in printed
    clip = next((clone.path / "data/raw").rglob("*.wav"))
    assert clone.command("predict", "--model", "svm", clip).returncode == 0
