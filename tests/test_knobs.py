"""Every knob of params.yaml changes what its stage is for: predictions, features, folds, clips.

A file that only names the knob, such as a protocol, does not count. That nothing changes without a
turn is tested where the stages are.
"""

import functools
import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import workplace
from conftest import ROOT
from dvc.utils.hydra import apply_overrides
from feature_tables import features
from ruamel.yaml import YAML
from test_docs import STAGES
from test_pipeline import leaves
from tiny_models import write_checkpoint

from ser import params
from ser.corpora import ravdess

pytestmark = pytest.mark.slow

# One candidate, and few steps: each knob turns what is left.
FEW = (
    "mfcc.warps=[1.0]", "svm_train.blocks=[{stat: 1, dct: 1}]", "svm_train.kernel=[rbf]",
    "svm_train.C=[5]", "svm_train.gamma=[0.5]", "probe_train.kernel=[logistic]",
    "probe_train.C=[5]",
)  # fmt: skip
NAMES = {seed: [f"layer{seed}_mean_{i:03}" for i in range(14)] for seed in range(3)}
THREE_FOLDS = [list(range(first, first + 8)) for first in (1, 9, 17)]

# For each group of knobs: the stages to run, the output that tells, and for each knob a value that
# it has not otherwise, with what must be so for it to matter.
GROUPS = [
    (
        ("checkpoint", "w2v_features", "w2v_finetune 0"),
        "data/w2v/fold_0/predictions.csv",
        {
            "checkpoint": ("empty", {"freeze_cnn": False}),
            "trim_db": (1.0, {}),
            "freeze_cnn": (False, {}),
            "frozen_layers": (1, {}),
            "head": ("layers", {}),
            "head_probe": (None, {"head": "layers"}),
            "head_dropout": (0.3, {}),
            "weighted_layer_sum": (True, {}),
            "lr": (1e-3, {}),
            "head_lr": (1e-3, {}),
            "adam_betas": ([0.8, 0.9], {}),
            "weight_decay": (0.5, {}),
            "max_grad_norm": (0.1, {}),
            "epochs": (1, {}),
            "batch_size": (4, {}),
            "micro_batch": (8, {}),
            "schedule": ("cosine", {}),
            "warmup": (0.5, {}),
            "decay_start": (0.3, {}),
            "batch_growth": (2.0, {"epochs": 3}),
            "dropout": (0.3, {}),
            "attention_dropout": (0.3, {}),
            "mask_time_prob": (0.5, {}),
            "mask_time_length": (4, {"mask_time_prob": 0.5}),
            "mask_feature_prob": (0.5, {"mask_feature_length": 2}),
            "mask_feature_length": (4, {"mask_feature_prob": 0.5}),
            "speeds": ([0.8, 1, 1.25], {}),
            "label_smoothing": (0.2, {}),
            "class_weights": (True, {}),
            "select": ("inner", {}),
            "precision": ("bf16", {}),
            "seed": (1, {}),
        },
    ),
    (
        ("mfcc",),
        "data/mfcc.parquet",
        {
            "mfcc.trim_db": (1.0, {}),
            "mfcc.n_fft": (256, {"mfcc.n_mels": 40}),
            "mfcc.hop": (200, {}),
            "mfcc.n_mels": (60, {}),
            "mfcc.warps": ([0.9], {}),
            "mfcc.n_mfcc": (30, {}),
            "mfcc.deltas": (1, {}),
            "mfcc.statistics": (["mean", "p50"], {}),
            "mfcc.dct_mfcc": (8, {}),
            "mfcc.dct_terms": (5, {}),
            "mfcc.segments": ([2], {}),
            "mfcc.low_mfcc": (10, {}),
            "mfcc.covariance": (False, {}),
        },
    ),
    (
        ("svm_train",),
        "data/predictions/svm/predictions.csv",
        {
            "svm_train.blocks": ([{"dct": 1.0}], {}),
            "svm_train.kernel": (["linear"], {}),
            "svm_train.C": ([0.1], {}),
            "svm_train.gamma": ([0.01], {}),
            "svm_train.inner_folds": (2, {}),
            "svm_train.speaker_norm": (True, {}),
        },
    ),
    (
        ("checkpoint", "embed"),
        "data/embeddings.parquet",
        {"embed.trim_db": (1.0, {}), "embed.seed": (1, {"checkpoint": "empty"})},
    ),
    (
        ("probe_train",),
        "data/predictions/probe/predictions.csv",
        {
            "probe_train.layers": ([1], {}),
            "probe_train.kernel": (["rbf"], {}),
            "probe_train.C": ([0.1], {}),
            "probe_train.gamma": ([0.01], {"probe_train.kernel": ["rbf"]}),
            "probe_train.inner_folds": (2, {}),
            "probe_train.speaker_norm": (True, {}),
        },
    ),
    (
        ("split",),
        "data/folds.csv",
        {"split.scheme": (THREE_FOLDS, {}), "split.seed": (1, {"split.scheme": "random"})},
    ),
    (
        ("svm_train", "evaluate svm"),
        "metrics/svm/confusion.png",
        {"folds": ([0], {}), "models": ({"svm": "another"}, {"mean": ["svm"]})},
    ),
    (("svm_train", "evaluate svm"), "metrics/svm/protocol.txt", {"corpus": ("demo", {})}),
    (
        ("svm_train", "probe_train", "mean"),
        "data/predictions/mean/predictions.csv",
        {"mean": (["svm"], {"mean": ["svm", "probe"]})},
    ),
    (
        ("download",),
        "data/raw",
        {
            "demo.takes": (1, {"corpus": "demo", "demo.seconds": 0.5}),
            "demo.seconds": (0.5, {"corpus": "demo", "demo.takes": 1}),
        },
    ),
]
ELSEWHERE = {"revision": "encoder/test_hub.py"}  # needs a hub
CASES = [
    pytest.param(stages, output, {knob: value}, given, id=knob)
    for stages, output, knobs in GROUPS
    for knob, (value, given) in knobs.items()
]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all stages run within seconds: a few clips of tones, a tiny checkpoint, one
    without weights; in `tables`, features of clips of all speakers."""
    folder = workplace.make(tmp_path_factory.mktemp("knobs") / "work", weights=True, epochs=2)
    apply_overrides(folder / "params.yaml", list(FEW))
    shutil.copy(folder / "params.yaml", folder / "unchanged.yaml")
    write_checkpoint(folder / "empty")
    tables = folder / "tables" / "data"
    names = [name for name in ravdess.read_manifest(ravdess.MANIFEST) if "-01-01-01-" in name]
    for name in names:
        (tables / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (tables / "raw" / name).touch()
    clips = ravdess.table(names)
    clips.to_csv(tables / "clips.csv", index=False)
    clips["fold"] = (clips["speaker"] - 1) // 8
    clips.to_csv(tables / "folds.csv", index=False)
    table = features(clips)
    table.insert(0, "clip", clips["clip"])
    table.attrs = {"made": "up"}
    table.to_parquet(tables / "mfcc.parquet", index=False)
    layers = [features(clips, seed).set_axis(NAMES[seed], axis=1) for seed in NAMES]
    table = pd.concat([clips["clip"], *layers], axis=1)
    table.attrs = {"made": "up"}
    table.to_parquet(tables / "embeddings.parquet", index=False)
    shutil.copytree(folder / "empty", tables / "checkpoint")
    return folder


@pytest.fixture(scope="module")
def unturned() -> dict[tuple, dict[str, str]]:
    """Outputs of `make` without a change, for the next knob of the same stages."""
    return {}


READY: dict[Path, tuple] = {}  # by folder: the stages before the last, and the knobs of theirs


def prepare(folder: Path, stages: tuple[str, ...], changes: dict) -> None:
    """Run the stages before the last, unless they have just run with the same values."""
    declared = [f"{key}." for name in stages for key in STAGES[name].get("params", [])]
    theirs = {key: changes[key] for key in changes if f"{key}.".startswith(tuple(declared))}
    if READY.get(folder) != (stages, theirs):
        workplace.run(folder, *stages)
    READY[folder] = stages, theirs


def make(work: Path, stages: tuple[str, ...], output: str, changes: dict) -> dict[str, str]:
    """Run the stages with params changed; the hash of each file of the output, by path. Of a
    Parquet file that of its table, without the params that are written beside it."""
    folder = work if stages[0] in ("checkpoint", "mfcc", "download") else work / "tables"
    values = YAML().load(work / "unchanged.yaml")
    for name, value in {"folds": [0, 1, 2], **changes}.items():
        *sections, key = name.split(".")
        functools.reduce(lambda section, name: section[name], sections, values)[key] = value
    YAML().dump(values, folder / "params.yaml")
    prepare(folder, stages[:-1], changes)
    workplace.run(folder, stages[-1])
    if output.endswith(".parquet"):
        table = pd.read_parquet(folder / output).to_csv()
        return {output: hashlib.sha256(table.encode()).hexdigest()}
    digests = workplace.digest((folder / output).parent)
    return {path: digest for path, digest in digests.items() if path.startswith(Path(output).name)}


@pytest.mark.parametrize(("stages", "output", "change", "given"), CASES)
def test_a_knob_does_something(work, unturned, stages, output, change, given):
    key = (stages, output, json.dumps(given, sort_keys=True))
    if key not in unturned:
        unturned[key] = make(work, stages, output, given)
    turned = make(work, stages, output, given | change)
    assert turned
    assert turned != unturned[key]


def test_every_knob_is_turned_here():
    assert {case.id for case in CASES} | set(ELSEWHERE) == set(leaves(params.Params))
    for name, file in ELSEWHERE.items():
        assert name in (ROOT / "tests" / file).read_text()
