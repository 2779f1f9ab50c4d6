"""Fine-tuning by this project and by transformers' Trainer, on the same clips of noise and random
weights, for `benchmarks.train` and `benchmarks.gpu`.

    python -m benchmarks.fine_tuning SIDE WORK

measures one side in this process, and prints the figures; the two start it so.
"""

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from ser import params
from ser.corpus import EMOTIONS
from ser.encoder import checkpoint
from ser.finetune import device, finetuning
from ser.finetune.clips import Clips, write
from ser.finetune.training import Training
from ser.run.errors import UserError

# What facebook/wav2vec2-base's own config.json says where it differs from transformers' defaults.
BASE = {
    "model_type": "wav2vec2",
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.1,
    "layerdrop": 0.0,
    "final_dropout": 0.0,
}
PREPROCESSOR = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "do_normalize": True,
    "sampling_rate": 16000,
}
SIDES = ("ours", "trainer", "trainer best")
WARM_UP = 2  # steps
WORKERS = 4  # processes that prepare batches for Trainer at its best, where there is a GPU


class Work(NamedTuple):
    """What every side trains.

    Attributes:
        folder: with the checkpoint, and for what is written.
        clips: how many there are.
        folds: trainings, one after the other.
        parts: that the clips are dealt out to; each training leaves out one. 1: none is left out.
        epochs, batch: of each training.
        freeze_cnn: whether Trainer, too, leaves the convolutions as they are.
    """

    folder: str
    clips: int
    folds: int
    parts: int
    epochs: int
    batch: int
    freeze_cnn: bool

    def numbers(self, fold: int) -> np.ndarray:
        """The clips that a fold trains on."""
        every = np.arange(self.clips)
        return every if self.parts == 1 else every[every % self.parts != fold]


def corpus(clips: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Noise of 2.9 to 5.3 s, 3.7 on average, as RAVDESS's clips; and labels."""
    rng = np.random.default_rng(0)
    lengths = (np.clip(rng.normal(3.70, 0.35, clips), 2.94, 5.27) * 16000).astype(int)
    samples = [rng.normal(0, 0.1, length).astype(np.float32) for length in lengths]
    return samples, np.arange(clips) % len(EMOTIONS)


def write_checkpoint(folder: Path, config: Path | None) -> None:
    """Random weights of the architecture that the folder `config` describes, wav2vec2-base's if
    there is none, in `folder`."""
    folder.mkdir()
    for name, values in (("config.json", BASE), ("preprocessor_config.json", PREPROCESSOR)):
        text = (config / name).read_text() if config else json.dumps(values)
        (folder / name).write_text(text)
    checkpoint.load(folder, "random", 0).save(folder)


def rate(dtype: torch.dtype, where: torch.device) -> float:
    """Operations per second of products of large matrices, additions counted too."""
    # A GPU is kept waiting by the one who looks: many products to a look.
    size, products = (8192, 20) if where.type == "cuda" else (2048, 1)
    matrix = torch.randn(size, size, dtype=dtype, device=where)
    (matrix @ matrix).sum().item()
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(products):
            product = matrix @ matrix
        product[0, 0].item()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 * products / min(seconds)


class Clock:
    """When a training was begun to be made ready, took its first step, was warm, and had ended."""

    def __init__(self) -> None:
        """Start now, with what comes before the first step."""
        gc.collect()  # what the training before this one holds of a GPU's memory
        self.made = time.perf_counter()

    def first(self, steps: list[int]) -> None:
        """The first step is now; the steps have so many clips."""
        self.steps = steps
        self.began = time.perf_counter()

    def look(self, done: int) -> None:
        """Note the time after so many steps, if it counts; a GPU is waited for then only."""
        if done in (WARM_UP, len(self.steps)):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.end = time.perf_counter()
            if done == WARM_UP:
                self.warm = self.end


def summary(clocks: list[Clock]) -> dict[str, float]:
    """What trainings took: the first two steps of the first, one on average, and all; and the clips
    per second from the third step on."""
    seconds = [clock.end - clock.made for clock in clocks]
    clips = sum(sum(clock.steps[WARM_UP:]) for clock in clocks)
    return {
        "warm_up": clocks[0].warm - clocks[0].began,
        "clips_per_second": clips / sum(clock.end - clock.warm for clock in clocks),
        "fold": sum(seconds) / len(seconds),
        "all": sum(seconds),
    }


def ours(work: Work) -> dict:
    """Our loop on stored inputs."""
    samples, labels = corpus(work.clips)
    changes = {"epochs": work.epochs, "batch_size": work.batch, "checkpoint": "random"}
    settings = params.load().model_copy(update=changes)
    folder = Path(work.folder)
    began = time.perf_counter()
    accelerator = device.accelerator(settings.precision)
    encoder = checkpoint.load(folder / "checkpoint", "random", 0).eval().to(accelerator.device)
    inputs = ((f"{n:04}", 1.0, encoder.prepare(clip)) for n, clip in enumerate(samples))
    write(folder / "clips.arrow", inputs)
    stored = time.perf_counter() - began
    del encoder

    def train(fold: int) -> tuple[Clock, float]:
        clock = Clock()
        training = Training(
            finetuning.for_training(folder / "checkpoint", settings),
            Clips(folder / "clips.arrow"),
            labels,
            work.numbers(fold),
            np.arange(0),
            settings,
            fold,
            accelerator,
        )
        training.begin()
        clock.first([len(step) for step in training.steps])
        while training.done < len(training.steps):
            training.advance()
            clock.look(training.done)
        with FlopCounterMode(display=False) as counter:
            training.add_gradients(work.numbers(fold)[: work.batch], range(work.batch))
        return clock, counter.get_total_flops() / work.batch

    clocks, operations = zip(*map(train, range(work.folds)), strict=True)
    measured = summary(clocks)
    precision = accelerator.mixed_precision
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    share = operations[0] * measured["clips_per_second"] / rate(dtype, accelerator.device)
    return {
        **measured,
        "matrix_share": share,
        "note": f"{precision.replace('no', 'fp32')}; inputs {stored / work.clips:.2f} s a clip",
    }


class Look(transformers.TrainerCallback):
    """Has Trainer look at a clock after every step."""

    def __init__(self, clock: Clock):
        """Look at `clock`."""
        self.clock = clock

    def on_step_end(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        control: transformers.TrainerControl,
        **_: object,
    ) -> None:
        """Look, after so many steps as `state` says."""
        self.clock.look(state.global_step)


def collate_by(extractor: Any) -> Callable[[list[dict]], dict]:
    """What makes a batch of clips, by the checkpoint's feature extractor."""
    name = extractor.model_input_names[0]
    padding = {} if name == "input_features" else {"padding": True}

    def collate(rows: list[dict]) -> dict:
        clips = [row["samples"] for row in rows]
        inputs = extractor(clips, sampling_rate=16000, return_tensors="pt", **padding)
        return {name: inputs[name], "labels": torch.tensor([row["labels"] for row in rows])}

    return collate


def trainer(work: Work, best: bool) -> dict:
    """transformers' Trainer on what the checkpoint's feature extractor makes of a batch."""
    samples, labels = corpus(work.clips)
    folder = Path(work.folder)
    data = datasets.Dataset.from_dict(
        {"samples": samples, "labels": labels, "length": [len(clip) for clip in samples]}
    ).with_format("numpy")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder / "checkpoint")
    settings: dict[str, Any] = {}
    if best:
        gpu = torch.cuda.is_available()
        settings = {
            "bf16": True,
            "train_sampling_strategy": "group_by_length",
            "dataloader_num_workers": WORKERS if gpu else 0,  # on CPUs they would take turns
            "use_cpu": not gpu,
        }

    def train(fold: int) -> Clock:
        clock = Clock()
        model = transformers.AutoModelForAudioClassification.from_pretrained(
            folder / "checkpoint", num_labels=len(EMOTIONS), dtype=torch.float32
        )
        if work.freeze_cnn and hasattr(model, "freeze_feature_encoder"):
            model.freeze_feature_encoder()
        elif work.freeze_cnn:
            for convolution in (model.encoder.conv1, model.encoder.conv2):
                convolution.requires_grad_(False)
        arguments = transformers.TrainingArguments(
            str(folder / "trainer"),
            num_train_epochs=work.epochs,
            per_device_train_batch_size=work.batch,
            save_strategy="no",
            learning_rate=2e-5,
            disable_tqdm=True,
            remove_unused_columns=False,
            **settings,
        )
        numbers = work.numbers(fold)
        starts = range(0, len(numbers), work.batch)
        sizes = [len(numbers[start : start + work.batch]) for start in starts]
        loop = transformers.Trainer(
            model,
            arguments,
            train_dataset=data.select(numbers),
            data_collator=collate_by(extractor),
            callbacks=[Look(clock)],
        )
        clock.first(sizes * work.epochs)
        loop.train()
        return clock

    note = "CNN frozen" if work.freeze_cnn else "CNN trained"
    return {**summary([train(fold) for fold in range(work.folds)]), "note": note}


def measure(side: str, work: Work) -> dict:
    """The figures of one side, in this process: clips_per_second in steady state, from the third
    step on; warm_up, seconds of the first two steps; fold and all, seconds for one training and for
    all; memory and gpu_memory, the peaks in GiB; of our side matrix_share, what the model's own
    products make up of the rate of matrix products; note, a line."""
    measured = ours(work) if side == "ours" else trainer(work, side == "trainer best")
    measured["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if torch.cuda.is_available():
        measured["gpu_memory"] = torch.cuda.max_memory_allocated() / 2**30
    return measured


def options(description: str, clips: int, epochs: int, batch: int) -> argparse.ArgumentParser:
    """The options of a benchmark, with these defaults; as arguments of `measure_all`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--clips", type=int, default=clips)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--config", type=Path, help="folder with another config.json")
    parser.add_argument("--freeze-cnn", action="store_true", help="have Trainer freeze the CNN too")
    return parser


def measure_all(config: Path | None, **work: Any) -> dict[str, dict]:
    """The figures of every side, each measured in a fresh process, one after the other.

    Args:
        config: folder of another architecture than wav2vec2-base.
        work: fields of `Work` but for `folder`.

    Raises:
        UserError: no step would be left after the warm-up.
    """
    quiet()
    # Of several GPUs one: Trainer would take them all, and larger batches.
    card = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        todo = Work(folder=folder, **work)
        steps = len(todo.numbers(0)) * todo.epochs / todo.batch
        if steps <= WARM_UP:
            raise UserError(
                f"{len(todo.numbers(0))} clips, {todo.epochs} epochs, batches of {todo.batch}: "
                f"expected more than {WARM_UP} steps"
            )
        write_checkpoint(Path(folder) / "checkpoint", config)
        for side in SIDES:
            command = [sys.executable, "-m", "benchmarks.fine_tuning", side]
            done = subprocess.run(
                [*command, json.dumps(todo._asdict())],
                env={**os.environ, "CUDA_VISIBLE_DEVICES": card},
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            measured[side] = json.loads(done.stdout.partition("MEASURED")[2])
    return measured


def table(measured: dict[str, dict], columns: dict[str, tuple[str, str]]) -> str:
    """The figures as lines of text: a row per side with clips per second, how many times as fast
    ours is, and what `columns` names: key of a figure, heading and unit."""
    lines = [f"{'':14}{'clips/s':>9}{'ours is':>9}"]
    lines[0] += "".join(f"{heading:>9}" for heading, _ in columns.values())
    for side, figures in measured.items():
        ratio = measured["ours"]["clips_per_second"] / figures["clips_per_second"]
        notes = [figures["note"]]
        if "matrix_share" in figures:
            notes.append(f"{figures['matrix_share']:.0%} of the rate of matrix products")
        if "gpu_memory" in figures:
            notes.append(f"{figures['gpu_memory']:.1f} GiB on the GPU")
        cells = "".join(f"{f'{figures[key]:.1f}{unit}':>9}" for key, (_, unit) in columns.items())
        lines.append(
            f"{side:14}{figures['clips_per_second']:9.2f}{f'{ratio:.1f}x':>9}{cells}"
            f"  {'; '.join(notes)}"
        )
    return "\n".join(lines)


def quiet() -> None:
    """Keep the libraries from talking between the figures."""
    warnings.simplefilter("ignore")
    checkpoint.quiet()


if __name__ == "__main__":
    quiet()
    print("MEASURED", json.dumps(measure(sys.argv[1], Work(**json.loads(sys.argv[2])))))
