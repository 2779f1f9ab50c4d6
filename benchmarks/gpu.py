"""Six folds of ten epochs on one GPU: checks first, then their time beside transformers' Trainer,
then what each choice brings.

    python -m benchmarks.gpu [--small]

Model, clips and sides are those of benchmarks.train, as many clips as RAVDESS has; Trainer's CNN is
frozen too. No corpus and no network is needed. Side by side, the folds share the card as in
commands.folds. Trainer, and what a choice brings, are measured on one fold, the latter on two
epochs; six folds in a row are computed from that. --small, and a machine without a CUDA device, has
a tiny model in place of wav2vec2-base, to find mistakes here: its figures say nothing.

Prints each row when it is known, at the end all as a table and as JSON.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate.state import PartialState
from torch import nn

from benchmarks import train as sides
from ser.encoder import checkpoint
from ser.finetune import train
from ser.finetune.clips import Clips
from ser.run import errors

ROOT = Path(__file__).parents[1]
FULL = {"clips": 1440, "epochs": 10, "batch": 32, "config": None}
SMALL = {"clips": 48, "epochs": 2, "batch": 8, "config": ROOT / "configs/demo"}
CHOICES = {  # one at a time, against params.yaml's defaults
    "defaults": {},
    "micro-batches of half a batch": {"micro_batch": -2},
    "micro-batches of a quarter": {"micro_batch": -4},
    "fp32": {"precision": "fp32"},
    "dropout and SpecAugment off": {"dropout": 0.0, "mask_time_prob": 0.0},
    "gradients clipped": {"max_grad_norm": 1.0},
    "clips not on the card": {"stored": False},
}
Begin = Callable[..., train.Training]


# Checks


def stepped(run: train.Training, steps: int = 2) -> train.Training:
    """A training after so many more steps."""
    for _ in range(steps):
        run.step()
    return run


def no_step_waits(begin: Begin) -> str:
    """After the first step, which loads kernels, CUDA refuses whatever waits."""
    for changes in ({}, {"max_grad_norm": 1.0, "precision": "fp32"}):
        run = stepped(begin(**changes), 1)
        if run.accelerator.device.type != "cuda":
            return "not checked without a GPU"
        torch.cuda.set_sync_debug_mode("error")
        try:
            stepped(run)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return "yes"


def a_cpu_learns_the_same(begin: Begin) -> str:
    """In single precision; largest difference of a clip's loss and of a gradient's norm."""
    there = stepped(begin(precision="fp32"))
    os.environ["ACCELERATE_USE_CPU"] = "true"
    PartialState._reset_state()  # it remembers the device
    try:
        here = stepped(begin(precision="fp32"))
    finally:
        del os.environ["ACCELERATE_USE_CPU"]
        PartialState._reset_state()
    assert here.accelerator.device.type == "cpu"
    return near(there, here)


def near(one: train.Training, other: train.Training) -> str:
    """The largest differences, of losses and, relative, of norms, if they are small."""
    losses = (one.seen.cpu()[:, 0] - other.seen.cpu()[:, 0]).abs().max().item()
    norms = ((one.norms.cpu() - other.norms.cpu()) / other.norms.cpu().clamp(min=1e-9)).abs()
    largest = norms[: other.done].max().item()
    assert losses < 1e-3 and largest < 1e-2, (losses, largest)
    return f"yes, to {losses:.0e} and {largest:.0e}"


def twice_the_same_bytes(begin: Begin) -> str:
    """The weights after two steps."""
    first, second = (stepped(begin()).trained for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    return "yes"


def memory_halves_micro_batches(begin: Begin) -> str:
    """Of eight clips, if only two fit."""
    runs = [begin(micro_batch=8, precision="fp32") for _ in range(2)]

    def too_much(_: nn.Module, arguments: tuple) -> None:
        if len(arguments[0]) > 2:
            if arguments[0].device.type != "cuda":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 PiB")
            torch.empty(2**50, dtype=torch.uint8, device="cuda")

    runs[1].encoder.register_forward_pre_hook(too_much)
    text = near(*map(stepped, runs))
    assert [run.micro_batch for run in runs] == [8, 2]
    return text


CHECKS = (no_step_waits, a_cpu_learns_the_same, twice_the_same_bytes, memory_halves_micro_batches)


def checked(check: Callable[[Begin], str], options: Any, folder: Path) -> str:
    """A check's answer, or why it fails, and the seconds that it took."""
    began = time.perf_counter()
    try:
        answer = check(lambda **changes: sides.begun(options, folder, 0, **changes))
    except (AssertionError, RuntimeError) as error:
        answer = f"NO: {str(error)[:200]}"
    return f"{answer} ({time.perf_counter() - began:.0f} s)"


# Figures


def choice(options: Any, folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """The figures of our loop under one choice; a negative micro-batch is a share of the batch."""
    changes = {"epochs": 2, **changes}
    if changes.get("micro_batch"):
        changes["micro_batch"] = options.batch // -changes["micro_batch"]
    if not changes.pop("stored", True):
        Clips.to = lambda *_: None  # type: ignore[method-assign]  # in this process alone
    return sides.ours(options, folder, 0, **changes)


def positional_convolution(batch: int, channels: int, taps: int) -> dict[str, Any]:
    """Milliseconds of an encoder's positional convolution, forward and backward in bf16."""
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    checkpoint.exact()
    module = nn.Conv1d(channels, channels, taps, padding=taps // 2, groups=16).to(where)
    values, times = torch.randn(batch, channels, 219, device=where, requires_grad=True), []
    for _ in range(5):
        began = time.perf_counter()
        with torch.autocast(where.type, torch.bfloat16):
            module(values).sum().backward()
        if where.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return {"ms": 1000 * float(np.median(times[1:]))}


@errors.one_line
def main() -> None:
    """Check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a tiny model, for seconds")
    small = parser.parse_args().small or not torch.cuda.is_available()
    options = argparse.Namespace(freeze_cnn=True, **(SMALL if small else FULL))
    checkpoint.quiet()
    print(f"{sides.where()}{', small: the figures say nothing' if small else ''}", flush=True)
    rows: dict[str, dict[str, Any]] = {}

    def row(name: str, figures: dict[str, Any], folds: int = 0) -> None:
        """Print a row, and keep it; of so many folds, if any, with the seconds of six."""
        if folds:
            figures["six folds, s"] = figures["training, s"] * sides.PARTS / folds
        rows[name] = figures
        sides.show(name, figures)

    def measured(function: Callable, *arguments: Any) -> Any:
        """What a function returns, in a new process."""
        return sides.fresh((function, *arguments))[0]

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sides.write_checkpoint(folder / "checkpoint", options.config)
        row("inputs", {"s a clip": measured(sides.store, options, folder)})
        for check in CHECKS:
            answer = measured(checked, check, options, folder)
            row(check.__name__.replace("_", " "), {"answer": answer})
        began = time.perf_counter()
        beside = sides.fresh(*((sides.ours, options, folder, fold) for fold in range(sides.PARTS)))
        seconds = time.perf_counter() - began
        clips = options.clips * (sides.PARTS - 1) * options.epochs
        row("ours, six side by side", {
            "clips/s": clips / seconds,
            "training, s": seconds,
            **{key: sum(each[key] for each in beside) for key in beside[0] if "GiB" in key},
        }, folds=sides.PARTS)  # fmt: skip
        row("ours, one after another", measured(sides.ours, options, folder), folds=1)
        best = measured(sides.trainer, options, folder, True)
        row("trainer best, one after another", best, folds=1)
        for name, changes in CHOICES.items():
            row(name, measured(choice, options, folder, changes))
        size = (options.batch, *((64, 16) if small else (768, 128)))
        row("positional convolution", measured(positional_convolution, *size))
    table = pd.DataFrame.from_dict(
        {name: figures for name, figures in rows.items() if "clips/s" in figures}, orient="index"
    )
    print(table.to_string(float_format="{:.2f}".format, na_rep=""))
    print(json.dumps({"device": sides.where(), "small": small, "rows": rows}))


if __name__ == "__main__":
    main()
