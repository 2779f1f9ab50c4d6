"""Fine-tune several folds at a time, one on each GPU.

    python -m commands.folds [--at-a-time N]

Not a stage. Brings up to date what the folds are trained on, then runs `dvc repro` for each fold of
params.yaml, as many at a time as there are GPUs, each of which sees one. Without a GPU the
processor's cores are shared out. `dvc repro` afterwards finds all folds done and goes on to their
scores.

Ctrl-C or SIGTERM stops all folds; the same command goes on from where they were.

Reads and writes: what w2v_finetune and the stages before it do; dvc.lock
Writes: runs/folds/fold_K.log: what fold K's `dvc repro` prints, progress included
"""

import argparse
import os
import signal
import subprocess
import time
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

import torch

from ser import params
from ser.run import errors, experiments, processes, signals
from ser.run.errors import Stopped, UserError

LOGS = Path("runs/folds")
BEFORE = ("checkpoint", "split", "w2v_features")  # the stages that the folds depend on


def places(at_a_time: int | None) -> list[dict[str, str]]:
    """Environments for the folds that run at the same time: a GPU, or a share of the cores.

    Args:
        at_a_time: how many; None: as many as there are GPUs, without any two.

    Raises:
        UserError: `accelerate config` asks for several processes for each fold.
    """
    config = processes.configured()
    if config is not None:
        raise UserError(
            f"`accelerate config` asks for {config.num_processes} processes for each fold: "
            "either that and `dvc repro`, or one and several folds at a time"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(64)))
    cards = visible.split(",")[: torch.cuda.device_count()]
    numbers = range(at_a_time or len(cards) or 2)
    if cards:
        return [{"CUDA_VISIBLE_DEVICES": cards[number % len(cards)]} for number in numbers]
    threads = str(max(1, (os.cpu_count() or 1) // len(numbers)))
    return [{"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)} for _ in numbers]


def repro(*targets: str, log: BinaryIO | None = None, **place: str) -> subprocess.Popen:
    """Start `dvc repro`, which waits while another process has the project locked."""
    return subprocess.Popen(
        ["dvc", "--wait-for-lock", "repro", *targets],
        env={**experiments.environment(), **place},
        stdout=log,
        stderr=subprocess.STDOUT if log else None,
        start_new_session=True,  # Ctrl-C in a terminal reaches this process alone
    )


def ended(running: Collection[subprocess.Popen], caught: list[int]) -> subprocess.Popen:
    """Wait for one of the processes.

    Raises:
        Stopped: by a signal; all have saved and ended.
    """
    while not caught:
        for process in running:
            if process.poll() is not None:
                return process
        time.sleep(0.1)
    for process in running:
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal would
    for process in running:
        process.wait()
    raise Stopped("stopped; the same command goes on from there", caught[0])


def tune(folds: list[int], free: list[dict[str, str]], caught: list[int]) -> None:
    """Bring each fold up to date in a place that is free.

    Raises:
        UserError: one failed. Those that ran have ended, and no other was started.
    """
    waiting, running, reasons = list(folds), dict[subprocess.Popen, tuple](), list[str]()
    while running or waiting:
        while waiting and free:
            fold, place = waiting.pop(0), free.pop(0)
            log = LOGS / f"fold_{fold}.log"
            where = ", ".join(f"{name} = {value}" for name, value in place.items())
            print(f"fold {fold}: started with {where}; {log}", flush=True)
            with log.open("wb") as output:
                process = repro("--single-item", f"w2v_finetune@{fold}", log=output, **place)
            running[process] = fold, place, log, time.monotonic()
        process = ended(running, caught)
        fold, place, log, began = running.pop(process)
        free.append(place)
        state = "not done" if process.returncode else "up to date"
        print(f"fold {fold}: {state} after {(time.monotonic() - began) / 60:.1f} min", flush=True)
        if process.returncode:
            waiting.clear()
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            failures = [line for line in lines if line.startswith(("w2v_finetune: ", "ERROR: "))]
            reasons.append(
                f"fold {fold}: {failures[0] if failures else 'it was killed'}; see {log}"
            )
    if reasons:
        raise UserError(reasons[0])


@errors.one_line
def main() -> None:
    """Prepare what all folds need, then run them side by side."""
    parser = argparse.ArgumentParser(
        prog="python -m commands.folds", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--at-a-time", type=int, metavar="N", help="as many as there are GPUs; without any, 2"
    )
    at_a_time = parser.parse_args().at_a_time
    if at_a_time is not None and at_a_time < 1:
        raise UserError(f"--at-a-time = {at_a_time}: expected at least 1")
    folds, free = params.load().folds, places(at_a_time)
    LOGS.mkdir(parents=True, exist_ok=True)
    with signals.caught() as caught:
        if ended([repro(*BEFORE)], caught).returncode:
            raise UserError("what the folds are trained on is missing; the lines above say why")
        tune(folds, free, caught)
    print("dvc repro   # scores them")


if __name__ == "__main__":
    main()
