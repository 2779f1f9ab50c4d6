"""Names, folds and audio: what the first stages promise."""

import av
import numpy as np
import pytest
import soundfile
from conftest import ROOT, one_line

from ser import audio, corpus, params
from ser.run import errors
from stages import split

CLIPS = [
    line.split()[1] for line in (ROOT / "ser" / "corpora" / "ravdess.md5").read_text().splitlines()
]


def test_the_manifest_is_the_published_corpus():
    table = corpus.table(CLIPS)
    assert len(table) == corpus.CLIPS == table["clip"].nunique()
    assert dict(table["emotion"].value_counts()) == {
        emotion: 96 if emotion == "neutral" else 192 for emotion in corpus.EMOTIONS
    }
    assert set(table.groupby("actor").size()) == {60}


def test_name_of_a_clip():
    assert corpus.describe("03-01-05-02-01-02-12") == {
        "clip": "03-01-05-02-01-02-12",
        "actor": 12,
        "gender": "female",
        "emotion": "angry",
        "intensity": "strong",
        "statement": 1,
        "repetition": 2,
    }


@pytest.mark.parametrize(
    "name",
    [
        "03-01-09-01-01-01-01",
        "03-01-01-02-01-01-01",
        "03-02-02-01-01-01-01",
        "03-01-02-01-01-01-25",
        "take 7",
    ],
)
def test_names_that_do_not_parse(name):
    with pytest.raises(errors.UserError, match="expected"):
        corpus.describe(name)


def test_folds_share_no_actor_and_balance_gender_and_emotion():
    folds = split.assign(corpus.table(CLIPS), params.load(ROOT / "params.yaml").split.folds)
    assert (folds.groupby("actor")["fold"].nunique() == 1).all()
    assert (folds.drop_duplicates("actor").groupby(["fold", "gender"]).size() == 2).all()
    counts = folds.groupby(["fold", "emotion"]).size().unstack()
    assert (counts["neutral"] == 16).all()
    assert (counts.drop(columns="neutral") == 32).all(axis=None)


def tone(seconds: float = 0.5, rate: int = 48_000, level: float = 0.25) -> np.ndarray:
    return (level * 32767 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)).astype(
        np.int16
    )


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_identical_channels_keep_their_level(tmp_path, subtype):
    mono = tone() / 32768
    soundfile.write(tmp_path / "mono.wav", mono, 48_000, subtype=subtype)
    soundfile.write(tmp_path / "stereo.wav", np.column_stack([mono, mono]), 48_000, subtype=subtype)
    np.testing.assert_array_equal(
        audio.decode(tmp_path / "stereo.wav"), audio.decode(tmp_path / "mono.wav")
    )


def test_resampling_keeps_pitch_level_and_length(tmp_path):
    soundfile.write(tmp_path / "tone.wav", tone(), 48_000)
    samples = audio.decode(tmp_path / "tone.wav")
    assert samples.dtype == np.int16
    assert abs(len(samples) - 8000) <= 1
    middle = samples[2000:6000] / 32768
    assert abs(np.abs(np.fft.rfft(middle * np.hanning(4000))).argmax() * 4 - 440) <= 4
    assert np.std(middle) == pytest.approx(0.25 / np.sqrt(2), rel=0.01)


def test_compressed_audio_is_read_too(tmp_path):
    with av.open(str(tmp_path / "tone.mp3"), "w") as container:
        stream = container.add_stream("mp3", rate=44_100, layout="stereo")
        frame = av.AudioFrame.from_ndarray(
            np.stack([tone(rate=44_100)] * 2), format="s16p", layout="stereo"
        )
        frame.rate = 44_100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    samples = audio.decode(tmp_path / "tone.mp3") / 32768
    assert np.std(samples[2000:6000]) == pytest.approx(
        0.25 / np.sqrt(2), rel=0.1
    )  # 3 dB too loud would be 41 %


@pytest.mark.parametrize("content", [b"", b"hello, this is text\n" * 50, b"RIFF"])
def test_resample_names_a_file_that_is_not_audio_and_keeps_what_was_made(project, content):
    raw, made = project.path / "data" / "raw" / "Actor_01", project.path / "data" / "audio"
    raw.mkdir(parents=True)
    made.mkdir()
    (made / "03-01-01-01-01-01-01.wav").write_bytes(b"older")
    soundfile.write(raw / "03-01-01-01-01-01-01.wav", tone(), 48_000)
    (raw / "03-01-01-01-01-02-01.wav").write_bytes(content)
    one_line(project.stage("resample"), "03-01-01-01-01-02-01.wav", "not an audio file")
    assert {path.name for path in made.parent.iterdir()} == {"raw", "audio"}
    assert (made / "03-01-01-01-01-01-01.wav").read_bytes() == b"older"
