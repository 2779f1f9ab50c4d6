"""Every architecture that fits goes all the way: checkpoint, stored inputs, fine-tuning."""

import shutil
from pathlib import Path

import librosa
import numpy as np
import pandas as pd
import pytest
import torch
import workplace
from safetensors.torch import load_file, save_file
from tiny_models import write_checkpoint, write_whisper

from ser import audio
from ser.corpora.ravdess import EMOTIONS
from ser.encoder import checkpoint
from ser.encoder.families.waveform import Waveform
from ser.finetune.clips import Clips, respeed

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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "freeze_cnn"),
    [*((name, True) for name in (*Waveform.TYPES, "whisper")), ("hubert", False),
     ("whisper", False)],
)  # fmt: skip
def test_one_step(tmp_path, architecture, freeze_cnn):
    """A step changes the layers, the head and, unless frozen, the convolutions, and nothing
    else."""
    folder = workplace.make(
        tmp_path / "work", weights=True, labels=3,
        epochs=1, batch_size=30, freeze_cnn=freeze_cnn, lr=1e-3,
    )  # fmt: skip
    shutil.rmtree(folder / "tiny")
    write(folder / "tiny", architecture)
    workplace.run(folder, "checkpoint", "w2v_features", "w2v_finetune 0")
    rows = pd.read_csv(folder / "data/w2v/fold_0/predictions.csv")
    probabilities = rows[list(EMOTIONS)].to_numpy()
    assert len(rows) == rows["clip"].nunique() == 6
    assert probabilities.sum(axis=1) == pytest.approx(1)
    assert probabilities.std(axis=0).max() > 1e-4
    before = load_file(folder / "tiny/model.safetensors")
    after = load_file(folder / "data/models/w2v/fold_0/model.safetensors")
    assert before.keys() == after.keys()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    frozen = {key for key in before if ".conv1." in key or ".conv2." in key}
    frozen |= {key for key in before if ".feature_extractor." in key}
    assert bool(moved & frozen) != freeze_cnn
    assert any("layers.0." in key for key in moved) and "classifier.weight" in moved
    assert not any("embed_positions" in key for key in moved)


@pytest.mark.parametrize("architecture", ["wav2vec2", "whisper"])
def test_new_weights_are_drawn_from_the_seed(tmp_path, architecture):
    """transformers leaves one as the memory was: the shares of a mix of layers."""
    write(tmp_path / "c", architecture)
    weights = load_file(tmp_path / "c/model.safetensors")
    kept = {key: weights[key] for key in weights if not key.endswith("masked_spec_embed")}
    save_file(kept, tmp_path / "c/model.safetensors", {"format": "pt"})
    loaded = []
    for _ in range(3):
        junk = [torch.full((n,), -7.0) for n in (3, 16) for _ in range(200)]
        del junk
        loaded.append(checkpoint.load(tmp_path / "c", "c", 3, use_weighted_layer_sum=True))
    assert torch.equal(loaded[0].model.layer_weights, torch.full((3,), 1 / 3))
    for other in loaded[1:]:
        for (name, one), two in zip(loaded[0].named_parameters(), other.parameters(), strict=True):
            assert torch.equal(one, two), name


@pytest.mark.parametrize(
    ("architecture", "freeze_cnn", "channels"),
    [("wav2vec2", True, 8), ("wav2vec2", False, None), ("whisper", True, 8)],
)
def test_what_is_stored(tmp_path, architecture, freeze_cnn, channels):
    """The encoder's input, frame by frame, at every speed."""
    folder = workplace.make(
        tmp_path / "work", True, freeze_cnn=freeze_cnn, speeds=[0.8, 1, 1.25], trim_db=20
    )
    shutil.rmtree(folder / "tiny")
    write(folder / "tiny", architecture)
    workplace.run(folder, "checkpoint", "w2v_features")
    stored = Clips.read(folder / "data/features/clips.arrow")
    paths = sorted((folder / "data/audio").iterdir())
    assert list(stored.names) == [path.stem for path in paths]
    assert stored.shape == (() if channels is None else (channels,))
    assert (stored.lengths > 1000).all() == (channels is None)
    assert stored.speeds == pytest.approx([1, 0.8, 1.25])
    assert stored.lengths[:, 1] / stored.lengths[:, 0] == pytest.approx(1.25, rel=0.1)
    assert stored.lengths[:, 2] / stored.lengths[:, 0] == pytest.approx(0.8, rel=0.1)
    encoder = checkpoint.load(folder / "data/checkpoint", "c", 0, freeze_cnn)
    samples, _ = librosa.effects.trim(audio.read(paths[3]), top_db=20)
    for speed, changed in enumerate((samples, respeed(samples, 0.8), respeed(samples, 1.25))):
        inputs, lengths = stored.batch([3], np.array([speed]))
        expected = torch.from_numpy(encoder.prepare(changed))
        assert len(expected) == lengths[0]
        assert torch.allclose(inputs[0], expected, atol=1e-5)
