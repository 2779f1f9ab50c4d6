"""From RAVDESS's archive to the SVM's figure: what each stage takes, and what DVC adds.

    RAVDESS_ARCHIVE=PATH python -m benchmarks.repro

In a clone of the last commit, with an empty cache, `dvc repro --force` runs, then `dvc repro` once
more with nothing to do; then the same stages run by hand, without DVC. A stage's time is until the
next one begins: DVC's hashing and caching of its outputs is part of it.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import joblib

from benchmarks.checkout import Checkout, cloned
from ser.run import errors

TARGET = "evaluate@svm"


def timed(checkout: Checkout, archive: str) -> dict[str, float]:
    """Run the pipeline; seconds by stage, the first of them those until DVC starts one.

    Raises:
        UserError: it fails.
    """
    start, seconds, printed = time.perf_counter(), {}, []
    dvc = checkout.start(
        "dvc", "repro", "--force", TARGET, RAVDESS_ARCHIVE=archive, PYTHONUNBUFFERED="1"
    )
    stage, since = "(DVC's start)", start
    for line in dvc.stdout or ():
        printed.append(line)
        if line.startswith("Running stage"):
            now = time.perf_counter()
            seconds[stage], stage, since = now - since, line.split("'")[1], now
    seconds[stage] = time.perf_counter() - since
    if dvc.wait():
        raise errors.UserError(f"dvc repro fails: {' '.join(printed[-3:])}")
    return seconds


@errors.one_line
def main() -> None:
    """Run all three, print the tables."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    archive = os.environ.get("RAVDESS_ARCHIVE")
    if not archive:
        raise errors.UserError("RAVDESS_ARCHIVE: not set; expected the path of RAVDESS's archive")
    with tempfile.TemporaryDirectory() as folder:
        checkout = cloned(Path(folder))
        seconds = timed(checkout, archive)
        total = sum(seconds.values())
        print(f"{joblib.cpu_count()} cores\n| stage | seconds | share |\n|---|---|---|")
        for stage, taken in seconds.items():
            print(f"| {stage} | {taken:.1f} | {taken / total:.0%} |")
        print(f"| all | {total:.1f} | |")
        start = time.perf_counter()
        code, printed = checkout.run("dvc", "repro", TARGET)
        if code or "Running" in printed:
            raise errors.UserError(f"dvc repro with nothing to do: {printed}")
        print(f"with nothing to do: {time.perf_counter() - start:.2f} s")
        start = time.perf_counter()
        for stage in [*seconds][1:]:
            name, _, item = stage.partition("@")
            command = sys.executable, "-m", f"stages.{name}", *([item] if item else [])
            code, printed = checkout.run(*command, RAVDESS_ARCHIVE=archive)
            if code:
                raise errors.UserError(f"{stage} fails: {printed}")
        alone = time.perf_counter() - start
        print(f"without DVC: {alone:.1f} s; with it {total / alone:.2f} times as long")


if __name__ == "__main__":
    main()
