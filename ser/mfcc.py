"""Statistics of the MFCCs of a clip, in named columns whose prefix is their block."""

import functools
from collections.abc import Sequence
from pathlib import Path

import librosa
import numpy as np
import pandas as pd
import scipy

from ser import audio, params
from ser.run import parallel

DELTA_WIDTH = 9  # frames that librosa fits a slope to
LOUDNESS_RANGE = 80  # dB under the loudest band that librosa keeps
TINY = 1e-6  # dB: far below anything audible, keeps a constant track from dividing by nothing
# Share of the mean variance added to every direction, so that any covariance has a logarithm.
RIDGE = 1e-3

# librosa computes these anew for each clip. `np.pad` is avoided below, since the Python around it
# takes longer than the work.
slopes = functools.cache(scipy.signal.savgol_coeffs)


@functools.cache
def hann(size: int) -> np.ndarray:
    """Hann window: float32, shape (size,)."""
    return scipy.signal.get_window("hann", size).astype(np.float32)


@functools.cache
def filter_banks(n_fft: int, n_mels: int, warps: tuple[float, ...]) -> scipy.sparse.csr_array:
    """Mel filters for the frequency axis stretched by each of `warps`.

    They are kept, since building them takes longer than the features of a clip.

    Returns:
        float32, shape (warps * n_mels, 1 + n_fft // 2), nearly all of it zero.
    """
    mel = librosa.filters.mel(sr=audio.SAMPLE_RATE, n_fft=n_fft, n_mels=n_mels)
    bins = np.arange(mel.shape[1])
    stretches = [
        np.stack([np.interp(bins / warp, bins, unit) for unit in np.eye(len(bins))], axis=1)
        for warp in warps
    ]
    filters = np.concatenate([mel @ stretch for stretch in stretches])
    return scipy.sparse.csr_array(filters.astype(np.float32))


def power_spectrum(samples: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    """Power spectrogram: the squared magnitudes of `librosa.stft`, all frames in one call.

    Args:
        samples: float32, shape (n,).

    Returns:
        float32, shape (1 + n_fft // 2, frames).
    """
    edge = np.zeros(n_fft // 2, samples.dtype)
    padded = np.concatenate([edge, samples, edge])
    frames = librosa.util.frame(padded, frame_length=n_fft, hop_length=hop, axis=0)
    spectrum = scipy.fft.rfft(frames * hann(n_fft), axis=1).T
    return spectrum.real**2 + spectrum.imag**2


def delta(tracks: np.ndarray, order: int) -> np.ndarray:
    """Deltas: the derivative of order `order` of the polynomial of that degree that fits best to
    `DELTA_WIDTH` frames.

    The values are those of `librosa.feature.delta`. That derivative is constant within a fit: at
    the edges the first and the last fit's value is repeated.

    Args:
        tracks: shape (rows, frames), at least `DELTA_WIDTH` frames.
        order: 1: slope; 2: curvature.

    Returns:
        of the same shape.
    """
    weights = slopes(DELTA_WIDTH, order, deriv=order, use="dot")
    edge, last = DELTA_WIDTH // 2, tracks.shape[1] - 1
    inside = np.clip(np.arange(last + 1), edge, last - edge)
    return np.take(scipy.ndimage.correlate1d(tracks, weights, axis=1), inside, axis=1)


def coefficients(samples: np.ndarray, settings: params.Mfcc) -> np.ndarray:
    """MFCCs of a clip without the silence at its ends.

    As by `librosa.effects.trim` and `librosa.feature.mfcc`, averaged over stretched frequency axes,
    that is over longer and shorter vocal tracts (after Jaitly and Hinton 2013, "Vocal Tract Length
    Perturbation improves speech recognition", who train on the stretched copies one by one).

    Args:
        samples: float32 in [-1, 1], shape (n,).

    Returns:
        float32, shape (n_mfcc, frames), the last frame repeated where there are too few.
    """
    if settings.trim_db is not None:
        samples, _ = librosa.effects.trim(
            samples, top_db=settings.trim_db, frame_length=settings.n_fft, hop_length=settings.hop
        )
    # A click leaves less than a frame.
    samples = librosa.util.fix_length(samples, size=max(len(samples), settings.n_fft))
    power = power_spectrum(samples, settings.n_fft, settings.hop)
    mel = filter_banks(settings.n_fft, settings.n_mels, tuple(settings.warps)) @ power
    decibels = librosa.power_to_db(mel, top_db=None).reshape(-1, settings.n_mels, power.shape[1])
    lowest = decibels.max(axis=(1, 2), keepdims=True) - LOUDNESS_RANGE
    decibels = np.maximum(decibels, lowest).mean(axis=0)
    mfcc = librosa.feature.mfcc(S=decibels, n_mfcc=settings.n_mfcc)
    fewest = max(DELTA_WIDTH, settings.dct_terms, *settings.segments, 0)
    return np.take(mfcc, np.arange(max(fewest, mfcc.shape[1])), axis=1, mode="clip")


def statistics(tracks: np.ndarray, names: list[str]) -> np.ndarray:
    """Statistics of each row of `tracks` over its frames.

    Args:
        tracks: shape (rows, frames).
        names: mean, std, skew, kurtosis (less 3), or pN for the Nth percentile.

    Returns:
        shape (names, rows).
    """
    mean, std = tracks.mean(axis=1), tracks.std(axis=1)
    normal = (tracks - mean[:, None]) / np.maximum(std, TINY)[:, None]
    square = normal * normal  # many times as fast as powers of 3 and 4
    values = {
        "mean": mean,
        "std": std,
        "skew": (square * normal).mean(axis=1),
        "kurtosis": (square * square).mean(axis=1) - 3,
    }
    percentiles = [name for name in names if name not in values]
    ranks = [int(name[1:]) for name in percentiles]
    ranked = np.percentile(np.sort(tracks, axis=1), ranks, axis=1, overwrite_input=True)
    values |= dict(zip(percentiles, ranked, strict=True))
    return np.stack([values[name] for name in names])


def log_covariance(tracks: np.ndarray) -> np.ndarray:
    """Upper triangle of the matrix logarithm of the covariance of the rows of `tracks`.

    Covariance matrices lie on a curved surface; their logarithms can be compared entry by entry
    (Arsigny et al. 2006, "Log-Euclidean metrics for fast and simple calculus on diffusion
    tensors").

    Args:
        tracks: shape (rows, frames).

    Returns:
        shape (rows * (rows + 1) / 2,).
    """
    variance, axes = np.linalg.eigh(np.cov(tracks))
    variance = np.maximum(variance, 0) + RIDGE * variance.mean() + TINY**2
    return ((axes * np.log(variance)) @ axes.T)[np.triu_indices(len(tracks))]


def describe(samples: np.ndarray, settings: params.Mfcc) -> np.ndarray:
    """All features of one clip, in the order of `feature_names`: shape (features,).

    Args:
        samples: float32 in [-1, 1], shape (n,), 16 kHz.
    """
    mfcc = coefficients(samples, settings)
    tracks = [mfcc] + [delta(mfcc, order) for order in range(1, settings.deltas + 1)]
    low = np.concatenate([track[: settings.low_mfcc] for track in tracks[:2]])
    frames = mfcc.shape[1]
    features = []
    if settings.statistics:
        features.append(statistics(np.concatenate(tracks), settings.statistics).ravel())
    if settings.dct_terms:
        terms = scipy.fft.dct(mfcc[: settings.dct_mfcc], axis=1, norm="ortho")
        terms = terms[:, : settings.dct_terms]
        features += [terms.ravel() / np.sqrt(frames), np.log([frames])]
    for parts in settings.segments:
        for part in np.array_split(low, parts, axis=1):
            features += [part.mean(axis=1), part.std(axis=1)]
    if settings.covariance:
        features.append(log_covariance(low))
    return np.concatenate(features)


def feature_names(settings: params.Mfcc) -> list[str]:
    """The names of the features that `describe` computes."""

    def tracks(most: int, deltas: int) -> list[str]:
        suffixes = ("", "_delta", "_delta2")[: deltas + 1]
        numbers = range(min(most, settings.n_mfcc))
        return [f"mfcc{i:02}{suffix}" for suffix in suffixes for i in numbers]

    low = tracks(settings.low_mfcc, min(settings.deltas, 1))
    every = tracks(settings.n_mfcc, settings.deltas)
    columns = [f"stat_{track}_{name}" for name in settings.statistics for track in every]
    if settings.dct_terms:
        courses = tracks(settings.dct_mfcc, 0)
        columns += [f"dct_{track}_{n}" for track in courses for n in range(settings.dct_terms)]
        columns.append("dct_log_frames")
    for parts in settings.segments:
        for part in range(1, parts + 1):
            columns += [f"seg_{part}of{parts}_{t}_{name}" for name in ("mean", "std") for t in low]
    if settings.covariance:
        pairs = zip(*np.triu_indices(len(low)), strict=True)
        columns += [f"cov_{low[i]}_{low[j]}" for i, j in pairs]
    return columns


def describe_file(path: Path, settings: params.Mfcc) -> np.ndarray:
    """`describe` of a WAV file that `resample` wrote."""
    return describe(audio.read(path), settings)


def table(paths: Sequence[Path], settings: params.Mfcc, desc: str | None = "mfcc") -> pd.DataFrame:
    """Features of all clips, on all cores.

    Args:
        paths: WAV files, 16 kHz mono.
        desc: name of the progress bar; None: no bar.

    Returns:
        The column clip, then the float32 columns of `feature_names`; a row per path, in order. Its
        `attrs` hold the settings, which Parquet keeps: a model trained on it can describe any new
        clip.

    Raises:
        UserError: a path is not such a file.
    """
    one_clip = functools.partial(describe_file, settings=settings)
    rows = parallel.over(one_clip, paths, desc)
    features = pd.DataFrame(np.asarray(rows, np.float32), columns=feature_names(settings))
    features.insert(0, "clip", [path.stem for path in paths])
    features.attrs = settings.model_dump()
    return features
