"""Write the page of results, and the pictures that a page or a README can show.

    python -m stages.report [--no-audio] [--beside COMMIT]

What `make report` calls. The page shows the models that have predictions; DVC runs it when all
have.

Reads:  data/predictions/NAME/: predictions.csv, protocol.txt; run.json and epochs.csv of the models
            that bring them
        metrics/corpus.json, metrics/corpus.csv
        results/: the ledger, and the published figures
        data/sounds.parquet
        params.yaml, all of which the page shows; params `corpus`, `folds`, `models`, `split.scheme`
Writes: report/index.html: the page, which holds all it shows, audio included; with --no-audio
            report/no-audio.html: the same without audio and spectrograms, for sharing; with
            --beside, which adds the models of another commit or experiment on the same clips,
            report/beside.html or beside-no-audio.html, and nothing else
        metrics/charts/: the page's charts: labels.png, speakers.png, calibration.png,
            learning-NAME.png
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML

from ser import params, protocols, tables
from ser.report import charts, ledger, page
from ser.run import errors, outputs


def models_in(project: Path, values: dict) -> dict[str, page.Model]:
    """The models that have predictions, by name.

    Args:
        project: the folder in which data/ lies.
        values: of its params.yaml, as they are written there.

    Raises:
        UserError: predictions are missing or damaged.
    """
    models = {}
    for name, title in values.get("models", {}).items():
        folder = project / tables.MODELS / name
        if not folder.exists():
            continue
        predictions = tables.predictions(name, values["folds"], project)
        text = (folder / "protocol.txt").read_text(encoding="utf-8")
        scheme = values["split"]["scheme"]
        run, epochs = folder / "run.json", folder / "epochs.csv"
        models[name] = page.Model(
            title=title,
            predictions=predictions,
            protocol=protocols.sentence(values["corpus"], scheme, predictions, text),
            run=json.loads(run.read_text(encoding="utf-8")) if run.exists() else None,
            epochs=pd.read_csv(epochs) if epochs.exists() else None,
        )
    return models


def gather() -> page.Results:
    """The results that are here, of the models that have predictions.

    Raises:
        UserError: there are none, or predictions that do not fit together.
    """
    settings = params.load()
    models = models_in(Path(), settings.model_dump())
    if not models:
        raise errors.UserError(f"{tables.MODELS}: no model's predictions; `dvc repro` makes them")
    return page.Results(
        corpus=settings.corpus,
        params=Path("params.yaml").read_text(encoding="utf-8"),
        table=tables.clips(),
        models=models,
        audit=json.loads(Path("metrics/corpus.json").read_text(encoding="utf-8")),
        by_label=tables.read("metrics/corpus.csv"),
        measured=ledger.results(),
        published=ledger.settings()["published"],
    )


def sounds() -> pd.DataFrame:
    """The table of the clips' sounds.

    Raises:
        UserError: there is none.
    """
    path = Path("data/sounds.parquet")
    if not path.exists():
        raise errors.UserError(f"{path}: no such table; `dvc repro sounds` makes it")
    return pd.read_parquet(path)


def copy(commit: str, project: Path) -> None:
    """Copy params.yaml and all predictions of another commit or experiment to a folder.

    Raises:
        UserError: there is no such commit, or DVC's cache lacks its predictions.
    """
    # lazy imports: most pages do without, half a second sooner
    from dvc.api import DVCFileSystem
    from dvc.repo import Repo
    from dvc.scm import SCMError, resolve_rev
    from dvc_data.index.index import DataIndexDirError

    with Repo() as repo:
        try:
            files = DVCFileSystem(rev=resolve_rev(repo.scm, commit))
        except SCMError:
            raise errors.UserError(f"--beside {commit}: no such commit or experiment") from None
    files.get_file("params.yaml", str(project / "params.yaml"))
    folder = tables.MODELS.as_posix()
    try:
        if files.exists(folder):
            files.get(folder, str(project / folder), recursive=True)
    except (FileNotFoundError, DataIndexDirError):
        raise errors.UserError(
            f"--beside {commit}: its predictions are not in DVC's cache; `dvc fetch --all-commits`"
        ) from None


def beside(results: page.Results, commit: str) -> page.Results:
    """The results, and after them those of another commit or experiment, which may have other
    parameters: they are read as they are.

    Raises:
        UserError: as `copy`, or they are of no model, or of other clips.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy(commit, Path(folder))
        text = Path(folder, "params.yaml").read_text(encoding="utf-8")
        others = models_in(Path(folder), YAML(typ="safe", pure=True).load(text))
    if not others:
        raise errors.UserError(f"--beside {commit}: it has no predictions of any model")
    models = dict(results.models)
    for name, model in others.items():
        title = f"{model.title}, {commit}"
        models[f"{name}@{commit}"] = dataclasses.replace(model, title=title)
    clips = [list(model.predictions["clip"]) for model in models.values()]
    if any(names != clips[0] for names in clips):
        raise errors.UserError(f"--beside {commit}: its predictions are of other clips")
    both = f"{results.params}\n# {commit}\n\n{text}"
    return dataclasses.replace(results, models=models, params=both)


@errors.one_line
def main() -> None:
    """Gather the results, draw the charts, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--no-audio", action="store_true", help="leave out audio and spectrograms, for sharing"
    )
    parser.add_argument(
        "--beside", metavar="COMMIT", help="show the results of this commit or experiment, too"
    )
    options = parser.parse_args()
    results = gather()
    name = "no-audio" if options.no_audio else "index"
    if options.beside:
        name = f"beside-{name}" if options.no_audio else "beside"
        results = beside(results, options.beside)
    drawn = page.drawings(results)
    target = Path("report", f"{name}.html")
    with outputs.together() as output:
        if not options.beside:  # the pictures in git are of what is here
            folder = output("metrics/charts")
            folder.mkdir()
            for name, (_, _, svg) in drawn.items():
                (folder / f"{name}.png").write_bytes(charts.png(svg))
        html = page.render(results, drawn, None if options.no_audio else sounds())
        output(target).write_text(html, encoding="utf-8", newline="\n")
    titles = ", ".join(model.title for model in results.models.values())
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, {titles}")


if __name__ == "__main__":
    main()
