"""Ways to split the clips into folds, which `split.scheme` in params.yaml names, and the words that
stand beside every figure."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ser.corpus import ACTORS, TITLES

RANDOM_FOLDS = 6
OWN_LIST = "folds by actor, from a list in params.yaml"


@dataclass(frozen=True)
class Protocol:
    """A way to hold out a part of the corpus.

    Attributes:
        title: in words.
        folds: the actors of each fold; None: actors are not kept apart.
    """

    title: str
    folds: tuple[tuple[int, ...], ...] | None


PROTOCOLS = {
    "six": Protocol(
        "six folds by actor, two women and two men in each",
        tuple(tuple(ACTORS[first : first + 4]) for first in range(0, len(ACTORS), 4)),
    ),
    # Ma et al. (2024), Interspeech, "EmoBox: Multilingual Multi-corpus Speech Emotion Recognition
    # Toolkit and Benchmark".
    "emobox": Protocol(
        "EmoBox's six folds by actor",
        (
            (1, 11, 20, 21),
            (4, 10, 12, 14),
            (8, 9, 19, 23),
            (3, 5, 7, 24),
            (2, 15, 16, 18),
            (6, 13, 17, 22),
        ),
    ),
    # Luna-Jiménez et al. (2021), Sensors 21(22): 7665.
    "luna": Protocol(
        "Luna-Jiménez's five folds by actor",
        (
            (2, 5, 14, 15, 16),
            (3, 6, 7, 13, 18),
            (10, 11, 12, 19, 20),
            (8, 17, 21, 23, 24),
            (1, 4, 9, 22),
        ),
    ),
    # The splits of audb's RAVDESS and of nkululeko; theirs is the score of fold 0.
    "fixed": Protocol(
        "test actors 21 to 24 in fold 0, the development actors of audb in fold 1",
        (
            (21, 22, 23, 24),
            (16, 17, 19, 20),
            (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 18),
        ),
    ),
    "actors": Protocol("leave one actor out", tuple((actor,) for actor in ACTORS)),
    "random": Protocol("LEAKY, clips at random: each held-out voice is in training, too", None),
}


def title(scheme: str | list[list[int]]) -> str:
    """The value of `split.scheme` in words."""
    return PROTOCOLS[scheme].title if isinstance(scheme, str) else OWN_LIST


def folds(scheme: str | list[list[int]]) -> Sequence[Sequence[int]] | None:
    """The actors of each fold; None if they are not kept apart."""
    return PROTOCOLS[scheme].folds if isinstance(scheme, str) else scheme


def count(scheme: str | list[list[int]]) -> int:
    """The number of folds."""
    actors = folds(scheme)
    return RANDOM_FOLDS if actors is None else len(actors)


def sentence(
    corpus: str, scheme: str | list[list[int]], predictions: pd.DataFrame, model: str
) -> str:
    """A line on how figures came about.

    Args:
        corpus, scheme: the values of `corpus` and `split.scheme` in params.yaml.
        predictions: actor and fold of each held-out clip.
        model: what the model says of itself in its protocol.txt.
    """
    parts = [TITLES[corpus], title(scheme)]
    if folds(scheme):
        actors = [sorted(set(rows["actor"])) for _, rows in predictions.groupby("fold")]
        listed = " | ".join(",".join(map(str, fold)) for fold in actors)
        parts.append(f"held-out actors {listed}")
    return "; ".join([*parts, model.strip()])
