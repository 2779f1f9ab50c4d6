"""Describe every clip by numbers drawn from its MFCCs, in named columns whose prefix is their block.

Reads:  data/audio/*.wav (16 kHz mono), params `mfcc`
Writes: data/mfcc.parquet: a row per clip, sorted by clip; the column clip, then float32 features, in blocks:
        stat_mfcc03_delta_p90   a statistic over all frames of a coefficient (mfcc00 is the level), its delta or delta2
        dct_mfcc05_2            term 2 of a DCT along the time of a coefficient: its shape, whatever the clip's length; dct_log_frames
        seg_2of3_mfcc07_mean    mean or standard deviation over the second third of the frames
"""

import functools
from pathlib import Path

import joblib
import librosa
import numpy as np
import pandas as pd
import scipy

from stages import audio, errors, outputs, parallel, params

DELTA_WIDTH = 9  # frames that librosa fits a delta to


@functools.cache
def filter_bank(n_fft: int, n_mels: int) -> np.ndarray:
    """Mel filters, shape (n_mels, 1 + n_fft // 2): librosa rebuilds them for every clip, which takes a third of the time."""
    return librosa.filters.mel(sr=audio.SAMPLE_RATE, n_fft=n_fft, n_mels=n_mels)


def coefficients(samples: np.ndarray, settings: params.Mfcc) -> np.ndarray:
    """MFCCs of the clip without the silence at its ends: float32, shape (n_mfcc, frames), at least `DELTA_WIDTH` frames.

    The values are those of `librosa.effects.trim` and `librosa.feature.mfcc`.
    """
    if settings.trim_db is not None:
        samples, _ = librosa.effects.trim(samples, top_db=settings.trim_db, frame_length=settings.n_fft, hop_length=settings.hop)
    spectrum = librosa.stft(samples, n_fft=settings.n_fft, hop_length=settings.hop)
    mel = filter_bank(settings.n_fft, settings.n_mels) @ (spectrum.real**2 + spectrum.imag**2)
    found = librosa.feature.mfcc(S=librosa.power_to_db(mel), n_mfcc=settings.n_mfcc)
    return np.pad(found, ((0, 0), (0, max(0, DELTA_WIDTH - found.shape[1]))), mode="edge")


def statistics(frames: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    """Statistics along the last axis of `frames`, shape (rows, frames): by name, an array of shape (rows,) each."""
    percentiles = [name for name in names if name.startswith("p")]
    found = dict(zip(percentiles, np.percentile(frames, [int(name[1:]) for name in percentiles], axis=1), strict=True))
    others = {"mean": np.mean, "std": np.std, "min": np.min, "max": np.max, "skew": scipy.stats.skew, "kurtosis": scipy.stats.kurtosis}
    return {name: found[name] if name in found else others[name](frames, axis=1) for name in names}


def describe(path: Path, settings: params.Mfcc) -> dict[str, float]:
    """All features of one clip, by name."""
    mfcc = coefficients(audio.read(path), settings)
    tracks = [mfcc] + [librosa.feature.delta(mfcc, order=order) for order in range(1, settings.deltas + 1)]
    names = [f"mfcc{i:02}{kind}" for kind in ("", "_delta", "_delta2")[: len(tracks)] for i in range(settings.n_mfcc)]
    features = {}
    for name, values in statistics(np.concatenate(tracks), settings.statistics).items():
        features |= {f"stat_{track}_{name}": value for track, value in zip(names, values, strict=True)}
    if settings.dct_terms:
        shape = scipy.fft.dct(mfcc[: settings.dct_mfcc], axis=1, norm="ortho")[:, : settings.dct_terms] / np.sqrt(mfcc.shape[1])
        features |= {f"dct_mfcc{i:02}_{k}": value for (i, k), value in np.ndenumerate(shape)}
        features["dct_log_frames"] = np.log(mfcc.shape[1])
    low = [mfcc[: settings.segment_mfcc] for mfcc in tracks[:2]]
    names = [f"mfcc{i:02}{kind}" for kind in ("", "_delta")[: len(low)] for i in range(len(low[0]))]
    for parts in settings.segments:
        for part, frames in enumerate(np.array_split(np.concatenate(low), parts, axis=1)):
            for name, values in statistics(frames, ["mean", "std"]).items():
                features |= {f"seg_{part + 1}of{parts}_{track}_{name}": value for track, value in zip(names, values, strict=True)}
    return features


def table(paths: list[Path], settings: params.Mfcc) -> pd.DataFrame:
    """Features of all clips, on all cores: a row per path, in order.

    Threads, not processes: the first librosa call of a process loads, or compiles, dozens of numba functions, which takes longer
    than all the clips of the corpus; and the arithmetic lets go of Python's lock.
    """
    filter_bank(settings.n_fft, settings.n_mels)
    with joblib.parallel_config(backend="threading"):
        rows = parallel.over(functools.partial(describe, settings=settings), paths, "mfcc")
    features = pd.DataFrame(rows, dtype=np.float32)
    features.insert(0, "clip", [path.stem for path in paths])
    return features


@errors.one_line
def main() -> None:
    """Describe all clips, write the table."""
    settings = params.load().mfcc
    features = table(sorted(Path("data/audio").glob("*.wav")), settings)
    with outputs.whole("data/mfcc.parquet") as path:
        features.to_parquet(path, index=False)
    blocks = features.columns[1:].str.partition("_").get_level_values(0).value_counts(sort=False)
    print(f"{len(features)} clips, features: " + ", ".join(f"{block} {size}" for block, size in blocks.items()))


if __name__ == "__main__":
    main()
