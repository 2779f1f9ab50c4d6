"""A folder with made-up results of two models, to write a page of."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import voices
from conftest import ROOT
from ruamel.yaml import YAML

from ser.corpora import ravdess
from stages import sounds

TITLES = {"svm": "MFCC + SVM", "probe": "frozen encoder + probe"}  # the second with run and epochs


def predictions(share: float, seed: int) -> pd.DataFrame:
    """A clip of each label by each of twelve speakers, of which about `share` are right."""
    rng = np.random.default_rng(seed)
    rows = []
    for speaker in range(1, 13):
        for code, label in enumerate(ravdess.EMOTIONS, 1):
            weights = rng.random(8) ** 3 + 0.01
            right = rng.random() < share
            weights[code - 1 if right else code % 8] = 1 + 3 * rng.random()
            chances = weights / weights.sum()
            rows.append([
                f"03-01-{code:02}-01-{1 + speaker % 2:02}-01-{speaker:02}", speaker,
                (speaker - 1) // 4, label, ravdess.EMOTIONS[chances.argmax()], *chances,
            ])  # fmt: skip
    columns = ["clip", "speaker", "fold", "actual", "predicted", *ravdess.EMOTIONS]
    return pd.DataFrame(rows, columns=columns).sort_values("clip", ignore_index=True)


def make(folder: Path) -> Path:
    """A project's folder in which two models have predicted the 96 clips of `predictions`."""
    for name in ("data/audio", "metrics"):
        (folder / name).mkdir(parents=True)
    values = YAML().load(ROOT / "params.yaml")
    values.update(corpus="demo", folds=[0, 1, 2])
    YAML().dump(values, folder / "params.yaml")
    shutil.copytree(ROOT / "results", folder / "results")
    for seed, (model, share) in enumerate({"svm": 0.6, "probe": 0.8}.items()):
        place = folder / "data" / "predictions" / model
        place.mkdir(parents=True)
        predictions(share, seed).to_csv(place / "predictions.csv", index=False)
        (place / "protocol.txt").write_text(f"made up; seed {seed} <of none>\n")
    (place / "run.json").write_text(json.dumps({"device": "abacus", "versions": {"beads": "1.0"}}))
    epochs = {"fold": [0, 0], "epoch": [1, 2], "loss": [2.0, 1.0], "uar": [0.2, 0.5]}
    pd.DataFrame(epochs).to_csv(place / "epochs.csv", index=False)
    (folder / "metrics/corpus.json").write_text(json.dumps({"clips": 96, "stereo_files": 5}))
    clips = ravdess.table(f"{clip}.wav" for clip in predictions(1, 0)["clip"])
    clips.to_csv(folder / "data/clips.csv", index=False)
    table = pd.DataFrame({"label": ravdess.EMOTIONS, "clips": 12, "speakers": 12, "seconds": 19.2})
    table.to_csv(folder / "metrics/corpus.csv", index=False)
    for seed, clip in enumerate(predictions(1, 0)["clip"]):
        voices.clip(folder / f"data/audio/{clip}.wav", 0.4, seed % 7, silence=0.1)
    with contextlib.chdir(folder):
        sounds.main()
    return folder
