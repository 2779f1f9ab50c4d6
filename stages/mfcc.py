"""Describe every clip by numbers drawn from its MFCCs, in named columns whose prefix is their
block.

Reads:  data/audio/*.wav (16 kHz mono), params `mfcc`
Writes: data/mfcc.parquet: a row per clip, sorted by clip; the column clip, then float32 features in
        up to four blocks; the params in the file's metadata:
            stat_mfcc03_delta_p90    a statistic over all frames of a coefficient (mfcc00 is the
                                     level), of its delta or its delta2
            dct_mfcc05_2             term 2 of a DCT along the time of a coefficient, whatever the
                                     clip's length; dct_log_frames
            seg_2of3_mfcc07_mean     mean or standard deviation over the second third of the frames
            cov_mfcc03_mfcc07_delta  an entry of the logarithm of the covariance matrix of
                                     coefficients and deltas over the frames
"""

from pathlib import Path

from ser import params
from ser.run import errors, outputs, resources
from ser.svm import features


@errors.one_line
def main() -> None:
    """Describe all clips, write the table."""
    paths = sorted(Path("data/audio").glob("*.wav"))
    if not paths:
        raise errors.UserError("data/audio: no clips; `dvc repro resample` makes them")
    table = features.table(paths, params.load().mfcc)
    with outputs.whole("data/mfcc.parquet") as path:
        table.to_parquet(path, index=False)
    blocks = table.columns[1:].str.partition("_").get_level_values(0).value_counts(sort=False)
    sizes = ", ".join(f"{block} {size}" for block, size in blocks.items())
    print(f"{len(table)} clips, {blocks.sum()} features: {sizes}")
    resources.note("data/mfcc.parquet")


if __name__ == "__main__":
    main()
