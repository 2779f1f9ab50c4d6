"""A classifier of labels over feature blocks: trained, stored, and predicting on its own."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import safetensors
import safetensors.numpy
import scipy
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sklearn.preprocessing import StandardScaler

from ser.classifier import kernels
from ser.run.errors import UserError

SETTINGS, ARRAYS = "model.json", "model.safetensors"


def normalised(table: pd.DataFrame, speakers: pd.Series | np.ndarray) -> pd.DataFrame:
    """Each speaker's features standardised by mean and deviation of that speaker's own clips: no
    labels, but all those clips.

    Args:
        table: a column per feature, a row per clip.
        speakers: of the rows.
    """
    groups = table.groupby(speakers)
    deviations = groups.transform("std", ddof=0).replace(0, 1)
    return (table - groups.transform("mean")) / deviations


class Settings(BaseModel):
    """model.json: a stored classifier but for its arrays.

    Attributes:
        labels: in the corpus's order; machines are trained in scikit-learn's, the alphabetical.
        kernel: see `kernels.combined_kernel`; `logistic` is a logistic regression.
        gamma: of the RBF.
        blocks: weight of each block of features.
        columns: names of the features of each block.
        sharpness: factor on class scores before the softmax.
        features: settings that the features are computed with, by the name of the stage that made
            the training table, `mfcc` or `embed`; `speaker_norm` stands there if each speaker was
            normalised by that speaker's own clips, which no single clip can be.
        corpus: that it was trained on, a key of `corpus.TITLES`; None: not known.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    labels: Annotated[list[str], Field(min_length=2)]
    kernel: Literal["linear", "logistic", "rbf", "rbf_mean"]
    gamma: Annotated[float, Field(gt=0)]
    blocks: Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)]
    columns: dict[str, list[str]]
    sharpness: Annotated[float, Field(gt=0)]
    features: dict[str, Any]
    corpus: str | None = None


@dataclass(frozen=True)
class Model:
    """A classifier that predicts from a table with named columns.

    Attributes:
        settings: all but the arrays.
        mean: of each feature over the training clips, shape (features,).
        scale: its standard deviation, shape (features,).
        clips: features of the training clips in the kernel expansion of the margins, shape
            (n, features); of a logistic regression none, shape (0, features).
        coefficients: of `clips` in each margin, shape (pairs of labels, n); of a logistic
            regression those of the features, shape (labels, features).
        intercepts: of the margins, shape (margins,).
    """

    settings: Settings
    mean: np.ndarray
    scale: np.ndarray
    clips: np.ndarray
    coefficients: np.ndarray
    intercepts: np.ndarray

    @property
    def columns(self) -> list[str]:
        """The names of all features that it needs, in order."""
        return [name for block in self.settings.columns.values() for name in block]

    def probabilities(self, table: pd.DataFrame) -> pd.DataFrame:
        """A probability per label, in the corpus's order; a row per row of `table`.

        Args:
            table: holds `columns`, among others.
        """
        if table.empty:  # which scikit-learn's distances refuse
            return pd.DataFrame(columns=self.settings.labels, dtype=np.float64)
        kind = self.settings.kernel
        new = self.standardised_blocks(table[self.columns].to_numpy(np.float64))
        if kind == "logistic":
            margins = np.concatenate(new, axis=1) @ self.coefficients.T
        else:
            known, weights = self.standardised_blocks(self.clips), [*self.settings.blocks.values()]
            kernel = kernels.kernel_matrix(kind, new, known, weights, self.settings.gamma)
            margins = kernel @ self.coefficients.T
        labels = self.settings.labels
        scores = kernels.class_scores(kind, margins + self.intercepts, len(labels))
        shares = scipy.special.softmax(self.settings.sharpness * scores, axis=1)
        return pd.DataFrame(shares, table.index, sorted(labels))[labels]

    def standardised_blocks(self, values: np.ndarray) -> list[np.ndarray]:
        """Standardised features, split by block: shapes (n, features of the block)."""
        return split((values - self.mean) / self.scale, self.settings.columns)

    def save(self, folder: Path) -> None:
        """Write `SETTINGS` and `ARRAYS` to a folder: reading them executes nothing, and the same
        model gives the same bytes."""
        arrays = {name: getattr(self, name) for name in array_names()}
        narrow = arrays["clips"].astype(np.float32)
        if np.array_equal(narrow, arrays["clips"]):  # so were the features stored
            arrays["clips"] = narrow
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        (folder / ARRAYS).write_bytes(safetensors.numpy.save(arrays))  # `save_file` hides it
        text = json.dumps(self.settings.model_dump(), indent=1)
        (folder / SETTINGS).write_text(text + "\n", encoding="utf-8")


def array_names() -> list[str]:
    """Names of a model's arrays."""
    return [field.name for field in fields(Model) if field.name != "settings"]


def split(values: np.ndarray, columns: Mapping[str, list[str]]) -> list[np.ndarray]:
    """`values`, (n, features), split into the blocks whose features `columns` names, in order."""
    edges = np.cumsum([len(block) for block in columns.values()])[:-1]
    return np.split(values, edges, axis=1)


def block_columns(block: str, table: pd.DataFrame) -> list[str]:
    """Columns of a block: those whose names begin with the block's and an underscore."""
    return [name for name in table.columns if name.startswith(f"{block}_")]


def fit(
    table: pd.DataFrame,
    labels: np.ndarray,
    candidate: dict,
    scores: np.ndarray,
    features: dict,
    order: list[str],
    corpus: str | None = None,
) -> Model:
    """Train and calibrate a candidate on the rows given, and on nothing else.

    Args:
        table: features in columns, float64.
        labels: of the rows, shape (n,).
        candidate: blocks (weights by name), kernel, C and gamma.
        scores: class scores of the same rows, each by a model that has not seen its speaker, shape
            (n, classes).
        features: settings that the features were computed with (see `Settings`).
        order: of the corpus's labels.
        corpus: that the clips belong to.
    """
    kind, gamma = candidate["kernel"], candidate["gamma"]
    columns = {name: block_columns(name, table) for name in candidate["blocks"]}
    values = table[[name for block in columns.values() for name in block]].to_numpy()
    standard = StandardScaler().fit(values)
    blocks = split((values - standard.mean_) / standard.scale_, columns)
    weights = list(candidate["blocks"].values())
    kernel = kernels.kernel_matrix(kind, blocks, blocks, weights, gamma)
    coefficients, intercepts = next(kernels.fit(kind, kernel, labels, [candidate["C"]]))
    if kind == "logistic":  # a sum over clips of their features: no need to keep them
        shares = [w / sum(weights) / (2 * b.shape[1]) for w, b in zip(weights, blocks, strict=True)]
        scaled = [share * block for share, block in zip(shares, blocks, strict=True)]
        values, coefficients = values[:0], coefficients @ np.concatenate(scaled, axis=1)
    else:
        used = coefficients.any(axis=0)
        values, coefficients = values[used], coefficients[:, used]
    settings = Settings(
        labels=[label for label in order if label in set(labels)],
        kernel=kind,
        gamma=gamma,
        blocks=candidate["blocks"],
        columns=columns,
        sharpness=sharpness(scores, labels),
        features=features,
        corpus=corpus,
    )
    return Model(settings, standard.mean_, standard.scale_, values, coefficients, intercepts)


def sharpness(scores: np.ndarray, labels: np.ndarray) -> float:
    """The factor on class scores, an inverse temperature, whose softmax has the smallest log loss.

    Source: Guo et al. (2017), ICML, "On Calibration of Modern Neural Networks".

    Args:
        scores: shape (n, classes), of clips that their model has not seen.
        labels: shape (n,).
    """
    right = (np.arange(len(labels)), np.unique(labels, return_inverse=True)[1])

    def loss(logarithm: float) -> float:
        return -scipy.special.log_softmax(np.exp(logarithm) * scores, axis=1)[right].mean()

    options = {"xatol": 64 * np.finfo(float).eps}
    return float(np.exp(scipy.optimize.minimize_scalar(loss, bounds=(-10, 10), options=options).x))


def load(folder: Path) -> Model:
    """Read the model that `Model.save` wrote to a folder.

    Raises:
        UserError: there is none, it is damaged, or another version or program wrote it.
    """
    try:
        settings = Settings.model_validate_json((folder / SETTINGS).read_bytes())
        arrays = safetensors.numpy.load_file(folder / ARRAYS)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or folder / ARRAYS}: no such file") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "file"
        raise UserError(
            f"{folder / SETTINGS}: not a model of this project ({where}: {problem['msg']})"
        ) from None
    except safetensors.SafetensorError as error:
        raise UserError(f"{folder / ARRAYS}: not a model of this project ({error})") from None
    features = sum(map(len, settings.columns.values()))
    if {*arrays} != {*array_names()} or arrays["clips"].shape[1:] != (features,):
        raise UserError(f"{folder / ARRAYS}: does not fit {SETTINGS} beside it")
    return Model(settings, **{name: array.astype(np.float64) for name, array in arrays.items()})
