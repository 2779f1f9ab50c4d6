"""Time the pipeline from RAVDESS's archive to the SVM's figure, and what DVC adds.

    RAVDESS_ARCHIVE=PATH python -m benchmarks.repro

In a clone of the last commit, with an empty cache, `dvc repro --force` runs, then `dvc repro` once
more with nothing to do; then the same stages run by hand, without DVC. A stage's time is until the
next one begins: DVC's hashing and caching of its outputs is part of it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import joblib

from ser.run import errors

ROOT = Path(__file__).parents[1]
TARGET = "evaluate@svm"


def start(project: Path, *command: str) -> subprocess.Popen:
    """Start a command in `project`, both streams into one pipe."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        command,
        cwd=project,
        env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(project: Path, *command: str) -> float:
    """Seconds that a command takes.

    Raises:
        UserError: it fails.
    """
    began = time.perf_counter()
    process = start(project, *command)
    printed, _ = process.communicate()
    if process.returncode:
        raise errors.UserError(f"{' '.join(command)} fails: {printed[-500:]}")
    return time.perf_counter() - began


def by_stage(project: Path) -> dict[str, float]:
    """Run the pipeline; seconds by stage, the first of them those until DVC starts one.

    Raises:
        UserError: it fails.
    """
    since, stage, seconds, printed = time.perf_counter(), "(DVC's start)", {}, []
    dvc = start(project, "dvc", "repro", "--force", TARGET)
    for line in dvc.stdout or ():
        printed.append(line)
        if line.startswith("Running stage"):
            now = time.perf_counter()
            seconds[stage], stage, since = now - since, line.split("'")[1], now
    if dvc.wait():
        raise errors.UserError(f"dvc repro fails: {' '.join(printed[-3:])}")
    return {**seconds, stage: time.perf_counter() - since}


@errors.one_line
def main() -> None:
    """Run all three, print the tables."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    if not os.environ.get("RAVDESS_ARCHIVE"):
        raise errors.UserError("RAVDESS_ARCHIVE: not set; expected the path of RAVDESS's archive")
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder, "project")
        run(ROOT, "git", "clone", "--quiet", str(ROOT), str(project))
        run(project, "dvc", "cache", "dir", "--local", f"{folder}/cache")
        seconds = by_stage(project)
        total = sum(seconds.values())
        print(f"{joblib.cpu_count()} cores\n| stage | seconds | share |\n|---|---|---|")
        for stage, taken in seconds.items():
            print(f"| {stage} | {taken:.1f} | {taken / total:.0%} |")
        print(f"| all | {total:.1f} | |")
        print(f"with nothing to do: {run(project, 'dvc', 'repro', TARGET):.2f} s")
        stages = [stage.split("@") for stage in [*seconds][1:]]
        commands = [(sys.executable, "-m", f"stages.{name}", *item) for name, *item in stages]
        alone = sum(run(project, *command) for command in commands)
        print(f"without DVC: {alone:.1f} s; with it {total / alone:.2f} times as long")


if __name__ == "__main__":
    main()
