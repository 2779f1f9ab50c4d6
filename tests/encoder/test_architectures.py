"""Every architecture that fits goes all the way: checkpoint, embed, stored inputs, fine-tuning."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import workplace
from safetensors.torch import load_file
from tiny_models import write_checkpoint, write_whisper

from ser.encoder import checkpoint
from ser.encoder.clips import Clips
from ser.encoder.families.waveform import Waveform

pytestmark = pytest.mark.filterwarnings(
    "ignore:Support for mismatched key_padding_mask"  # transformers' WavLM
)


def write(folder: Path, architecture: str) -> None:
    """A tiny model with weights."""
    bare = folder.with_name("bare")
    if architecture == "whisper":
        write_whisper(bare)
    else:
        write_checkpoint(bare, model_type=architecture)
    checkpoint.load(bare, "bare", 0).save(folder)


@pytest.mark.parametrize("freeze_cnn", [True, False])
@pytest.mark.parametrize("architecture", [*Waveform.TYPES, "whisper"])
def test_one_step(tmp_path, architecture, freeze_cnn, capsys):
    """A step changes the layers, the head and, unless frozen, the convolutions, and nothing
    else."""
    folder = workplace.make(
        tmp_path / "work", weights=True, epochs=1, batch_size=20, freeze_cnn=freeze_cnn, lr=1e-3
    )
    shutil.rmtree(folder / "tiny")
    write(folder / "tiny", architecture)
    workplace.run(folder, "checkpoint", "embed", "w2v_features", "w2v_finetune 0")
    table = pd.read_parquet(folder / "data/embeddings.parquet")
    assert len(table) == 24 and np.isfinite(table.iloc[:, 1:].to_numpy()).all()
    predictions = pd.read_csv(folder / "data/w2v/fold_0/predictions.csv")
    assert len(predictions) == 4 and predictions.iloc[:, 5:].sum(
        axis=1
    ).to_numpy() == pytest.approx(1)
    before = load_file(folder / "tiny/model.safetensors")
    after = load_file(folder / "data/models/w2v/fold_0/model.safetensors")
    assert before.keys() == after.keys()
    moved = {key for key in before if (before[key] != after[key]).any()}
    frozen = {key for key in before if ".conv1." in key or ".conv2." in key}
    frozen |= {key for key in before if ".feature_extractor." in key}
    assert bool(moved & frozen) != freeze_cnn
    assert any("layers.0." in key for key in moved) and "classifier.weight" in moved
    assert not any("embed_positions" in key for key in moved)
    note = capsys.readouterr().err
    assert ("dropout = 0.1: ignored; Whisper" in note) == (architecture == "whisper")


@pytest.mark.parametrize(
    ("architecture", "freeze_cnn", "speed", "channels"),
    [
        ("wav2vec2", True, 0.0, 8),
        ("wav2vec2", False, 0.0, None),
        ("wav2vec2", False, 0.1, None),
        ("whisper", True, 0.0, 8),
        ("whisper", True, 0.1, None),
    ],
)
def test_what_is_stored(tmp_path, architecture, freeze_cnn, speed, channels):
    """The encoder's input, frame by frame; samples where it differs from epoch to epoch."""
    folder = workplace.make(tmp_path / "work", True, freeze_cnn=freeze_cnn, speed=speed, trim_db=20)
    shutil.rmtree(folder / "tiny")
    write(folder / "tiny", architecture)
    workplace.run(folder, "checkpoint", "w2v_features")
    stored = Clips(folder / "data/features/clips.arrow")
    assert list(stored.names) == sorted(path.stem for path in (folder / "data/audio").iterdir())
    assert stored.shape == (() if channels is None else (channels,))
    assert (stored.lengths > 1000).all() == (channels is None)
