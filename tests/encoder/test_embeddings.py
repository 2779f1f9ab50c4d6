"""embed: mean and deviation of each clip's hidden states, which are those of transformers by
tests/encoder/test_families.py."""

import shutil
from pathlib import Path

import librosa
import numpy as np
import pandas as pd
import pytest
import torch
import workplace
from tiny_models import write_checkpoint, write_whisper

from ser import audio, params
from ser.encoder import checkpoint
from ser.encoder.embeddings import Embedder
from ser.run.errors import UserError


def make(folder: Path, model: Path) -> tuple[Path, dict]:
    """A folder to run `embed` in, `model` as checkpoint; its clips' samples by name."""
    workplace.make(folder, weights=False, embed={"trim_db": 30.0, "seed": 5})
    (folder / "data/checkpoint").symlink_to(model)
    return folder, {path.stem: audio.read(path) for path in (folder / "data/audio").iterdir()}


def run(folder: Path) -> pd.DataFrame:
    """Run the stage in `folder`; return its table."""
    workplace.run(folder, "embed")
    return pd.read_parquet(folder / "data/embeddings.parquet")


def statistics(states: tuple[torch.Tensor, ...]) -> np.ndarray:
    """Mean and deviation of each layer, (1, frames, width), one after the other."""
    parts = [part for s in states for part in (s[0].mean(0), s[0].std(0, correction=0))]
    return torch.cat(parts).numpy()


@torch.inference_mode()
def test_a_row_is_of_a_clip_without_its_silence(tmp_path):
    """Also where a model that was trained on the table embeds a clip again: with the table's
    settings, and the same encoder or none."""
    tiny = write_whisper(tmp_path / "tiny")
    folder, clips = make(tmp_path / "work", tiny)
    name, samples = next(iter(clips.items()))
    silence = np.zeros(4096, np.float32)
    samples = np.concatenate([silence, samples, silence])
    audio.write(folder / f"data/audio/{name}.wav", np.rint(samples * 2**15).astype(np.int16))
    table = run(folder).set_index("clip")
    assert list(table.index) == sorted(clips)
    assert list(table.columns) == [
        f"layer{layer}_{statistic}_{channel:03}"
        for layer in range(3)
        for statistic in ("mean", "std")
        for channel in range(16)
    ]
    assert set(table.dtypes) == {np.dtype("float32")}
    assert table.std().min() > 0  # no two clips are the same
    trimmed, _ = librosa.effects.trim(samples, top_db=30)
    assert len(trimmed) < len(samples)
    encoder = checkpoint.load(tiny, "tiny", seed=5)
    inputs = torch.from_numpy(encoder.prepare(trimmed))[None]
    states = encoder.hidden_states(inputs, torch.tensor([inputs.shape[1]])).layers
    expected = pytest.approx(statistics(states), abs=1e-5)
    assert table.loc[name].to_numpy() == expected
    embedder = Embedder.like(table.attrs, tiny, "tiny")
    assert embedder.columns == list(table.columns)
    assert embedder(samples, name) == expected
    (tiny / "config.json").write_text((tiny / "config.json").read_text() + " ")
    with pytest.raises(UserError, match="not the encoder that the probe was trained on"):
        Embedder.like(table.attrs, tiny, "tiny")


def test_without_a_checkpoint_or_clips(tmp_path):
    folder, _ = make(tmp_path / "work", tmp_path / "absent")
    with pytest.raises(SystemExit, match="embed: data/checkpoint: no such folder; `dvc repro"):
        run(folder)
    write_checkpoint(tmp_path / "absent")
    shutil.rmtree(folder / "data/audio")
    with pytest.raises(SystemExit, match="embed: data/audio: holds no WAV files; run `dvc repro`"):
        run(folder)
    assert not (folder / "data/embeddings.parquet").exists()


@pytest.mark.parametrize(
    ("write", "samples", "words"),
    [
        (write_whisper, 16001, "clip: 1.0 s long; tiny hears 1 s at most"),
        (write_whisper, 200, "clip: 200 samples are too short for a frame of tiny"),
        (write_checkpoint, 150, "clip: 150 samples are too short for a frame of tiny"),
    ],
)
def test_clips_too_long_or_too_short(tmp_path, write, samples, words):
    embedder = Embedder(write(tmp_path / "tiny"), "tiny", params.Embed(trim_db=None, seed=0))
    with pytest.raises(UserError, match=words):
        embedder(np.ones(samples, np.float32), "clip")
