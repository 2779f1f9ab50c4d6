"""Choose parameters by Bayesian optimisation on speakers held out inside training actors; score the
outer folds once, at the end.

    python -m commands.search svm|w2v [--trials N] [--minutes M] [--nested]

Not a stage. Started again, it goes on; started twice at a time, here or on another machine, the
workers share the trials (`stages.study`). Every trial is a DVC experiment: `dvc exp show` lists
them, `dvc exp apply NAME` and `dvc repro` use one.

Reads:  data/folds.csv; svm: data/audio; w2v: data/features, data/checkpoint; params `search` and
        those that it names
Writes: metrics/search/BRANCH.json: who chose on what, the chosen values, the outer folds before and
        after; BRANCH_predictions.csv: a row per held-out clip; BRANCH_trials.csv: a row per trial;
        BRANCH_importance.csv: how much each parameter matters; BRANCH_parallel.csv: a row per trial
        and parameter; dvc.yaml: plots of these
"""

import argparse
import time
import warnings

import optuna
import pandas as pd
from filelock import FileLock

from ser import params
from ser.run import errors
from ser.run.errors import UserError
from ser.search import outcome, worth
from ser.search.fold_search import Choice
from ser.search.study import Storage


def arguments() -> argparse.Namespace:
    """The command line, read.

    Raises:
        UserError: no budget.
    """
    parser = argparse.ArgumentParser(
        prog="python -m commands.search", description=__doc__.splitlines()[0]
    )
    parser.add_argument("branch", choices=list(worth.SCORE))
    parser.add_argument(
        "--trials",
        type=int,
        default=40,
        help="of all workers together and ever, for each choice (40)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=float("inf"),
        help="of this worker, for the trials (no limit)",
    )
    parser.add_argument(
        "--nested", action="store_true", help="a choice for every outer fold, not one for all"
    )
    found = parser.parse_args()
    if found.trials < 1 or not found.minutes > 0:
        raise UserError("--trials: expected at least 1; --minutes: more than 0")
    return found


@errors.one_line
def main() -> None:
    """Search until the budget is used up, then score and say what was found."""
    budget, settings = arguments(), params.load()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    storage = Storage()
    folds = settings.folds if budget.nested else [settings.search.fold]
    choices = [Choice(storage, budget.branch, fold, settings) for fold in folds]

    end = time.monotonic() + 60 * budget.minutes
    for done, choice in enumerate(choices):
        choice.run(budget.trials, (end - time.monotonic()) / (len(choices) - done))
    elsewhere = [choice.study.name for choice in choices if choice.study.running()]
    if elsewhere:
        print(
            f"another worker still runs trials of {', '.join(elsewhere)}; the last to end scores the outer folds"
        )
        return

    for choice in choices:
        choice.require()
    with FileLock(worth.STATE / "results.lock"):
        found = outcome.write(budget.branch, choices, budget.nested, settings)
    figures = {
        name: found[name] for name in ("clean", "not_clean", "pooled_not_clean") if name in found
    }
    print(f"\n{found['selection']}\n\n{pd.DataFrame(figures).T.to_string()}\n")
    for made in found["choices"].values():
        print(f"dvc exp apply {made['experiment']}   # {made['chosen']}")
    print("dvc repro   # reruns what that changes")


if __name__ == "__main__":
    main()
