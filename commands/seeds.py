"""Fine-tune with several seeds, and print the figures of each with their mean and deviation.

    python -m commands.seeds SEED SEED … [-S KEY=VALUE …] [--model w2v|mean]

A seed is the seed of new weights, of the order of the clips, of dropout and of SpecAugment: how far
apart the figures lie says how much of a difference between two recipes is chance. The bounds over
actors, which say how much the choice of the voices matters, are those of each seed.

Writes: the DVC experiments seed-SEED, each in a work tree of its own, like `dvc exp run --temp`
"""

import argparse
import json

import pandas as pd

from ser import scoring
from ser.report import ledger
from ser.run import errors, experiments


def run(seed: int, model: str, settings: list[str]) -> dict[str, float]:
    """Make the experiment seed-`seed`; return what it wrote to metrics/MODEL.json.

    Raises:
        UserError: it fails.
    """
    name = f"seed-{seed}"
    experiments.run(name, [*settings, f"seed={seed}"], f"evaluate@{model}")
    return json.loads(
        experiments.git("show", f"{experiments.baseline()}/{name}:metrics/{model}.json")
    )


def table(figures: dict[int, dict[str, float]]) -> str:
    """A Markdown table, a row for each seed, and one with mean and sample standard deviation."""
    rows = [
        [f"seed {seed}", *(scoring.as_text(each, rate) for rate in scoring.RATES)]
        for seed, each in figures.items()
    ]
    rates = 100 * pd.DataFrame(figures).T[list(scoring.RATES)]
    summary = [f"{rates[rate].mean():.1f} ± {rates[rate].std():.1f}" for rate in scoring.RATES]
    rows.append([f"mean ± deviation of {len(figures)} seeds", *summary])
    return ledger.table(["", "accuracy, %", "UAR, %", "macro-F1, %"], rows)


@errors.one_line
def main() -> None:
    """Run the seeds one after the other, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seeds", nargs="+", type=int, metavar="SEED")
    parser.add_argument("-S", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--model", choices=("w2v", "mean"), default="w2v")
    wanted = parser.parse_args()
    if len(set(wanted.seeds)) < max(2, len(wanted.seeds)):
        raise errors.UserError(f"{wanted.seeds}: expected two seeds or more, each once")
    if any(setting.startswith("seed=") for setting in wanted.settings):
        raise errors.UserError("-S seed=…: the seeds are named without -S")
    print(table({seed: run(seed, wanted.model, wanted.settings) for seed in wanted.seeds}))
    print("\nIn brackets: 95 % bounds, a t interval over actors.")


if __name__ == "__main__":
    main()
