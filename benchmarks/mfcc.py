"""Time the stage `mfcc` against the plain librosa loop on the same clips, in the same run, and
compare their values.

    python -m benchmarks.mfcc [--clips N]

Reads: data/audio/*.wav, params `mfcc`
"""

import argparse
import time
from pathlib import Path

import joblib
import librosa
import numpy as np
import scipy

from ser import audio, params
from ser.run import errors
from ser.svm import features

STATISTICS = {
    "mean": np.mean,
    "std": np.std,
    "skew": scipy.stats.skew,
    "kurtosis": scipy.stats.kurtosis,
}


def plain(path: Path, settings: params.Mfcc, dtype: type = np.float32) -> np.ndarray:
    """The features of `mfcc.describe` as loops are usually written: a library call for every step,
    nothing kept for later clips."""
    samples = audio.read(path).astype(dtype)
    if settings.trim_db is not None:
        samples, _ = librosa.effects.trim(
            samples, top_db=settings.trim_db, frame_length=settings.n_fft, hop_length=settings.hop
        )
    power = np.abs(librosa.stft(samples, n_fft=settings.n_fft, hop_length=settings.hop)) ** 2
    bins = np.arange(len(power))
    found = []
    for warp in settings.warps:
        stretched = scipy.interpolate.interp1d(bins, power, axis=0)(
            np.minimum(bins / warp, bins[-1])
        )
        mel = librosa.feature.melspectrogram(
            S=stretched, sr=audio.SAMPLE_RATE, n_fft=settings.n_fft, n_mels=settings.n_mels
        )
        found.append(librosa.feature.mfcc(S=librosa.power_to_db(mel), n_mfcc=settings.n_mfcc))
    coefficients = np.mean(found, axis=0)
    tracks = [coefficients] + [
        librosa.feature.delta(coefficients, order=order) for order in range(1, settings.deltas + 1)
    ]
    low, every = (
        np.concatenate([track[: settings.low_mfcc] for track in tracks[:2]]),
        np.concatenate(tracks),
    )
    values = []
    for name in settings.statistics:
        values.append(
            STATISTICS[name](every, axis=1)
            if name in STATISTICS
            else np.percentile(every, int(name[1:]), axis=1)
        )
    if settings.dct_terms:
        shape = scipy.fft.dct(coefficients[: settings.dct_mfcc], axis=1, norm="ortho")[
            :, : settings.dct_terms
        ]
        values += [
            shape.ravel() / np.sqrt(coefficients.shape[1]),
            [np.log(coefficients.shape[1])],
        ]
    for parts in settings.segments:
        values += [
            statistic(part, axis=1)
            for part in np.array_split(low, parts, axis=1)
            for statistic in (np.mean, np.std)
        ]
    if settings.covariance:
        spread, vectors = np.linalg.eigh(
            np.cov(low) + features.RIDGE * np.cov(low).trace() / len(low) * np.eye(len(low))
        )
        values.append((vectors @ np.diag(np.log(spread)) @ vectors.T)[np.triu_indices(len(low))])
    return np.concatenate(values)


@errors.one_line
def main() -> None:
    """Run both; print seconds, their ratio, and how far the features differ.

    Differences are in units of each feature's deviation over clips: that of the two, and what
    single precision costs the plain loop itself.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=None, help="number of clips; default: all")
    paths = sorted(Path("data/audio").glob("*.wav"))[: parser.parse_args().clips]
    settings = params.load().mfcc
    start = time.perf_counter()
    plain(paths[0], settings)
    print(
        f"{len(paths)} clips, {joblib.cpu_count()} cores; librosa's first call, in either: {time.perf_counter() - start:.1f} s"
    )

    start = time.perf_counter()
    expected = np.stack([plain(path, settings) for path in paths])
    loop = time.perf_counter() - start
    print(f"plain librosa loop: {loop:.1f} s, {1000 * loop / len(paths):.2f} ms per clip")

    start = time.perf_counter()
    table = features.table(paths, settings)
    stage = time.perf_counter() - start
    print(
        f"mfcc.table:         {stage:.1f} s, {1000 * stage / len(paths):.2f} ms per clip: {loop / stage:.1f} times as fast"
    )

    exact = np.stack([plain(path, settings, np.float64) for path in paths])
    pairs = {
        "largest difference": table.drop(columns="clip").to_numpy(),
        "of plain librosa to itself in float64": exact,
    }
    for what, values in pairs.items():
        largest = (np.abs(values - expected) / np.maximum(expected.std(axis=0), 1e-9)).max(axis=0)
        print(
            f"{what}: {largest.max():.1e} of a feature's standard deviation; median of the features {np.median(largest):.1e}"
        )


if __name__ == "__main__":
    main()
