"""Outputs appear whole or not at all, whatever happens to the process that writes them."""

import errno
import itertools
import json
import os
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT, small_files

from ser.run import outputs

# Writes a folder of two files named `target`, telling the test how far it is. Words after that say
# what happens to it on the way.
WRITER = """
import os, sys
from pathlib import Path
from ser.run import outputs

target, text, *happens = sys.argv[1:]
renames = 0

def at_rename(event, arguments):
    global renames
    if event == "os.rename":
        renames += 1
        if renames == 2:  # the older output is aside, the new one not yet in its place
            if "dies" in happens:
                os._exit(9)
            raise KeyboardInterrupt

if "dies" in happens or "interrupted" in happens:
    sys.addaudithook(at_rename)
with outputs.whole(target) as folder:
    folder.mkdir()
    (folder / "a").write_text(text)
    if "waits" in happens:
        print("half", flush=True)
        sys.stdin.read()
    (folder / "b").write_text(text)
"""


def writer(target: Path, text: str, *happens: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(target), text, *happens],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def half_way(target: Path, text: str) -> subprocess.Popen:
    """A process that has written half of `target` and waits for the end of its input."""
    process = writer(target, text, "waits")
    assert process.stdout.readline() == "half\n"
    return process


def texts(target: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in target.iterdir()}


def both(text: str) -> dict[str, str]:
    return {"a": text, "b": text}


def write(target: Path, text: str) -> None:
    with outputs.whole(target) as folder:
        folder.mkdir()
        for name in "ab":
            (folder / name).write_text(text)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """An output that is there already, in a folder with an awkward name."""
    target = tmp_path / "Maße & [1] ü" / "raw"
    write(target, "older")
    return target


def alone(target: Path) -> bool:
    return list(target.parent.iterdir()) == [target]


def test_a_file_or_folder_appears_at_the_end_and_replaces_what_was_there(tmp_path):
    for path, fill in ((tmp_path / "file.csv", Path.touch), (tmp_path / "folder", Path.mkdir)):
        for _ in range(2):  # the second time in place of the first
            before = path.stat().st_ino if path.exists() else None
            with outputs.whole(path) as partial:
                fill(partial)
                assert partial.name == path.name, "writers go by the ending"
            assert path.stat().st_ino != before
            assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("first", [Path.touch, Path.mkdir])
def test_a_folder_in_place_of_a_file_and_a_file_in_place_of_a_folder(tmp_path, first):
    second = Path.mkdir if first is Path.touch else Path.touch
    for fill in (first, second):
        with outputs.whole(tmp_path / "output") as partial:
            fill(partial)
    assert (tmp_path / "output").is_dir() == (second is Path.mkdir)
    assert alone(tmp_path / "output")


def test_a_link_is_replaced_and_what_it_points_to_stays(target, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(target)
    write(link, "new")
    assert not link.is_symlink()
    assert (texts(link), texts(target)) == (both("new"), both("older"))


def test_after_an_exception_everything_is_as_it_was(target):
    with pytest.raises(ZeroDivisionError), outputs.whole(target) as partial:
        partial.mkdir()
        1 / 0  # noqa: B018
    assert texts(target) == both("older") and alone(target)


def test_nothing_is_left_although_a_thread_is_still_writing(target):
    """Where the file system allows a folder to be renamed that somebody writes to."""

    def write(folder: Path) -> None:
        with suppress(FileNotFoundError):
            for number in itertools.count():
                (folder / str(number)).touch()

    with pytest.raises(KeyboardInterrupt), outputs.whole(target) as folder:
        folder.mkdir()
        thread = threading.Thread(target=write, args=[folder])
        thread.start()
        while len([*folder.iterdir()]) < 1000:
            pass
        raise KeyboardInterrupt
    assert [*target.parent.iterdir()] == [target]
    thread.join()


def test_nothing_written_is_an_error_and_loses_nothing(target):
    with pytest.raises(FileNotFoundError) as error, outputs.whole(target):
        pass
    assert error.value.filename == str(target)
    assert texts(target) == both("older") and alone(target)


def test_what_a_killed_process_leaves_is_removed_by_the_next(target):
    process = half_way(target, "killed")
    process.kill()
    process.communicate()
    assert texts(target) == both("older")
    (left,) = target.parent.glob(".*.partial")
    assert (left / "raw" / "a").read_text() == "killed"
    write(target, "new")
    assert texts(target) == both("new") and alone(target)


def test_what_a_running_process_writes_stays_and_the_last_to_finish_counts(target):
    process = half_way(target, "slow")
    write(target, "quick")
    assert texts(target) == both("quick")
    assert len(list(target.parent.glob(".*.partial"))) == 1
    _, complaints = process.communicate("")
    assert process.returncode == 0, complaints
    assert texts(target) == both("slow") and alone(target)


def test_processes_that_write_the_same_folder_over_and_over(target):
    loop = (
        "import sys; from test_outputs import *\n"
        "for _ in range(40): write(Path(sys.argv[1]), sys.argv[2])"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *sys.path)))}
    command = [sys.executable, "-c", loop, str(target)]
    processes = [
        subprocess.Popen([*command, text], env=env, stderr=subprocess.PIPE, text=True)
        for text in ("one", "two", "three")
    ]
    for process in processes:
        _, complaints = process.communicate()
        assert process.returncode == 0, complaints
    assert texts(target) in [both(text) for text in ("one", "two", "three")]
    assert alone(target)


def test_a_machine_that_stops_between_old_and_new_loses_neither(target):
    process = writer(target, "new", "dies")
    process.communicate()
    assert process.returncode == 9
    assert not target.exists()
    (left,) = target.parent.glob(".*.partial")
    assert texts(left / outputs.OLDER) == both("older") and texts(left / "raw") == both("new")
    with pytest.raises(ZeroDivisionError), outputs.whole(target):
        assert texts(target) == both("older"), "put back before anything else happens"
        1 / 0  # noqa: B018
    assert texts(target) == both("older") and alone(target)


def test_an_interrupt_between_old_and_new_puts_the_old_back(target):
    process = writer(target, "new", "interrupted")
    assert "KeyboardInterrupt" in process.communicate()[1]
    assert texts(target) == both("older") and alone(target)


def test_another_machines_work_is_left_alone_for_a_week(target):
    """Its processes cannot be seen from here."""
    new, old = (target.with_name(f".raw.1@elsewhere.{word}.partial") for word in ("new", "old"))
    for work in (new, old):
        work.mkdir()
    eight_days_ago = time.time() - 8 * 24 * 3600
    os.utime(old, (eight_days_ago, eight_days_ago))
    write(target, "new")
    assert sorted(target.parent.iterdir()) == [new, target]


def test_work_on_a_longer_name_is_another_output(target):
    longer = target.with_name("raw.csv")
    process = half_way(longer, "killed")
    process.kill()
    process.communicate()
    write(target, "new")
    assert len(list(target.parent.glob(".raw.csv.*.partial"))) == 1
    write(longer, "new")
    assert not list(target.parent.glob(".*.partial"))


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


def test_the_same_output_twice_at_a_time_in_one_process(target):
    with outputs.whole(target) as outer:
        outer.mkdir()
        write(target, "inner")
        assert outer.exists()
        (outer / "a").write_text("outer")
    assert texts(target) == {"a": "outer"} and alone(target)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize(("mask", "folder", "file"), [(0o022, 0o755, 0o644), (0o077, 0o700, 0o600)])
def test_permissions_are_those_that_the_user_wants(tmp_path, mask, folder, file):
    before = os.umask(mask)
    try:
        write(tmp_path / "raw", "new")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "raw", tmp_path / "raw/a")]
    assert modes == [folder, file]


def test_a_write_that_fails_names_the_output(target):
    with pytest.raises(FileNotFoundError) as error, outputs.whole(target) as partial:
        (partial / "no folder" / "a").write_text("new")
    assert error.value.filename == str(target)
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


def test_git_and_dvc_ignore_work_folders(project):
    data = project.path / "metrics"
    process = half_way(data / "half", "killed")
    process.kill()
    process.communicate()
    assert list(data.glob(".half.*.partial"))
    assert project.run("git", "status", "--porcelain").stdout == ""
    listed = project.run("dvc", "check-ignore", *data.glob(".half.*.partial")).stdout
    assert listed.strip()


def test_json_is_rounded_and_ends_in_a_line_feed_everywhere(tmp_path):
    outputs.write_json(tmp_path / "m.json", {"a": 1 / 3, "b": {"c": 2 / 3, "d": 7}, "e": "ü"})
    assert (tmp_path / "m.json").read_bytes() == (
        b'{\n  "a": 0.3333,\n  "b": {\n    "c": 0.6667,\n    "d": 7\n  },\n  "e": "\\u00fc"\n}\n'
    )
