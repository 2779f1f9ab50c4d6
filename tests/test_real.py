"""The committed results, made again from the genuine corpus, where it lies beside the checkout."""

import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import REAL_CORPUS
from ruamel.yaml import YAML


def outputs(lock: str) -> dict[str, str]:
    """The md5 of every output in a dvc.lock, by path."""
    stages = YAML(typ="safe").load(lock)["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_genuine_corpus_gives_the_committed_lock_and_metrics(project, tmp_path):
    expected = outputs((project.path / "dvc.lock").read_text())
    before = json.loads((project.path / "metrics" / "svm.json").read_text())
    archive = tmp_path / "Audio_Speech_Actors_01-24.zip"
    project.run(sys.executable, REAL_CORPUS / "unpack", archive)

    output = project.run("dvc", "repro", "evaluate@svm", RAVDESS_ARCHIVE=str(archive)).stdout
    stages = {"sources", "download", "resample", "split", "mfcc", "svm_train"}
    assert stages <= set(re.findall("Running stage '(.+?)'", output))
    produced = outputs((project.path / "dvc.lock").read_text())
    # Integers are the same on every machine, of floating point the last digits are not.
    for path in ("data/raw", "data/audio", "data/folds.csv", "metrics/corpus.json"):
        assert produced[path] == expected[path], path
    figures = json.loads((project.path / "metrics" / "svm.json").read_text())
    for name in ("accuracy", "uar", "macro_f1"):
        assert figures[name] == pytest.approx(before[name], abs=0.005), name
    assert figures["accuracy"] >= 0.60

    assert "Running stage" not in project.run("dvc", "repro", "evaluate@svm").stdout

    rows, rng = pd.read_csv(project.path / "data/folds.csv"), np.random.default_rng(0)
    rows["label"] = rows.groupby("speaker")["label"].transform(
        lambda own: rng.permutation(own.to_numpy())
    )
    rows.to_csv(project.path / "data/folds.csv", index=False)
    printed = project.stage("svm_train").stdout
    print("labels permuted within speaker:", printed)
    accuracy = float(re.search(r"accuracy on held-out speakers: ([\d.]+)", printed)[1])
    # Three standard errors of 1440 clips, and a few more that all-one-class gains.
    assert accuracy == pytest.approx(1 / 8, abs=0.03)
