"""The study of what each part of MFCC + SVM is worth: its table, and what it refuses."""

import subprocess

import numpy as np
import pandas as pd
import pytest
from conftest import one_line
from feature_tables import clips

from ser import scoring
from studies import ablation


def predictions(rows: pd.DataFrame, wrong: np.ndarray) -> pd.DataFrame:
    names = rows["emotion"].to_numpy()
    predicted = np.where(wrong, np.where(names == "sad", "calm", "sad"), names)
    return rows[["clip", "actor", "fold"]].assign(actual=names, predicted=predicted)


def test_a_variant_s_line_has_the_paired_difference_with_its_bounds():
    rows = clips(((1, 2, 3), (4, 5, 6), (7, 8, 9)), repetitions=(1, 2))
    numbers = rows.groupby("actor").cumcount().to_numpy()  # 32 clips of each of 9 actors
    default = predictions(rows, numbers < 8)
    better = predictions(rows, numbers < np.where(rows["actor"] == 1, 0, 4))
    cells = ablation.row("better", ("a.b=1", "c=2"), better, default).strip("| ").split(" | ")
    assert cells[:2] == ["better", "`-S 'a.b=1'` `-S 'c=2'`"]
    assert cells[2] == f"{1 - (8 * 4) / (9 * 32):.1%}"
    bounds = scoring.differences(better, default)
    low, high = (100 * bounds[f"accuracy_{bound}"] for bound in ("low", "high"))
    assert cells[4] == f"{100 * (8 + 8 * 4) / (9 * 32):+.1f} [{low:+.1f}, {high:+.1f}]"
    assert ablation.row("default", (), default, default).endswith("|  |")


@pytest.mark.slow
def test_ablation_runs_what_is_missing_and_prints_the_table(clone):
    """On the demo corpus: a variant is run once, and again from git."""

    def ablation(*names: str) -> subprocess.CompletedProcess:
        return clone.run("python", "-m", "studies.ablation", *names, check=False)

    one_line(ablation("no-trimm"), "no-trimm", "no-trim,")
    first = ablation("no-cov")
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| default", "| no covariance"]
    assert lines[-1].startswith("In brackets: 95 % bounds")
    assert "`-S 'mfcc.covariance=false'`" in lines[3]
    assert "ablation-no-cov" in clone.run("dvc", "exp", "list", "--name-only").stdout
    again = ablation("no-cov")
    assert (again.stdout, again.stderr) == (first.stdout, "")
    assert not clone.run("git", "status", "--porcelain").stdout

    with (clone.path / "params.yaml").open("a") as file:
        file.write("# edited\n")
    one_line(ablation("no-cov"), "params.yaml", "commit")
    clone.run("git", "switch", "--quiet", "--discard-changes", "main")
    one_line(ablation("no-cov"), "dvc repro evaluate@svm")
