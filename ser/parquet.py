"""Tables of features, a row per clip, in Parquet files that are written as their rows come."""

import contextlib
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

TOGETHER = 512  # rows in memory: a few MB of the widest tables


def write(
    path: Path,
    clips: Sequence[str],
    columns: Sequence[str],
    rows: Iterable[np.ndarray],
    attrs: dict,
) -> None:
    """Write the table as `pandas.read_parquet` reads it; memory does not grow with it.

    Args:
        path: of the file.
        clips: the column clip.
        columns: names of the others, float32.
        rows: their numbers, shape (len(columns),), in the order of `clips`.
        attrs: the table's, which JSON has to be able to hold.
    """
    left = zip(clips, rows, strict=True)
    with contextlib.ExitStack() as stack:
        writer = None
        while group := list(itertools.islice(left, TOGETHER)):
            names, values = zip(*group, strict=True)
            frame = pd.DataFrame(np.asarray(values, np.float32), columns=list(columns))
            frame.insert(0, "clip", names)
            table = pa.Table.from_pandas(frame, preserve_index=False)
            # Where pandas looks for attrs.
            notes = {**table.schema.metadata, b"PANDAS_ATTRS": json.dumps(attrs)}
            table = table.replace_schema_metadata(notes)
            if writer is None:
                writer = stack.enter_context(
                    parquet.ParquetWriter(path, table.schema, use_dictionary=["clip"])
                )
            writer.write_table(table)
