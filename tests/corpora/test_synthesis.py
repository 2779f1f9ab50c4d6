"""The demo corpus: the same bytes everywhere, RAVDESS's names and format, and voices and emotions
that differ as the tables say."""

import joblib
import numpy as np
import pytest
import soundfile

from ser import corpus
from ser.corpora import synthesis

SECONDS = 0.8
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "raw"
    synthesis.write(folder, takes=3, seconds=SECONDS)
    return folder


@pytest.fixture(scope="module")
def clips(folder):
    """The table of clips, with samples, shape (n, channels), from -1 to 1, and what can be measured
    on them."""
    table = corpus.table(folder.rglob("*.wav")).set_index("clip")
    table["path"] = [
        folder / f"Actor_{row.actor:02}" / f"{row.Index}.wav" for row in table.itertuples()
    ]
    table["samples"] = [soundfile.read(path, always_2d=True)[0] for path in table["path"]]
    table["length"] = [len(samples) / synthesis.RATE for samples in table["samples"]]
    table["level"] = [20 * np.log10(samples.std()) for samples in table["samples"]]
    table["pitch"] = [12 * np.log2(pitch(samples[:, 0])) for samples in table["samples"]]
    return table


def pitch(samples):
    """Median fundamental frequency in Hz: the first high peak of the autocorrelation, in the louder
    half of 40 ms frames."""
    window = np.hanning(480)
    frames = np.lib.stride_tricks.sliding_window_view(samples[::4], 480)[::120] * window
    frames = frames[np.argsort(frames.std(axis=1))[len(frames) // 2 :]]
    spectra = np.fft.rfft(frames, 2048)
    correlation = (
        np.fft.irfft(np.abs(spectra) ** 2)[:, 20:220]
        / np.correlate(window, window, "full")[499:699]
    )
    left, middle, right = correlation[:, :-2], correlation[:, 1:-1], correlation[:, 2:]
    peaks = (middle > left) & (middle >= right) & (middle > 0.9 * middle.max(axis=1, keepdims=True))
    return 12_000 / np.median(21 + np.argmax(peaks, axis=1))


@pytest.mark.slow
def test_same_bytes_in_another_order_on_other_workers_and_with_fewer_takes(folder, tmp_path):
    with joblib.parallel_config(backend="threading"):
        synthesis.write(tmp_path / "again", takes=1, seconds=SECONDS)
    again = sorted((tmp_path / "again").rglob("*.wav"))
    assert len(again) == 24 * 8
    for path in again:
        assert path.read_bytes() == (folder / path.relative_to(tmp_path / "again")).read_bytes(), (
            path.name
        )


def test_same_bytes_on_both_runs_of_one_clip(folder, tmp_path):
    for source in reversed(sorted(folder.rglob("03-01-05-*"))[:4]):
        synthesis.clip((tmp_path / source.name, SECONDS))
        assert (tmp_path / source.name).read_bytes() == source.read_bytes()


def test_no_two_clips_are_alike(clips):
    assert len({path.read_bytes() for path in clips["path"]}) == len(clips)


def test_takes_are_both_statements_then_both_again(clips):
    assert set(clips["intensity"]) == {"normal"}
    assert (clips.groupby(["actor", "emotion"]).size() == 3).all()
    assert len(clips) == 24 * 8 * 3
    assert set(zip(clips["repetition"], clips["statement"], strict=True)) == {
        (1, 1),
        (1, 2),
        (2, 1),
    }


def test_folders_hold_their_actors(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        f"Actor_{actor:02}" for actor in range(1, 25)
    ]
    for path in folder.rglob("*.wav"):
        assert path.parent.name == f"Actor_{corpus.describe(path.stem)['actor']:02}"


def test_format_is_that_of_ravdess_and_some_clips_are_stereo(clips):
    for path in clips["path"]:
        info = soundfile.info(path)
        assert (info.format, info.subtype, info.samplerate) == ("WAV", "PCM_16", 48_000)
    stereo = [samples for samples in clips["samples"] if samples.shape[1] == 2]
    assert 3 <= len(stereo) <= 0.1 * len(clips)
    for samples in stereo:
        assert (samples[:, 0] == samples[:, 1]).all()


def test_silence_surrounds_the_speech(clips):
    edge = int(0.02 * synthesis.RATE)
    for samples in clips["samples"]:
        assert np.abs(samples[:edge]).max() < 0.002
        assert np.abs(samples[-edge:]).max() < 0.002


@pytest.mark.parametrize("seconds", [0.5, 1.2, 5.0])
def test_no_clipping_and_no_silent_clip_at_any_length(seconds, tmp_path):
    for actor in (1, 8, 13, 24):
        for emotion in (4, 5):  # sad is the softest, angry the loudest
            path = tmp_path / f"03-01-{emotion:02}-01-02-02-{actor:02}.wav"
            synthesis.clip((path, seconds))
            assert 0.01 < np.abs(soundfile.read(path)[0]).max() < 0.9


def test_no_clipping_in_the_corpus(clips):
    assert max(np.abs(samples).max() for samples in clips["samples"]) < 0.9


def test_mean_length_is_as_asked_and_tempo_varies_it(clips):
    assert clips["length"].mean() == pytest.approx(SECONDS, rel=0.03)
    by_emotion = clips.groupby("emotion")["length"].mean()
    assert by_emotion["fearful"] < by_emotion["neutral"] < by_emotion["sad"]
    by_actor = clips.groupby("actor")["length"].mean()
    assert (
        np.corrcoef(by_actor, [synthesis.voice(actor).tempo for actor in corpus.ACTORS])[0, 1]
        < -0.9
    )


def test_every_voice_has_its_own_pitch_and_women_speak_higher(clips):
    measured = clips[clips["emotion"] == "neutral"].groupby("actor")["pitch"].mean()
    wanted = np.array([12 * np.log2(synthesis.voice(actor).pitch) for actor in corpus.ACTORS])
    assert (
        np.abs(measured - wanted).max() < 3
    )  # semitones: clips stray, statements fall at their end
    assert measured[corpus.ACTORS[1::2]].min() > measured[corpus.ACTORS[::2]].max()
    assert len({synthesis.voice(actor) for actor in corpus.ACTORS}) == 24


def test_emotions_differ_in_pitch_and_loudness_as_the_table_says(clips):
    rendered = np.mean(synthesis.STRENGTH)
    measured = clips.groupby("emotion")[["level", "pitch"]].mean()
    neutral = synthesis.MANNERS["neutral"]
    for emotion, manner in synthesis.MANNERS.items():
        difference = measured.loc[emotion] - measured.loc["neutral"]
        # A ramp over the last third of a statement adds a sixth of its height to the mean.
        higher = manner.pitch - neutral.pitch + (manner.glide - neutral.glide) / 6
        assert difference["level"] == pytest.approx(manner.loudness * rendered, abs=1.5), emotion
        assert difference["pitch"] == pytest.approx(higher * rendered, abs=1.5), emotion


def test_a_second_corpus_in_the_same_folder_is_refused(folder):
    with pytest.raises(FileExistsError):
        synthesis.write(folder, 1, SECONDS)
