"""Ways to split the clips into folds, which `split.scheme` in params.yaml names, and the words that
stand beside every figure."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ser import corpus
from ser.run.errors import UserError

RANDOM_FOLDS = 6
ACTORS = tuple(range(1, 25))  # of RAVDESS
Speaker = int | str
Scheme = str | int | list[list[Speaker]]


@dataclass(frozen=True)
class Protocol:
    """A published way to hold out parts of RAVDESS.

    Attributes:
        title: in words.
        folds: the actors of each fold.
    """

    title: str
    folds: tuple[tuple[int, ...], ...]


RAVDESS = {
    "six": Protocol(
        "six folds by actor, two women and two men in each",
        tuple(tuple(range(first, first + 4)) for first in ACTORS[::4]),
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
}
# Of any corpus, as is a number of folds.
ANY = {
    "speakers": "leave one speaker out",
    "fold": "the folds that the corpus's own column `fold` says",
    "random": "LEAKY, clips at random: each held-out voice is in training, too",
}


def title(scheme: Scheme) -> str:
    """The value of `split.scheme` in words."""
    if isinstance(scheme, list):
        return "folds by speaker, from a list in params.yaml"
    if isinstance(scheme, int):
        return f"{scheme} folds by speaker, balanced by label and, where known, gender"
    return ANY[scheme] if scheme in ANY else RAVDESS[scheme].title


def listed(scheme: Scheme) -> Sequence[Sequence[Speaker]] | None:
    """The speakers of each fold; None where the clips decide."""
    if isinstance(scheme, list):
        return scheme
    return RAVDESS[scheme].folds if scheme in RAVDESS else None


def leaky(scheme: Scheme) -> bool:
    """True if speakers are on both sides of a split."""
    return scheme == "random"


def count(scheme: Scheme) -> int | None:
    """The number of folds; None where the clips decide."""
    if isinstance(scheme, int):
        return scheme
    folds = listed(scheme)
    if folds is None:
        return RANDOM_FOLDS if leaky(scheme) else None
    return len(folds)


def check_partition(folds: Sequence[Sequence[Speaker]], speakers: Sequence[Speaker]) -> None:
    """Refuse a list of folds in which not each of the speakers has one place.

    Raises:
        UserError: names the speaker.
    """
    each = f"each of the {len(speakers)} speakers belongs to one fold"
    placed = [speaker for fold in folds for speaker in fold]
    if twice := [speaker for speaker in placed if placed.count(speaker) > 1]:
        raise UserError(f"speaker {twice[0]} stands in two places; {each}")
    if strange := [speaker for speaker in placed if speaker not in speakers]:
        there = str(list(speakers[:24]))[1:-1]
        raise UserError(f"speaker {strange[0]!r} is not in the corpus, which has {there}; {each}")
    if missing := [speaker for speaker in speakers if speaker not in placed]:
        raise UserError(f"speakers {missing[:24]} are in no fold; {each}")
    if not all(folds):
        raise UserError(f"a fold is empty; {each}")


def sentence(name: str, scheme: Scheme, predictions: pd.DataFrame, model: str) -> str:
    """A line on how figures came about.

    Args:
        name, scheme: the values of `corpus` and `split.scheme` in params.yaml.
        predictions: speaker and fold of each held-out clip.
        model: what the model says of itself in its protocol.txt.
    """
    parts = [corpus.title(name), title(scheme)]
    if not leaky(scheme):
        folds = [rows["speaker"].drop_duplicates() for _, rows in predictions.groupby("fold")]
        text = " | ".join(",".join(map(str, sorted(fold))) for fold in folds)
        parts.append(f"held-out speakers {text}")
    return "; ".join([*parts, model.strip()])
