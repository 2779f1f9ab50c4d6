"""Initial weights of an encoder trained from scratch."""

import numpy as np
import torch

from ser import audio

# 10 ms: shorter filters cannot tell the bands of a voice apart, and are drawn at random.
FILTER_TAPS = 160
# Of a filter at 1 kHz: to the layer norm behind the filters, all but silence is loud, and Adam's
# steps are small.
FILTER_GAIN = 20


def filter_bank(channels: int, taps: int) -> torch.Tensor:
    """Band-pass filters for the first convolution of a CNN trained from scratch, shape (channels,
    1, taps).

    A quarter as many mel-spaced bands as channels, each in four phases, whose rectified outputs add
    up to the band's envelope: the CNN begins with a spectrogram, which a few hundred clips are too
    few to find. Training may change it. Their gain grows with frequency, since speech falls by
    about 6 dB an octave.

    Source: Zeghidour et al. (2018), "Learning filterbanks from raw speech for phone recognition".
    """
    lowest, highest = np.log10(1 + np.array([60, 7600]) / 700)
    edges = 700 * (10 ** np.linspace(lowest, highest, channels // 4 + 2) - 1)  # Hz
    centres, widths = edges[1:-1, None], (edges[2:] - edges[:-2])[:, None] / 2
    seconds = (np.arange(taps) - (taps - 1) / 2) / audio.SAMPLE_RATE
    # Of the Gaussian window; a fifth of the taps fits.
    spread = np.minimum(1 / (np.pi * widths), taps / audio.SAMPLE_RATE / 5)
    window = np.exp(-((seconds / spread) ** 2) / 2)
    filters = np.concatenate([
        np.cos(2 * np.pi * (centres * seconds + phase / 4)) * window for phase in range(4)
    ])  # fmt: skip
    filters -= filters.mean(axis=1, keepdims=True)
    gains = FILTER_GAIN * np.tile(centres / 1000, (4, 1))
    filters *= gains / np.linalg.norm(filters, axis=1, keepdims=True)
    return torch.tensor(filters, dtype=torch.float32)[:, None]
