"""Time the stage `mfcc` against the plain librosa loop on the same clips, and compare their values.

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
from ser import mfcc as features
from ser.run import errors

STATISTICS = {
    "mean": np.mean,
    "std": np.std,
    "skew": scipy.stats.skew,
    "kurtosis": scipy.stats.kurtosis,
}


def plain(path: Path, settings: params.Mfcc) -> np.ndarray:
    """The features of `features.describe` as loops are usually written: a library call for every
    step, nothing kept for later clips."""
    samples = audio.read(path)
    n_fft, hop = settings.n_fft, settings.hop
    if settings.trim_db is not None:
        samples, _ = librosa.effects.trim(
            samples, top_db=settings.trim_db, frame_length=n_fft, hop_length=hop
        )
    power = np.abs(librosa.stft(samples, n_fft=n_fft, hop_length=hop)) ** 2
    bins = np.arange(len(power))
    warped = []
    for warp in settings.warps:
        stretched = scipy.interpolate.interp1d(bins, power, axis=0)(
            np.minimum(bins / warp, bins[-1])
        )
        mel = librosa.feature.melspectrogram(
            S=stretched, sr=audio.SAMPLE_RATE, n_fft=n_fft, n_mels=settings.n_mels
        )
        warped.append(librosa.feature.mfcc(S=librosa.power_to_db(mel), n_mfcc=settings.n_mfcc))
    mfcc = np.mean(warped, axis=0)
    tracks = [mfcc] + [
        librosa.feature.delta(mfcc, order=order) for order in range(1, settings.deltas + 1)
    ]
    low = np.concatenate([track[: settings.low_mfcc] for track in tracks[:2]])
    every = np.concatenate(tracks)
    values = []
    for name in settings.statistics:
        if name in STATISTICS:
            values.append(STATISTICS[name](every, axis=1))
        else:
            values.append(np.percentile(every, int(name[1:]), axis=1))
    if settings.dct_terms:
        terms = scipy.fft.dct(mfcc[: settings.dct_mfcc], axis=1, norm="ortho")
        values.append(terms[:, : settings.dct_terms].ravel() / np.sqrt(mfcc.shape[1]))
        values.append([np.log(mfcc.shape[1])])
    for parts in settings.segments:
        for part in np.array_split(low, parts, axis=1):
            values += [np.mean(part, axis=1), np.std(part, axis=1)]
    if settings.covariance:
        covariance = np.cov(low)
        ridge = features.RIDGE * covariance.trace() / len(low) * np.eye(len(low))
        spread, axes = np.linalg.eigh(covariance + ridge)
        values.append((axes @ np.diag(np.log(spread)) @ axes.T)[np.triu_indices(len(low))])
    return np.concatenate(values)


@errors.one_line
def main() -> None:
    """Run both in turns; print seconds, their ratio, and the largest difference of a feature in
    units of its deviation over clips."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, help="number of clips; default: all")
    parser.add_argument("--repeats", type=int, default=1, help="the fastest run of each counts")
    options = parser.parse_args()
    paths = sorted(Path("data/audio").glob("*.wav"))[: options.clips]
    if not paths:
        raise errors.UserError("data/audio: no clips; `dvc repro resample` makes them")
    settings = params.load().mfcc
    plain(paths[0], settings)  # librosa compiles at its first call, in either

    loop, stage = [], []
    for _ in range(options.repeats):
        start = time.perf_counter()
        expected = np.stack([plain(path, settings) for path in paths])
        loop.append(time.perf_counter() - start)
        start = time.perf_counter()
        table = features.table(paths, settings)
        stage.append(time.perf_counter() - start)
    milliseconds = 1000 / len(paths)
    print(f"{len(paths)} clips, {joblib.cpu_count()} cores, fastest of {options.repeats}")
    print(f"plain librosa loop: {min(loop):.1f} s, {min(loop) * milliseconds:.2f} ms per clip")
    print(f"features.table:     {min(stage):.1f} s, {min(stage) * milliseconds:.2f} ms per clip")
    print(f"{min(loop) / min(stage):.1f} times as fast")
    difference = np.abs(table.drop(columns="clip").to_numpy() - expected).max(axis=0)
    print(f"largest difference: {(difference / expected.std(axis=0)).max():.1e} deviations")


if __name__ == "__main__":
    main()
