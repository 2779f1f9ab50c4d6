"""The mean of several models' predictions."""

import pytest
from test_scoring import predictions

from ser.corpus import EMOTIONS
from ser.run.errors import UserError
from stages.mean import mean


def test_the_mean_of_probabilities_decides():
    tables = [predictions(0.5, seed=seed).iloc[:1].copy() for seed in range(3)]
    for table, row in zip(tables, ([0.6, 0.4], [0.4, 0.6], [0.1, 0.9]), strict=True):
        table[list(EMOTIONS)] = 0.0
        table[["calm", "sad"]] = row
        table["predicted"] = "calm"
    together = mean(tables)
    assert list(together["predicted"]) == ["sad"]
    assert list(together[["calm", "sad"]].iloc[0]) == pytest.approx([1.1 / 3, 1.9 / 3])
    assert list(together.columns) == list(tables[0].columns)


def test_models_of_other_clips_are_refused():
    table = predictions(0.5)
    with pytest.raises(UserError, match="same clips"):
        mean([table, table.iloc[1:]])
