"""Split the corpus into folds: by speaker, so that no voice is ever on both sides, unless the
leaky scheme `random` is asked for.

Reads:  data/raw/Actor_XX/*.wav (the names only)
        params `split`
Writes: data/folds.csv: clip, speaker, gender, label, intensity, statement, repetition, fold; a row
            per clip, sorted by clip
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from ser import corpus, params, protocols
from ser.run import errors, outputs


def assign(clips: pd.DataFrame, folds: Iterable[Iterable[int]]) -> pd.DataFrame:
    """Add the column `fold`: the index in `folds` of the group that holds the clip's speaker."""
    fold_of = {speaker: fold for fold, speakers in enumerate(folds) for speaker in speakers}
    return clips.assign(fold=clips["speaker"].map(fold_of))


def deal_out(clips: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Add the column `fold` at random, with as many clips of each label in each fold: the voices
    of every fold are in the others, too, which is the leak of many published figures."""
    folds = StratifiedKFold(protocols.RANDOM_FOLDS, shuffle=True, random_state=seed)
    numbers = np.empty(len(clips), int)
    for fold, (_, rows) in enumerate(folds.split(clips, clips["label"])):
        numbers[rows] = fold
    return clips.assign(fold=numbers)


@errors.one_line
def main() -> None:
    """Read the names, assign the folds, write the table."""
    settings = params.load().split
    speakers, seed = protocols.folds(settings.scheme), settings.seed
    clips = corpus.table(corpus.files("data/raw"))
    clips = deal_out(clips, seed) if speakers is None else assign(clips, speakers)
    with outputs.whole("data/folds.csv") as path:
        clips.to_csv(path, index=False, lineterminator="\n")
    for fold, rows in clips.groupby("fold"):
        held_out = ", ".join(map(str, sorted(set(rows["speaker"]))))
        print(f"fold {fold}: speakers {held_out}; {len(rows)} clips")


if __name__ == "__main__":
    main()
