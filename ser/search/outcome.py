"""What a search found, in tables, and what its choices are worth on the outer folds, which nothing
has looked at before."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from optuna.distributions import CategoricalDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState
from sklearn.metrics import confusion_matrix
from tqdm import tqdm

from ser import params, scoring
from ser.corpus import EMOTIONS
from ser.run import outputs
from ser.search import worth
from ser.search.fold_search import Choice, state

FOLDER = Path("metrics/search")
ENOUGH = 8  # trials with a score, to say which parameter matters
PLOTS = {
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
ONE = (
    "one choice for all folds, made on speakers held out inside the training actors of outer fold {}: that fold is clean; the "
    "actors of the others had a part in the choice, and their figures are optimistic"
)
NESTED = "nested: each outer fold's own choice, made on speakers held out inside its training actors; every fold is clean"


def plain(point: dict[str, object]) -> dict[str, int | float | str]:
    """A trial's parameters with lists and dicts as text."""
    return {
        name: value if isinstance(value, int | float | str) else json.dumps(value)
        for name, value in point.items()
    }


def history(choice: Choice) -> pd.DataFrame:
    """A row per finished trial, with the best score so far."""
    rows = []
    for trial in choice.study.finished():
        row = {
            "fold": choice.fold,
            "trial": trial.number,
            "state": state(trial),
            "score": trial.value,
        }
        rows.append(row | plain(choice.point(trial)) | {"reason": trial.user_attrs.get("reason")})
    table = pd.DataFrame(rows)
    table.insert(4, "best", table["score"].astype(float).cummax())
    return table


def importance(choice: Choice) -> pd.DataFrame:
    """Share of the variance of scores that each parameter explains; no rows before `ENOUGH` trials
    have a score.

    Source: Hutter et al. (2014), ICML, "An efficient approach for assessing hyperparameter
    importance" (functional ANOVA).
    """
    scores = [trial.value for trial in choice.study.finished() if trial.value is not None]
    found = {}
    if len(scores) >= ENOUGH and np.ptp(scores) > 0:
        found = get_param_importances(
            choice.study.optuna, evaluator=FanovaImportanceEvaluator(seed=0)
        )
    rows = [
        {"fold": choice.fold, "parameter": name, "importance": share}
        for name, share in found.items()
    ]
    return pd.DataFrame(rows, columns=["fold", "parameter", "importance"])


def parallel(choice: Choice) -> pd.DataFrame:
    """A row per trial and parameter, with the value's place in its range, 0 to 1: a line per trial
    across the parameters."""

    def place(name: str, drawn: object) -> float:
        values = choice.space[name]
        if isinstance(values, CategoricalDistribution):
            return values.choices.index(drawn) / max(len(values.choices) - 1, 1)
        low, here, high = (
            np.log(number) if values.log else number for number in (values.low, drawn, values.high)
        )
        return (here - low) / (high - low)

    rows = [
        {"fold": choice.fold, "trial": trial.number, "score": trial.value, "parameter": name, "value": value,
         "place": place(name, trial.params[name])}
        for trial in choice.study.finished() if trial.value is not None for name, value in plain(choice.point(trial)).items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def compare(
    branch: str, choices: list[Choice], nested: bool, settings: params.Params
) -> pd.DataFrame:
    """The held-out clips, predicted with params.yaml as it is and as chosen: clip, fold, clean,
    actual, before, after.

    A fold is *clean* if its actors had no part in the choice that it is scored with. Of one choice
    for all folds, an SVM is scored on all of them, for it takes seconds, and wav2vec 2.0 on the
    clean one alone.
    """
    own = {choice.fold: choice for choice in choices}
    folds = own if nested or branch == "w2v" else sorted({*own, *settings.folds})
    actual, parts = worth.clips().set_index("clip")["emotion"], []
    for fold in tqdm(folds, desc="outer folds", unit="fold"):
        choice = own.get(fold, choices[0])
        before = worth.held_out(branch, settings, fold)
        after = worth.held_out(branch, choice.parameters(choice.best().params), fold)
        parts.append(
            pd.DataFrame({"fold": fold, "clean": fold in own, "before": before, "after": after})
        )
    table = pd.concat(parts).sort_index().rename_axis("clip").reset_index()
    table.insert(3, "actual", actual.loc[table["clip"]].to_numpy())
    return table


def figures(table: pd.DataFrame) -> dict:
    """Accuracy and UAR before and after, pooled over the clips of the table."""
    found = {"folds": " ".join(map(str, sorted(table["fold"].unique()))), "clips": len(table)}
    rates = {
        when: scoring.rates(confusion_matrix(table["actual"], table[when], labels=EMOTIONS))
        for when in ("before", "after")
    }
    return found | {
        f"{name}_{when}": float(rates[when][name]) for name in ("accuracy", "uar") for when in rates
    }


def summary(choices: list[Choice], nested: bool, table: pd.DataFrame) -> dict:
    """What BRANCH.json holds; `table` is that of `compare`."""
    clean, rest, settings, made = (
        table[table["clean"]],
        table[~table["clean"]],
        choices[0].settings.search,
        {},
    )
    for choice in choices:
        best, done, score = (
            choice.best(),
            choice.study.finished(),
            f"inner_{worth.SCORE[choice.branch]}",
        )
        made[f"without_fold_{choice.fold}"] = {
            "trials": len(choice.study.new()),
            "given_up": sum("given_up_at" in trial.user_attrs for trial in done),
            "failed": sum(trial.state == TrialState.FAIL for trial in choice.study.new()),
            f"{score}_first": done[0].value,
            f"{score}_best": best.value,
            "experiment": choice.experiment(best),
            "chosen": plain(choice.point(best)),
        }
    return {
        "selection": NESTED if nested else ONE.format(choices[0].fold),
        "sampler": settings.sampler,
        "seed": settings.seed,
        "choices": made,
        "clean": figures(clean),
        **({"not_clean": figures(rest), "pooled_not_clean": figures(table)} if len(rest) else {}),
    }


def write(branch: str, choices: list[Choice], nested: bool, settings: params.Params) -> dict:
    """Score the outer folds, write all that was found and the plots of it; return the summary."""
    table = compare(branch, choices, nested, settings)
    tables = {"predictions": table, "trials": pd.concat(map(history, choices))}
    tables |= {
        "importance": pd.concat(map(importance, choices)),
        "parallel": pd.concat(map(parallel, choices)),
    }
    for name, rows in tables.items():
        with outputs.whole(FOLDER / f"{branch}_{name}.csv") as path:
            rows.to_csv(path, index=False, float_format="%.6g")
    found = summary(choices, nested, table)
    outputs.write_json(FOLDER / f"{branch}.json", found)
    declare_plots()
    return found


def declare_plots() -> None:
    """Name the plots of every branch searched, where DVC looks for them: where there is no table
    yet, it would complain."""
    lines = ["# What `python -m commands.search` found. It writes this file too.", "plots:"]
    for table in sorted(FOLDER.glob("*_trials.csv")):
        branch = table.name.removesuffix("_trials.csv")
        for name, (template, y, x, title) in PLOTS.items():
            lines += [
                f"  - {branch}_{name}:", f'      title: "search {branch}: {title}"', f"      template: {template}", f"      x: {x}",
                "      y:", f"        {branch}_{name}.csv: {y}",
            ]  # fmt: skip
    with outputs.whole(FOLDER / "dvc.yaml") as path:
        path.write_text("\n".join(lines) + "\n")
