"""What parameters are worth: scored on speakers held out inside the training actors of one outer
fold, never on that fold's own.

A *branch* is one of the models that the pipeline trains, with what a search needs of it; `fold` is
the outer fold that the choice must not see.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import joblib
import numpy as np
import pandas as pd
from filelock import FileLock
from threadpoolctl import threadpool_limits

from ser import mfcc, params, tables
from ser.classifier import crossval
from ser.run import code, outputs
from ser.run.errors import UserError
from ser.search.trial_store import STATE

QUARTERS = 4  # of a training: there, long and short ones are equally far in their schedules
KEPT = 120  # feature tables, about 5 MB each, for as many settings and folds
AUDIO = Path("data/audio")


def clips() -> pd.DataFrame:
    """data/folds.csv.

    Raises:
        UserError: there is none.
    """
    if not tables.FOLDS.exists():
        raise UserError(
            "data/folds.csv: no such table; `dvc repro mfcc w2v_features` makes what a search needs"
        )
    return tables.folds()


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


def digest(values: object, contents: Iterable[bytes] = ()) -> str:
    """32 hex digits that stand for values, as JSON, and for contents, in order."""
    total = hashlib.sha256(json.dumps(values).encode())
    for content in contents:
        total.update(hashlib.sha256(content).digest())
    return total.hexdigest()[:32]


def describe(origin: str, files: list[Path], settings: params.Mfcc) -> pd.DataFrame:
    """`mfcc.table`; `origin` stands for all that it comes from."""
    return mfcc.table(files, settings, desc=None)


def feature_table(rows: pd.DataFrame, settings: params.Params) -> crossval.Data:
    """The MFCC features of the clips in `rows`, in order, of speakers normalised if so wanted.

    Kept on disk per fold and `mfcc` settings, so that trials which differ in other parameters,
    other outer folds, and a search that goes on share them. One worker of a machine computes at a
    time, on all its cores.
    """
    memory = joblib.Memory(STATE, verbose=0)
    kept, values, tables = memory.cache(describe, ignore=["files", "settings"]), settings.mfcc, []
    with FileLock(STATE / "features.lock"):
        for _, part in rows.groupby("fold"):
            files = [AUDIO / f"{clip}.wav" for clip in part["clip"]]
            sources = [*code.behind(Path(mfcc.__file__)), *files]
            contents = (file.read_bytes() for file in sources)
            origin = digest([values.model_dump(), *part["clip"]], contents)
            tables.append(kept(origin, files, values))
        memory.reduce_size(items_limit=KEPT)
    table = pd.concat(tables).set_index("clip").loc[rows["clip"]]
    table = table.astype(np.float64).reset_index(drop=True)
    data = crossval.Data(rows, table, {"mfcc": values.model_dump()})
    return data.with_speakers_normalised() if settings.svm_train.speaker_norm else data


class Svm:
    """The SVM on MFCCs, scored by the accuracy in the cross-validation over training actors that
    `svm_train` chooses by."""

    name, score = "svm", "inner_accuracy"
    may_vary = frozenset({"mfcc", "svm_train"})
    scores_every_fold = True  # at the end, since that takes seconds

    def code(self) -> list[Path]:
        """The modules that, with all that they import, the scores come from."""
        return [Path(mfcc.__file__), Path(crossval.__file__)]

    def depends_on(self, settings: params.Params) -> dict[str, object]:
        """The parameters that the scores come from."""
        return settings.model_dump(include=set(self.may_vary))

    def inputs(self, clips: pd.Series) -> Iterator[bytes]:
        """The data of these clips that the scores come from."""
        for clip in clips:
            yield (AUDIO / f"{clip}.wav").read_bytes()

    def chosen_by_stage(self, settings: params.Params, fold: int) -> dict[str, object]:
        """What `svm_train` would choose from its candidates, by dotted name."""
        best = self.choose(settings, fold).best
        return {f"svm_train.{name}": chosen for name, chosen in best.items()}

    def choose(self, settings: params.Params, fold: int) -> crossval.Choice:
        """`crossval.choose` among svm_train's candidates, on the training actors of a fold."""
        data, chosen = feature_table(may_see(fold), settings), settings.svm_train
        grid = crossval.candidates(chosen.blocks, chosen, data.table)
        with threadpool_limits(1):
            return crossval.choose(data.table, data.labels, data.actors, grid, chosen.inner_folds)

    def scores(self, settings: params.Params, fold: int) -> Iterator[tuple[int, float]]:
        """The quarters that have passed and the score: all four at once."""
        rows = self.choose(settings, fold).rows
        yield QUARTERS, float(max(row["accuracy"] for row in rows))

    def predict(self, settings: params.Params, fold: int) -> pd.Series:
        """Train outside the fold as `svm_train` does: the emotions predicted in it, by clip."""
        table = clips()
        rows = (table["fold"] != fold).to_numpy()
        data, chosen = feature_table(table, settings), settings.svm_train
        grid = crossval.candidates(chosen.blocks, chosen, data.table)
        with threadpool_limits(1):
            _, _, probabilities = crossval.fit_fold(rows, data, grid, chosen.inner_folds)
        return probabilities.idxmax(axis=1).set_axis(table.loc[~rows, "clip"])


class Finetuning:
    """The fine-tuning of an encoder, scored by the UAR on the inner fold of training actors that
    `select: inner` looks at."""

    name, score = "w2v", "inner_uar"
    # But for what earlier stages read, which would have to run anew.
    may_vary = frozenset(params.Finetuning.model_fields) - {
        "checkpoint",
        "revision",
        "trim_db",
        "freeze_cnn",
    }
    scores_every_fold = False  # at the end, but the clean one

    @property
    def finetuning(self) -> ModuleType:
        """Loaded when it is needed: torch and transformers take seconds."""
        from ser.finetune import finetuning

        return finetuning

    def code(self) -> list[Path]:
        """The modules that, with all that they import, the scores come from."""
        return [Path(self.finetuning.__file__ or "")]

    def depends_on(self, settings: params.Params) -> dict[str, object]:
        """The parameters that the scores come from."""
        return settings.model_dump(include=set(params.Finetuning.model_fields))

    def inputs(self, clips: pd.Series) -> Iterator[bytes]:
        """The data of these clips that the scores come from."""
        return self.finetuning.inputs(clips)

    def chosen_by_stage(self, settings: params.Params, fold: int) -> dict[str, object]:
        """Nothing: `w2v_finetune` does what params.yaml says."""
        return {}

    def scores(self, settings: params.Params, fold: int) -> Iterator[tuple[int, float]]:
        """At each quarter of the training: how many have passed, and the score of the last epoch,
        or of the best so far if `select` says so."""
        passed = 0
        for epoch, uar in enumerate(self.finetuning.inner_scores(settings, fold), 1):
            if QUARTERS * epoch // settings.epochs > passed:
                passed = QUARTERS * epoch // settings.epochs
                yield passed, uar

    def predict(self, settings: params.Params, fold: int) -> pd.Series:
        """Train outside the fold as `w2v_finetune` does: the emotions predicted in it, by clip."""
        return self.finetuning.predict(settings, fold)


BRANCHES = {branch.name: branch for branch in (Svm(), Finetuning())}
Branch = Svm | Finetuning


def evidence(branch: Branch, fold: int | None) -> str:
    """32 hex digits that stand for all that scores come from but the parameters: code, labels and
    clips of the training actors.

    Scores of other code or data are no scores of the same study. What held-out actors say is not in
    it.
    """
    seen = may_see(fold)
    contents = (file.read_bytes() for file in code.behind(*branch.code()))
    return digest(seen.to_csv(index=False), itertools.chain(contents, branch.inputs(seen["clip"])))


def held_out(branch: Branch, settings: params.Params, fold: int) -> pd.Series:
    """The emotions predicted for the clips of the outer fold, by clip, as the branch's own stage
    predicts them; kept on disk."""
    key = digest([branch.depends_on(settings), evidence(branch, None), fold])
    kept = STATE / "predictions" / f"{key}.csv"
    if not kept.exists():
        predicted = branch.predict(settings, fold)
        with outputs.whole(kept) as path:
            predicted.rename_axis("clip").rename("predicted").to_csv(path)
    return pd.read_csv(kept, index_col="clip")["predicted"]
