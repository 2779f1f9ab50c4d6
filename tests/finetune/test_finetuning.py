"""Fine-tuning: exact and repeatable; that it is blind to the held-out clips is in test_head.py."""

import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile
import transformers
import workplace

from ser import audio
from ser.corpora.ravdess import EMOTIONS
from ser.corpus import TITLES
from ser.finetune.clips import Clips, respeed


def test_predictions_are_what_transformers_says(trained):
    table = pd.read_csv(trained / "data/w2v/fold_0/predictions.csv")
    folds = pd.read_csv(trained / "data/folds.csv")
    assert list(table["clip"]) == sorted(folds.loc[folds["fold"] == 0, "clip"])
    assert table[list(EMOTIONS)].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-9)
    assert (table[list(EMOTIONS)].idxmax(axis=1) == table["predicted"]).all()
    classify = transformers.pipeline(
        "audio-classification", str(trained / "data/models/w2v/fold_0"), top_k=8
    )
    card = (trained / "data/models/w2v/fold_0/README.md").read_text()
    assert f"accuracy {100 * (table['predicted'] == table['actual']).mean():.1f} % [" in card
    assert TITLES["ravdess"] in card and "it pads" not in card
    for row in table.to_dict("records"):
        samples = audio.read(trained / f"data/audio/{row['clip']}.wav")
        found = classify({"raw": samples, "sampling_rate": 16000})
        assert {answer["label"]: answer["score"] for answer in found} == pytest.approx(
            {e: row[e] for e in EMOTIONS}, abs=1e-5
        )


def test_predict_trims_as_training_did(tmp_path):
    folder = workplace.make(tmp_path / "trim", weights=False, trim_db=20.0, epochs=1)
    for path in (folder / "data/audio").iterdir():
        samples, _ = soundfile.read(path, dtype="int16")
        audio.write(path, np.pad(samples, 8000))
    workplace.run(folder, "checkpoint", "w2v_features", "w2v_finetune 0")
    model = folder / "data/models/w2v/fold_0"
    assert "top_db=20)" in (model / "README.md").read_text()
    row = pd.read_csv(folder / "data/w2v/fold_0/predictions.csv").iloc[0]
    clip = folder / f"data/audio/{row['clip']}.wav"
    lengths = Clips.read(folder / "data/features/clips.arrow").lengths
    assert lengths.max() < 9000 + 8000  # silence is gone, but for the frames at its edges
    (found,) = workplace.answers(folder, model, clip)
    assert found == pytest.approx({label: row[label] for label in EMOTIONS}, abs=1e-5)


def test_same_seed_same_bytes(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "again", ignore=shutil.ignore_patterns("w2v", "features"))
    workplace.run(tmp_path / "again", "w2v_features", "w2v_finetune 0")
    assert workplace.digest(tmp_path / "again/data") == workplace.digest(trained / "data")


def test_spans_wider_than_the_channels_are_one_line(tmp_path):
    masks = {"mask_feature_prob": 0.5, "mask_feature_length": 10}
    folder = workplace.make(tmp_path / "wide", weights=False, whisper=True, **masks)
    with pytest.raises(SystemExit) as end:
        workplace.run(folder, "checkpoint", "w2v_features", "w2v_finetune 0")
    assert end.value.code == ("w2v_finetune: mask_feature_length = 10: tiny has 8 channels to hide")


def test_faster_voices_keep_their_sound():
    """Straight lines between samples halved 5 kHz, and mirrored 7.5 kHz to lower tones."""
    time = np.arange(16000) / 16000
    low, high = (np.sin(2 * np.pi * hertz * time).astype(np.float32) for hertz in (4800, 7500))
    for factor in (0.8, 1.1, 1.25):
        faster = respeed(low, factor)
        assert len(faster) == pytest.approx(16000 / factor, abs=1)
        assert faster.dtype == np.float32
        middle = faster[1000:-1000] * np.hanning(len(faster) - 2000)
        spectrum = np.abs(np.fft.rfft(middle)) ** 2
        loudest = spectrum.argmax() * 16000 / len(middle)
        assert loudest == pytest.approx(4800 * factor, abs=5)
        assert np.square(faster[1000:-1000]).mean() == pytest.approx(0.5, rel=0.02)
    # Too high for 16 kHz once it is faster: gone, rather than somewhere else.
    assert np.square(respeed(high, 1.25)[1000:-1000]).mean() < 1e-4
