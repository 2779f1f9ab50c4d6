"""Small synthetic tables of features, for what is trained on such tables."""

import numpy as np
import pandas as pd

from ser import corpus, params

EMOTIONS = list(corpus.EMOTIONS)
SETTINGS = {
    "blocks": [{"stat": 1.0}, {"stat": 1.0, "dct": 2.0}], "kernel": ["linear", "rbf", "rbf_mean"],
    "C": [1.0, 10.0], "gamma": [0.3, 1.0], "inner_folds": 3, "speaker_norm": False,
}  # fmt: skip


def settings(**changes) -> params.SvmTrain:
    return params.SvmTrain.model_validate(SETTINGS | changes)


def features(rows: pd.DataFrame, seed=0, speaker=1.0) -> pd.DataFrame:
    """Two blocks of unlike sizes: the emotion's own place, the speaker's offset, noise."""
    rng = np.random.default_rng(seed)
    places, offsets = rng.normal(size=(8, 14)), speaker * rng.normal(size=(25, 14))
    values = (
        places[rows["emotion"].map(EMOTIONS.index)]
        + offsets[rows["actor"]]
        + 0.7 * rng.normal(size=(len(rows), 14))
    )
    names = [f"stat_mfcc{i:02}_mean" for i in range(10)] + [f"dct_mfcc{i:02}_1" for i in range(4)]
    return pd.DataFrame(10 + 3 * values, columns=names)
