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
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from ser import params
from ser.finetune import loop
from ser.run import errors, experiments, launch
from ser.run.errors import Stopped, UserError

LOGS = Path("runs/folds")
BEFORE = ("checkpoint", "split", "w2v_features")  # the stages that the folds depend on


def places(at_a_time: int | None) -> list[dict[str, str]]:
    """What each of the processes that run at the same time finds in its environment: its GPU, or
    its share of the cores.

    Args:
        at_a_time: how many; None: as many as there are GPUs, without any two.

    Raises:
        UserError: `accelerate config` asks for several processes for each fold.
    """
    config = launch.configured()
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


def dvc(*words: str) -> list[str]:
    """A command of DVC's that waits while another process has the project locked, which DVC does
    but for the time that a stage runs."""
    return ["dvc", "--wait-for-lock", *words]


def start(fold: int, place: dict[str, str]) -> subprocess.Popen:
    """Start one fold's `dvc repro`."""
    command = dvc("repro", "--single-item", f"w2v_finetune@{fold}")
    where = ", ".join(f"{name} = {value}" for name, value in place.items())
    print(f"fold {fold}: started with {where}; {LOGS}/fold_{fold}.log", flush=True)
    with (LOGS / f"fold_{fold}.log").open("wb") as log:
        return subprocess.Popen(
            command,
            env={**experiments.environment(), **place},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in a terminal reaches this process alone
        )


def below(processes: list[subprocess.Popen]) -> list[psutil.Process]:
    """The processes that these have started, and those in turn: what DVC runs."""
    children = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            children += psutil.Process(process.pid).children(recursive=True)
    return children


def stop(processes: list[subprocess.Popen]) -> None:
    """Tell the stages to save and stop; wait until they and DVC, which then unlocks the project,
    have ended. After `launch.STOPPING` seconds they are killed."""
    told: set[psutil.Process] = set()
    end = time.monotonic() + launch.STOPPING
    while None in [process.poll() for process in processes] and time.monotonic() < end:
        for child in set(below(processes)) - told:
            told.add(child)
            with suppress(psutil.NoSuchProcess):
                child.terminate()
        time.sleep(0.1)
    psutil.wait_procs(told, timeout=max(0, end - time.monotonic()))
    kill(processes)


def kill(processes: list[subprocess.Popen]) -> None:
    """Kill what still runs, and what that has started."""
    for process in [*below(processes), *processes]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def run(folds: list[int], environments: list[dict[str, str]]) -> list[int]:
    """Fine-tune the folds, one at a time in each environment. After one has failed those that run
    go on, and no other is started.

    Returns:
        the folds that failed.

    Raises:
        Stopped: after SIGINT or SIGTERM, when all has ended.
    """
    waiting, failed = list(folds), list[int]()
    running: dict[int, tuple[int, float, subprocess.Popen]] = {}  # by environment
    with loop.listening() as signals:
        try:
            while (running or (waiting and not failed)) and not signals:
                for number, environment in enumerate(environments):
                    if number not in running and waiting and not failed:
                        fold = waiting.pop(0)
                        running[number] = fold, time.monotonic(), start(fold, environment)
                for number, (fold, began, process) in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[number]
                    how = "failed" if process.returncode else "up to date"
                    minutes = (time.monotonic() - began) / 60
                    print(f"fold {fold}: {how} after {minutes:.1f} min", flush=True)
                    if process.returncode:
                        failed.append(fold)
                time.sleep(0.2)
            if signals:
                stop([process for *_, process in running.values()])
                raise Stopped("stopped; the same command goes on from there", signals[0])
        finally:
            kill([process for *_, process in running.values()])
    return failed


def said(fold: int) -> str:
    """Why a fold failed: what its stage said, or else DVC."""
    lines = (LOGS / f"fold_{fold}.log").read_text(encoding="utf-8", errors="replace").splitlines()
    told = [line for line in lines if line.startswith("w2v_finetune: ")]
    told += [line for line in lines if line.startswith("ERROR: ")]
    return told[0] if told else "it was killed"


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
    folds, environments = params.load().folds, places(at_a_time)
    LOGS.mkdir(parents=True, exist_ok=True)
    before = dvc("repro", "--quiet", *BEFORE)
    if subprocess.run(before, env=experiments.environment(), check=False).returncode:
        raise UserError("what the folds are trained on is missing; the lines above say why")
    failed = run(folds, environments)
    if failed:
        raise UserError(f"fold {failed[0]}: {said(failed[0])}; see {LOGS}/fold_{failed[0]}.log")
    print("dvc repro   # scores them")


if __name__ == "__main__":
    main()
