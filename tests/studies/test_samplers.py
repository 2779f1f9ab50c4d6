"""The benchmark against random search: it runs, and its page says what it measured."""

import re

import pandas as pd
import pytest
from conftest import ROOT

PAGE = (ROOT / "docs" / "searching.md").read_text()
PROSE = " ".join(PAGE.split())
SAMPLERS = ["gp", "tpe", "random"]  # in the order of the page's columns


@pytest.fixture(scope="module")
def best() -> pd.DataFrame:
    """The committed best scores, in percent: a row per number of trials, sampler and seed."""
    table = pd.read_csv(ROOT / "studies" / "samplers.csv")
    return table.assign(best=100 * table["best"])


def test_the_table_is_what_was_measured(best):
    rows = re.findall(r"^\| (\d+)[^|]*\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", PAGE, flags=re.M)
    rows = [row for row in rows if " to " in row[1]]
    assert [int(trials) for trials, *_ in rows] == [10, 15, 20, 30]
    for trials, *cells in rows:
        after = best[best["trial"] == int(trials)].groupby("sampler")["best"]
        for sampler, cell in zip(SAMPLERS, cells, strict=True):
            scores = after.get_group(sampler)
            expected = f"{scores.mean():.1f}, {scores.min():.1f} to {scores.max():.1f}"
            assert cell == expected, (trials, sampler)


def test_the_sentence_is_what_was_measured(best):
    last = best[best["trial"] == best["trial"].max()]
    last = last.pivot(index="seed", columns="sampler", values="best")
    ahead = last["gp"] - last["random"]
    (low, high) = re.search(r"with every seed, by ([\d.]+) to ([\d.]+) points", PROSE).groups()
    assert (low, high) == (f"{ahead.min():.1f}", f"{ahead.max():.1f}")
    assert (last["tpe"] > last["random"]).sum() == 4
    assert "TPE is with four of five" in PROSE
