"""Time fine-tuning against transformers' Trainer: same clips, batch, epochs and model; weights
random.

    python -m benchmarks.train [--config FOLDER] [--clips 160] [--folds 1] [--epochs 1] [--batch 8]
    [--freeze-cnn]

On a GPU all of it, six folds on as many clips as RAVDESS has, takes --clips 1440 --folds 6 --epochs
10 --batch 32. Each training is on five sixths of the clips. The model has the architecture of
wav2vec2-base unless --config names another folder with config.json, such as
configs/whisper-tiny.en. Clips are noise as long as those of RAVDESS. Every side trains in a process
of its own, one after the other:

  ours          params.yaml's defaults: inputs stored, micro-batches by length, CNN frozen,
                attention without dropout, mixed precision where the hardware has it
  trainer       Trainer as it comes: fp32, batches as they come, CNN trained, attention with the
                configuration's dropout; Whisper's clips in windows of 30 s, as its feature
                extractor pads them
  trainer best  Trainer with bf16=True and train_sampling_strategy="group_by_length"; on a GPU its
                batches are prepared in four more processes

With --freeze-cnn Trainer's CNN is frozen too, as in transformers' own example for audio
classification.

Prints: clips per second in steady state, from the third step of a training on; seconds of the first
two steps, of a training, from loading the weights to the last step, and of all; peak memory of the
process and on the GPU; of our side the share of the machine's rate for matrix products that the
model's own products make up. Left out is what the stored inputs took, which is printed apart: the
pipeline computes them once for all epochs, folds and later experiments.
"""

import argparse
import gc
import multiprocessing
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from ser import params
from ser.encoder import checkpoint
from ser.finetune import device, train
from ser.finetune.clips import Clips, write
from ser.run import errors, resources

WARM_UP = 2  # steps
WORKERS = 4  # processes that prepare batches for Trainer at its best, where there is a GPU
LABELS = [str(number) for number in range(8)]
PARTS = 6  # of the clips; each training leaves out one


def clips_of(options: argparse.Namespace) -> tuple[list[np.ndarray], pd.DataFrame]:
    """Clips of noise of 2.9 to 5.3 s, 3.7 on average, as RAVDESS's are; with folds and labels."""
    rng, clips = np.random.default_rng(0), options.clips
    lengths = (np.clip(rng.normal(3.70, 0.35, clips), 2.94, 5.27) * 16000).astype(int)
    samples = [rng.normal(0, 0.1, length).astype(np.float32) for length in lengths]
    folds = np.arange(clips) % PARTS
    return samples, pd.DataFrame({"fold": folds, "label": np.resize(LABELS, clips)})


def write_checkpoint(folder: Path, config: Path | None) -> None:
    """Random weights of the architecture that the folder `config` describes, wav2vec2-base's if
    there is none, in `folder`."""
    if config:
        shutil.copytree(config, folder)
    else:  # transformers' defaults are wav2vec2-base's but for these
        dropout = {"activation_dropout": 0.0, "feat_proj_dropout": 0.1, "final_dropout": 0.0}
        transformers.Wav2Vec2Config(layerdrop=0.0, **dropout).save_pretrained(folder)
        transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    checkpoint.load(folder, "random", 0, labels=LABELS).save(folder)


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


def gradients_of_convolution(
    gradient: list[int], inputs: list[int], weights: list[int], *others: Any, out_shape: Any
) -> int:
    """Operations of a convolution's gradients, by the shapes of its output's gradient, its input
    and its weights: of each, of input and weights, as many as forward. PyTorch's own count (2.13)
    takes every channel of a grouped convolution's weights for one of all groups."""
    *_, (of_inputs, of_weights, _) = others
    return (of_inputs + of_weights) * conv_flop_count(inputs, weights, gradient)


def flop_counter() -> FlopCounterMode:
    """A counter of operations that prints nothing."""
    formula = {torch.ops.aten.convolution_backward: gradients_of_convolution}
    return FlopCounterMode(display=False, custom_mapping=formula)


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


def summary(clocks: list[Clock], clips: int) -> dict[str, Any]:
    """The figures of several trainings, so many clips of which came after the warm-ups."""
    created, began, warm, end = np.array([clock.times for clock in clocks]).T
    return {
        "clips/s": clips / (end - warm).sum(),
        "warm-up, s": warm[0] - began[0],
        "training, s": (end - created).mean(),
        "all, s": (end - created).sum(),
    }


def ours(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Our loop on stored inputs."""
    changes = {"epochs": options.epochs, "batch_size": options.batch, "checkpoint": "random"}
    settings = params.load().model_copy(update=changes)
    samples, table = clips_of(options)
    began = time.perf_counter()
    accelerator = device.make_accelerator(settings.precision)
    encoder = checkpoint.load(folder / "checkpoint", "random", 0).eval().to(accelerator.device)
    inputs = ((f"{n:04}", 1.0, encoder.prepare(clip)) for n, clip in enumerate(samples))
    write(folder / "clips.arrow", inputs)
    stored = time.perf_counter() - began
    del encoder

    clocks = []
    for fold in range(options.folds):
        clock = Clock()
        encoder = train.fine_tunable(folder / "checkpoint", settings, LABELS)
        clips = Clips(folder / "clips.arrow")
        training = train.Training(encoder, clips, table, LABELS, fold, settings, accelerator)
        steps = len(training.batches)
        clock.look(0, steps)
        while training.done < steps:
            training.step()
            clock.look(training.done, steps)
        clocks.append(clock)
    with flop_counter() as counter:
        training.add_gradients(training.numbers[: options.batch], range(options.batch))
    figures = summary(clocks, options.folds * sum(map(len, training.batches[WARM_UP:])))
    precision = accelerator.mixed_precision
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    operations = counter.get_total_flops() / options.batch * figures["clips/s"]
    return {
        **figures,
        "of the matrix rate": operations / rate(dtype, accelerator.device),
        "note": f"{precision.replace('no', 'fp32')}; inputs {stored / options.clips:.2f} s a clip",
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


def trainer(options: argparse.Namespace, folder: Path, best: bool) -> dict[str, Any]:
    """transformers' Trainer on batches of the checkpoint's feature extractor."""
    samples, table = clips_of(options)
    labels = table["label"].map(LABELS.index).to_list()
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
    for fold in range(options.folds):
        clock = Clock()
        model = transformers.AutoModelForAudioClassification.from_pretrained(
            folder / "checkpoint", num_labels=len(LABELS), dtype=torch.float32
        )
        if options.freeze_cnn and hasattr(model, "freeze_feature_encoder"):
            model.freeze_feature_encoder()
        elif options.freeze_cnn:
            for convolution in (model.encoder.conv1, model.encoder.conv2):
                convolution.requires_grad_(False)
        arguments = transformers.TrainingArguments(
            str(folder / "trainer"),
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch,
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
        loop.remove_callback(transformers.PrinterCallback)
        clock.look(0, 0)
        loop.train()
        clocks.append(clock)
    clips = len(numbers) * options.epochs - WARM_UP * options.batch
    note = "CNN frozen" if options.freeze_cnn else "CNN trained"
    return {**summary(clocks, options.folds * clips), "note": note}


def measure(side: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The figures of a side, measured in this process."""
    quiet()
    if side == "ours":
        figures = ours(options, folder)
    else:
        figures = trainer(options, folder, side == "trainer best")
    figures["GiB"] = resources.peak_memory() / 2**30
    if torch.cuda.is_available():
        figures["GiB on the GPU"] = torch.cuda.max_memory_allocated() / 2**30
    return figures


def quiet() -> None:
    """Keep the libraries from talking between the figures."""
    warnings.simplefilter("ignore")
    checkpoint.quiet()


@errors.one_line
def main() -> None:
    """Measure each side in a fresh process, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=160)
    parser.add_argument("--folds", type=int, default=1, choices=range(1, PARTS + 1))
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--config", type=Path, help="folder with another config.json")
    parser.add_argument("--freeze-cnn", action="store_true", help="have Trainer freeze the CNN too")
    options = parser.parse_args()
    if options.clips * (PARTS - 1) // PARTS * options.epochs <= WARM_UP * options.batch:
        raise errors.UserError(
            f"{options.clips} clips, {options.epochs} epochs, batches of {options.batch}: "
            f"expected more than {WARM_UP} steps"
        )
    quiet()
    # Of several GPUs one: Trainer would take them all, and larger batches.
    card = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    os.environ["CUDA_VISIBLE_DEVICES"] = card
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder) / "checkpoint", options.config)
        fresh = multiprocessing.get_context("forkserver")
        fresh.set_forkserver_preload(["benchmarks.train"])  # the imports, once for all sides
        for side in ("ours", "trainer", "trainer best"):
            with ProcessPoolExecutor(1, fresh) as pool:
                figures[side] = pool.submit(measure, side, options, Path(folder)).result()
    table = pd.DataFrame.from_dict(figures, orient="index")
    table.insert(1, "ours is x", table.loc["ours", "clips/s"] / table["clips/s"])
    gpu = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"{name}; {options.config or 'wav2vec2-base'}: {options.clips} clips, batch "
        f"{options.batch}, {options.folds} folds of {options.epochs} epochs"
    )
    print(table.to_string(float_format="{:.2f}".format, na_rep=""))


if __name__ == "__main__":
    main()
