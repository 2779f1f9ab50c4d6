"""A folder with made-up results of two models, to write a page of."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import voices
from conftest import ROOT
from ruamel.yaml import YAML

from ser import corpus

TITLES = {"svm": "MFCC + SVM", "probe": "frozen encoder + probe"}


def predictions(share: float, seed: int) -> pd.DataFrame:
    """A clip of each emotion by each of twelve actors, of which about `share` are right."""
    rng = np.random.default_rng(seed)
    rows = []
    for actor in range(1, 13):
        for code, emotion in enumerate(corpus.EMOTIONS, 1):
            weights = rng.random(8) ** 3 + 0.01
            right = rng.random() < share
            weights[code - 1 if right else code % 8] = 1 + 3 * rng.random()
            chances = weights / weights.sum()
            rows.append([
                f"03-01-{code:02}-01-{1 + actor % 2:02}-01-{actor:02}", actor, (actor - 1) // 4,
                emotion, corpus.EMOTIONS[chances.argmax()], *chances,
            ])  # fmt: skip
    columns = ["clip", "actor", "fold", "actual", "predicted", *corpus.EMOTIONS]
    return pd.DataFrame(rows, columns=columns).sort_values("clip", ignore_index=True)


def make(folder: Path, sound: bool = True) -> Path:
    """A project's folder in which two models have predicted the 96 clips of `predictions`.

    Args:
        sound: whether there are clips to listen to.
    """
    for name in ("data/audio", "metrics"):
        (folder / name).mkdir(parents=True)
    values = YAML().load(ROOT / "params.yaml")
    values.update(corpus="demo", folds=[0, 1, 2])
    YAML().dump(values, folder / "params.yaml")
    shutil.copytree(ROOT / "results", folder / "results")
    for seed, (model, share) in enumerate({"svm": 0.6, "probe": 0.8}.items()):
        (folder / "data" / model).mkdir()
        predictions(share, seed).to_csv(folder / f"data/{model}/predictions.csv", index=False)
        (folder / f"metrics/{model}_protocol.txt").write_text(f"made up; seed {seed} <of none>\n")
    (folder / "metrics/corpus.json").write_text(json.dumps({"clips": 96, "stereo_files": 5}))
    table = pd.DataFrame({"emotion": corpus.EMOTIONS, "clips": 12, "actors": 12, "seconds": 19.2})
    table.to_csv(folder / "metrics/corpus.csv", index=False)
    if sound:
        for seed, clip in enumerate(predictions(1, 0)["clip"]):
            voices.clip(folder / f"data/audio/{clip}.wav", 0.4, seed % 7, silence=0.1)
    return folder
