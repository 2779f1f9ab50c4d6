"""Gather what the folds of the fine-tuning have predicted, into one table as every model has it.

Folds that params.yaml names no more are removed, their models, too: DVC leaves the outputs of such
items where they are, and they would pass for today's. Its cache keeps them.

Reads:  data/w2v/fold_K/: predictions.csv, protocol.txt, curve.csv, epochs.csv, run.json; params
            `folds`
Writes: data/predictions/w2v/:
            predictions.csv, protocol.txt  as every model writes them
            epochs.csv  fold; epoch, loss, accuracy, uar of the training clips, while they were
                        trained on; with `select: inner` also inner_loss, inner_accuracy, inner_uar
            steps.csv   fold, step, epoch, loss, accuracy, lr, grad_norm, batch_size
            run.json    device, precision, versions, …; if the folds were trained on machines alike
"""

import shutil
from pathlib import Path

import pandas as pd

from ser import params, tables
from ser.run import errors, outputs, resources


def stacked(folders: dict[int, Path], name: str) -> pd.DataFrame:
    """The tables `name` of the folds, one under the other, with a column `fold` before theirs."""
    parts = {fold: tables.read(folder / name) for fold, folder in folders.items()}
    return pd.concat(parts, names=["fold"]).reset_index("fold")


@errors.one_line
def main() -> None:
    """Read what the folds wrote, write it as one model's, remove folds that are named no more."""
    folders = {fold: Path(f"data/w2v/fold_{fold}") for fold in params.load().folds}
    parts = [tables.read_predictions(folder / "predictions.csv") for folder in folders.values()]
    predictions = pd.concat(parts).sort_values("clip", ignore_index=True)
    texts = [(folder / "protocol.txt").read_text(encoding="utf-8") for folder in folders.values()]
    protocol = "; ".join(sorted({text.strip() for text in texts}))
    runs = [folder / "run.json" for folder in folders.values()]
    with outputs.whole("data/predictions/w2v") as folder:
        tables.write_predictions(folder, predictions, protocol)
        for name, source in (("steps", "curve.csv"), ("epochs", "epochs.csv")):
            curves = stacked(folders, source)
            curves.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
        if len({run.read_bytes() for run in runs}) == 1:
            shutil.copy(runs[0], folder)
    for place in (Path("data/w2v"), Path("data/models/w2v")):
        for fold in set(place.glob("fold_*")) - {place / f"fold_{number}" for number in folders}:
            shutil.rmtree(fold)
    resources.note("data/predictions/w2v/predictions.csv")


if __name__ == "__main__":
    main()
