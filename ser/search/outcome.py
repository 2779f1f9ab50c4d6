"""What a search came to: its trials and choices in tables, and what the choices are worth on the
outer folds, which nothing has looked at before."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from optuna.distributions import CategoricalDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState
from ruamel.yaml import YAML
from tqdm import tqdm

from ser import params, scoring
from ser.run import outputs
from ser.search import space, worth
from ser.search.fold_search import FoldSearch, ending

FOLDER = Path("metrics/search")
ENOUGH = 8  # trials with a score, to say which parameter matters
PLOTS = {  # table: template, y, x, title
    "trials": ("history", "score", "trial", "best score so far (line) and each trial's (points)"),
    "importance": (
        "bar_horizontal",
        "parameter",
        "importance",
        "share of the scores' variance that a parameter explains",
    ),
    "parallel": (
        "parallel",
        "place",
        "parameter",
        "a line per trial through its parameters, each from its least to its greatest",
    ),
}
FOR_ALL = (
    "one choice for all folds, made on speakers held out inside the training actors of outer fold "
    "{}: that fold is clean; the actors of the others had a part in the choice, and their figures "
    "are optimistic"
)
NESTED = (
    "nested: each outer fold's own choice, made on speakers held out inside its training actors; "
    "every fold is clean"
)


def plain(point: space.Point) -> dict[str, int | float | str]:
    """A trial's parameters with lists and dicts as text."""
    return {
        name: value if isinstance(value, int | float | str) else json.dumps(value)
        for name, value in point.items()
    }


def trials(search: FoldSearch) -> pd.DataFrame:
    """A row per finished trial, with the best score so far."""
    rows = [
        {"fold": search.fold, "trial": trial.number, "ending": ending(trial), "score": trial.value}
        | plain(search.point(trial))
        | {"reason": trial.user_attrs.get("reason")}
        for trial in search.study.finished()
    ]
    table = pd.DataFrame(rows)
    table.insert(4, "best", table["score"].astype(float).cummax())
    return table


def importance(search: FoldSearch) -> pd.DataFrame:
    """Share of the variance of scores that each parameter explains; no rows before `ENOUGH` trials
    have a score.

    Source: Hutter et al. (2014), ICML, "An efficient approach for assessing hyperparameter
    importance" (functional ANOVA).
    """
    scores = [trial.value for trial in search.study.finished() if trial.value is not None]
    shares = {}
    if len(scores) >= ENOUGH and np.ptp(scores) > 0:
        evaluator = FanovaImportanceEvaluator(seed=0)
        shares = get_param_importances(search.study.optuna, evaluator=evaluator)
    table = pd.DataFrame({"parameter": shares.keys(), "importance": shares.values()})
    return table.assign(fold=search.fold)[["fold", "parameter", "importance"]]


def parallel(search: FoldSearch) -> pd.DataFrame:
    """A row per trial and parameter, with the value's place in its range, 0 to 1: a line per trial
    across the parameters."""

    def place(name: str, drawn: Any) -> float:
        possible = search.space[name]
        if isinstance(possible, CategoricalDistribution):
            return possible.choices.index(drawn) / max(len(possible.choices) - 1, 1)
        edges = np.array([possible.low, drawn, possible.high], float)
        low, here, high = np.log(edges) if possible.log else edges
        return (here - low) / (high - low)

    rows = [
        {
            "fold": search.fold,
            "trial": trial.number,
            "score": trial.value,
            "parameter": name,
            "value": value,
            "place": place(name, trial.params[name]),
        }
        for trial in search.study.finished()
        if trial.value is not None
        for name, value in plain(search.point(trial)).items()
    ]
    return pd.DataFrame(rows)


def choices(searches: list[FoldSearch]) -> pd.DataFrame:
    """A row per search: the fold that it did not see, how many trials it took, were given up and
    failed, its first and its best score, the best trial's experiment and parameters."""
    rows = []
    for search in searches:
        best, distinct = search.best(), search.study.distinct()
        row: dict[str, Any] = {
            "fold": search.fold,
            "trials": len(distinct),
            "given_up": sum("given_up_at" in trial.user_attrs for trial in distinct),
            "failed": sum(trial.state == TrialState.FAIL for trial in distinct),
            "first": search.study.finished()[0].value,
            "best": best.value,
            "experiment": search.experiment(best),
        }
        rows.append(row | plain(search.point(best)))
    return pd.DataFrame(rows)


def predictions(
    searches: list[FoldSearch], nested: bool, settings: params.Params
) -> dict[str, pd.DataFrame]:
    """The held-out clips, predicted with params.yaml as it is (`before`) and as chosen (`after`).

    A fold is *clean* if its actors had no part in the choice that it is scored with. Of one choice
    for all folds, a branch that takes seconds is scored on all of them, any other on the clean one
    alone.

    Returns:
        two tables with clip, actor, fold, clean, actual, predicted; a row per clip, sorted.
    """
    branch, own = searches[0].branch, {search.fold: search for search in searches}
    every = branch.scores_every_fold and not nested
    parts: dict[str, list[pd.DataFrame]] = {"before": [], "after": []}
    for fold in tqdm(sorted({*own, *settings.folds} if every else own), "outer folds", unit="fold"):
        search = own.get(fold, searches[0])
        chosen = search.parameters(search.best().params)
        for when, values in (("before", settings), ("after", chosen)):
            predicted = worth.held_out(branch, values, fold)
            parts[when].append(pd.DataFrame({"predicted": predicted, "clean": fold in own}))
    clips = worth.clips().set_index("clip")[["actor", "fold", "emotion"]]
    clips = clips.rename(columns={"emotion": "actual"})
    return {
        when: clips.join(pd.concat(tables), how="inner").sort_index().reset_index()
        for when, tables in parts.items()
    }


def summary(tables: dict[str, pd.DataFrame]) -> dict[str, float]:
    """What the choices are worth on the clips of the tables.

    Returns:
        accuracy and uar as chosen; gain_accuracy and gain_uar: how much higher they are than with
        params.yaml as it is; each with 95 % bounds over actors, as NAME_low and NAME_high.
    """
    after, before = tables["after"], tables["before"]
    gains = scoring.differences(after, before)
    figures = scoring.bounded(after) | {f"gain_{name}": gain for name, gain in gains.items()}
    return {name: value for name, value in figures.items() if "macro_f1" not in name}


def by_fold(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Accuracy and UAR before and after of every outer fold that was scored: a row per fold."""
    rows = []
    for fold, clips in tables["before"].groupby("fold"):
        row = {"fold": fold, "clean": clips["clean"].iloc[0], "clips": len(clips)}
        for name in ("accuracy", "uar"):
            for when, table in tables.items():
                confusion = scoring.per_actor_confusion(table[table["fold"] == fold]).sum(axis=0)
                row[f"{name}_{when}"] = float(scoring.rates(confusion)[name])
        rows.append(row)
    return pd.DataFrame(rows)


def write(
    searches: list[FoldSearch], nested: bool, settings: params.Params
) -> tuple[dict[str, float], dict[str, pd.DataFrame], str]:
    """Score the outer folds, write all that is known of the searches and name the plots of it.

    Returns:
        the figures, the tables and the protocol, as they were written.
    """
    name, search = searches[0].branch.name, searches[0].study.search
    scored = predictions(searches, nested, settings)
    figures = summary({when: table[table["clean"]] for when, table in scored.items()})
    after = scored["after"]["predicted"]
    tables = {
        "choices": choices(searches),
        "folds": by_fold(scored),
        "predictions": scored["before"].rename(columns={"predicted": "before"}).assign(after=after),
        "trials": pd.concat(map(trials, searches)),
        "importance": pd.concat(map(importance, searches)),
        "parallel": pd.concat(map(parallel, searches)),
    }
    protocol = NESTED if nested else FOR_ALL.format(searches[0].fold)
    protocol += f"; sampler {search.sampler}, seed {search.seed}"
    for table, rows in tables.items():
        with outputs.whole(FOLDER / f"{name}_{table}.csv") as path:
            rows.to_csv(path, index=False, float_format="%.6g")
    with outputs.whole(FOLDER / f"{name}_protocol.txt") as path:
        path.write_text(protocol + "\n", encoding="utf-8")
    outputs.write_json(FOLDER / f"{name}.json", figures)
    declare_plots()
    return figures, tables, protocol


def declare_plots() -> None:
    """Name the plots of every branch searched, where DVC looks for them: where there is no table
    yet, it would complain."""
    plots = [
        {
            f"{branch}_{table}": {
                "title": f"search {branch}: {title}",
                "template": template,
                "x": x,
                "y": {f"{branch}_{table}.csv": y},
            }
        }
        for branch in worth.BRANCHES
        if (FOLDER / f"{branch}_trials.csv").exists()
        for table, (template, y, x, title) in PLOTS.items()
    ]
    with outputs.whole(FOLDER / "dvc.yaml") as path, path.open("w") as file:
        file.write(
            "# The plots of what `python -m commands.search` wrote, which makes this file.\n"
        )
        YAML().dump({"plots": plots}, file)
