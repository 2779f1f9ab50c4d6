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


def run(project: Path, *command: str) -> list[tuple[float, str]]:
    """Run a command; the lines that it prints, each with the seconds since it began, and an empty
    one at its end.

    Raises:
        UserError: it fails.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines = [(time.perf_counter() - began, line) for line in process.stdout or ()]
    if process.wait():
        printed = "".join(line for _, line in lines[-5:])
        raise errors.UserError(f"{' '.join(command)} fails: {printed}")
    return [*lines, (time.perf_counter() - began, "")]


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
        lines = run(project, "dvc", "repro", "--force", TARGET)
        total = lines[-1][0]
        starts = [(at, line.split("'")[1]) for at, line in lines if line.startswith("Running")]
        print(f"{joblib.cpu_count()} cores\n| stage | seconds | share |\n|---|---|---|")
        ends = [*(at for at, _ in starts), total]
        for (begun, stage), end in zip([(0, "(DVC's start)"), *starts], ends, strict=True):
            print(f"| {stage} | {end - begun:.1f} | {(end - begun) / total:.0%} |")
        print(f"| all | {total:.1f} | |")
        print(f"with nothing to do: {run(project, 'dvc', 'repro', TARGET)[-1][0]:.2f} s")
        alone = 0.0
        for _, stage in starts:
            name, *item = stage.split("@")
            alone += run(project, sys.executable, "-m", f"stages.{name}", *item)[-1][0]
        print(f"without DVC: {alone:.1f} s; with it {total / alone:.2f} times as long")


if __name__ == "__main__":
    main()
