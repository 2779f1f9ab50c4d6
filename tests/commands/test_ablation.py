"""What the two measuring commands compute: paired differences, splits by statement, and what they
refuse."""

import numpy as np
import pandas as pd
import pytest
from conftest import one_line
from feature_tables import features, settings

from commands import ablation, cross_statement
from ser import corpus
from ser.run import errors
from stages import split

pytestmark = pytest.mark.slow  # whole stages and pipelines

FOLDS = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def clips(repetitions=(1, 2)) -> pd.DataFrame:
    names = [
        f"03-01-{emotion:02}-01-{statement:02}-{repetition:02}-{actor:02}"
        for emotion in range(1, 9) for statement in (1, 2) for repetition in repetitions for fold in FOLDS for actor in fold
    ]  # fmt: skip
    return split.assign(corpus.table(sorted(names)), FOLDS)


def predictions(rows: pd.DataFrame, wrong: np.ndarray) -> pd.DataFrame:
    names = rows["emotion"].to_numpy()
    predicted = np.where(wrong, np.where(names == "sad", "calm", "sad"), names)
    return rows[["clip", "actor", "fold"]].assign(actual=names, predicted=predicted)


def test_paired_difference_is_that_of_the_actors():
    rows = clips()
    numbers = rows.groupby("actor").cumcount().to_numpy()  # 32 clips of each of 9 actors
    default = predictions(rows, numbers < 8)
    better = predictions(rows, numbers < np.where(rows["actor"] == 1, 0, 4))
    by_actor = np.array([8] + 8 * [4]) / 32
    difference, error = ablation.paired(better, default)
    assert difference == pytest.approx(by_actor.mean())
    assert error == pytest.approx(by_actor.std(ddof=1) / 3)
    assert ablation.paired(default, default) == (0, 0)
    with pytest.raises(errors.UserError, match="same clips"):
        ablation.paired(better[1:], default)


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
    chosen = settings(blocks=[{"stat": 1.0}], kernel=["rbf"], C=[10.0], gamma=[1.0], inner_folds=2)
    found = cross_statement.predict(table, rows, chosen, "test")
    assert list(found.groupby("trained_on").size()) == [len(rows)] * 3
    right = found["actual"] == found["predicted"]
    crossed = found["trained_on"] == (3 - found["statement"]).astype(str)
    same = found["trained_on"] == found["statement"].astype(str)
    mixed = found["trained_on"] == "mixed"
    assert right[crossed].mean() < 0.5 < 0.6 < min(right[same].mean(), right[mixed].mean())
    cells = [cell.strip() for cell in cross_statement.row("stat", found).strip("|").split("|")]
    assert cells[3].startswith(f"{right[crossed].mean():.1%} / ")
    assert cells[4].startswith(f"{right[mixed].mean():.1%} / ")
    assert cells[5].startswith(f"{right[same].mean():.1%} / ")
    assert float(cells[6].split(" ± ")[0]) == pytest.approx(
        100 * (right[crossed].mean() - right[mixed].mean()), abs=0.06
    )


def test_ablation_refuses_unknown_names_changes_and_a_commit_without_results(project):
    one_line(project.command("ablation", "no-trimm"), "no-trimm", "no-trim,")
    one_line(project.command("ablation", "no-trim"), "dvc repro evaluate@svm")
    (project.path / "params.yaml").write_text((project.path / "params.yaml").read_text() + "\n")
    one_line(project.command("ablation", "no-trim"), "params.yaml", "commit")


def test_ablation_runs_what_is_missing_and_prints_the_table(project):
    """On the demo corpus: a variant is run once, and again from git."""
    words = (
        "corpus=demo", "demo.seconds=0.6", "demo.takes=1", "svm_train.kernel=[rbf]", "svm_train.C=[5]", "svm_train.inner_folds=2",
    )  # fmt: skip
    project.run(
        "dvc",
        "exp",
        "run",
        *[word for setting in words for word in ("-S", setting)],
        "evaluate@svm",
    )
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "results")
    first = project.command("ablation", "no-cov")
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| default", "| no covariance"]
    assert "`-S 'mfcc.covariance=false'`" in lines[3]
    assert "ablation-no-cov" in project.run("dvc", "exp", "list", "--name-only").stdout
    again = project.command("ablation", "no-cov")
    assert (again.stdout, again.stderr) == (first.stdout, "")
    assert not project.run("git", "status", "--porcelain").stdout
