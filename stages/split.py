"""Split the corpus into folds: by speaker, so that no voice is ever on both sides, unless the
leaky scheme `random` is asked for.

Reads:  data/clips.csv
        params `split`
Writes: data/folds.csv: the columns of data/clips.csv, and fold; a row per clip
"""

import numpy as np
import pandas as pd

from ser import params, protocols, tables
from ser.run import errors, outputs


def fold_numbers(clips: pd.DataFrame, scheme: protocols.Scheme, seed: int) -> pd.Series:
    """The number of each clip's fold.

    Args:
        clips: the table of clips.
        scheme, seed: of params `split`.

    Raises:
        UserError: the corpus cannot be split in this way; says how it can be.
    """
    speakers = sorted(clips["speaker"].unique().tolist())
    if protocols.leaky(scheme):
        return deal_out(clips, seed)
    if scheme == "fold":
        return own_column(clips)
    if isinstance(scheme, int):
        return balanced(clips, scheme)
    folds = protocols.listed(scheme) or [[speaker] for speaker in speakers]
    try:
        protocols.check_partition(folds, speakers)
    except errors.UserError as error:
        raise errors.UserError(f"split.scheme: {error}") from None
    fold_of = {speaker: fold for fold, group in enumerate(folds) for speaker in group}
    return clips["speaker"].map(fold_of)


def balanced(clips: pd.DataFrame, count: int) -> pd.Series:
    """So many folds of whole speakers, with like shares of labels and genders; the same every
    time."""
    speakers = clips["speaker"].nunique()
    if speakers < count:
        raise errors.UserError(
            f"split.scheme = {count}: the corpus has {speakers} speakers; expected at most that"
        )
    from sklearn.model_selection import StratifiedGroupKFold  # lazy: a second that few need

    strata = clips["label"]
    if "gender" in clips:
        strata = strata + " " + clips["gender"].fillna("").astype(str)
    return numbered(clips, StratifiedGroupKFold(count).split(clips, strata, clips["speaker"]))


def deal_out(clips: pd.DataFrame, seed: int) -> pd.Series:
    """Folds at random, with as many clips of each label in each fold: the voices of every fold are
    in the others, too, which is the leak of many published figures."""
    least, folds = clips["label"].value_counts().min(), protocols.RANDOM_FOLDS
    if least < folds:
        raise errors.UserError(
            f"split.scheme = random: a label has {least} clips; expected {folds} of each at least"
        )
    from sklearn.model_selection import StratifiedKFold  # lazy, likewise

    kind = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return numbered(clips, kind.split(clips, clips["label"]))


def own_column(clips: pd.DataFrame) -> pd.Series:
    """The column `fold` of the corpus's own table, whose values are numbered in ascending order."""
    if "fold" not in clips:
        raise errors.UserError("split.scheme = fold: metadata.csv has no column fold")
    if clips["fold"].isna().any():
        clip = clips.loc[clips["fold"].isna(), "clip"].iloc[0]
        raise errors.UserError(f"split.scheme = fold: metadata.csv has no fold of {clip}")
    several = clips.groupby("speaker")["fold"].nunique() > 1
    if several.any():
        raise errors.UserError(
            f"split.scheme = fold: speaker {several.idxmax()} is in two folds of metadata.csv, on "
            "both sides; expected whole speakers"
        )
    return clips["fold"].rank(method="dense").astype(int) - 1


def numbered(clips: pd.DataFrame, splits: object) -> pd.Series:
    """The number of each clip's fold, from pairs of training and test rows."""
    numbers = np.empty(len(clips), int)
    for fold, (_, rows) in enumerate(splits):
        numbers[rows] = fold
    return pd.Series(numbers, clips.index)


@errors.one_line
def main() -> None:
    """Read the table of clips, assign the folds, write the table."""
    settings = params.load().split
    clips = tables.clips()
    folds = fold_numbers(clips, settings.scheme, settings.seed)
    if folds.nunique() < 2:
        raise errors.UserError(f"split.scheme = {settings.scheme}: one fold; expected two at least")
    clips = clips.drop(columns="fold", errors="ignore").assign(fold=folds)
    with outputs.whole(tables.FOLDS) as path:
        clips.to_csv(path, index=False, lineterminator="\n")
    for fold, rows in clips.groupby("fold"):
        held_out = ", ".join(map(str, sorted(set(rows["speaker"]))))
        print(f"fold {fold}: speakers {held_out}; {len(rows)} clips")


if __name__ == "__main__":
    main()
