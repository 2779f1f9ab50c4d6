"""The command that measures how far MFCC + SVM leans on the words: its splits by statement, its
table, and what it refuses."""

import pandas as pd
import pytest
from conftest import one_line
from feature_tables import clips as table_of_clips
from feature_tables import data, features, grid, settings

from ser import scoring
from ser.run import errors
from studies import cross_statement

FOLDS = ((1, 2, 3), (4, 5, 6), (7, 8, 9))


def clips(repetitions=(1, 2)) -> pd.DataFrame:
    return table_of_clips(FOLDS, repetitions)


@pytest.mark.parametrize("statement", [1, 2])
def test_training_shares_no_actor_and_no_statement_with_its_test(statement):
    rows = clips()
    for fold in range(3):
        train = rows[cross_statement.training(rows, fold, statement)]
        test = rows[(rows["fold"] == fold) & (rows["statement"] != statement)]
        assert set(train["statement"]) == {statement}
        assert set(train["actor"]) == set(range(1, 10)) - set(FOLDS[fold])
        assert not set(train["actor"]) & set(test["actor"])
        assert len(train) == 8 * 2 * 6


def test_mixed_training_has_as_many_clips_of_each_kind():
    rows = clips()
    kinds = ["actor", "emotion", "intensity"]
    alone, mixed = (rows[cross_statement.training(rows, 1, kind)] for kind in (1, "mixed"))
    assert alone.groupby(kinds).size().equals(mixed.groupby(kinds).size())
    assert set(mixed.groupby(kinds)["statement"].nunique()) == {2}
    assert not set(mixed["fold"]) & {1}


def test_one_repetition_is_refused():
    with pytest.raises(errors.UserError, match="both repetitions"):
        cross_statement.training(clips(repetitions=(1,)), 0, 1)


def test_text_that_features_match_costs_accuracy_on_the_other_statement():
    """Where emotions stand in other places in statement 2, a model of statement 1 is at a loss
    there, and only there."""
    rows = clips()
    table = features(rows, speaker=0)
    second = (rows["statement"] == 2).to_numpy()
    table[second] = features(rows, seed=1, speaker=0)[second]
    chosen = settings(blocks=[{"stat": 1.0}], kernel=["rbf"], C=[10.0], gamma=[1.0])
    predicted = cross_statement.predict(data(rows, table), grid(chosen, table), 2, "test")
    assert list(predicted.groupby("trained_on").size()) == [len(rows)] * 3
    right = predicted["actual"] == predicted["predicted"]
    crossed = predicted["trained_on"] == (3 - predicted["statement"]).astype(str)
    same = predicted["trained_on"] == predicted["statement"].astype(str)
    mixed = predicted["trained_on"] == "mixed"
    assert right[crossed].mean() < 0.5 < 0.6 < min(right[same].mean(), right[mixed].mean())
    cells = [cell.strip() for cell in cross_statement.row("stat", predicted).strip("|").split("|")]
    assert cells[3].startswith(f"{right[crossed].mean():.1%} / ")
    assert cells[4].startswith(f"{right[mixed].mean():.1%} / ")
    assert cells[5].startswith(f"{right[same].mean():.1%} / ")
    other, reference = (
        predicted[rows].sort_values("clip", ignore_index=True) for rows in (crossed, mixed)
    )
    bounds = scoring.differences(other, reference)
    low, high = (100 * bounds[f"accuracy_{bound}"] for bound in ("low", "high"))
    difference = 100 * (right[crossed].mean() - right[mixed].mean())
    assert cells[6] == f"{difference:+.1f} [{low:+.1f}, {high:+.1f}]"


@pytest.mark.slow
def test_the_command_prints_a_line_for_each_block_and_one_for_all(project):
    """On a table of two blocks, as `mfcc` would have written it."""
    rows, folder = clips(), project.path / "data"
    one_line(project.command("cross_statement"), "data/folds.csv", "dvc repro")
    folder.mkdir()
    rows.to_csv(folder / "folds.csv", index=False)
    table = features(rows)
    table.insert(0, "clip", rows["clip"])
    table.attrs = {"n_mfcc": 10}
    table.to_parquet(folder / "mfcc.parquet", index=False)
    done = project.command("cross_statement")
    assert done.returncode == 0, done.stderr
    header, rule, *lines, empty, note = done.stdout.splitlines()
    assert header.count("|") == rule.count("|") == lines[0].count("|") == 8
    assert [line.split(" | ")[0] for line in lines] == [
        "| `stat` alone", "| `dct` alone", "| all, as in params.yaml",
    ]  # fmt: skip
    assert "over training actors" in note
    assert not project.run("git", "status", "--porcelain").stdout
