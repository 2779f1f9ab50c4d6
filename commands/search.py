"""Choose parameters by Bayesian optimisation on speakers held out inside training speakers; score
the outer folds once, at the end.

    python -m commands.search svm|w2v [--trials N] [--minutes M] [--nested]

Not a stage. Started again, it goes on; started twice at a time, here or on another machine, the
workers share the trials. docs/searching.md says more.

Reads:  search.yaml, params.yaml, data/folds.csv
        svm: data/audio
        w2v: data/features, data/checkpoint
Writes: metrics/search/BRANCH.json: accuracy and uar on the clean outer folds as chosen, and what
            that gains against params.yaml, with 95 % bounds over speakers
        metrics/search/BRANCH_protocol.txt: who chose on what, in one line
        metrics/search/BRANCH_folds.csv: accuracy and uar before and after; a row per outer fold
        metrics/search/BRANCH_predictions.csv: clip, speaker, fold, clean, actual, before, after
        metrics/search/BRANCH_trials.csv: a row per trial
"""

import argparse
import time
import warnings

import optuna

from ser import params, scoring
from ser.run import errors
from ser.run.errors import UserError
from ser.search import objective, results, space, study


def arguments() -> argparse.Namespace:
    """The command line, read.

    Raises:
        UserError: no budget.
    """
    parser = argparse.ArgumentParser(
        prog="python -m commands.search", description=__doc__.splitlines()[0]
    )
    option = parser.add_argument
    option("branch", choices=list(objective.BRANCHES))
    option("--trials", type=int, default=40, help="for each choice, by all workers together (40)")
    option("--minutes", type=float, default=float("inf"), help="for this worker's trials (no end)")
    option("--nested", action="store_true", help="a choice for every outer fold, not one for all")
    budget = parser.parse_args()
    if budget.trials < 1 or not budget.minutes > 0:
        raise UserError("--trials: expected at least 1; --minutes: more than 0")
    return budget


@errors.one_line
def main() -> None:
    """Search until the budget is used up, score the choices and print them."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    budget, settings = arguments(), params.load()
    search = params.read(space.FILE, space.Search)
    numbers = settings.folds if budget.nested else [search.fold]
    with study.storage() as storage:
        searches = [
            study.FoldSearch(storage, budget.branch, fold, settings, search) for fold in numbers
        ]
        end = time.monotonic() + 60 * budget.minutes
        for done, each in enumerate(searches):
            each.run(budget.trials, (end - time.monotonic()) / (len(searches) - done))
        figures, folds, protocol = results.write(searches, budget.nested)
        commands = [results.command(each) for each in searches]

    print(f"\n{protocol}\n\n{folds.to_string(index=False)}\n")
    for name in ("accuracy", "uar"):
        print(
            f"{name} on clean folds, as chosen: {100 * figures[name]:.1f} %, gained against "
            f"params.yaml: {scoring.as_text(figures, f'gain_{name}', '{:+.1f}')} points"
        )
    print("\n".join(commands))


if __name__ == "__main__":
    main()
