"""Split the corpus into folds by actor, so that no voice is ever on both sides.

Reads:  data/raw/Actor_XX/*.wav (the names only)
        params `split`
Writes: data/folds.csv: clip, actor, gender, emotion, intensity, statement, repetition, fold; a row
            per clip, sorted by clip
"""

import pandas as pd

from ser import corpus, params
from ser.run import errors, outputs


def assign(clips: pd.DataFrame, folds: list[list[int]]) -> pd.DataFrame:
    """Add the column `fold`: the index in `folds` of the group that holds the clip's actor."""
    fold_of = {actor: fold for fold, actors in enumerate(folds) for actor in actors}
    return clips.assign(fold=clips["actor"].map(fold_of))


@errors.one_line
def main() -> None:
    """Read the names, assign the folds, write the table."""
    settings = params.load().split
    clips = assign(corpus.table(corpus.files("data/raw")), settings.folds)
    with outputs.whole("data/folds.csv") as path:
        clips.to_csv(path, index=False, lineterminator="\n")
    for fold, rows in clips.groupby("fold"):
        actors = ", ".join(map(str, sorted(set(rows["actor"]))))
        print(f"fold {fold}: actors {actors}; {len(rows)} clips")


if __name__ == "__main__":
    main()
