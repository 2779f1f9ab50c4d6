"""Time the stage `resample` against what a shell script does, one `ffmpeg` process per clip on the
same cores, in the same run.

    python -m benchmarks.resample [--clips N]

Reads: data/clips.csv, data/raw; needs the program `ffmpeg`
"""

import argparse
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib

from ser import audio, tables
from ser.run import errors, parallel
from stages.resample import RAW, resample

Job = tuple[int, Path, Path]  # a line of data/clips.csv, its file, and where it goes


def process(job: Job) -> None:
    """Decode a clip by a process of its own."""
    _, source, target = job
    command = ["ffmpeg", "-v", "error", "-nostdin", "-threads", "1", "-i", str(source)]
    command += ["-ar", str(audio.SAMPLE_RATE), "-ac", "1", "-c:a", "pcm_s16le", str(target)]
    subprocess.run(command, check=True)


def processes(jobs: list[Job]) -> None:
    """All clips by a process each, as many at a time as there are cores."""
    with ThreadPoolExecutor(joblib.cpu_count()) as pool:
        list(pool.map(process, jobs))


def stage(jobs: list[Job]) -> None:
    """All clips as the stage does it."""
    parallel.over(resample, jobs, None)


def seconds(run: Callable[[list[Job]], object], sources: list[Path]) -> float:
    """Seconds that all clips take."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = [
            (line, source, Path(folder, f"{line}.wav")) for line, source in enumerate(sources, 2)
        ]
        start = time.perf_counter()
        run(jobs)
        return time.perf_counter() - start


@errors.one_line
def main() -> None:
    """Run both in turns; print seconds and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, help="number of clips; default: all")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest run of each counts")
    options = parser.parse_args()
    if not shutil.which("ffmpeg"):
        raise errors.UserError("ffmpeg: no such program; it is what the stage is compared with")
    sources = [RAW / name for name in tables.clips()["file"]][: options.clips]
    # In turns; the first reads the files from the disk for both.
    pairs = [(seconds(processes, sources), seconds(stage, sources)) for _ in range(options.repeats)]
    print(f"{len(sources)} clips, {joblib.cpu_count()} cores, fastest of {options.repeats}")
    fastest = dict(zip(("ffmpeg", "resample"), map(min, zip(*pairs, strict=True)), strict=True))
    for name, taken in fastest.items():
        print(f"{name + ':':10}{taken:6.1f} s, {1000 * taken / len(sources):.2f} ms per clip")
    print(f"{fastest['ffmpeg'] / fastest['resample']:.1f} times as fast")


if __name__ == "__main__":
    main()
