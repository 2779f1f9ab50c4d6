"""Recordings of any length in windows: where these lie, what is silence, and how much memory."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser import audio
from ser.run.errors import UserError
from ser.trained import models, windows

RATE = audio.SAMPLE_RATE


def loudness(samples: np.ndarray, clip: str) -> np.ndarray:
    """Probabilities of something that every window has its own of."""
    level = np.sqrt(np.mean(samples**2, dtype=float))
    return np.array([level, 1 - level])


MODEL = models.Trained(Path("model"), ["loud", "soft"], None, loudness)


def noise(seconds: float, decibels: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 10 ** (decibels / 20), int(seconds * RATE))


def written(path: Path, *parts: np.ndarray) -> Path:
    soundfile.write(path, np.concatenate(parts), RATE, subtype="PCM_16")
    return path


@pytest.mark.parametrize(
    ("seconds", "window", "step", "expected"),
    [
        (10, 4, 2, [(0, 4), (2, 6), (4, 8), (6, 10)]),
        (11, 4, 2, [(0, 4), (2, 6), (4, 8), (6, 10), (8, 11)]),
        (10.05, 4, 2, [(0, 4), (2, 6), (4, 8), (6, 10)]),
        (8.1, 4, 4, [(0, 4), (4, 8), (8, 8.1)]),
        (8.09, 4, 4, [(0, 4), (4, 8)]),
        (3, 4, 2, [(0, 3)]),
        (0.1, 4, 2, [(0, 0.1)]),
        (1, 0.5, 0.3, [(0, 0.5), (0.3, 0.8), (0.6, 1)]),
    ],
)
@pytest.mark.parametrize("size", [700, 100_000])
def test_windows_reach_from_the_start_to_the_end(seconds, window, step, expected, size):
    """However the recording comes in pieces."""
    samples = np.arange(round(seconds * RATE)) % 1000.0
    pieces = np.split(samples, range(size, len(samples), size))
    found = list(windows.cut(pieces, window, step))
    assert [(part.start, part.end) for part in found] == expected
    for part in found:
        inside = samples[round(part.start * RATE) : round(part.end * RATE)]
        np.testing.assert_array_equal(part.samples, audio.centred(inside))


def test_a_window_is_answered_as_the_same_stretch_alone(tmp_path):
    """So is a whole recording that is shorter than a window."""
    wave = noise(30, -20) * np.linspace(0.1, 1, 30 * RATE) + 0.01
    source = written(tmp_path / "long.wav", wave)
    notes: list[str] = []
    found = list(windows.answers(MODEL, str(source), 4, 2, notes))
    assert len(found) == 14 and notes == []
    for part in found:
        inside = wave[int(part.start * RATE) : int(part.end * RATE)]
        samples, _ = audio.decode(written(tmp_path / "part.wav", inside))
        np.testing.assert_array_equal(part.probabilities, windows.answer(MODEL, "", samples))
    (whole,) = windows.answers(MODEL, str(source), 60, 30, notes)
    alone, _ = windows.hear(MODEL, str(source))
    np.testing.assert_array_equal(whole.probabilities, alone)


def test_another_thread_may_ask(tmp_path):
    """As those of a server do, which get no signals."""
    source = written(tmp_path / "a.wav", noise(8, -20))
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(list, windows.answers(MODEL, str(source), 4, 4, [])).result()
    assert len(found) == 2


@pytest.mark.parametrize("offset", [0, 0.01])
def test_windows_without_speech_get_no_answer(tmp_path, offset):
    """A room's noise is none, a quiet word in it is speech, even one of a third of a second."""
    word = noise(4, -65)
    word[2 * RATE : 2 * RATE + RATE // 3] += noise(1 / 3, -50)[: RATE // 3]
    parts = [noise(4, -30), noise(4, -65), word, np.zeros(4 * RATE), noise(4, -50)]
    source = written(tmp_path / "sparse.wav", *(part + offset for part in parts))
    found = list(windows.answers(MODEL, str(source), 4, 4, []))
    silent = [part.probabilities is None for part in found]
    assert silent == [False, True, False, True, False]


def test_hours_take_no_more_memory_than_minutes(tmp_path):
    soundfile.write(tmp_path / "long.flac", np.zeros(3600 * 1000, np.int16), 1000)
    tracemalloc.start()
    try:
        silent = sum(
            part.probabilities is None
            for part in windows.answers(MODEL, str(tmp_path / "long.flac"), 10, 5, [])
        )
        assert tracemalloc.get_traced_memory()[1] < 80e6  # the whole takes 460 MB
    finally:
        tracemalloc.stop()
    assert silent == 719


@pytest.mark.parametrize("who", ["recording", "model"])
def test_an_error_midway_comes_after_the_answers_before_it(tmp_path, who):
    """Of the recording, which is read before it is answered, or of the model."""
    wave = noise(60, -20).astype(np.float32)
    wave[41 * RATE] = np.nan if who == "recording" else 1
    soundfile.write(tmp_path / "odd.wav", wave, RATE, subtype="FLOAT")

    def afraid(samples: np.ndarray, clip: str) -> np.ndarray:
        return np.full(2, np.nan if samples.max() > 0.9 else 0.5)

    model = models.Trained(Path("model"), ["loud", "soft"], None, afraid)
    found = []
    with pytest.raises(UserError, match=r"odd\.wav: .* not (numbers|a number)"):
        found.extend(windows.answers(model, str(tmp_path / "odd.wav"), 4, 2, []))
    assert [part.start for part in found] == list(range(0, 38, 2))


def test_a_picture_shows_silence_and_any_label(tmp_path):
    source = written(tmp_path / "a.wav", noise(8, -20), np.zeros(8 * RATE), noise(9, -20))
    answers = list(windows.answers(MODEL, str(source), 4, 2, []))
    figure = windows.draw(answers, ["$x$ $_", "no"], "$a_ $.wav")
    upper, lower, _ = figure.axes
    mesh = upper.collections[0].get_array()
    assert mesh.mask.any(axis=0).tolist() == [part.probabilities is None for part in answers]
    assert sum(part.probabilities is None for part in answers) == 3
    assert lower.get_xlim() == (0, 25)
    figure.savefig(tmp_path / "a.png")
    assert [label.get_text() for label in upper.get_yticklabels()] == [r"\$x\$ \$_", "no"]
