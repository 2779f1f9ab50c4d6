"""Compute statistics of every clip's MFCCs, in named columns whose prefix is their block.

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

import functools
from collections import Counter
from pathlib import Path

from ser import mfcc, params, parquet
from ser.run import errors, outputs, parallel, resources


@errors.one_line
def main() -> None:
    """Compute the features of all clips, on all cores; write the table."""
    paths = sorted(Path("data/audio").glob("*.wav"))
    if not paths:
        raise errors.UserError("data/audio: no clips; `dvc repro resample` makes them")
    settings = params.load().mfcc
    columns = mfcc.feature_names(settings)
    describe = functools.partial(mfcc.describe_file, settings=settings)
    with outputs.whole("data/mfcc.parquet") as path:
        rows = parallel.streamed(describe, paths, "mfcc")
        parquet.write(path, [path.stem for path in paths], columns, rows, settings.model_dump())
    blocks = Counter(name.partition("_")[0] for name in columns)
    sizes = ", ".join(f"{block} {size}" for block, size in blocks.items())
    print(f"{len(paths)} clips, {len(columns)} features: {sizes}")
    resources.note("data/mfcc.parquet")


if __name__ == "__main__":
    main()
