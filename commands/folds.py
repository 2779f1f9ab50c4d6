"""Fine-tune several folds at a time, side by side on the GPUs.

    python -m commands.folds [--at-a-time N]

Not a stage. Brings up to date what the folds are trained on, then runs `dvc repro` for each fold of
params.yaml, as many at a time as fit into the memory of the GPUs, each of which sees one: where the
CNN is frozen, a fold takes about its stored inputs, 1 GiB for CUDA, four times the weights (these,
gradients, AdamW's two means) and a tenth of them for each second of sound in a micro-batch. From
scratch, and with a trained CNN, it is one to a GPU; without a GPU, two in all. The processor's
cores are shared out. `dvc repro` afterwards finds all folds done and goes on to their scores.

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

from ser import audio, params
from ser.run import errors, experiments, processes, signals
from ser.run.errors import Stopped, UserError

LOGS = Path("runs/folds")
AUDIO, CHECKPOINT = Path("data/audio"), Path("data/checkpoint")
FEATURES = Path("data/features/clips.arrow")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
BEFORE = ("checkpoint", "split", "w2v_features")  # the stages that the folds depend on


def fitting(settings: params.Params, free: int) -> int:
    """Folds that fit side by side into so many bytes of a GPU's memory, at least one; see above."""
    weights = [file.stat().st_size for name in WEIGHTS for file in CHECKPOINT.glob(name)]
    if not weights or not settings.freeze_cnn:
        return 1
    longest = max(file.stat().st_size for file in AUDIO.iterdir()) / 2 / audio.SAMPLE_RATE
    sound = (settings.micro_batch or settings.batch_size) * longest / min(settings.speeds)
    inputs = FEATURES.stat().st_size
    return max(1, int(free / (inputs + 2**30 + weights[0] * (4 + sound / 10))))


def places(at_a_time: int | None, settings: params.Params) -> list[dict[str, str]]:
    """Environments for the folds that run at the same time: a GPU, and a share of the cores.

    Args:
        at_a_time: how many; None: as many as fit on the GPUs, without any two.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(64)))
    cards = visible.split(",")[: torch.cuda.device_count()]
    if not at_a_time and cards:
        free = min(torch.cuda.mem_get_info(number)[0] for number in range(len(cards)))
        at_a_time = min(len(cards) * fitting(settings, free), len(settings.folds))
    numbers = range(at_a_time or 2)
    threads = str(max(1, (os.cpu_count() or 1) // len(numbers)))
    shared = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
    if not cards:
        return [shared for _ in numbers]
    # Or pieces of memory that no tensor fits into pile up.
    shared["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    return [{"CUDA_VISIBLE_DEVICES": cards[n % len(cards)], **shared} for n in numbers]


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
        "--at-a-time", type=int, metavar="N", help="as many as fit on the GPUs; without any, 2"
    )
    at_a_time = parser.parse_args().at_a_time
    if at_a_time is not None and at_a_time < 1:
        raise UserError(f"--at-a-time = {at_a_time}: expected at least 1")
    settings, config = params.load(), processes.configured()
    if config is not None:
        raise UserError(
            f"`accelerate config` asks for {config.num_processes} processes for each fold: "
            "either that and `dvc repro`, or one and several folds at a time"
        )
    LOGS.mkdir(parents=True, exist_ok=True)
    with signals.caught() as caught:
        if ended([repro(*BEFORE)], caught).returncode:
            raise UserError("what the folds are trained on is missing; the lines above say why")
        tune(settings.folds, places(at_a_time, settings), caught)
    print("dvc repro   # scores them")


if __name__ == "__main__":
    main()
