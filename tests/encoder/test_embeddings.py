"""embed: what transformers' encoders make of each clip, in numbers."""

import contextlib
import shutil
import sys
from pathlib import Path

import librosa
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from conftest import ROOT
from ruamel.yaml import YAML
from tiny_models import write_checkpoint, write_whisper

from ser import audio, params
from ser.encoder import checkpoint
from ser.encoder.embeddings import Embedder
from ser.encoder.families.waveform import Waveform
from ser.run.errors import UserError
from stages import embed

CLIPS = [f"03-01-{emotion:02}-01-01-01-{actor:02}" for actor in (2, 1) for emotion in (3, 1, 8)]


def workplace(folder: Path, model: Path, **changes) -> Path:
    """A folder to run `embed` in: six clips of noise between silences, `model` as checkpoint."""
    (folder / "data/audio").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for clip in CLIPS:
        noise = rng.normal(0, 3000, rng.integers(4000, 9000))
        silent = np.pad(noise, rng.integers(2000, 5000)).astype(np.int16)
        audio.write(folder / f"data/audio/{clip}.wav", silent)
    (folder / "data/checkpoint").symlink_to(model)
    values = YAML().load(ROOT / "params.yaml")
    values["embed"].update(changes)
    YAML().dump(values, folder / "params.yaml")
    return folder


def run(folder: Path) -> pd.DataFrame:
    """Run the stage in `folder`; return its table."""
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setattr(sys, "argv", ["embed"])
        embed.main()
    return pd.read_parquet(folder / "data/embeddings.parquet")


def statistics(states: list[torch.Tensor]) -> np.ndarray:
    """Mean and deviation of each layer, (frames, width), one after the other."""
    parts = [part for state in states for part in (state.mean(0), state.std(0, correction=0))]
    return torch.cat(parts).numpy()


@pytest.mark.parametrize("architecture", Waveform.TYPES)
@torch.inference_mode()
def test_waveforms(tmp_path, architecture):
    """Every number is the mean or the deviation of what transformers' model returns for the samples
    of that clip alone."""
    write_checkpoint(tmp_path / "bare", model_type=architecture)
    checkpoint.load(tmp_path / "bare", "bare", 0).save(tmp_path / "tiny")
    folder = workplace(tmp_path / "work", tmp_path / "tiny", trim_db=None)
    table = run(folder)
    assert list(table["clip"]) == sorted(CLIPS)
    assert list(table.columns[1:]) == [
        f"layer{layer}_{statistic}_{channel:03}"
        for layer in range(3)
        for statistic in ("mean", "std")
        for channel in range(16)
    ]
    assert set(table.dtypes[1:]) == {np.dtype("float32")}
    model = transformers.AutoModel.from_pretrained(tmp_path / "tiny").eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "tiny")
    for row in table.itertuples(index=False):
        samples = audio.read(folder / f"data/audio/{row.clip}.wav")
        inputs = extractor(samples, sampling_rate=16000, return_tensors="pt")
        states = model(inputs.input_values, output_hidden_states=True).hidden_states
        expected = statistics([state[0] for state in states])
        assert np.abs(np.array(row[1:]) - expected).max() < 1e-5
    assert table.iloc[:, 1:].std().min() > 0  # no two clips are the same


@torch.inference_mode()
def test_whisper_without_its_silence(tmp_path):
    """Of the clip without the silence at its ends, as the encoder that tests/encoder/test_families
    compares with transformers' own gives it."""
    folder = workplace(tmp_path / "work", write_whisper(tmp_path / "tiny"), trim_db=30.0)
    table = run(folder).set_index("clip")
    encoder = checkpoint.load(tmp_path / "tiny", "tiny", 0)
    for clip in CLIPS:
        samples = audio.read(folder / f"data/audio/{clip}.wav")
        trimmed, _ = librosa.effects.trim(samples, top_db=30)
        assert len(trimmed) < len(samples)
        inputs = torch.from_numpy(encoder.prepare(trimmed))[None]
        states = encoder.hidden_states(inputs, torch.tensor([inputs.shape[1]])).layers
        expected = statistics([state[0] for state in states])
        assert np.abs(table.loc[clip].to_numpy() - expected).max() < 1e-5


def test_one_clip_gets_the_row_of_the_table(tmp_path):
    """By the table's `attrs` and the same encoder, as a model trained on the table needs it."""
    tiny = write_whisper(tmp_path / "tiny")
    folder = workplace(tmp_path / "work", tiny, trim_db=25.0, seed=5)
    table = run(folder)
    embedder = Embedder.like(table.attrs, folder / "data/checkpoint", "tiny")
    assert embedder.columns == list(table.columns[1:])
    samples = audio.read(folder / f"data/audio/{CLIPS[0]}.wav")
    row = table.set_index("clip").loc[CLIPS[0]].to_numpy()
    assert embedder(samples, CLIPS[0]) == pytest.approx(row, abs=1e-5)
    (tiny / "config.json").write_text((tiny / "config.json").read_text() + " ")
    with pytest.raises(UserError, match="not the encoder that the probe was trained on"):
        Embedder.like(table.attrs, folder / "data/checkpoint", "tiny")


def test_without_a_checkpoint_or_clips(tmp_path):
    folder = workplace(tmp_path / "work", tmp_path / "absent")
    with pytest.raises(SystemExit, match="embed: data/checkpoint: no such folder; `dvc repro"):
        run(folder)
    write_checkpoint(tmp_path / "absent")
    shutil.rmtree(folder / "data/audio")
    with pytest.raises(SystemExit, match="embed: data/audio: holds no WAV files; run `dvc repro`"):
        run(folder)
    assert not (folder / "data/embeddings.parquet").exists()


def test_random_weights_come_from_the_seed(tmp_path):
    tiny, rng = write_checkpoint(tmp_path / "tiny"), np.random.default_rng(0)
    samples = rng.normal(0, 0.1, 8000).astype(np.float32)
    first, second, third = (
        Embedder(tiny, "tiny", params.Embed(trim_db=30.0, seed=seed))(samples, "clip")
        for seed in (1, 2, 1)
    )
    assert (first == third).all()
    assert np.abs(first - second).max() > 0.01


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
