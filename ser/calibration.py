"""What a model's probabilities are worth: whether it is as often right as it says. Its confidence
is the highest of a clip's eight probabilities."""

import numpy as np
import pandas as pd

from ser.corpus import EMOTIONS

BINS = 10  # of equal width, from 0 to 1


def bins(predictions: pd.DataFrame) -> pd.DataFrame:
    """The clips by their confidence, in `BINS` groups of equal width, those that hold any.

    Returns:
        low, high: bounds of the group; clips; confidence, accuracy: means over its clips.
    """
    confidence = predictions[list(EMOTIONS)].max(axis=1)
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)
    table = pd.DataFrame(
        {"confidence": confidence, "right": predictions["actual"] == predictions["predicted"]}
    )
    groups = table.groupby(number.rename("bin"))
    made = groups.agg(
        clips=("right", "size"), confidence=("confidence", "mean"), accuracy=("right", "mean")
    ).reset_index()
    made.insert(0, "low", made["bin"] / BINS)
    made.insert(1, "high", (made["bin"] + 1) / BINS)
    return made.drop(columns="bin")


def expected_error(predictions: pd.DataFrame) -> float:
    """The expected calibration error, 0 to 1: how far confidence and accuracy lie apart, in the
    mean over the clips' groups.

    Source: Guo et al. (2017), ICML, "On Calibration of Modern Neural Networks".
    """
    groups = bins(predictions)
    apart = (groups["confidence"] - groups["accuracy"]).abs()
    return float(np.average(apart, weights=groups["clips"]))


def log_loss(predictions: pd.DataFrame) -> float:
    """The cross-entropy of the probabilities in nats; of eight equal ones 2.08, lower is better."""
    columns = predictions["actual"].map(EMOTIONS.index)
    of_actual = predictions[list(EMOTIONS)].to_numpy()[np.arange(len(predictions)), columns]
    return float(-np.log(np.clip(of_actual, 1e-12, None)).mean())
