"""Tables of features, a row per clip, in Parquet files that are written as their rows come."""

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

TOGETHER = 4096  # rows in a group


def write(
    path: Path,
    clips: Sequence[str],
    columns: Sequence[str],
    rows: Iterable[np.ndarray],
    attrs: dict,
) -> None:
    """Write the table as `pandas.read_parquet` reads it. Memory holds one group of rows and the
    file's table of contents, some MB for each group.

    Args:
        path: of the file.
        clips: the column clip.
        columns: names of the others, float32.
        rows: their numbers, shape (len(columns),), in the order of `clips`.
        attrs: the table's, which JSON has to be able to hold.
    """
    fields = [("clip", pa.string()), *((name, pa.float32()) for name in columns)]
    # Where pandas looks for attrs.
    schema = pa.schema(fields, metadata={"PANDAS_ATTRS": json.dumps(attrs)})
    left = zip(clips, rows, strict=True)
    values = np.empty((len(columns), TOGETHER), np.float32)
    with parquet.ParquetWriter(
        path, schema, use_dictionary=["clip"], write_statistics=False
    ) as writer:
        for _ in range(0, len(clips), TOGETHER):
            names = []
            for place, (clip, row) in enumerate(itertools.islice(left, TOGETHER)):
                names.append(clip)
                values[:, place] = row
            writer.write_table(pa.table([pa.array(names), *values[:, : len(names)]], schema))
        next(left, None)  # for its strictness
