"""Time per clip and peak memory of the stages that go clip by clip, on corpora of several sizes.

    python -m benchmarks.scale [--times 1 4] [--clips N] [--stages resample …]

A corpus of so many times as many clips is so many copies of each clip. A stage runs in a
process of its own; the clock starts when its modules are imported. What a run on two clips takes
then, to load the encoder and compile, is counted apart. The smallest corpus, which takes seconds,
is measured three times, of which the median counts. All read their files from the disk (on Linux),
since a large corpus does not stay in memory.

Reads: data/clips.csv, data/raw, data/checkpoint, params
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import joblib
import numpy as np
import pandas as pd

from ser import corpus, tables
from ser.run import errors
from stages.resample import RAW

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("resample", "mfcc", "embed", "w2v_features")
TIMED = """
import importlib, sys, time
from ser.run import resources

stage = importlib.import_module(f"stages.{sys.argv[1]}")
start = time.perf_counter()
stage.main()
print(time.perf_counter() - start, resources.peak_memory() / 1e6)
"""


def run(stage: str, project: Path) -> list[float]:
    """Seconds that a stage takes, and the peak of its memory in MB.

    Raises:
        UserError: it fails.
    """
    if hasattr(os, "posix_fadvise"):  # drop the files from memory
        os.sync()
        for file in (project / "data").rglob("*.*"):
            with file.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    command = [sys.executable, "-c", TIMED, stage]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=project, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise errors.UserError(f"{stage}: {done.stderr[-500:]}")
    return [float(word) for word in done.stdout.splitlines()[-1].split()]


def measure(clips: pd.DataFrame, times: int, stages: list[str]) -> dict[str, np.ndarray]:
    """Seconds and MB of each stage on a corpus of `times` copies of these clips."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        shutil.copy("params.yaml", project)
        shutil.copytree("data/checkpoint", project / "data/checkpoint")
        (project / "data/raw").mkdir()
        copies = pd.concat([clips.assign(clip=clips["clip"] + f"-{copy}") for copy in range(times)])
        names = [f"{row.clip}{Path(row.file).suffix}" for row in copies.itertuples()]
        for source, name in zip(copies["file"], names, strict=True):
            shutil.copy(RAW / source, project / RAW / name)
        copies.assign(file=names).to_csv(project / corpus.CLIPS, index=False)
        runs = range(3 if times == 1 else 1)
        return {stage: np.median([run(stage, project) for _ in runs], axis=0) for stage in stages}


@errors.one_line
def main() -> None:
    """Measure all sizes, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--clips", type=int, default=480, help="to make the corpora of")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    options = parser.parse_args()
    if not Path("data/checkpoint").exists():
        raise errors.UserError("data/checkpoint: no such folder; `dvc repro checkpoint` makes it")
    clips = tables.clips()[: options.clips]
    start_up = measure(clips[:2], 1, options.stages)
    print(f"{len(clips)} clips and multiples, {joblib.cpu_count()} cores")
    print("| stage | start-up, s | clips | ms per clip | ratio | peak memory, MB | ratio |")
    print("|---" * 7 + "|", flush=True)
    first: dict[str, tuple[float, float]] = {}
    for times in sorted(options.times):
        for stage, (seconds, memory) in measure(clips, times, options.stages).items():
            begun = start_up[stage][0]
            each = 1000 * (seconds - begun) / (times * len(clips))
            before = first.setdefault(stage, (each, memory))
            print(
                f"| {stage} | {begun:.1f} | {times * len(clips)} | {each:.2f} | "
                f"{each / before[0]:.2f} | {memory:.0f} | {memory / before[1]:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
