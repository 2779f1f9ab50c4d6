"""The worth of a search's choices on the outer folds, which nothing has looked at before."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ser import scoring, tables
from ser.run import outputs
from ser.search import objective, space
from ser.search.study import FoldSearch

FOLDER = Path("metrics/search")
FOR_ALL = (
    "one choice for all folds, made on speakers held out inside the training speakers of outer "
    "fold {}: that fold is clean; the speakers of the others had a part in the choice, and their "
    "figures are optimistic"
)
NESTED = (
    "nested: each outer fold's own choice, made on speakers held out inside its training speakers; "
    "every fold is clean"
)


def command(search: FoldSearch) -> str:
    """The command that runs the pipeline with the parameters chosen."""
    choice = search.choice()
    values = space.put(search.settings.model_dump(), choice)
    words = ["dvc", "exp", "run"]
    for name in choice:
        # Hydra, which reads them, takes no quoted keys.
        text = json.dumps(space.look_up(values, name)).replace('"', "")
        words += ["-S", f"{name}={text}"]
    return shlex.join([*words, f"evaluate@{search.branch.name}"])


def predictions(searches: Sequence[FoldSearch]) -> pd.DataFrame:
    """The held-out clips, predicted with params.yaml as it is (`before`) and as chosen (`after`).

    A fold is *clean* if its speakers had no part in the choice that it is scored with. Of one
    choice for all folds, a branch that takes seconds is scored on all of them, any other on the
    clean one alone.

    Returns:
        clip, speaker, fold, actual, clean, before, after; a row per clip, sorted.
    """
    first, own = searches[0], {search.fold: search for search in searches}
    parts = []
    for fold in sorted({*own, *first.settings.folds} if first.branch.scores_every_fold else own):
        search = own.get(fold, first)
        print(f"{first.branch.name}: scoring fold {fold} as before and as chosen", flush=True)
        before, after = (
            objective.held_out(first.branch, values, fold)
            for values in (search.settings, search.parameters(search.choice()))
        )
        parts.append(pd.DataFrame({"clean": fold in own, "before": before, "after": after}))
    clips = tables.folds().rename(columns={"label": "actual"}).set_index("clip")
    clips = clips[["speaker", "fold", "actual"]].join(pd.concat(parts), how="inner")
    return clips.sort_index().reset_index()


def write(
    searches: Sequence[FoldSearch], nested: bool
) -> tuple[dict[str, float], pd.DataFrame, str]:
    """Score the outer folds and write all that is known of the searches.

    Returns:
        accuracy and uar on the clean folds as chosen, gain_accuracy and gain_uar against
        params.yaml as it is, each with 95 % bounds over speakers (NAME_low, NAME_high); the table
        of folds; the protocol.
    """
    scored = predictions(searches)
    before, after = (scored.rename(columns={when: "predicted"}) for when in ("before", "after"))
    clean = scored["clean"]
    gains = scoring.differences(after[clean], before[clean])
    figures = scoring.bounded(after[clean]) | {f"gain_{name}": gains[name] for name in gains}
    figures = {name: value for name, value in figures.items() if "macro_f1" not in name}

    rates = [
        scoring.by_group(table, "fold")[["fold", "clips", "accuracy", "uar"]]
        for table in (before, after)
    ]
    folds = pd.merge(*rates, on=["fold", "clips"], suffixes=("_before", "_after"))
    folds.insert(1, "clean", folds["fold"].isin([search.fold for search in searches]))

    columns = ("number", "value", "state", "params", "user_attrs")
    trials = {search.fold: search.study.trials_dataframe(columns) for search in searches}
    name, search = searches[0].branch.name, searches[0].search
    every = {
        "folds": folds,
        "predictions": scored,
        "trials": pd.concat(trials, names=["fold"]).reset_index("fold"),
    }
    protocol = NESTED if nested else FOR_ALL.format(searches[0].fold)
    protocol += f"; sampler {search.sampler}, seed {search.seed}"
    with outputs.together() as place:
        for table, rows in every.items():
            rows.to_csv(place(FOLDER / f"{name}_{table}.csv"), index=False, float_format="%.6g")
        place(FOLDER / f"{name}_protocol.txt").write_text(protocol + "\n", encoding="utf-8")
        outputs.write_json(place(FOLDER / f"{name}.json"), figures)
    return figures, folds, protocol
