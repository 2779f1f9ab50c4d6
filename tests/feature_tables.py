"""Small synthetic tables of features, for what is trained on such tables."""

from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from ser import params
from ser.classifier import crossval
from ser.corpora import ravdess
from stages import split

EMOTIONS = list(ravdess.EMOTIONS)
SETTINGS = {
    "blocks": [{"stat": 1.0}, {"stat": 1.0, "dct": 2.0}],
    "kernel": ["linear", "logistic", "rbf", "rbf_mean"],
    "C": [1.0, 10.0],
    "gamma": [0.3, 1.0],
    "inner_folds": 3,
    "speaker_norm": False,
}


def settings(**changes) -> params.SvmTrain:
    return params.SvmTrain.model_validate(SETTINGS | changes)


def clips(
    speakers=((1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12)), repetitions=(1,), statements=(1, 2)
) -> pd.DataFrame:
    """The clips of folds of these speakers, as in data/folds.csv."""
    names = [
        f"03-01-{label:02}-01-{statement:02}-{repetition:02}-{speaker:02}"
        for label in range(1, 9)
        for statement in statements
        for repetition in repetitions
        for fold in speakers
        for speaker in fold
    ]
    table = ravdess.table(f"{name}.wav" for name in names)
    return table.assign(fold=split.fold_numbers(table, [list(fold) for fold in speakers], 0))


def features(rows: pd.DataFrame, seed=0, speaker=1.0) -> pd.DataFrame:
    """Two blocks of unlike sizes: the label's own place, the speaker's offset, noise."""
    rng = np.random.default_rng(seed)
    places, offsets = rng.normal(size=(8, 14)), speaker * rng.normal(size=(25, 14))
    values = (
        places[rows["label"].map(EMOTIONS.index)]
        + offsets[rows["speaker"]]
        + 0.7 * rng.normal(size=(len(rows), 14))
    )
    names = [f"stat_mfcc{i:02}_mean" for i in range(10)] + [f"dct_mfcc{i:02}_1" for i in range(4)]
    return pd.DataFrame(10 + 3 * values, columns=names)


def write(folder: Path, rows: pd.DataFrame, table: pd.DataFrame, made_by: dict) -> None:
    """Write folds.csv and mfcc.parquet, the latter in another order, as any order will do."""
    folder.mkdir()
    rows.to_csv(folder / "folds.csv", index=False)
    stored = table.astype("float32")[::-1]
    stored.insert(0, "clip", rows["clip"])
    stored.attrs = made_by
    stored.to_parquet(folder / "mfcc.parquet", index=False)


def data(rows: pd.DataFrame, table: pd.DataFrame | None = None) -> crossval.Data:
    return crossval.Data(rows, features(rows) if table is None else table, {"mfcc": {}})


def grid(chosen: params.SvmTrain, table: pd.DataFrame) -> list[dict]:
    return crossval.candidates(chosen.blocks, chosen, table)


def out_of_fold(
    data: crossval.Data, chosen: params.SvmTrain
) -> tuple[pd.DataFrame, pd.DataFrame, list]:
    """Probabilities of all clips, the search, and the model of each fold."""
    numbers = data.clips["fold"].to_numpy()
    candidates = grid(chosen, data.table)
    with threadpool_limits(1):  # as the stage does; so small a job only waits for other threads
        parts = [
            crossval.fit_fold(numbers != number, data, candidates, chosen.inner_folds)
            for number in np.unique(numbers)
        ]
    rows = [{"fold": number, **row} for number, (_, part, _) in enumerate(parts) for row in part]
    return (
        pd.concat([part for _, _, part in parts]).sort_index(),
        pd.DataFrame(rows),
        [model for model, _, _ in parts],
    )
