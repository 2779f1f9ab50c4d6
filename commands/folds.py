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
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch

from ser import params
from ser.run import errors, experiments, processes
from ser.run.errors import Stopped, UserError

LOGS = Path("runs/folds")
BEFORE = ("checkpoint", "split", "w2v_features")  # the stages that the folds depend on

running: list[subprocess.Popen] = []
ending = threading.Event()  # after which nothing is started
lock = threading.Lock()  # of the two


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


def repro(*targets: str, log: Path | None = None, **place: str) -> int:
    """Run `dvc repro`, which waits while another process has the project locked, unless all are to
    stop; return its exit code."""
    with lock, log.open("wb") if log else nullcontext() as output:
        if ending.is_set():
            return 1
        process = subprocess.Popen(
            ["dvc", "--wait-for-lock", "repro", *targets],
            env={**experiments.environment(), **place},
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            start_new_session=True,  # Ctrl-C in a terminal reaches this process alone
        )
        running.append(process)
    return process.wait()


def tune(fold: int, free: list[dict[str, str]]) -> None:
    """Bring a fold up to date in a place that is free.

    Raises:
        UserError: it failed. Those that run go on, and no other is started.
    """
    if ending.is_set():
        return
    place, log, began = free.pop(0), LOGS / f"fold_{fold}.log", time.monotonic()
    where = ", ".join(f"{name} = {value}" for name, value in place.items())
    print(f"fold {fold}: started with {where}; {log}", flush=True)
    code = repro("--single-item", f"w2v_finetune@{fold}", log=log, **place)
    free.append(place)
    minutes = (time.monotonic() - began) / 60
    print(
        f"fold {fold}: {'not done' if code else 'up to date'} after {minutes:.1f} min", flush=True
    )
    if code:
        ending.set()
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        reasons = [line for line in lines if line.startswith(("w2v_finetune: ", "ERROR: "))]
        raise UserError(f"fold {fold}: {reasons[0] if reasons else 'it was killed'}; see {log}")


def stop() -> None:
    """Have all that run save and end, as Ctrl-C in a terminal would."""
    with lock:
        ending.set()
        for process in running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)


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
    # Ignored, as in a script's background job, it would be ignored by DVC, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with ThreadPoolExecutor(len(free)) as pool:
        try:
            if pool.submit(repro, *BEFORE).result():
                raise UserError("what the folds are trained on is missing; the lines above say why")
            list(pool.map(partial(tune, free=free), folds))
        except KeyboardInterrupt as signalled:
            stop()
            _, number = signalled.args or ("", signal.SIGINT)
            raise Stopped("stopped; the same command goes on from there", number) from None
    print("dvc repro   # scores them")


if __name__ == "__main__":
    main()
