"""The demo corpus: the same bytes everywhere, RAVDESS's names and format, and labels that can be
learned from other voices."""

import joblib
import numpy as np
import pytest
import soundfile
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from ser.corpora import ravdess, synthesis

SECONDS = 0.6
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "raw"
    synthesis.write(folder, takes=2, seconds=SECONDS)
    return folder


@pytest.fixture(scope="module")
def clips(folder):
    """The table of clips, with their paths and with samples from -1 to 1, shape (n, channels)."""
    table = ravdess.table(folder.rglob("*.wav"))
    table["path"] = [
        folder / f"Actor_{speaker:02}" / f"{clip}.wav"
        for speaker, clip in zip(table["speaker"], table["clip"], strict=True)
    ]
    table["samples"] = [soundfile.read(path, always_2d=True)[0] for path in table["path"]]
    return table


def test_same_bytes_on_other_workers_and_with_fewer_takes(folder, tmp_path):
    with joblib.parallel_config(backend="threading"):
        synthesis.write(tmp_path / "again", takes=1, seconds=SECONDS)
    again = sorted((tmp_path / "again").rglob("*.wav"))
    assert len(again) == 24 * 8
    for path in again:
        assert path.read_bytes() == (folder / path.relative_to(tmp_path / "again")).read_bytes()


def test_takes_are_both_statements_and_none_are_alike(clips):
    assert (clips.groupby(["speaker", "label"]).size() == 2).all()
    assert len({path.read_bytes() for path in clips["path"]}) == len(clips) == 24 * 8 * 2
    takes = set(zip(clips["repetition"], clips["statement"], strict=True))
    assert takes == {(1, 1), (1, 2)}


def test_format_is_that_of_ravdess_and_some_clips_are_stereo(clips):
    for path in clips["path"]:
        info = soundfile.info(path)
        assert (info.format, info.subtype, info.samplerate) == ("WAV", "PCM_16", 48_000)
    stereo = [samples for samples in clips["samples"] if samples.shape[1] == 2]
    assert 3 <= len(stereo) <= 0.1 * len(clips)
    assert all((samples[:, 0] == samples[:, 1]).all() for samples in stereo)


def test_silence_surrounds_speech_that_is_as_long_as_asked_for(clips):
    for samples in clips["samples"]:
        loudness = np.abs(samples[:, 0])
        assert max(loudness[:960].max(), loudness[-960:].max()) < 0.002  # 20 ms
        assert loudness.max() > 0.01
    seconds = clips["samples"].map(len) / synthesis.RATE
    assert seconds.mean() == pytest.approx(SECONDS, rel=0.03)


@pytest.mark.parametrize("seconds", [0.5, 5.0])
@pytest.mark.parametrize("speaker", [1, 8, 13, 24])
def test_no_clipping_at_any_length(seconds, speaker, tmp_path):
    path = tmp_path / f"03-01-05-01-02-02-{speaker:02}.wav"  # angry, the loudest
    synthesis.clip((path, seconds))
    assert 0.1 < np.abs(soundfile.read(path)[0]).max() < 0.9


def test_labels_of_unknown_voices_are_recognised_but_not_all(clips):
    spectra = [np.abs(np.fft.rfft(samples[:, 0], 1 << 16))[:12_000] for samples in clips["samples"]]
    bands = np.square(spectra).reshape(len(clips), 80, -1).mean(axis=2)
    features = np.column_stack([10 * np.log10(bands), clips["samples"].map(len) / 1000])
    known = clips["speaker"] <= 16
    model = make_pipeline(StandardScaler(), SVC(C=10)).fit(features[known], clips["label"][known])
    accuracy = model.score(features[~known], clips["label"][~known])
    assert 0.5 < accuracy < 0.98
