"""Search results: the trials and choices in tables, and what the choices are worth on the outer
folds, which nothing has looked at before."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from ser import params, scoring, tables
from ser.run import outputs
from ser.search import objective, space
from ser.search.fold_search import FoldSearch
from ser.search.study import finished

FOLDER = Path("metrics/search")
ENOUGH = 8  # trials with a score, to say which parameter matters
FOR_ALL = (
    "one choice for all folds, made on speakers held out inside the training actors of outer fold "
    "{}: that fold is clean; the actors of the others had a part in the choice, and their figures "
    "are optimistic"
)
NESTED = (
    "nested: each outer fold's own choice, made on speakers held out inside its training actors; "
    "every fold is clean"
)


def trials(search: FoldSearch) -> pd.DataFrame:
    """Optuna's table of trials: number, value, state, and each parameter and note in a column."""
    return search.study.trials_dataframe(("number", "value", "state", "params", "user_attrs"))


def importance(search: FoldSearch) -> pd.DataFrame:
    """Share of the variance of scores that each parameter explains; no rows before `ENOUGH` trials
    have a score.

    Source: Hutter et al. (2014), ICML, "An efficient approach for assessing hyperparameter
    importance" (functional ANOVA).
    """
    shares = {}
    scores = [trial.value for trial in finished(search.study) if trial.value is not None]
    if len(scores) >= ENOUGH and len(set(scores)) > 1:
        shares = get_param_importances(search.study, evaluator=FanovaImportanceEvaluator(seed=0))
    return pd.DataFrame({"parameter": shares.keys(), "importance": shares.values()})


def choice(search: FoldSearch) -> pd.DataFrame:
    """One row: the study, how many of its trials were finished, pruned and failed, the best trial
    with its score, and the command that runs the pipeline with its parameters."""
    best, done = search.best(), finished(search.study)
    arguments = space.overrides(search.settings.model_dump(), search.choice())
    words = [word for argument in arguments for word in ("-S", argument)]
    row = {
        "study": search.study.study_name,
        "trials": len(done),
        "pruned": sum("pruned_at" in trial.user_attrs for trial in done),
        "failed": sum("reason" in trial.user_attrs for trial in done),
        "best": best.number,
        "score": best.value,
        "command": shlex.join(["dvc", "exp", "run", *words, f"evaluate@{search.branch.name}"]),
    }
    return pd.DataFrame([row])


def predictions(searches: Sequence[FoldSearch], settings: params.Params) -> pd.DataFrame:
    """The held-out clips, predicted with params.yaml as it is (`before`) and as chosen (`after`).

    A fold is *clean* if its actors had no part in the choice that it is scored with. Of one choice
    for all folds, a branch that takes seconds is scored on all of them, any other on the clean one
    alone.

    Returns:
        clip, actor, fold, actual, clean, before, after; a row per clip, sorted.
    """
    branch, own = searches[0].branch, {search.fold: search for search in searches}
    parts = []
    for fold in sorted({*own, *settings.folds} if branch.scores_every_fold else own):
        search = own.get(fold, searches[0])
        print(f"{branch.name}: scoring fold {fold} as before and as chosen", flush=True)
        before, after = (
            objective.held_out(branch, values, fold)
            for values in (settings, search.parameters(search.choice()))
        )
        parts.append(pd.DataFrame({"clean": fold in own, "before": before, "after": after}))
    clips = tables.folds().rename(columns={"emotion": "actual"}).set_index("clip")
    clips = clips[["actor", "fold", "actual"]].join(pd.concat(parts), how="inner")
    return clips.sort_index().reset_index()


def write(
    searches: Sequence[FoldSearch], nested: bool, settings: params.Params
) -> tuple[dict[str, float], dict[str, pd.DataFrame], str]:
    """Score the outer folds and write all that is known of the searches.

    Returns:
        accuracy and uar on the clean folds as chosen, gain_accuracy and gain_uar against
        params.yaml as it is, each with 95 % bounds over actors (NAME_low, NAME_high); the tables
        by name; the protocol.
    """
    scored = predictions(searches, settings)
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

    by_search = {"choices": choice, "trials": trials, "importance": importance}
    every = {"folds": folds, "predictions": scored} | {
        name: pd.concat(
            {search.fold: table(search) for search in searches}, names=["fold"]
        ).reset_index("fold")
        for name, table in by_search.items()
    }
    name, search = searches[0].branch.name, searches[0].search
    protocol = NESTED if nested else FOR_ALL.format(searches[0].fold)
    protocol += f"; sampler {search.sampler}, seed {search.seed}"
    with outputs.together() as place:
        for table, rows in every.items():
            rows.to_csv(place(FOLDER / f"{name}_{table}.csv"), index=False, float_format="%.6g")
        place(FOLDER / f"{name}_protocol.txt").write_text(protocol + "\n", encoding="utf-8")
        place(FOLDER / f"{name}.json").write_text(outputs.as_json(figures), encoding="utf-8")
    return figures, every, protocol
