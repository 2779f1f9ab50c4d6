"""Outputs appear whole or not at all, whatever happens to the process that writes them."""

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, small_files

from ser.run import outputs


def write(target: Path, text: str) -> None:
    with outputs.whole(target) as folder:
        folder.mkdir()
        for name in "ab":
            (folder / name).write_text(text)


def texts(target: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in target.iterdir()}


def both(text: str) -> dict[str, str]:
    return {"a": text, "b": text}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """An output that is there already, in a folder with an awkward name."""
    target = tmp_path / "Maße & [1] ü" / "raw"
    write(target, "older")
    return target


def alone(target: Path) -> bool:
    return list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("first", [Path.touch, Path.mkdir])
@pytest.mark.parametrize("second", [Path.touch, Path.mkdir])
def test_a_file_or_folder_replaces_what_was_there(tmp_path, first, second):
    for fill in (first, second):
        with outputs.whole(tmp_path / "new" / "output.csv") as partial:
            fill(partial)
            assert partial.name == "output.csv", "writers go by the ending"
    assert (tmp_path / "new" / "output.csv").is_dir() == (second is Path.mkdir)
    assert alone(tmp_path / "new" / "output.csv")


def test_a_link_is_replaced_and_what_it_points_to_stays(target, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(target)
    write(link, "new")
    assert not link.is_symlink()
    assert (texts(link), texts(target)) == (both("new"), both("older"))


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_after_an_error_everything_is_as_it_was(target, error):
    with pytest.raises(error), outputs.whole(target) as partial:
        partial.mkdir()
        raise error
    assert texts(target) == both("older") and alone(target)


KILLED = """
import os, sys
from pathlib import Path
from ser.run import outputs

with outputs.whole(sys.argv[1]) as folder:
    folder.mkdir()
    (folder / "a").write_text("killed")
    os._exit(9)
"""


def killed(target: Path) -> None:
    """Have a process end while it writes `target`."""
    command = [sys.executable, "-c", KILLED, str(target)]
    subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, check=False)


def test_what_a_killed_process_leaves_is_removed_by_the_next(target):
    killed(target)
    assert texts(target) == both("older") and not alone(target)
    write(target, "new")
    assert texts(target) == both("new") and alone(target)


def test_git_and_dvc_ignore_what_a_killed_process_leaves(project):
    killed(project.path / "metrics" / "half")
    (left,) = (project.path / "metrics").glob(".*")
    assert project.run("git", "status", "--porcelain").stdout == ""
    assert project.run("dvc", "check-ignore", left).stdout.strip()


def test_outputs_that_belong_together_appear_together(target):
    other = target.with_name("other")
    with pytest.raises(ZeroDivisionError), outputs.together() as output:
        output(target).mkdir()
        output(other).touch()
        1 / 0  # noqa: B018
    assert texts(target) == both("older") and alone(target)
    with outputs.together() as output:
        output(target).mkdir()
        outputs.write_json(output(other), {"new": 1})
        assert texts(target) == both("older") and not other.exists()
    assert (texts(target), json.loads(other.read_text())) == ({}, {"new": 1})
    assert sorted(target.parent.iterdir()) == [other, target]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions_are_those_that_the_user_wants(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "raw", "new")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "raw", tmp_path / "raw/a")]
    assert modes == [0o750, 0o640]


def test_a_write_that_fails_names_the_output(target):
    writes = (lambda partial: (partial / "no folder" / "a").write_text("new"), lambda partial: None)
    for write in writes:
        with pytest.raises(FileNotFoundError) as error, outputs.whole(target) as partial:
            write(partial)
        assert error.value.filename == str(target)
        assert texts(target) == both("older") and alone(target)
    (target.parent / "file").touch()
    with pytest.raises(FileExistsError) as error, outputs.whole(target.parent / "file" / "raw"):
        pass
    assert error.value.filename == str(target.parent / "file")


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
@pytest.mark.parametrize("library", ["torch", "safetensors"])
def test_a_disk_that_is_full_is_said_to_be_whatever_a_library_calls_it(target, library):
    import safetensors.torch
    import torch

    tensors = {"a": torch.zeros(10_000)}
    with small_files(2000), pytest.raises(OSError) as error, outputs.whole(target) as partial:
        if library == "torch":
            with partial.open("wb") as file:
                torch.save(tensors, file)
        else:
            safetensors.torch.save_file(tensors, partial)
    assert (error.value.errno, error.value.filename) == (errno.EFBIG, str(target))
    assert target.is_dir(), "as it was"


def test_json_is_rounded_and_ends_in_a_line_feed_everywhere(tmp_path):
    outputs.write_json(tmp_path / "m.json", {"a": 1 / 3, "b": {"c": 2 / 3, "d": 7}, "e": "ü"})
    assert (tmp_path / "m.json").read_bytes() == (
        b'{\n  "a": 0.3333,\n  "b": {\n    "c": 0.6667,\n    "d": 7\n  },\n  "e": "\\u00fc"\n}\n'
    )
