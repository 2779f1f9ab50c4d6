"""The command that measures how far MFCC + SVM leans on the words: its splits by statement, its
table, and what it refuses."""

from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from feature_tables import clips as table_of_clips
from feature_tables import features, write
from ruamel.yaml import YAML

from ser.run import errors
from studies import cross_statement

FOLDS = ((1, 2, 3), (4, 5, 6), (7, 8, 9))


def clips(repetitions=(1, 2)) -> pd.DataFrame:
    return table_of_clips(FOLDS, repetitions)


def test_training_shares_no_speaker_and_no_statement_with_its_test():
    rows = clips()
    for statement in (1, 2):
        train = rows[cross_statement.training(rows, 1, statement)]
        assert set(train["statement"]) == {statement}
        assert set(train["speaker"]) == {1, 2, 3, 7, 8, 9}
        assert len(train) == 8 * 2 * 6
    mixed = rows[cross_statement.training(rows, 1, "mixed")]
    kinds = ["speaker", "label", "intensity"]
    assert train.groupby(kinds).size().equals(mixed.groupby(kinds).size())
    assert set(mixed.groupby(kinds)["statement"].nunique()) == {2}
    with pytest.raises(errors.UserError, match="both repetitions"):
        cross_statement.training(clips(repetitions=(1,)), 0, 1)


@pytest.mark.slow
def test_text_that_features_match_costs_accuracy_on_the_other_statement(
    tmp_path, monkeypatch, capsys
):
    """Where labels stand in other places in statement 2, a model of statement 1 is at a loss
    there, and only there; the command prints so for each block and for all."""
    monkeypatch.chdir(tmp_path)
    rows = clips()
    table = features(rows, speaker=0)
    second = (rows["statement"] == 2).to_numpy()
    table[second] = features(rows, seed=1, speaker=0)[second]
    write(Path("data"), rows, table, {"n_mfcc": 10})
    few = {"kernel": ["rbf"], "C": [10.0], "gamma": [1.0], "inner_folds": 2}
    values = YAML().load(ROOT / "params.yaml")
    values["svm_train"].update(few)
    YAML().dump(values, Path("params.yaml"))
    cross_statement.main()
    header, rule, *lines, _, note = capsys.readouterr().out.splitlines()
    assert header.count("|") == rule.count("|") == 8
    assert "over training speakers" in note
    names = ["`stat` alone", "`dct` alone", "all, as in params.yaml"]
    for name, line in zip(names, lines, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[0] == name
        first, last, other, mixed, same = (float(cell.split("%")[0]) for cell in cells[1:6])
        assert other == pytest.approx((first + last) / 2, abs=0.1)
        assert other < 50 < 60 < same and other < mixed
        assert float(cells[6].split()[0]) == pytest.approx(other - mixed, abs=0.15)
