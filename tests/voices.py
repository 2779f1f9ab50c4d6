"""Clips of something like a voice, for what is made of sound."""

from pathlib import Path

import numpy as np

from ser import audio


def clip(
    path: Path,
    seconds: float = 1.0,
    seed: int = 0,
    silence: float = 0.3,
    pitch: float = 150,
    syllables: float | None = None,
) -> Path:
    """Write a gliding buzz with syllables and a little noise, between silences.

    Args:
        path: of the WAV file; it is returned.
        pitch: in Hz, at the start.
        syllables: per second; None: as `seed` says.
    """
    rng = np.random.default_rng(seed)
    rhythm = 3 + seed if syllables is None else syllables
    time = np.arange(int(seconds * audio.SAMPLE_RATE)) / audio.SAMPLE_RATE
    phase = 2 * np.pi * np.cumsum(pitch + 40 * rng.random() + 60 * time) / audio.SAMPLE_RATE
    loudness = 0.6 + 0.4 * np.sin(2 * np.pi * rhythm * time)
    buzz = sum(np.sin(k * phase) / k for k in range(1, 25)) * loudness
    sound = 0.1 * buzz + 0.003 * rng.standard_normal(len(time))
    quiet = 1e-4 * rng.standard_normal(int(silence * audio.SAMPLE_RATE))
    samples = 32767 * np.concatenate([quiet, sound, quiet])
    samples -= samples.mean()  # no offset, which decoding would take off
    audio.write(path, samples.clip(-32768, 32767).astype(np.int16))
    return path
