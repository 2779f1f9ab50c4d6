"""Keep what one model has reached in the ledger, results/NAME/.

    python -m commands.record NAME MODEL

To be called after a run, such as `dvc exp run -S … evaluate@MODEL`. NAME is a new one, or one whose
folder is to be replaced; results/tables.yaml says what the tables call it.

Reads:  data/MODEL, params.yaml and its committed version, metrics/MODEL.json,
        metrics/MODEL_protocol.txt, data/checkpoint, what stages have noted in runs/resources
Writes: results/NAME/: predictions.csv, metrics.json, params.yaml, protocol.txt, run.json, see
        ser/report/ledger.py
"""

import argparse
import hashlib
import json
import re
import shlex
import shutil
from pathlib import Path

import torch
from dvc.repo import Repo
from ruamel.yaml import YAML

from ser import params, scoring
from ser.finetune import device
from ser.report import ledger, summary
from ser.run import errors, experiments, outputs, resources

# The files by which the stages that a model's figures come from note what they took.
MADE = {
    "svm": ("data/mfcc.parquet", "data/svm/predictions.csv"),
    "probe": ("data/embeddings.parquet", "data/probe/predictions.csv"),
    "w2v": ("data/features/clips.arrow", "data/w2v/fold_{}/predictions.csv"),
    "mean": (),
}


def changes(repo: Repo, model: str) -> dict[str, object]:
    """The parameters, by dotted name, that differ from the committed ones and that a stage behind
    this model's figures reads."""
    yaml = YAML(typ="safe")
    now = experiments.flat(yaml.load(Path("params.yaml").read_text(encoding="utf-8")))
    before = experiments.flat(yaml.load(experiments.git("show", "HEAD:params.yaml")))
    stages = repo.stage.collect(f"evaluate@{model}", with_deps=True)
    read = {key for stage in stages for dep in stage.params for key in dep.params}
    return {
        name: value
        for name, value in now.items()
        if value != before.get(name) and (name in read or name.partition(".")[0] in read)
    }


def command(model: str, changed: dict[str, object]) -> str:
    """What makes the result from the committed parameters."""
    words = []
    for name, value in changed.items():
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        words += ["-S", shlex.quote(f"{name}={text}")]
    return " ".join(["dvc exp run" if words else "dvc repro", *words, f"evaluate@{model}"])


def taken(model: str, folds: list[int]) -> tuple[float | None, int | None]:
    """Seconds of all stages that made a model's features and predictions, and the most memory of
    one in bytes; None if one of them was not run here, or in several goes."""
    made = dict.fromkeys(pattern.format(fold) for pattern in MADE[model] for fold in folds)
    notes = [note for path in made if (note := resources.taken(Path(path)))]
    if not notes or len(notes) < len(made):
        return None, None
    return (
        round(sum(note["seconds"] for note in notes), 1),
        max(note["memory_bytes"] for note in notes),
    )


def weights() -> str | None:
    """The sha256 of the encoder's weights; None if it has none."""
    files = [*Path("data/checkpoint").glob("*.safetensors"), *Path("data/checkpoint").glob("*.bin")]
    return hashlib.sha256(files[0].read_bytes()).hexdigest() if files else None


def run(model: str, settings: params.Params, changed: dict[str, object]) -> dict[str, object]:
    """What run.json holds."""
    seconds, memory = taken(model, settings.folds)
    said: dict[str, object] = {
        "device": f"cpu, {torch.backends.cpu.get_cpu_capability()}",
        "precision": "fp32, classifier float64" if model == "probe" else "float64",
        "versions": device.versions(),
    }
    if model == "w2v":
        of_folds = [
            json.loads((source / "run.json").read_text(encoding="utf-8"))
            for source in scoring.sources(model, settings.folds)
        ]
        if any(each != of_folds[0] for each in of_folds):
            raise errors.UserError("data/w2v: the folds were not trained on machines alike")
        said = of_folds[0]
    return {
        "model": model,
        "command": command(model, changed),
        **said,
        "seconds": seconds,
        "memory_bytes": memory,
        "checkpoint": None if model == "svm" else weights(),
    }


@errors.one_line
def main() -> None:
    """Check that the figures are of what is here, write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("model", choices=list(scoring.MODELS))
    wanted = parser.parse_args()
    if not re.fullmatch(r"[a-z0-9][\w.-]*", wanted.name):
        raise errors.UserError(f"{wanted.name}: expected letters, digits, `.`, `-` and `_`")
    metrics = Path(f"metrics/{wanted.model}.json")
    with Repo() as repo:
        if not metrics.exists() or summary.outdated(repo, wanted.model):
            raise errors.UserError(
                f"{metrics}: not of the code, parameters and data that are here; "
                f"`dvc repro evaluate@{wanted.model}` first"
            )
        changed = changes(repo, wanted.model)
    settings = params.load()
    with outputs.whole(ledger.FOLDER / wanted.name) as folder:
        folder.mkdir()
        predictions = ledger.rounded(scoring.read(wanted.model, settings.folds))
        predictions.to_csv(folder / "predictions.csv", index=False)
        shutil.copy(metrics, folder / "metrics.json")
        shutil.copy(f"metrics/{wanted.model}_protocol.txt", folder / "protocol.txt")
        YAML(typ="safe").dump(changed, folder / "params.yaml")
        outputs.write_json(folder / "run.json", run(wanted.model, settings, changed))
    accuracy = scoring.as_text(json.loads(metrics.read_text(encoding="utf-8")), "accuracy")
    print(f"{ledger.FOLDER / wanted.name}: accuracy {accuracy} %")


if __name__ == "__main__":
    main()
