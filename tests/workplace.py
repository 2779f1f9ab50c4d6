"""Folders in which fine-tuning runs within seconds: a tiny encoder, short clips of tones."""

import contextlib
import hashlib
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from accelerate.commands.config import config_args
from conftest import ROOT
from ruamel.yaml import YAML
from tiny_models import write_checkpoint, write_whisper

from ser import audio, params
from ser.corpus import describe
from ser.finetune import device, train

torch.set_num_threads(1)  # models this small only wait for a second thread


def make(
    folder: Path, weights: bool, whisper: bool = False, emotions: int = 2, **changes: object
) -> Path:
    """A folder to run stages in: clips of 12 actors in so many emotions each, params of a short
    training, a tiny checkpoint with or without weights, wav2vec 2.0's or Whisper's. The probe wants
    six emotions."""
    (folder / "data/audio").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for actor in range(1, 13):
        for emotion in (1 + (actor + 3 * number) % 8 for number in range(emotions)):
            clip = f"03-01-{emotion:02}-01-01-01-{actor:02}"
            time_ = np.arange(rng.integers(4000, 9000)) / 16000
            tone = np.sin(2 * np.pi * (150 + 90 * emotion) * time_) * 4000 + rng.normal(
                0, 200, len(time_)
            )
            audio.write(folder / f"data/audio/{clip}.wav", tone.astype(np.int16))
            rows.append({**describe(clip), "fold": (actor - 1) // 2})
    pd.DataFrame(rows).sort_values("clip").to_csv(folder / "data/folds.csv", index=False)
    (write_whisper if whisper else write_checkpoint)(folder / "tiny")
    if weights:
        torch.manual_seed(0)
        config = transformers.AutoConfig.from_pretrained(folder / "tiny")
        transformers.Wav2Vec2ForPreTraining(config).save_pretrained(folder / "tiny")
    values = YAML().load(ROOT / "params.yaml")
    values.update({
        "checkpoint": "tiny", "freeze_cnn": weights, "lr": 2e-3, "head_lr": 2e-3, "epochs": 3,
        "batch_size": 8, "micro_batch": 3, "precision": "fp32", "mask_time_length": 2, **changes,
    })  # fmt: skip
    YAML().dump(values, folder / "params.yaml")
    return folder


def with_a_head(folder: Path, architecture: str) -> Path:
    """A folder with stored inputs for the head over all layers and all that can be random."""
    whisper = architecture == "whisper"
    make(
        folder, weights=not whisper, whisper=whisper,
        head="layers", head_probe=1e-2, head_dropout=0.2, speeds=[0.9, 1.0, 1.1],
        label_smoothing=0.1, mask_feature_prob=0.1, mask_feature_length=2,
    )  # fmt: skip
    run(folder, "checkpoint", "w2v_features")
    return folder


def again(trained: Path, folder: Path, **changes: object) -> Path:
    """A copy of a folder in which fold 0 is not yet trained, with other params."""
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("w2v", "runs"))
    values = YAML().load(folder / "params.yaml")
    values.update(changes)
    YAML().dump(values, folder / "params.yaml")
    return folder


def environment(**extra: str) -> dict[str, str]:
    """Variables for stages run as processes of their own."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HOME": "/nowhere",
        **extra,
    }


def run(folder: Path, *commands: str) -> None:
    """Run stages like `w2v_finetune 0`, or `commands.predict FILE`, in `folder`, in this process:
    starting Python anew would take most of the time."""
    for command in commands:
        name, *arguments = command.split()
        with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
            patch.setattr(sys, "argv", [name, *arguments])
            patch.setattr(config_args, "default_config_file", "/nowhere")
            importlib.import_module(name if "." in name else f"stages.{name}").main()


def outcome(folder: Path, name: str, *arguments: str | Path) -> subprocess.CompletedProcess:
    """Run a command like `commands.predict` in `folder`, in this process, whatever its exit code;
    its stdout and stderr are kept as text."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        try:
            importlib.import_module(name).main()
        except SystemExit as end:
            code = 1 if isinstance(end.code, str) else end.code or 0
            err.write(f"{end.code}\n" if isinstance(end.code, str) else "")
    return subprocess.CompletedProcess([name, *arguments], code, out.getvalue(), err.getvalue())


def answers(folder: Path, model: str | Path, *paths: str | Path) -> list[dict[str, float]]:
    """The probabilities that `predict` prints for each clip."""
    done = outcome(folder, "commands.predict", "--json", "--model", model, *paths)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return [json.loads(line)["probabilities"] for line in done.stdout.splitlines()]


def training(
    folder: Path, inner: bool = False, saved: Path | None = None, **changes: object
) -> train.Training:
    """Fold 0's training in `folder`, with params changed."""
    with contextlib.chdir(folder):
        settings = params.load().model_copy(update=changes)
        accelerator = device.make_accelerator(settings.precision)
        return train.prepare(settings, 0, accelerator, inner, saved)


def digest(folder: Path) -> dict[str, str]:
    """The hash of every file in a folder, by its path in it."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*")) if file.is_file()
    }  # fmt: skip
