"""Gather the learning curves of all folds, so that one plot overlays them.

Reads:  data/w2v/fold_K/curve.csv, a row per step, and epochs.csv, a row per epoch; params `folds`
Writes: data/w2v_steps.csv: fold, step, epoch, loss, accuracy, lr, grad_norm, batch_size
        metrics/w2v_epochs.csv: fold, epoch, loss, accuracy, uar, of the training clips, while they
            were trained on; with `select: inner` also inner_loss, inner_accuracy, inner_uar
"""

from pathlib import Path

import pandas as pd

from ser import params, tables
from ser.run import errors, outputs


def gather(folds: list[int], name: str) -> pd.DataFrame:
    """The tables `name` of the given folds, one under the other, with a column `fold` before
    theirs."""
    curves = {fold: tables.read(Path("data/w2v", f"fold_{fold}", name)) for fold in folds}
    return pd.concat(curves, names=["fold"]).reset_index("fold")


@errors.one_line
def main() -> None:
    """Gather steps and epochs."""
    folds = params.load().folds
    with outputs.together() as output:
        for name, target in (
            ("curve.csv", "data/w2v_steps.csv"),
            ("epochs.csv", "metrics/w2v_epochs.csv"),
        ):
            gather(folds, name).to_csv(output(target), index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
