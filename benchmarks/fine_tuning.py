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
import pandas as pd
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from ser import params
from ser.corpus import EMOTIONS
from ser.encoder import checkpoint
from ser.finetune import device, train
from ser.finetune.clips import Clips, write
from ser.run.errors import UserError

# facebook/wav2vec2-base's own config.json where it differs from transformers' defaults.
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
    """The trainings that every side does.

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

    def table(self) -> pd.DataFrame:
        """Fold and emotion of every clip; fold -1 if none is to be left out."""
        numbers = np.arange(self.clips)
        folds = np.full(self.clips, -1) if self.parts == 1 else numbers % self.parts
        return pd.DataFrame({"fold": folds, "emotion": np.resize(EMOTIONS, self.clips)})


def noise(clips: int) -> list[np.ndarray]:
    """Clips of noise of 2.9 to 5.3 s, 3.7 on average, as RAVDESS's are."""
    rng = np.random.default_rng(0)
    lengths = (np.clip(rng.normal(3.70, 0.35, clips), 2.94, 5.27) * 16000).astype(int)
    return [rng.normal(0, 0.1, length).astype(np.float32) for length in lengths]


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
    # A look keeps a GPU waiting: many products to a look.
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


class Clock(transformers.TrainerCallback):
    """Times of a training: at the start, before the first step, after the warm-up, at the end."""

    def __init__(self) -> None:
        """Note the time before anything."""
        gc.collect()  # what the training before this one holds of a GPU's memory
        self.times = [time.perf_counter()]

    def look(self, done: int, steps: int) -> None:
        """Note the time after `done` of so many steps, if it counts; only then wait for a GPU."""
        if done in (0, WARM_UP, steps):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.times.append(time.perf_counter())

    def on_step_end(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        control: transformers.TrainerControl,
        **_: object,
    ) -> None:
        """Look, after a step of Trainer's."""
        self.look(state.global_step, state.max_steps)


def summary(clocks: list[Clock], clips: int) -> dict[str, float]:
    """Seconds of the first training's warm-up, of a training on average and of all; and clips per
    second after the warm-up, where each training had so many."""
    made, began, warm, end = np.array([clock.times for clock in clocks]).T
    return {
        "warm_up": float(warm[0] - began[0]),
        "clips_per_second": len(clocks) * clips / float((end - warm).sum()),
        "fold": float((end - made).mean()),
        "all": float((end - made).sum()),
    }


def ours(work: Work) -> dict:
    """Our loop on stored inputs."""
    changes = {"epochs": work.epochs, "batch_size": work.batch, "checkpoint": "random"}
    settings = params.load().model_copy(update=changes)
    folder, table, samples = Path(work.folder), work.table(), noise(work.clips)
    began = time.perf_counter()
    accelerator = device.make_accelerator(settings.precision)
    encoder = checkpoint.load(folder / "checkpoint", "random", 0).eval().to(accelerator.device)
    inputs = ((f"{n:04}", 1.0, encoder.prepare(clip)) for n, clip in enumerate(samples))
    write(folder / "clips.arrow", inputs)
    stored = time.perf_counter() - began
    del encoder

    clocks = []
    for fold in range(work.folds):
        clock = Clock()
        encoder = train.fine_tunable(folder / "checkpoint", settings)
        clips = Clips(folder / "clips.arrow")
        training = train.Training(encoder, clips, table, fold, settings, accelerator)
        steps = len(training.batches)
        clock.look(0, steps)
        while training.done < steps:
            training.step()
            clock.look(training.done, steps)
        clocks.append(clock)
    with FlopCounterMode(display=False) as counter:
        training.add_gradients(training.numbers[: work.batch], range(work.batch))
    measured = summary(clocks, sum(map(len, training.batches[WARM_UP:])))
    precision = accelerator.mixed_precision
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    operations = counter.get_total_flops() / work.batch * measured["clips_per_second"]
    return {
        **measured,
        "matrix_share": operations / rate(dtype, accelerator.device),
        "note": f"{precision.replace('no', 'fp32')}; inputs {stored / work.clips:.2f} s a clip",
    }


def collate_by(extractor: Any) -> Callable[[list[dict]], dict]:
    """A function that makes a batch of clips, by the checkpoint's feature extractor."""
    name = extractor.model_input_names[0]
    padding = {} if name == "input_features" else {"padding": True}

    def collate(rows: list[dict]) -> dict:
        clips = [row["samples"] for row in rows]
        inputs = extractor(clips, sampling_rate=16000, return_tensors="pt", **padding)
        return {name: inputs[name], "labels": torch.tensor([row["labels"] for row in rows])}

    return collate


def trainer(work: Work, best: bool) -> dict:
    """transformers' Trainer on batches of the checkpoint's feature extractor."""
    folder, table, samples = Path(work.folder), work.table(), noise(work.clips)
    labels = table["emotion"].map(EMOTIONS.index).to_list()
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
    clocks = []
    for fold in range(work.folds):
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
        numbers = np.flatnonzero(table["fold"] != fold)
        loop = transformers.Trainer(
            model,
            arguments,
            train_dataset=data.select(numbers),
            data_collator=collate_by(extractor),
            callbacks=[clock],
        )
        clock.look(0, 0)
        loop.train()
        clocks.append(clock)
    clips = len(numbers) * work.epochs - WARM_UP * work.batch
    note = "CNN frozen" if work.freeze_cnn else "CNN trained"
    return {**summary(clocks, clips), "note": note}


def options(description: str, clips: int, epochs: int, batch: int) -> argparse.ArgumentParser:
    """The options of a benchmark, with these defaults; as arguments of `measure`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--clips", type=int, default=clips)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--config", type=Path, help="folder with another config.json")
    parser.add_argument("--freeze-cnn", action="store_true", help="have Trainer freeze the CNN too")
    return parser


def measure(config: Path | None, **work: Any) -> dict[str, dict]:
    """The figures of every side, each measured in a fresh process, one after the other: those of
    `summary`; memory and gpu_memory, the peaks in GiB; of our side matrix_share, the model's own
    products as a share of the rate of matrix products; note, a line.

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
        clips = int((todo.table()["fold"] != 0).sum())
        if clips * todo.epochs / todo.batch <= WARM_UP:
            raise UserError(
                f"{clips} clips, {todo.epochs} epochs, batches of {todo.batch}: "
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
    side, work = sys.argv[1], Work(**json.loads(sys.argv[2]))
    figures = ours(work) if side == "ours" else trainer(work, side == "trainer best")
    figures["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if torch.cuda.is_available():
        figures["gpu_memory"] = torch.cuda.max_memory_allocated() / 2**30
    print("MEASURED", json.dumps(figures))
