"""Statistics of the MFCCs of a clip, in named columns whose prefix is their block."""

import functools
from pathlib import Path

import librosa
import numpy as np
import pandas as pd
import scipy
from threadpoolctl import threadpool_limits

from ser import audio, params
from ser.run import parallel

DELTA_WIDTH = 9  # frames that librosa fits a slope to
TINY = 1e-6  # dB: far below anything audible, keeps a constant track from dividing by nothing
RIDGE = 1e-3  # share of the mean variance added to every direction, so that any covariance matrix has a logarithm


@functools.cache
def filter_banks(n_fft: int, n_mels: int, warps: tuple[float, ...]) -> np.ndarray:
    """Mel filters for the frequency axis stretched by each of `warps`: float32, shape (warps *
    n_mels, 1 + n_fft // 2).

    librosa would rebuild them for every clip, which takes longer than all that follows.
    """
    mel = librosa.filters.mel(sr=audio.SAMPLE_RATE, n_fft=n_fft, n_mels=n_mels)
    bins = np.arange(mel.shape[1])
    stretch = [
        np.stack([np.interp(bins / warp, bins, one) for one in np.eye(len(bins))], axis=1)
        for warp in warps
    ]
    return np.concatenate([mel @ one for one in stretch]).astype(np.float32)


def coefficients(samples: np.ndarray, settings: params.Mfcc) -> np.ndarray:
    """MFCCs of a clip without the silence at its ends: float32, shape (n_mfcc, frames); repeats the
    last of too few frames.

    The values are those of `librosa.effects.trim` and `librosa.feature.mfcc`, averaged over
    stretched frequency axes: what a longer and a shorter vocal tract would give (after Jaitly and
    Hinton 2013, "Vocal Tract Length Perturbation improves speech recognition", who train on the
    stretched copies one by one).
    """
    if settings.trim_db is not None:
        samples, _ = librosa.effects.trim(
            samples, top_db=settings.trim_db, frame_length=settings.n_fft, hop_length=settings.hop
        )
    samples = librosa.util.fix_length(
        samples, size=max(len(samples), settings.n_fft)
    )  # a click leaves less than a frame
    spectrum = librosa.stft(samples, n_fft=settings.n_fft, hop_length=settings.hop)
    mel = filter_banks(settings.n_fft, settings.n_mels, tuple(settings.warps)) @ (
        spectrum.real**2 + spectrum.imag**2
    )
    decibels = np.mean(
        [librosa.power_to_db(one) for one in np.split(mel, len(settings.warps))], axis=0
    )
    found = librosa.feature.mfcc(S=decibels, n_mfcc=settings.n_mfcc)
    fewest = max(DELTA_WIDTH, settings.dct_terms, *settings.segments, 0)
    return np.pad(found, ((0, 0), (0, max(0, fewest - found.shape[1]))), mode="edge")


def statistics(tracks: np.ndarray, names: list[str]) -> np.ndarray:
    """Statistics of each row of `tracks`, shape (rows, frames), over its frames: shape (names,
    rows)."""
    mean, std = tracks.mean(axis=1), tracks.std(axis=1)
    normal = (tracks - mean[:, None]) / np.maximum(std, TINY)[:, None]
    square = normal * normal  # many times as fast as powers of 3 and 4
    found = {
        "mean": mean,
        "std": std,
        "skew": (square * normal).mean(axis=1),
        "kurtosis": (square * square).mean(axis=1) - 3,
    }
    percentiles = [name for name in names if name not in found]
    values = np.percentile(
        np.sort(tracks, axis=1),
        [int(name[1:]) for name in percentiles],
        axis=1,
        overwrite_input=True,
    )
    found |= dict(zip(percentiles, values, strict=True))
    return np.stack([found[name] for name in names])


def log_covariance(tracks: np.ndarray) -> np.ndarray:
    """Upper triangle of the matrix logarithm of the covariance of the rows of `tracks`, shape
    (rows, frames).

    Covariance matrices lie on a curved surface; their logarithms can be compared entry by entry
    (Arsigny et al. 2006, "Log-Euclidean metrics for fast and simple calculus on diffusion
    tensors").
    """
    variance, axes = np.linalg.eigh(np.cov(tracks))
    variance = np.maximum(variance, 0) + RIDGE * variance.mean() + TINY**2
    return ((axes * np.log(variance)) @ axes.T)[np.triu_indices(len(tracks))]


def describe(path: Path, settings: params.Mfcc) -> np.ndarray:
    """All features of one clip, in the order of `names`: shape (features,)."""
    mfcc = coefficients(audio.read(path), settings)
    tracks = [mfcc] + [
        librosa.feature.delta(mfcc, order=order, width=DELTA_WIDTH)
        for order in range(1, settings.deltas + 1)
    ]
    low = np.concatenate([track[: settings.low_mfcc] for track in tracks[:2]])
    features = []
    if settings.statistics:
        features.append(statistics(np.concatenate(tracks), settings.statistics).ravel())
    if settings.dct_terms:
        shape = scipy.fft.dct(mfcc[: settings.dct_mfcc], axis=1, norm="ortho")[
            :, : settings.dct_terms
        ]
        features += [shape.ravel() / np.sqrt(mfcc.shape[1]), np.log([mfcc.shape[1]])]
    for parts in settings.segments:
        for part in np.array_split(low, parts, axis=1):
            features += [part.mean(axis=1), part.std(axis=1)]
    if settings.covariance:
        features.append(log_covariance(low))
    return np.concatenate(features)


def names(settings: params.Mfcc) -> list[str]:
    """The names of the features that `describe` computes."""

    def tracks(most: int, deltas: int) -> list[str]:
        suffixes = ("", "_delta", "_delta2")[: deltas + 1]
        return [
            f"mfcc{i:02}{suffix}" for suffix in suffixes for i in range(min(most, settings.n_mfcc))
        ]

    found = [
        f"stat_{track}_{name}"
        for name in settings.statistics
        for track in tracks(settings.n_mfcc, settings.deltas)
    ]
    low = tracks(settings.low_mfcc, min(settings.deltas, 1))
    if settings.dct_terms:
        found += [
            f"dct_{track}_{term}"
            for track in tracks(settings.dct_mfcc, 0)
            for term in range(settings.dct_terms)
        ]
        found.append("dct_log_frames")
    for parts in settings.segments:
        for part in range(1, parts + 1):
            found += [
                f"seg_{part}of{parts}_{track}_{name}" for name in ("mean", "std") for track in low
            ]
    if settings.covariance:
        found += [f"cov_{low[i]}_{low[j]}" for i, j in zip(*np.triu_indices(len(low)), strict=True)]
    return found


def table(paths: list[Path], settings: params.Mfcc) -> pd.DataFrame:
    """Features of all clips, on all cores: a row per path, in order.

    The first librosa call of a process loads numba, or has it compile, for longer than a core takes
    for hundreds of clips: this process makes it, and workers are forked from it with everything
    loaded. Each keeps to one thread.
    """
    with threadpool_limits(1):
        describe(paths[0], settings)
        rows = parallel.forked(functools.partial(describe, settings=settings), paths, "mfcc")
    features = pd.DataFrame(np.asarray(rows, np.float32), columns=names(settings))
    features.insert(0, "clip", [path.stem for path in paths])
    return features
