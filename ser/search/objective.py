"""The objectives of a search: scores on speakers held out inside the training speakers of one outer
fold, never on that fold's own.

A *branch* is one of the models that the pipeline trains, with what a search needs of it; `fold` is
the outer fold that the choice must not see.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from ser import mfcc, params, tables
from ser.classifier import crossval
from ser.run.errors import UserError

STATE = Path(".checkpoints/search")  # what searches go on from: outside git and DVC
QUARTERS = 4  # of a training: there, long and short ones are equally far in their schedules
KEPT = 120  # feature tables, about 5 MB each, for as many settings and folds
AUDIO = Path("data/audio")
CHECKPOINT = Path("data/checkpoint")
FEATURES = Path("data/features/clips.arrow")


def clips_outside(fold: int) -> pd.DataFrame:
    """The clips of the training speakers of an outer fold.

    Raises:
        UserError: no such fold.
    """
    table = tables.folds()
    if fold not in set(table["fold"]):
        raise UserError(
            f"fold {fold}: not in data/folds.csv; expected one of {sorted(set(table['fold']))}"
        )
    return table[table["fold"] != fold].reset_index(drop=True)


def digest(values: object, files: Iterable[Path]) -> str:
    """32 hex digits that stand for values, as JSON, and for the contents of files, in order.

    Raises:
        UserError: a file is missing.
    """
    total = hashlib.sha256(json.dumps(values).encode())
    for path in files:
        if not path.exists():
            raise UserError(f"{path}: missing; `dvc repro` makes what a search needs")
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:32]


def code(*folders: str) -> list[Path]:
    """The library's modules in these folders, and those beside them."""
    root = Path(__file__).parents[1]
    patterns = ["*.py", *(f"{folder}/**/*.py" for folder in folders)]
    return sorted(file for pattern in patterns for file in root.glob(pattern))


def describe(origin: str, files: list[Path], settings: params.Mfcc) -> pd.DataFrame:
    """`mfcc.table`; `origin` stands for all that it comes from."""
    return mfcc.table(files, settings, desc=None)


def features(clips: pd.DataFrame, settings: params.Params) -> crossval.Data:
    """The MFCC features of clips, normalised by speaker if `svm_train` says so.

    Kept on disk per fold and `mfcc` settings, so that trials which differ in other parameters,
    other outer folds, and a search that goes on share them.
    """
    memory = joblib.Memory(STATE / "features", verbose=0)
    kept, values, parts = memory.cache(describe, ignore=["files", "settings"]), settings.mfcc, []
    for _, part in clips.groupby("fold"):
        files = [AUDIO / f"{clip}.wav" for clip in part["clip"]]
        origin = digest([values.model_dump(), *part["clip"]], [*code(), *files])
        parts.append(kept(origin, files, values))
    memory.reduce_size(items_limit=KEPT)
    table = pd.concat(parts).set_index("clip").loc[clips["clip"]]
    table = table.astype(np.float64).reset_index(drop=True)
    data = crossval.Data(clips, table, {"mfcc": values.model_dump()})
    return data.with_speakers_normalised() if settings.svm_train.speaker_norm else data


class Svm:
    """The SVM on MFCCs, scored by the accuracy in the cross-validation over training speakers that
    `svm_train` chooses by."""

    name = "svm"
    may_vary = frozenset({"mfcc", "svm_train"})
    reads = may_vary  # the parameters that scores come from
    scores_every_fold = True  # at the end, since that takes seconds

    def files(self, clips: pd.Series) -> list[Path]:
        """The files that scores on these clips come from."""
        return [*code("classifier"), *(AUDIO / f"{clip}.wav" for clip in clips)]

    def choose(self, settings: params.Params, fold: int) -> crossval.Choice:
        """`crossval.choose` among svm_train's candidates, on the training speakers of a fold."""
        data, chosen = features(clips_outside(fold), settings), settings.svm_train
        grid = crossval.candidates(chosen.blocks, chosen, data.table)
        with threadpool_limits(1):
            return crossval.choose(data.table, data.labels, data.speakers, grid, chosen.inner_folds)

    def defaults(self, settings: params.Params, fold: int) -> dict[str, object]:
        """The values that `svm_train` itself would choose, by dotted name."""
        best = self.choose(settings, fold).best
        return {f"svm_train.{name}": value for name, value in best.items()}

    def scores(self, settings: params.Params, fold: int) -> Iterator[tuple[int, float]]:
        """The quarters that have passed, and the score: all four at once."""
        rows = self.choose(settings, fold).rows
        yield QUARTERS, float(max(row["accuracy"] for row in rows))

    def predict(self, settings: params.Params, fold: int) -> pd.Series:
        """Train outside the fold as `svm_train` does: the labels predicted in it, by clip."""
        table = tables.folds()
        training = (table["fold"] != fold).to_numpy()
        data, chosen = features(table, settings), settings.svm_train
        grid = crossval.candidates(chosen.blocks, chosen, data.table)
        with threadpool_limits(1):
            _, _, probabilities = crossval.fit_fold(training, data, grid, chosen.inner_folds)
        return probabilities.idxmax(axis=1).set_axis(table.loc[~training, "clip"])


class Finetuning:
    """The fine-tuning of an encoder, scored by the UAR on the inner fold of training speakers that
    `select: inner` looks at. What trains is imported late: transformers takes seconds."""

    name = "w2v"
    reads = frozenset(params.Finetuning.model_fields)
    # But for what earlier stages read, which would have to run anew.
    may_vary = reads - {"checkpoint", "revision", "trim_db", "freeze_cnn"}
    scores_every_fold = False  # at the end, but the clean one: each takes a training

    def files(self, clips: pd.Series) -> list[Path]:
        """The files that scores come from."""
        return [*code("encoder", "finetune"), *sorted(CHECKPOINT.iterdir()), FEATURES]

    def defaults(self, settings: params.Params, fold: int) -> dict[str, object]:
        """Nothing: `w2v_finetune` does what params.yaml says."""
        return {}

    def scores(self, settings: params.Params, fold: int) -> Iterator[tuple[int, float]]:
        """At each quarter of the training: how many have passed, and the score of the last epoch,
        or of the best so far if `select` says so."""
        from ser.finetune import train

        passed = 0
        for epoch, uar in enumerate(train.inner_scores(settings, fold), 1):
            if QUARTERS * epoch // settings.epochs > passed:
                passed = QUARTERS * epoch // settings.epochs
                yield passed, uar

    def predict(self, settings: params.Params, fold: int) -> pd.Series:
        """Train outside the fold as `w2v_finetune` does: the labels predicted in it, by clip."""
        from ser.finetune import train

        return train.predict(settings, fold)


BRANCHES = {branch.name: branch for branch in (Svm(), Finetuning())}
Branch = Svm | Finetuning


def origin(branch: Branch, settings: params.Params, clips: pd.DataFrame) -> str:
    """A digest of all that scores on these clips come from: parameters, labels, code and data."""
    reads = settings.model_dump(include=set(branch.reads))
    return digest([reads, clips.to_csv(index=False)], branch.files(clips["clip"]))


def train_and_predict(origin: str, branch: Branch, settings: params.Params, fold: int) -> pd.Series:
    """`Branch.predict`; `origin` stands for all that it comes from."""
    return branch.predict(settings, fold)


def held_out(branch: Branch, settings: params.Params, fold: int) -> pd.Series:
    """The labels predicted for the clips of the outer fold, by clip, as the branch's own stage
    predicts them; kept on disk."""
    memory = joblib.Memory(STATE / "predictions", verbose=0)
    kept = memory.cache(train_and_predict, ignore=["branch", "settings"])
    return kept(origin(branch, settings, tables.folds()), branch, settings, fold)
