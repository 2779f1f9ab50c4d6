"""Keep what one model has reached in the ledger, results/NAME/.

    python -m commands.record NAME MODEL

To be called after a run, such as `dvc exp run -S … evaluate@MODEL`. NAME is a new one, or one whose
folder is to be replaced; results/tables.yaml says what the tables call it.

Reads:  data/predictions/MODEL, params.yaml and its committed version, metrics/MODEL.json,
        metrics/MODEL/protocol.txt, data/checkpoint, what stages have noted in runs/resources
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

import pandas as pd
import torch
from dvc.repo import Repo
from dvc.stage import Stage
from ruamel.yaml import YAML

from ser import params, scoring, tables
from ser.finetune import device
from ser.report import ledger, summary
from ser.run import errors, experiments, outputs, resources


def changes(stages: list[Stage]) -> dict[str, object]:
    """The parameters, by dotted name, that differ from the committed ones and that one of the
    stages reads."""
    yaml = YAML(typ="safe")
    now = experiments.flat(yaml.load(Path("params.yaml")))
    before = experiments.flat(yaml.load(experiments.git("show", "HEAD:params.yaml")))
    read = {key for stage in stages for dep in stage.params for key in dep.params}
    return {
        name: value
        for name, value in now.items()
        if value != before.get(name) and (name in read or name.partition(".")[0] in read)
    }


def command(model: str, changed: dict[str, object]) -> str:
    """The command that makes the result from the committed parameters."""
    words = []
    for name, value in changed.items():
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        words += ["-S", shlex.quote(f"{name}={text}")]
    return " ".join(["dvc exp run" if words else "dvc repro", *words, f"evaluate@{model}"])


def taken(paths: list[Path]) -> tuple[float | None, int | None]:
    """Seconds of all stages that made features or predictions, and the most memory of one in bytes;
    None if one of them was not run here, or in several goes. `paths` are what they write."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.glob("*"))]
    notes = [
        resources.taken(file)
        for file in files
        if file.suffix in (".parquet", ".arrow") or file.name == "predictions.csv"
    ]
    if None in notes:
        return None, None
    table = pd.DataFrame(notes)
    return round(table["seconds"].sum(), 1), int(table["memory_bytes"].max())


def weights(folder: Path) -> str | None:
    """The sha256 of the encoder's weights; None if it has none."""
    files = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    return hashlib.sha256(files[0].read_bytes()).hexdigest() if files else None


def run(model: str, stages: list[Stage], changed: dict[str, object]) -> dict[str, object]:
    """The content of run.json: what the model says in its own, or else this machine."""
    paths = [Path(out.def_path) for stage in stages for out in stage.outs]
    seconds, memory = taken(paths)
    own = tables.MODELS / model / "run.json"
    machine = {
        "device": f"cpu, {torch.backends.cpu.get_cpu_capability()}",
        "versions": device.versions(),
    }
    checkpoint = Path("data/checkpoint")
    return {
        "model": model,
        "command": command(model, changed),
        **(json.loads(own.read_text(encoding="utf-8")) if own.exists() else machine),
        "seconds": seconds,
        "memory_bytes": memory,
        "checkpoint": weights(checkpoint) if checkpoint in paths else None,
    }


@errors.one_line
def main() -> None:
    """Check that the figures are of what is here, write the folder."""
    settings = params.load()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("model", choices=list(settings.models))
    options = parser.parse_args()
    name, model = options.name, options.model
    if not re.fullmatch(r"[a-z0-9][\w.-]*", name):
        raise errors.UserError(f"{name}: expected letters, digits, `.`, `-` and `_`")
    metrics = Path(f"metrics/{model}.json")
    with Repo() as repo:
        if not metrics.exists() or summary.outdated(repo, model):
            raise errors.UserError(
                f"{metrics}: not of the code, parameters and data that are here; "
                f"`dvc repro evaluate@{model}` first"
            )
        stages = list(repo.stage.collect(f"evaluate@{model}", with_deps=True))
    changed = changes(stages)
    with outputs.whole(ledger.FOLDER / name) as folder:
        folder.mkdir()
        predictions = tables.predictions(model, settings.folds).round(6)
        predictions.to_csv(folder / "predictions.csv", index=False)
        shutil.copy(metrics, folder / "metrics.json")
        shutil.copy(f"metrics/{model}/protocol.txt", folder)
        YAML(typ="safe").dump(changed, folder / "params.yaml")
        outputs.write_json(folder / "run.json", run(model, stages, changed))
    accuracy = scoring.as_text(json.loads(metrics.read_text(encoding="utf-8")), "accuracy")
    print(f"{ledger.FOLDER / name}: accuracy {accuracy} %")


if __name__ == "__main__":
    main()
