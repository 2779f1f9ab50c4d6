"""The committed results, made again from the genuine corpus, where it lies beside the checkout."""

import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import REAL_CORPUS, ROOT
from ruamel.yaml import YAML


def outputs(lock: str) -> dict[str, str]:
    """The md5 of every output in a dvc.lock, by path."""
    stages = YAML(typ="safe").load(lock)["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_genuine_corpus_gives_the_committed_lock_and_metrics(project, tmp_path):
    committed = {
        name: (ROOT / name).read_text()
        for name in ("dvc.lock", "metrics/corpus.json", "metrics/svm.json")
    }
    archive = tmp_path / "Audio_Speech_Actors_01-24.zip"
    project.run(sys.executable, REAL_CORPUS / "unpack", archive)

    output = project.run("dvc", "repro", "evaluate@svm", RAVDESS_ARCHIVE=str(archive)).stdout
    made, expected = (
        outputs((project.path / "dvc.lock").read_text()),
        outputs(committed["dvc.lock"]),
    )
    for path in (
        "data/raw",
        "data/audio",
        "data/folds.csv",
        "metrics/corpus.json",
    ):  # integers: the same on every machine
        assert made[path] == expected[path], path
    figures, before = (
        json.loads((project.path / "metrics" / "svm.json").read_text()),
        json.loads(committed["metrics/svm.json"]),
    )
    for name in (
        "accuracy",
        "uar",
        "macro_f1",
    ):  # floating point: its last digits differ between processors
        assert figures[name] == pytest.approx(before[name], abs=0.005), name
    assert figures["accuracy"] >= 0.60
    assert set(re.findall("Running stage '(.+?)'", output)) >= {
        "download",
        "resample",
        "split",
        "mfcc",
        "svm_train",
    }

    assert "Running stage" not in project.run("dvc", "repro", "evaluate@svm").stdout

    rows, rng = pd.read_csv(project.path / "data/folds.csv"), np.random.default_rng(0)
    rows["emotion"] = rows.groupby("actor")["emotion"].transform(
        lambda own: rng.permutation(own.to_numpy())
    )
    rows.to_csv(project.path / "data/folds.csv", index=False)
    printed = project.stage("svm_train").stdout
    print("labels permuted within actor:", printed)
    right = float(re.search(r"accuracy on held-out actors: ([\d.]+)", printed)[1])
    assert right == pytest.approx(
        1 / 8, abs=0.03
    )  # three standard errors of 1440 clips, and a few more that all-one-class gains
