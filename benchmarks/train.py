"""How fast and how big fine-tuning is, against transformers' Trainer: same clips, batch, epochs and
model; weights random.

    python -m benchmarks.train [--clips 160] [--epochs 1] [--batch 8] [--config FOLDER]
    [--freeze-cnn]

The model has the architecture of wav2vec2-base unless --config names another folder with
config.json. Clips are noise as long as those of RAVDESS. Every side trains in a process of its own,
one after the other. Ours keeps the CNN frozen and attention free of dropout, as params.yaml says;
Trainer trains the CNN and drops attention out, which is what it does unasked. With --freeze-cnn its
CNN is frozen too, as in transformers' own example for audio classification.

Prints: clips per second of the training loop; peak memory of the process; ratios. What the cached
features took is printed apart: the pipeline computes them once for all epochs, folds and later
experiments.
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
SIDES = {
    "ours": "params.yaml's defaults: CNN output cached, micro-batches by length, mixed precision "
    "where the hardware has it",
    "trainer": "Trainer, default settings: fp32, batches as they come",
    "trainer bf16": "Trainer, bf16=True, train_sampling_strategy='group_by_length'",
}


def corpus(clips: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Noise of 2.9 to 5.3 s, 3.7 on average, as RAVDESS's clips; and labels."""
    rng = np.random.default_rng(0)
    lengths = (np.clip(rng.normal(3.70, 0.35, clips), 2.94, 5.27) * 16000).astype(int)
    return [rng.normal(0, 0.1, length).astype(np.float32) for length in lengths], np.arange(
        clips
    ) % len(EMOTIONS)


def write_checkpoint(folder: Path, config: Path | None) -> None:
    """Random weights of the architecture, in `folder`."""
    folder.mkdir()
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    (folder / "config.json").write_text(
        (config / "config.json").read_text() if config else json.dumps(BASE)
    )
    checkpoint.load(folder, "random", 0).save(folder)


def ours(folder: Path, options: argparse.Namespace) -> dict:
    """Our loop on cached features."""
    samples, labels = corpus(options.clips)
    settings = params.load().model_copy(
        update={
            "epochs": options.epochs,
            "batch_size": options.batch,
            "micro_batch": options.batch,
            "checkpoint": "random",
        }
    )
    began = time.perf_counter()
    arrow = folder / "clips.arrow"
    encoder = checkpoint.load(folder / "checkpoint", "random", 0)
    write(arrow, ((f"{n:04}", 1.0, encoder.prepare(clip)) for n, clip in enumerate(samples)))
    cached = time.perf_counter() - began
    classifier = finetuning.for_training(folder / "checkpoint", settings)
    clips = Clips(arrow)
    accelerator = device.accelerator(settings.precision)
    training = Training(
        classifier, clips, labels, np.arange(len(labels)), np.arange(0), settings, 0, accelerator
    )
    began = time.perf_counter()
    while training.done < len(training.steps):
        training.advance()
    return {
        "clips_per_second": options.clips * options.epochs / (time.perf_counter() - began),
        "note": f"{accelerator.mixed_precision.replace('no', 'fp32')}; "
        f"features, once per clip: {cached / options.clips:.2f} s",
    }


def trainer(folder: Path, options: argparse.Namespace, better: bool) -> dict:
    """transformers' Trainer on samples, padded batch by batch."""
    samples, labels = corpus(options.clips)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder / "checkpoint")
    values = [extractor(one, sampling_rate=16000).input_values[0] for one in samples]
    data = datasets.Dataset.from_dict(
        {"input_values": values, "labels": labels, "length": [len(one) for one in values]}
    )
    model = transformers.AutoModelForAudioClassification.from_pretrained(
        folder / "checkpoint", num_labels=len(EMOTIONS), dtype=torch.float32
    )
    if options.freeze_cnn:
        model.freeze_feature_encoder()

    def collate(rows: list[dict]) -> dict:
        batch = extractor.pad(
            [{"input_values": row["input_values"]} for row in rows],
            padding=True,
            return_tensors="pt",
        )
        return {**batch, "labels": torch.tensor([row["labels"] for row in rows])}

    settings = {}
    if better:
        settings = {
            "bf16": True,
            "train_sampling_strategy": "group_by_length",
            "use_cpu": not torch.cuda.is_available(),
        }
    arguments = transformers.TrainingArguments(
        str(folder / "trainer"), num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch, save_strategy="no",
        learning_rate=2e-5, disable_tqdm=True, remove_unused_columns=False, **settings,
    )  # fmt: skip
    done = transformers.Trainer(model, arguments, train_dataset=data, data_collator=collate).train()
    return {
        "clips_per_second": done.metrics["train_samples_per_second"],
        "note": "CNN frozen" if options.freeze_cnn else "CNN trained",
    }


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
        measured = (
            ours(options.folder, options)
            if options.side == "ours"
            else trainer(options.folder, options, "bf16" in options.side)
        )
        measured["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        if torch.cuda.is_available():
            measured["gpu_memory"] = torch.cuda.max_memory_allocated() / 2**30
        print("MEASURED", json.dumps(measured))
        return

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder) / "checkpoint", options.config)
        for side in SIDES:
            command = [
                sys.executable,
                "-m",
                "benchmarks.train",
                *sys.argv[1:],
                "--side",
                side,
                "--folder",
                folder,
            ]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[side] = json.loads(done.stdout.partition("MEASURED")[2])
            found[side]["settings"] = SIDES[side]
            print(json.dumps({side: found[side]}), flush=True)
    print(
        f"{options.clips} clips, batch {options.batch}, {options.epochs} epochs, "
        f"{torch.get_num_threads()} threads"
    )
    print(f"{'':14}{'clips/s':>9}{'ours is':>9}{'GiB':>7}")
    for side, one in found.items():
        ratio = found["ours"]["clips_per_second"] / one["clips_per_second"]
        gpu = f"{one['gpu_memory']:.1f} on the GPU" if "gpu_memory" in one else ""
        print(
            f"{side:14}{one['clips_per_second']:9.2f}{ratio:8.1f}x{one['memory']:7.1f}  "
            f"{one['settings']}; {one['note']} {gpu}"
        )


if __name__ == "__main__":
    main()
