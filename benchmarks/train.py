"""Time fine-tuning against transformers' Trainer: same clips, batch, epochs and model; weights
random.

    python -m benchmarks.train [--config FOLDER] [--clips 58] [--epochs 1] [--batch 8]
    [--freeze-cnn]

For a GPU there is benchmarks.gpu. The training is on five sixths of the clips. The model has the
architecture of wav2vec2-base unless --config names another folder with config.json, such as
configs/whisper-tiny.en. Clips are noise as long as those of RAVDESS. Every side trains in a process
of its own, one after the other:

  ours          params.yaml's defaults: inputs stored, micro-batches by length, CNN frozen,
                attention without dropout, mixed precision where the hardware has it
  trainer       Trainer as it comes: fp32, batches as they come, CNN trained, attention with the
                configuration's dropout; Whisper's clips in windows of 30 s, as its feature
                extractor pads them
  trainer best  Trainer with train_sampling_strategy="group_by_length", and bf16=True where the
                hardware has it; on a GPU its batches are prepared in four more processes

With --freeze-cnn Trainer's CNN is frozen too, as in transformers' own example for audio
classification.

Prints: clips per second in steady state, from the third step of a training on; seconds of the first
two steps, and of the training, from loading the weights to the last step; peak memory of the
process and on the GPU. Left out is what the stored inputs took, which is printed apart: the
pipeline computes them once for all epochs, folds and later experiments.
"""

import argparse
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

import numpy as np
import pandas as pd
import torch
import transformers

from ser import params
from ser.encoder import checkpoint
from ser.finetune import device, train
from ser.finetune.clips import Clips
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


class Clock(transformers.TrainerCallback):
    """Times of a training: at the start, before the first step, after the warm-up, at the end."""

    def __init__(self) -> None:
        """Note the time before anything."""
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

    def figures(self, clips: int) -> dict[str, Any]:
        """The figures of a training, so many clips of which came after the warm-up."""
        created, began, warm, end = self.times
        return {
            "clips/s": clips / (end - warm),
            "warm-up, s": warm - began,
            "training, s": end - created,
        }


def store(options: argparse.Namespace, folder: Path) -> float:
    """Write the encoder's input for every clip into `folder`; the seconds for each."""
    began = time.perf_counter()
    where = device.make_accelerator("fp32").device
    encoder = checkpoint.load(folder / "checkpoint", "random", 0).eval().to(where)
    torch.save([torch.from_numpy(encoder.prepare(c)) for c in clips_of(options)[0]], folder / "in")
    return (time.perf_counter() - began) / options.clips


def begun(options: argparse.Namespace, folder: Path, fold: int, **changes: Any) -> train.Training:
    """Our training outside a fold, on stored inputs, by params.yaml's defaults but for changes."""
    fixed = {"epochs": options.epochs, "batch_size": options.batch, "checkpoint": "random"}
    settings = params.load().model_copy(update={**fixed, **changes})
    rows = [row.numpy() for row in torch.load(folder / "in")]
    names, lengths = [f"{n:04}" for n in range(len(rows))], np.array([len(row) for row in rows])
    clips, (_, table) = Clips(names, [1.0], lengths, [r.ravel() for r in rows]), clips_of(options)
    encoder = train.fine_tunable(folder / "checkpoint", settings, LABELS)
    accelerator = device.make_accelerator(settings.precision)
    return train.Training(encoder, clips, table, LABELS, fold, settings, accelerator)


def ours(
    options: argparse.Namespace, folder: Path, fold: int = 0, **changes: Any
) -> dict[str, Any]:
    """Our loop on stored inputs."""
    clock = Clock()
    training = begun(options, folder, fold, **changes)
    steps = len(training.batches)
    clock.look(0, steps)
    while training.done < steps:
        training.step()
        clock.look(training.done, steps)
    note = training.accelerator.mixed_precision.replace("no", "fp32")
    return {**clock.figures(sum(map(len, training.batches[WARM_UP:]))), "note": note}


def collate_by(extractor: Any) -> Callable[[list[dict]], dict]:
    """A function that makes a batch of clips, by the checkpoint's feature extractor."""
    name = extractor.model_input_names[0]  # Trainer looks there for the lengths of clips
    padding = {} if name == "input_features" else {"padding": True}

    def collate(rows: list[dict]) -> dict:
        clips = [row[name] for row in rows]
        inputs = extractor(clips, sampling_rate=16000, return_tensors="pt", **padding)
        return {name: inputs[name], "labels": torch.tensor([row["labels"] for row in rows])}

    return collate


def trainer(options: argparse.Namespace, folder: Path, best: bool) -> dict[str, Any]:
    """transformers' Trainer on batches of the checkpoint's feature extractor."""
    samples, table = clips_of(options)
    labels = table["label"].map(LABELS.index).to_list()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder / "checkpoint")
    settings: dict[str, Any] = {}
    bf16 = best and device.mixed_precision("auto") == "bf16"
    if best:
        gpu = torch.cuda.is_available()
        settings = {
            "bf16": bf16,
            "train_sampling_strategy": "group_by_length",
            "dataloader_num_workers": WORKERS if gpu else 0,  # on CPUs they would take turns
            "use_cpu": not gpu,
        }
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
    numbers = np.flatnonzero(table["fold"] != 0)
    loop = transformers.Trainer(
        model,
        arguments,
        train_dataset=[
            {extractor.model_input_names[0]: samples[number], "labels": labels[number]}
            for number in numbers
        ],
        data_collator=collate_by(extractor),
        processing_class=extractor,
        callbacks=[clock],
    )
    loop.remove_callback(transformers.PrinterCallback)
    clock.look(0, 0)
    loop.train()
    clips = len(numbers) * options.epochs - WARM_UP * options.batch
    note = f"{'bf16' if bf16 else 'fp32'}, CNN {'frozen' if options.freeze_cnn else 'trained'}"
    return {**clock.figures(clips), "note": note}


def measure(function: Callable, *arguments: Any) -> Any:
    """What a function returns, in this process; of figures, also the most memory that it had."""
    warnings.simplefilter("ignore")
    checkpoint.quiet()
    figures = function(*arguments)
    if isinstance(figures, dict):
        figures["GiB"] = resources.peak_memory() / 2**30
        if torch.cuda.is_available():
            figures["GiB on the GPU"] = torch.cuda.max_memory_allocated() / 2**30
    return figures


def share_out(processes: int) -> None:
    """Give a new process its share of the cores, and one GPU: Trainer would take them all, and
    larger batches."""
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    if processes > 1:  # as commands.folds does
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))


def fresh(*calls: tuple) -> list:
    """What `measure` gives for each of these arguments, in a new process each, all at the same
    time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ser.finetune.train"])  # torch and transformers, once for all
    with ProcessPoolExecutor(len(calls), context, share_out, (len(calls),)) as pool:
        return [each.result() for each in [pool.submit(measure, *call) for call in calls]]


def where() -> str:
    """The name of the GPU, or the number of the CPU's threads."""
    gpu = torch.cuda.is_available()
    return torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"


def show(name: str, figures: dict[str, Any]) -> None:
    """Print the figures of a row."""
    values = [
        f"{key} {value:.2f}" if isinstance(value, float) else f"{key} {value}"
        for key, value in figures.items()
    ]
    print(f"{name}: {', '.join(values)}", flush=True)


@errors.one_line
def main() -> None:
    """Measure each side in a fresh process, print it at once, then the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=58)
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
    checkpoint.quiet()
    print(
        f"{where()}; {options.config or 'wav2vec2-base'}: {options.clips} clips, batch "
        f"{options.batch}, {options.epochs} epochs",
        flush=True,
    )
    figures: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(folder / "checkpoint", options.config)
        print(f"inputs: {fresh((store, options, folder))[0]:.2f} s a clip", flush=True)
        for side, function, *more in (
            ("ours", ours), ("trainer", trainer, False), ("trainer best", trainer, True),
        ):  # fmt: skip
            (figures[side],) = fresh((function, options, folder, *more))
            show(side, figures[side])
    table = pd.DataFrame.from_dict(figures, orient="index")
    table.insert(1, "ours is x", table.loc["ours", "clips/s"] / table["clips/s"])
    print(table.to_string(float_format="{:.2f}".format, na_rep=""))


if __name__ == "__main__":
    main()
