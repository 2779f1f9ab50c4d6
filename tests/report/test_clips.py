"""The picture of a clip: where a tone lies in its spectrogram, and how loud it is."""

import io

import numpy as np
import pytest
from PIL import Image

from ser.report import clips

TIME = np.arange(16000) / 16000
TONE = (0.5 * np.sin(2 * np.pi * 1000 * TIME)).astype(np.float32)


def test_a_tone_lights_its_band_while_it_lasts():
    """1000 Hz are 1000 mel of about 2840 that 8 kHz are, on the scale that librosa takes (Slaney:
    linear up to there, 15 of 45 steps)."""
    silent_first = np.concatenate([np.zeros(16000, np.float32), TONE])
    picture = Image.open(io.BytesIO(clips.spectrogram(silent_first))).convert("L")
    assert picture.size == (201, clips.BANDS)
    levels = np.asarray(picture, dtype=float)
    brightest = clips.BANDS - 1 - levels[:, 120:180].mean(axis=1).argmax()
    assert brightest == pytest.approx(clips.BANDS * 15 / 45, abs=2)
    assert levels[:, 120:180].max() > 150 > 20 > levels[:, 20:80].max()


def test_loudness_is_that_of_each_part():
    """A sine of half the full scale has 0.5 / sqrt(2): -9 dB."""
    levels = clips.loudness(np.concatenate([np.zeros(16000, np.float32), TONE]))
    half = clips.STEPS // 2
    assert levels == [clips.QUIETEST] * half + [-9] * half
