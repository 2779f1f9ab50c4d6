"""A trained classifier of emotions over blocks of features, as it predicts and as it is stored."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import safetensors
import safetensors.numpy
import scipy
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ser.classifier import kernels
from ser.corpus import EMOTIONS
from ser.run.errors import UserError

SETTINGS, ARRAYS = "model.json", "model.safetensors"
CLASSES = sorted(EMOTIONS)  # scikit-learn's order, in which machines are trained


class Settings(BaseModel):
    """model.json: what a stored classifier is, but for its arrays.

    Attributes:
        kernel: see `kernels.combine`; `logistic` is a logistic regression.
        gamma: of the RBF.
        blocks: weight of each block of features.
        columns: names of the features of each block.
        sharpness: what decision values are multiplied by before the softmax.
        features: how the features are made of a clip: settings by the name of the stage that made
            the training table, `mfcc` or `embed`; `speaker_norm` stands there if each speaker was
            normalised by that speaker's own clips, which no single clip can be.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    kernel: Literal["linear", "logistic", "rbf", "rbf_mean"]
    gamma: Annotated[float, Field(gt=0)]
    blocks: Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)]
    columns: dict[str, list[str]]
    sharpness: Annotated[float, Field(gt=0)]
    features: dict[str, Any]


@dataclass(frozen=True)
class Model:
    """A classifier that predicts from a table with named columns.

    Attributes:
        settings: all but the arrays.
        mean: of each feature over the training clips, shape (features,).
        scale: its standard deviation, shape (features,).
        clips: features of the training clips that the margins hang on, shape (n, features); of a
            logistic regression none, shape (0, features).
        coefficients: what each of `clips` adds to each margin, shape (pairs of emotions, n); of a
            logistic regression what each feature adds, shape (8, features).
        intercepts: what is added to each margin, shape (margins,).
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

    def blockwise(self, values: np.ndarray) -> list[np.ndarray]:
        """Standardised features, split by block: shapes (n, features of the block)."""
        edges = np.cumsum([len(block) for block in self.settings.columns.values()])[:-1]
        return np.split((values - self.mean) / self.scale, edges, axis=1)

    def probabilities(self, table: pd.DataFrame) -> pd.DataFrame:
        """A probability per emotion, in the corpus's order; a row per row of `table`.

        Args:
            table: holds `columns`, among others.
        """
        if table.empty:  # which scikit-learn's distances refuse
            return pd.DataFrame(columns=EMOTIONS, dtype=np.float64)
        kind = self.settings.kernel
        values = table[self.columns].to_numpy(np.float64)
        if kind == "logistic":
            margins = np.concatenate(self.blockwise(values), axis=1) @ self.coefficients.T
        else:
            left, right = self.blockwise(values), self.blockwise(self.clips)
            weights = list(self.settings.blocks.values())
            kernel = kernels.between(kind, left, right, weights, self.settings.gamma)
            margins = kernel @ self.coefficients.T
        decisions = kernels.decide(kind, margins + self.intercepts, len(CLASSES))
        shares = scipy.special.softmax(self.settings.sharpness * decisions, axis=1)
        return pd.DataFrame(shares, table.index, CLASSES)[list(EMOTIONS)]

    def save(self, folder: Path) -> None:
        """Write `SETTINGS` and `ARRAYS` to a folder: reading them executes nothing, and the same
        model gives the same bytes."""
        arrays = {name: getattr(self, name) for name in shapes(self.settings, 0)}
        narrow = arrays["clips"].astype(np.float32)
        if np.array_equal(narrow, arrays["clips"]):  # so were the features stored
            arrays["clips"] = narrow
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        (folder / ARRAYS).write_bytes(safetensors.numpy.save(arrays))  # `save_file` hides it
        text = json.dumps(self.settings.model_dump(), indent=1)
        (folder / SETTINGS).write_text(text + "\n", encoding="utf-8")


def shapes(settings: Settings, clips: int) -> dict[str, tuple[int, ...]]:
    """The shape of each array of a model that hangs on this many clips."""
    features = sum(len(block) for block in settings.columns.values())
    logistic = settings.kernel == "logistic"
    margins = len(CLASSES) if logistic else len(CLASSES) * (len(CLASSES) - 1) // 2
    return {
        "mean": (features,),
        "scale": (features,),
        "clips": (clips, features),
        "coefficients": (margins, features if logistic else clips),
        "intercepts": (margins,),
    }


def load(folder: Path) -> Model:
    """The model that `Model.save` wrote to a folder.

    Raises:
        UserError: there is none, it is damaged, or it was written by something else.
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
    except (safetensors.SafetensorError, ValueError) as error:
        raise UserError(f"{folder / ARRAYS}: not a model of this project ({error})") from None
    expected = shapes(settings, len(arrays.get("clips", ())))
    if settings.columns.keys() != settings.blocks.keys() or expected != {
        name: array.shape for name, array in arrays.items()
    }:
        raise UserError(f"{folder / ARRAYS}: does not fit {SETTINGS} beside it")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise UserError(f"{folder / ARRAYS}: holds what is not a number")
    return Model(settings, **{name: array.astype(np.float64) for name, array in arrays.items()})
