"""Score the held-out predictions of one model over all folds of params.yaml.

    python -m stages.evaluate svm|w2v

Reads:  data/MODEL (predictions.csv and protocol.txt; for w2v one of each per fold),
        metrics/corpus.json, params `folds`
Writes: metrics/MODEL.json: accuracy, uar, macro_f1 with 95 % bounds over actors, protocol, recall
        by emotion, spread over folds metrics/MODEL_confusion.csv: actual, predicted, a row per clip
        (DVC's confusion plot); MODEL_confusion.png: its picture metrics/MODEL_actors.csv: actor,
        fold, clips, accuracy, uar
"""

import argparse
import json
from pathlib import Path

import matplotlib
import pandas as pd

from ser import params, scoring
from ser.report import plots
from ser.run import errors, outputs

TITLES = {"svm": "MFCC + SVM", "w2v": "wav2vec 2.0"}
CORPORA = {"ravdess": "RAVDESS speech", "demo": "SYNTHETIC demo corpus, not RAVDESS"}


def protocol(model: str, folds: list[int], predictions: pd.DataFrame, corpus_name: str) -> str:
    """How the figures came about, in one line: corpus, held-out actors of each fold, and what the
    model's stage says of itself."""
    said = sorted(
        {(source / "protocol.txt").read_text().strip() for source in scoring.sources(model, folds)}
    )
    held_out = " | ".join(
        ",".join(map(str, sorted(set(rows["actor"])))) for _, rows in predictions.groupby("fold")
    )
    return (
        f"{CORPORA[corpus_name]}; {len(folds)} folds, held-out actors {held_out}; {'; '.join(said)}"
    )


@errors.one_line
def main() -> None:
    """Read the predictions, write figures, table and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=list(TITLES))
    model = parser.parse_args().model
    matplotlib.use("Agg")

    folds = params.load().folds
    corpus_name = json.loads(Path("metrics/corpus.json").read_text())["corpus"]
    predictions = scoring.read(model, folds)
    figures = scoring.summary(predictions)
    title = (
        f"{TITLES[model]} on {CORPORA[corpus_name]}\naccuracy {figures['accuracy']:.1%}, UAR {figures['uar']:.1%}, "
        + (f"{len(predictions)} held-out clips of {predictions['actor'].nunique()} actors")
    )
    with outputs.whole(f"metrics/{model}_confusion.png") as path:
        plots.draw(predictions, title, path)
    with outputs.whole(f"metrics/{model}_confusion.csv") as path:
        predictions[["actual", "predicted"]].to_csv(path, index=False)
    with outputs.whole(f"metrics/{model}_actors.csv") as path:
        scoring.by_actor(predictions).to_csv(path, index=False)
    outputs.write_json(
        f"metrics/{model}.json",
        {
            "protocol": protocol(model, folds, predictions, corpus_name),
            "clips": len(predictions),
            "actors": predictions["actor"].nunique(),
            **figures,
        },
    )
    print(title)


if __name__ == "__main__":
    main()
