"""What parameters are worth: scored on speakers held out inside the training actors of one outer
fold, never on that fold's own.

A *branch* is `svm` or `w2v`; `fold` is the outer fold that the choice must not see.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import joblib
import numpy as np
import pandas as pd
from filelock import FileLock
from threadpoolctl import threadpool_limits

from ser import params
from ser.run import code, outputs
from ser.run.errors import UserError
from ser.search.study import STATE
from ser.svm import features, model

SCORE = {"svm": "accuracy", "w2v": "uar"}  # what svm_train and `select: inner` choose by themselves
QUARTERS = 4  # of a training, at which trials are compared: there, long and short ones are equally far in their schedules
KEPT = 120  # feature tables, about 5 MB each, for as many settings and folds
AUDIO = Path("data/audio")


def clips() -> pd.DataFrame:
    """data/folds.csv.

    Raises:
        UserError: there is none.
    """
    if not Path("data/folds.csv").exists():
        raise UserError(
            "data/folds.csv: no such table; `dvc repro mfcc w2v_features split` makes what a search needs"
        )
    return pd.read_csv("data/folds.csv")


def may_see(fold: int | None) -> pd.DataFrame:
    """The clips of the training actors of an outer fold; of all actors, where no fold is held out.

    Raises:
        UserError: no such fold.
    """
    table = clips()
    if fold is not None and fold not in set(table["fold"]):
        raise UserError(
            f"fold {fold}: not in data/folds.csv; expected one of {sorted(set(table['fold']))}"
        )
    return table[table["fold"] != fold].reset_index(drop=True)


def w2v() -> ModuleType:
    """The part for wav2vec 2.0, loaded when it is needed: torch and transformers take seconds."""
    from ser.encoder import finetuning

    return finetuning


def relevant(branch: str, settings: params.Params) -> dict:
    """The parameters that a branch's scores depend on, of those that stages after the features
    read."""
    values = settings.model_dump()
    return {
        name: values[name]
        for name in (("mfcc", "svm_train") if branch == "svm" else params.Finetuning.model_fields)
    }


def evidence(branch: str, fold: int | None) -> str:
    """32 hex digits that stand for all that scores come from but the parameters: code, labels and
    clips of the training actors.

    Scores of other code or data are no scores of the same study. What held-out actors say is not in
    it.
    """
    total = hashlib.sha256()
    modules = (features, model) if branch == "svm" else (w2v(),)
    for file in code.behind(*(Path(module.__file__) for module in modules)):
        total.update(file.read_bytes())
    seen = may_see(fold)
    total.update(seen.to_csv(index=False).encode())
    if branch == "svm":
        for clip in seen["clip"]:
            total.update((AUDIO / f"{clip}.wav").read_bytes())
    else:
        for part in w2v().inputs(seen["clip"]):
            total.update(part)
    return total.hexdigest()[:32]


def feature_table(rows: pd.DataFrame, settings: params.Params) -> pd.DataFrame:
    """The MFCC features of the clips in `rows`, in order: shape (clips, features), float64.

    Kept on disk per fold and `mfcc` settings, so that trials which differ in other parameters,
    other outer folds, and a search that goes on share them. One worker of a machine computes at a
    time, on all its cores.
    """
    STATE.mkdir(parents=True, exist_ok=True)
    with FileLock(STATE / "features.lock"):
        paths = {}
        for fold, part in rows.groupby("fold"):
            key = hashlib.sha256(
                json.dumps(settings.mfcc.model_dump()).encode()
                + Path(features.__file__).read_bytes()
            )
            for clip in part["clip"]:
                key.update(clip.encode() + (AUDIO / f"{clip}.wav").read_bytes())
            paths[fold] = STATE / "features" / f"{key.hexdigest()[:32]}.npz"
        missing = rows[
            rows["fold"].isin([fold for fold, path in paths.items() if not path.exists()])
        ]
        if len(missing):
            files = [AUDIO / f"{clip}.wav" for clip in missing["clip"]]
            with threadpool_limits(
                1
            ):  # threads, no processes: these would outlive a killed worker, and hold its locks
                made = joblib.Parallel(n_jobs=-1, prefer="threads")(
                    joblib.delayed(features.describe)(file, settings.mfcc) for file in files
                )
            made = pd.DataFrame(
                np.asarray(made, np.float32),
                index=missing["clip"].to_numpy(str),
                columns=features.names(settings.mfcc),
            )
            for fold, part in made.groupby(missing["fold"].to_numpy()):
                with (
                    outputs.whole(paths[fold]) as path,
                    path.open("wb") as file,
                ):  # a Parquet file of so many columns reads slowly
                    np.savez(
                        file,
                        clips=part.index.to_numpy(str),
                        names=part.columns.to_numpy(str),
                        values=part,
                    )
        tables = []
        for path in paths.values():
            path.touch()
            stored = np.load(path, allow_pickle=False)
            tables.append(
                pd.DataFrame(stored["values"], index=stored["clips"], columns=stored["names"])
            )
        for old in sorted(
            (STATE / "features").glob("*.npz"), key=lambda path: path.stat().st_mtime
        )[:-KEPT]:
            old.unlink()
    table = pd.concat(tables).loc[rows["clip"]].astype(np.float64).reset_index(drop=True)
    return (
        model.normalise_speakers(table, rows["actor"]) if settings.svm_train.speaker_norm else table
    )


def choose_svm(settings: params.Params, fold: int) -> tuple[float, dict]:
    """The inner accuracy of the best of svm_train's candidates, and that candidate."""
    seen = may_see(fold)
    with threadpool_limits(1):
        found, best = model.choose(
            feature_table(seen, settings),
            seen["emotion"].to_numpy(dtype=str),
            seen["actor"].to_numpy(),
            settings.svm_train,
        )
    return float(max(row["accuracy"] for row in found)), best


def scores(branch: str, settings: params.Params, fold: int) -> Iterator[tuple[int, float]]:
    """The score at the quarters of the training that have passed, 1 to 4, the last of which is what
    counts; an SVM's is 4 at once.

    svm: accuracy in the cross-validation over training actors that svm_train chooses by. w2v: UAR
    on the inner fold of training actors that `select: inner` looks at, of the last epoch, or of the
    best so far if `select` says so.
    """
    if branch == "svm":
        yield QUARTERS, choose_svm(settings, fold)[0]
        return
    passed = 0
    for epoch, uar in enumerate(w2v().inner_scores(settings, fold), 1):
        if QUARTERS * epoch // settings.epochs > passed:
            passed = QUARTERS * epoch // settings.epochs
            yield passed, uar


def held_out(branch: str, settings: params.Params, fold: int) -> pd.Series:
    """The emotions predicted for the clips of the outer fold, by clip, as the branch's own stage
    predicts them; kept on disk."""
    key = hashlib.sha256(
        json.dumps([relevant(branch, settings), evidence(branch, None), fold]).encode()
    ).hexdigest()[:32]
    kept = STATE / "predictions" / f"{key}.csv"
    if not kept.exists():
        found = predict(branch, settings, fold)
        with outputs.whole(kept) as path:
            found.rename_axis("clip").rename("predicted").to_csv(path)
    return pd.read_csv(kept, index_col="clip")["predicted"]


def predict(branch: str, settings: params.Params, fold: int) -> pd.Series:
    """Train outside the fold, predict in it."""
    if branch == "svm":
        table = clips()
        rows = (table["fold"] != fold).to_numpy()
        probabilities = model.fold(
            (str(fold), rows), feature_table(table, settings), table, settings.svm_train
        )[-1]
        return probabilities.idxmax(axis=1).set_axis(table.loc[~rows, "clip"])
    return w2v().predict(settings, fold)
