"""Score the held-out predictions of one model over all folds of params.yaml.

    python -m stages.evaluate MODEL

Reads:  data/MODEL: predictions.csv and protocol.txt, for w2v in a folder per fold;
        params `corpus`, `folds`, `split.scheme`
Writes: metrics/MODEL.json: accuracy, uar, macro_f1, the first two with 95 % bounds over actors
            (accuracy_low, …), ece
        metrics/MODEL_protocol.txt: how the figures came about, in one line
        metrics/MODEL_folds.csv: fold, actors, clips, accuracy, uar, macro_f1; a row per fold
        metrics/MODEL_actors.csv: actor, fold, clips, accuracy, uar, macro_f1; a row per actor
        metrics/MODEL_kinds.csv: kind, value, clips, accuracy, uar, macro_f1; a row per gender,
            intensity and statement
        metrics/MODEL_emotions.csv: emotion, clips, recall, precision, f1; a row per emotion
        metrics/MODEL_confusion.csv: actual, predicted; a row per clip, for DVC's confusion plot
        metrics/MODEL_confusion.png: its picture
"""

import argparse

import pandas as pd

from ser import corpus, params, protocols, scoring
from ser.report import plots
from ser.run import errors, outputs


def protocol(model: str, settings: params.Params, predictions: pd.DataFrame) -> str:
    """How the figures came about, in one line: corpus, protocol, held-out actors of each fold, and
    what the model's stage says of itself."""
    said = {
        (source / "protocol.txt").read_text(encoding="utf-8").strip()
        for source in scoring.sources(model, settings.folds)
    }
    scheme = settings.split.scheme
    parts = [corpus.TITLES[settings.corpus], protocols.title(scheme), *sorted(said)]
    if protocols.folds(scheme):
        actors = [sorted(set(rows["actor"])) for _, rows in predictions.groupby("fold")]
        listed = " | ".join(",".join(map(str, fold)) for fold in actors)
        parts.insert(2, f"held-out actors {listed}")
    return "; ".join(parts)


@errors.one_line
def main() -> None:
    """Read the predictions, write figures, tables and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=list(scoring.MODELS))
    model = parser.parse_args().model

    settings = params.load()
    predictions = scoring.read(model, settings.folds)
    figures = scoring.summary(predictions)
    leaky = "" if protocols.folds(settings.split.scheme) else ", LEAKY random split"
    title = (
        f"{scoring.MODELS[model]} on {corpus.TITLES[settings.corpus]}{leaky}\n"
        f"accuracy {figures['accuracy']:.1%}, UAR {figures['uar']:.1%}, "
        f"{len(predictions)} held-out clips of {predictions['actor'].nunique()} actors"
    )
    text = protocol(model, settings, predictions)
    tables = {
        "folds": scoring.by_group(predictions, "fold"),
        "actors": scoring.by_group(predictions, "actor"),
        "kinds": scoring.by_kind(predictions),
        "emotions": scoring.by_emotion(predictions),
        "confusion": predictions[["actual", "predicted"]],
    }
    with outputs.together() as output:
        output(f"metrics/{model}_protocol.txt").write_text(text + "\n", encoding="utf-8")
        for name, table in tables.items():
            path = output(f"metrics/{model}_{name}.csv")
            table.to_csv(path, index=False, float_format="%.4f")
        plots.draw(predictions, title, output(f"metrics/{model}_confusion.png"))
        outputs.write_json(output(f"metrics/{model}.json"), figures)
    print(title)


if __name__ == "__main__":
    main()
