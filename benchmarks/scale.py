"""Time per clip and peak memory of the stages that go clip by clip, on corpora of several sizes.

    python -m benchmarks.scale [--times 1 4 16] [--clips N]

A corpus of so many times as many clips is made of RAVDESS's own, each copy softer and at another
speed; all have the same speeds, since what resampling takes depends on the rate. A stage runs in a
process of its own: on larger corpora once, on the smallest, where it takes seconds, five times, of
which the median counts. All read their files from the disk (on Linux), since the largest corpus
does not stay in memory. The clock starts when a stage's modules are imported. What a run on two
clips takes then, to load the encoder and compile, is counted apart.

Reads: data/raw/Actor_XX/*.wav, data/checkpoint, params
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
import soundfile

from ser import corpus
from ser.run import errors

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("resample", "mfcc", "embed", "w2v_features")
TIMED = """
import importlib, sys, time

stage = importlib.import_module(f"stages.{sys.argv[1]}")
start = time.perf_counter()
stage.main()
print(time.perf_counter() - start)
"""


def write(folder: Path, sources: list[Path], times: int) -> None:
    """A corpus of `times` copies of each clip, at 16 speeds from 0.9 to 1.1."""
    for number, source in enumerate(sources):
        samples, rate = soundfile.read(source, dtype="int16")
        for copy in range(times):
            speed = 0.9 + 0.2 * ((number + copy) % 16) / 16
            softer = (samples * 0.95**copy).astype(np.int16)
            path = folder / f"{source.stem}-{copy:02}.wav"
            soundfile.write(path, softer, round(rate * speed), subtype="PCM_16")


def forget(folder: Path) -> None:
    """Have the operating system drop the folder's files from memory, where it can."""
    if not hasattr(os, "posix_fadvise"):
        return
    os.sync()
    for file in folder.rglob("*.*"):
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(stage: str, project: Path) -> tuple[float, float]:
    """Run a stage; return its seconds and the peak of its memory in MB.

    Raises:
        UserError: it fails.
    """
    forget(project / "data")
    process = subprocess.Popen(
        [sys.executable, "-c", TIMED, stage],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        lines = process.stdout.read().splitlines() if process.stdout else []
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
    if status:
        raise errors.UserError(f"{stage}: {lines[-1] if lines else 'killed'}")
    unit = 1 if sys.platform == "darwin" else 1024
    return float(lines[-1]), usage.ru_maxrss * unit / 1e6


def measure(sources: list[Path], times: int, runs: int) -> dict[str, tuple[float, float]]:
    """Seconds and MB of each stage on a corpus of `times` copies of these clips, medians of so
    many runs."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        shutil.copy("params.yaml", project)
        shutil.copytree("data/checkpoint", project / "data/checkpoint")
        (project / "data/raw").mkdir()
        write(project / "data/raw", sources, times)
        return {
            stage: tuple(np.median([run(stage, project) for _ in range(runs)], axis=0))
            for stage in STAGES
        }


@errors.one_line
def main() -> None:
    """Measure all sizes, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--clips", type=int, help="of RAVDESS to make the corpora of; default: all")
    options = parser.parse_args()
    if not Path("data/checkpoint").exists():
        raise errors.UserError("data/checkpoint: no such folder; `dvc repro checkpoint` makes it")
    sources = corpus.files("data/raw")[: options.clips]
    start_up = measure(sources[:2], 1, 5)
    print(f"{len(sources)} clips and multiples, {joblib.cpu_count()} cores")
    print("| stage | start-up, s | clips | ms per clip | ratio | peak memory, MB | ratio |")
    print("|---" * 7 + "|", flush=True)
    first: dict[str, tuple[float, float]] = {}
    for times in sorted(options.times):
        clips = times * len(sources)
        for stage, (seconds, memory) in measure(sources, times, 5 if times == 1 else 1).items():
            each = 1000 * (seconds - start_up[stage][0]) / clips
            of_first = first.setdefault(stage, (each, memory))
            print(
                f"| {stage} | {start_up[stage][0]:.1f} | {clips} | {each:.2f} | "
                f"{each / of_first[0]:.2f} | {memory:.0f} | {memory / of_first[1]:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
