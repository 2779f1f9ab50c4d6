"""Tables of features in Parquet files."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from ser import parquet

COLUMNS = ["a", "b"]


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 2)).astype(np.float32)


def test_what_is_written_as_it_comes_is_read_as_a_whole(tmp_path):
    count = 2 * parquet.TOGETHER + 3
    path, values, clips = tmp_path / "a.parquet", rows(count), [f"{i:05}" for i in range(count)]
    sizes = []

    def coming() -> Iterator[np.ndarray]:
        for row in values:
            sizes.append(path.stat().st_size if path.exists() else 0)
            yield row

    parquet.write(path, clips, COLUMNS, coming(), {"hop": 160, "names": ["é"]})
    assert len(set(sizes)) == 3, "nothing yet, the first rows, the second"
    table = pd.read_parquet(path)
    assert table.attrs == {"hop": 160, "names": ["é"]}
    assert pyarrow.parquet.ParquetFile(path).num_row_groups == 3
    whole = pd.DataFrame(values, columns=COLUMNS)
    whole.insert(0, "clip", clips)
    pd.testing.assert_frame_equal(table, whole, check_exact=True)


@pytest.mark.parametrize("count", [2, 4])
def test_other_rows_than_clips_are_no_table(tmp_path, count):
    with pytest.raises(ValueError, match="zip"):
        parquet.write(tmp_path / "a.parquet", ["x", "y", "z"], COLUMNS, rows(count), {})
