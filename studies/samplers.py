"""Bayesian optimisation against random search on the SVM branch: the best inner score after n
trials, the same budget for each.

    python -m studies.samplers [--trials N] [--seeds N]

Every run starts with the same plain values, which are no merit of the sampler: the best is that of
the trials after it. Scores are those of `commands.search svm`, on the training speakers of
search.yaml's `fold`. The space is that of svm_train and of trim_db, few enough features to be
computed once.

Reads:  data/audio, data/folds.csv, params.yaml, search.yaml
Writes: studies/samplers.csv: trial, score, sampler, seed, best; studies/samplers.png; prints a
        table
"""

import argparse
import warnings

import matplotlib
import optuna
import pandas as pd

from ser import params
from ser.run import outputs
from ser.search import space
from ser.search.objective import BRANCHES, QUARTERS
from ser.search.study import optimize

matplotlib.use("Agg")
BLOCKS = [f"svm_train.blocks.0.{name}" for name in ("stat", "dct", "seg", "cov")]
SPACE = {
    "mfcc.trim_db": space.distribution([15, 20, 25, 30, 35, 40]),
    "svm_train.C": space.distribution({"low": 0.1, "high": 300, "log": True}),
    "svm_train.gamma": space.distribution({"low": 0.03, "high": 30, "log": True}),
    **{name: space.distribution({"low": 0.05, "high": 5, "log": True}) for name in BLOCKS},
}
PLAIN = {"mfcc.trim_db": 25, "svm_train.C": 5.0, "svm_train.gamma": 1.0} | dict.fromkeys(
    BLOCKS, 1.0
)
AFTER = (5, 10, 15, 20, 30, 40)  # trials, in the table


def run(sampler: str, seed: int, trials: int, settings: params.Params, known: dict) -> pd.DataFrame:
    """The scores of one search of so many trials. `known` ones, of all runs, are not computed
    again."""
    search = params.read(space.FILE, space.Search).model_copy(
        update={"sampler": sampler, "seed": seed}
    )

    def score(point: dict, _: optuna.Trial) -> float:
        weights = {name.rpartition(".")[2]: point[name] for name in BLOCKS}
        changes = {"svm_train.blocks": [weights], "svm_train.kernel": "rbf_mean"}
        changes |= {name: value for name, value in point.items() if name not in BLOCKS}
        if str(changes) not in known:
            values = space.put(settings.model_dump(), changes)
            changed = params.check(values, "SPACE", params.Params)
            known[str(changes)] = dict(BRANCHES["svm"].scores(changed, search.fold))[QUARTERS]
        return known[str(changes)]

    study = optuna.create_study(direction="maximize")
    study.enqueue_trial(PLAIN)
    optimize(study, search, SPACE, score, trials)
    table = study.trials_dataframe(("number", "value")).set_axis(["trial", "score"], axis=1)
    table["trial"] += 1
    best = table["score"].where(table["trial"] > 1).cummax()
    return table.assign(sampler=sampler, seed=seed, best=best)


def draw(table: pd.DataFrame) -> None:
    """Means over seeds, with the range of all seeds."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for sampler, rows in table.groupby("sampler"):
        best = rows.pivot(index="trial", columns="seed", values="best")
        label = f"{sampler}, mean of {best.shape[1]} seeds"
        (line,) = axes.plot(best.index, best.mean(axis=1), label=label)
        low, high = best.min(axis=1), best.max(axis=1)
        axes.fill_between(best.index, low, high, alpha=0.15, color=line.get_color())
    plain = table["score"].iloc[0]
    label = "the plain values that all start with"
    axes.axhline(plain, color="grey", linestyle="dashed", label=label)
    axes.set(xlabel="trials", ylabel="best inner accuracy so far", ylim=(0.5, None))
    axes.set_title("SVM branch; bands: all seeds")
    axes.legend()
    with outputs.whole("studies/samplers.png") as path:
        figure.savefig(path, format="png", dpi=120, metadata={"Software": None})


def main() -> None:
    """Run every sampler with every seed, write, draw and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    settings, known, table = params.load(), {}, pd.DataFrame()
    for seed in range(arguments.seeds):
        for sampler in ("gp", "tpe", "random"):
            print(f"{sampler}, seed {seed}")
            done = run(sampler, seed, arguments.trials, settings, known)
            table = pd.concat([table, done])
            with outputs.whole("studies/samplers.csv") as path:  # after each: a kill costs one
                table.to_csv(path, index=False, float_format="%.5f")
    draw(table)
    after = table[table["trial"].isin(AFTER)].groupby(["trial", "sampler"])["best"]
    print(after.agg(["mean", "min", "max"]).round(4).unstack().to_string())
    last = table[table["trial"] == arguments.trials]
    last = last.pivot(index="seed", columns="sampler", values="best")
    for sampler in ("gp", "tpe"):
        ahead = ", ".join(f"{points:+.2f}" for points in 100 * (last[sampler] - last["random"]))
        print(f"{sampler} - random after {arguments.trials} trials, by seed: {ahead} points")


if __name__ == "__main__":
    main()
