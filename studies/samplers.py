"""Bayesian optimisation against random search on the SVM branch: the best inner score after n
trials, the same budget for each.

    python -m studies.samplers [--trials N] [--seeds N]

Every run starts with the same plain values, which are no merit of the sampler: the best is that of
the trials after it. Scores are those of `commands.search svm`, on the training actors of
search.yaml's `fold`. The space is that of svm_train and of trim_db, few enough features to be
computed once.

Reads:  data/audio, data/folds.csv, params.yaml, search.yaml
Writes: studies/samplers.csv: sampler, seed, trial, score, best; studies/samplers.png; prints a
        table
"""

import argparse
import warnings

import matplotlib
import numpy as np
import optuna
import pandas as pd
from tqdm import tqdm

from ser import params
from ser.run import outputs
from ser.search import space
from ser.search.shared_study import make_sampler
from ser.search.space import Search
from ser.search.worth import BRANCHES, QUARTERS

SPACE = {
    "mfcc.trim_db": [15, 20, 25, 30, 35, 40],
    "svm_train.C": "log 0.1..300",
    "svm_train.gamma": "log 0.03..30",
    "svm_train.blocks.0.stat": "log 0.05..5",
    "svm_train.blocks.0.dct": "log 0.05..5",
    "svm_train.blocks.0.seg": "log 0.05..5",
    "svm_train.blocks.0.cov": "log 0.05..5",
}
AFTER = (5, 10, 15, 20, 30, 40)  # trials, in the table


def run(
    sampler: str, seed: int, trials: int, settings: params.Params, search: Search, known: dict
) -> pd.DataFrame:
    """One search of so many trials: its scores. `known` scores, of all runs, are not computed
    again."""
    values = settings.model_dump()
    blocks = dict.fromkeys(("stat", "dct", "seg", "cov"), 1.0)
    values["svm_train"] |= {"blocks": [blocks], "kernel": ["rbf_mean"], "C": [5.0], "gamma": [1.0]}
    possible = {name: space.distribution(declared) for name, declared in SPACE.items()}
    search = search.model_copy(update={"sampler": sampler, "seed": seed})
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial(space.current(values, possible))
    for position in range(trials):
        study.sampler = make_sampler(search, position)
        trial = study.ask(possible)
        point = space.point(trial.params, possible)
        key = str(point)
        if key not in known:
            changed = params.check(space.put(values, point), "SPACE", params.Params)
            known[key] = dict(BRANCHES["svm"].scores(changed, search.fold))[QUARTERS]
        study.tell(trial, known[key])
    scores = [trial.value for trial in study.get_trials()]
    table = pd.DataFrame({"trial": 1 + np.arange(trials), "score": scores})
    best = table["score"].where(table["trial"] > 1).cummax()
    return table.assign(sampler=sampler, seed=seed, best=best)


def draw(table: pd.DataFrame) -> None:
    """Means over seeds, with the range of all seeds."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for sampler, rows in table.groupby("sampler"):
        best = rows.pivot(index="trial", columns="seed", values="best")
        (line,) = axes.plot(
            best.index, best.mean(axis=1), label=f"{sampler}, mean of {best.shape[1]} seeds"
        )
        axes.fill_between(
            best.index, best.min(axis=1), best.max(axis=1), alpha=0.15, color=line.get_color()
        )
    axes.axhline(
        table["score"].iloc[0],
        color="grey",
        linestyle="dashed",
        label="the plain values that all start with",
    )
    axes.set(
        xlabel="trials",
        ylabel="best inner accuracy so far",
        title="SVM branch; bands: all seeds",
        ylim=(0.5, None),
    )
    axes.legend()
    with outputs.whole("studies/samplers.png") as path:
        figure.savefig(path, format="png", dpi=120, metadata={"Software": None})


def report(table: pd.DataFrame) -> None:
    """Draw and print what every sampler found."""
    draw(table)
    after = table[table["trial"].isin(AFTER)].groupby(["trial", "sampler"])["best"]
    print(
        pd.DataFrame({"mean": after.mean(), "min": after.min(), "max": after.max()})
        .round(4)
        .unstack()
        .to_string()
    )
    trials = table["trial"].max()
    last = table[table["trial"] == trials].pivot(index="seed", columns="sampler", values="best")
    for sampler in ("gp", "tpe"):
        ahead = ", ".join(f"{points:+.2f}" for points in 100 * (last[sampler] - last["random"]))
        print(f"{sampler} - random after {trials} trials, by seed: {ahead} points")


def main() -> None:
    """Run every sampler with every seed, write and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    settings, search, known = params.load(), space.load(), {}
    jobs = [
        (sampler, seed) for seed in range(arguments.seeds) for sampler in ("gp", "tpe", "random")
    ]
    table = pd.DataFrame()
    for job in tqdm(jobs, desc="searches", unit="search"):
        table = pd.concat([table, run(*job, arguments.trials, settings, search, known)])
        with outputs.whole("studies/samplers.csv") as path:  # after each, so that a kill costs one
            table.to_csv(path, index=False, float_format="%.5f")
    report(table)


if __name__ == "__main__":
    main()
