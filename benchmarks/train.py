"""How fast and how big fine-tuning is, against transformers' Trainer: same clips, batch, epochs and
model; weights random.

    python -m benchmarks.train [--config FOLDER] [--clips 160] [--epochs 1] [--batch 8]
    [--freeze-cnn]

The model has the architecture of wav2vec2-base unless --config names another folder with
config.json, such as configs/whisper-tiny.en. Clips are noise as long as those of RAVDESS. Every
side trains in a process of its own, one after the other:

  ours          params.yaml's defaults: inputs stored, micro-batches by length, CNN frozen,
                attention without dropout, mixed precision where the hardware has it
  trainer       Trainer as it comes: fp32, batches as they come, CNN trained, attention with the
                configuration's dropout; Whisper's clips in windows of 30 s, as its feature
                extractor pads them
  trainer best  Trainer with bf16=True and train_sampling_strategy="group_by_length"

With --freeze-cnn Trainer's CNN is frozen too, as in transformers' own example for audio
classification.

Prints: clips per second in steady state, from the third step on; seconds of the first two; peak
memory of the process; of our side the share of the machine's rate for matrix products that the
model's own products make up. What the stored inputs took is printed apart: the pipeline computes
them once for all epochs, folds and later experiments.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from ser import params
from ser.corpus import EMOTIONS
from ser.encoder import checkpoint, device, finetuning
from ser.encoder.clips import Clips, write
from ser.encoder.training import Training

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
SIZE = 4096  # of the square matrices that the machine's rate is measured with


def corpus(clips: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Noise of 2.9 to 5.3 s, 3.7 on average, as RAVDESS's clips; and labels."""
    rng = np.random.default_rng(0)
    lengths = (np.clip(rng.normal(3.70, 0.35, clips), 2.94, 5.27) * 16000).astype(int)
    samples = [rng.normal(0, 0.1, length).astype(np.float32) for length in lengths]
    return samples, np.arange(clips) % len(EMOTIONS)


def write_checkpoint(folder: Path, config: Path | None) -> None:
    """Random weights of the architecture, in `folder`."""
    folder.mkdir()
    for name, values in (("config.json", BASE), ("preprocessor_config.json", PREPROCESSOR)):
        text = (config / name).read_text() if config else json.dumps(values)
        (folder / name).write_text(text)
    checkpoint.load(folder, "random", 0).save(folder)


def rate(dtype: torch.dtype, where: torch.device) -> float:
    """Operations per second of products of large matrices, additions counted too."""
    matrix = torch.randn(SIZE, SIZE, dtype=dtype, device=where)
    (matrix @ matrix).sum().item()
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        seconds.append(time.perf_counter() - began)
    return 2 * SIZE**3 / min(seconds)


def steady(clips: list[int], ends: list[float], began: float) -> dict[str, float]:
    """The rate after the warm-up, from the clips of each step and the times when steps ended."""
    return {
        "warm_up": ends[WARM_UP - 1] - began,
        "clips_per_second": sum(clips[WARM_UP:]) / (ends[-1] - ends[WARM_UP - 1]),
    }


def ours(folder: Path, options: argparse.Namespace) -> dict:
    """Our loop on stored inputs."""
    samples, labels = corpus(options.clips)
    changes = {"epochs": options.epochs, "batch_size": options.batch, "checkpoint": "random"}
    settings = params.load().model_copy(update=changes)
    began = time.perf_counter()
    encoder = checkpoint.load(folder / "checkpoint", "random", 0)
    inputs = ((f"{n:04}", 1.0, encoder.prepare(clip)) for n, clip in enumerate(samples))
    write(folder / "clips.arrow", inputs)
    stored = time.perf_counter() - began
    training = Training(
        finetuning.for_training(folder / "checkpoint", settings),
        Clips(folder / "clips.arrow"),
        labels,
        np.arange(len(labels)),
        np.arange(0),
        settings,
        0,
        device.accelerator(settings.precision),
    )
    began, ends = time.perf_counter(), []
    while training.done < len(training.steps):
        training.advance()
        if training.done in (WARM_UP, len(training.steps)):
            training.settle()
        ends.append(time.perf_counter())
    measured = steady([len(step) for step in training.steps], ends, began)
    with FlopCounterMode(display=False) as counter:
        training.add_gradients(np.arange(options.batch), range(options.batch))
    precision = training.accelerator.mixed_precision
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    share = counter.get_total_flops() / options.batch * measured["clips_per_second"]
    return {
        **measured,
        "matrix_share": share / rate(dtype, training.accelerator.device),
        "note": f"{precision.replace('no', 'fp32')}; inputs {stored / options.clips:.2f} s a clip",
    }


class Clock(transformers.TrainerCallback):
    """The times when steps ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *arguments: object, **options: object) -> None:
        """Note the time."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def trainer(folder: Path, options: argparse.Namespace, best: bool) -> dict:
    """transformers' Trainer on what the checkpoint's feature extractor makes of a batch."""
    samples, labels = corpus(options.clips)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder / "checkpoint")
    name = extractor.model_input_names[0]
    data = datasets.Dataset.from_dict(
        {"samples": samples, "labels": labels, "length": [len(clip) for clip in samples]}
    ).with_format("numpy")
    model = transformers.AutoModelForAudioClassification.from_pretrained(
        folder / "checkpoint", num_labels=len(EMOTIONS), dtype=torch.float32
    )
    if options.freeze_cnn and hasattr(model, "freeze_feature_encoder"):
        model.freeze_feature_encoder()
    elif options.freeze_cnn:
        for convolution in (model.encoder.conv1, model.encoder.conv2):
            convolution.requires_grad_(False)

    def collate(rows: list[dict]) -> dict:
        clips = [row["samples"] for row in rows]
        padding = {} if name == "input_features" else {"padding": True}
        inputs = extractor(clips, sampling_rate=16000, return_tensors="pt", **padding)
        return {name: inputs[name], "labels": torch.tensor([row["labels"] for row in rows])}

    settings = {}
    if best:
        settings = {
            "bf16": True,
            "train_sampling_strategy": "group_by_length",
            "use_cpu": not torch.cuda.is_available(),
        }
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
    clock = Clock()
    loop = transformers.Trainer(
        model, arguments, train_dataset=data, data_collator=collate, callbacks=[clock]
    )
    began = time.perf_counter()
    loop.train()
    sizes = [options.batch] * (options.clips // options.batch)
    sizes += [options.clips % options.batch] if options.clips % options.batch else []
    note = "CNN frozen" if options.freeze_cnn else "CNN trained"
    return {**steady(sizes * options.epochs, clock.ends, began), "note": note}


def measure(side: str, options: argparse.Namespace) -> None:
    """Measure one side in this process; print the figures as JSON."""
    if side == "ours":
        measured = ours(options.folder, options)
    else:
        measured = trainer(options.folder, options, side == "trainer best")
    measured["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if torch.cuda.is_available():
        measured["gpu_memory"] = torch.cuda.max_memory_allocated() / 2**30
    print("MEASURED", json.dumps(measured))


def main() -> None:
    """Measure each side in a fresh process, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--config", type=Path, help="folder with another config.json")
    parser.add_argument("--freeze-cnn", action="store_true", help="have Trainer freeze the CNN too")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    checkpoint.quiet()
    if options.side:
        measure(options.side, options)
        return
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder) / "checkpoint", options.config)
        command = [sys.executable, "-m", "benchmarks.train", *sys.argv[1:], "--folder", folder]
        for side in SIDES:
            done = subprocess.run(
                [*command, "--side", side], check=True, stdout=subprocess.PIPE, text=True
            )
            results[side] = json.loads(done.stdout.partition("MEASURED")[2])
    print(
        f"{options.config or 'wav2vec2-base'}: {options.clips} clips, batch {options.batch}, "
        f"{options.epochs} epochs, {torch.get_num_threads()} threads"
    )
    print(f"{'':14}{'clips/s':>9}{'ours is':>9}{'warm-up':>9}{'GiB':>7}")
    for side, measured in results.items():
        ratio = results["ours"]["clips_per_second"] / measured["clips_per_second"]
        notes = [measured["note"]]
        if "matrix_share" in measured:
            notes.append(f"{measured['matrix_share']:.0%} of the rate of matrix products")
        if "gpu_memory" in measured:
            notes.append(f"{measured['gpu_memory']:.1f} GiB on the GPU")
        print(
            f"{side:14}{measured['clips_per_second']:9.2f}{ratio:8.1f}x"
            f"{measured['warm_up']:8.1f}s{measured['memory']:7.1f}  {'; '.join(notes)}"
        )


if __name__ == "__main__":
    main()
