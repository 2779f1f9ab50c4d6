"""Mistakes that are one line, and bugs that keep their traceback."""

import subprocess
import sys

import pytest
from conftest import ROOT

SCRIPT = """
from ser.run import errors

@errors.one_line
def main():
    {}

main()
"""


@pytest.mark.parametrize(
    ("statement", "stderr"),
    [
        (r'raise errors.UserError("no\n\x1b[2Jline")', r"stage: no\n\x1b[2Jline"),
        (r'open("no\nfile")', r"stage: no\nfile: No such file or directory"),
        ("import os; os.fsencode(None)", "TypeError"),
        ('raise OSError("a library speaks")', "OSError: a library speaks"),
    ],
)
def test_one_line_or_a_traceback(tmp_path, statement, stderr):
    (tmp_path / "stage.py").write_text(SCRIPT.format(statement))
    command = [sys.executable, "-m", "stage"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert ("Traceback" in done.stderr) == (not stderr.startswith("stage"))
    assert done.stderr.splitlines()[-1].startswith(stderr)
