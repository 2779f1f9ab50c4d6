"""The results of another commit or experiment, to be shown beside those that are here."""

from pathlib import Path

from dvc.api import DVCFileSystem
from dvc.repo import Repo
from dvc.scm import SCMError, resolve_rev
from dvc_data.index.index import DataIndexDirError

from ser import scoring
from ser.run.errors import UserError


def copy(commit: str, folds: list[int], project: Path) -> None:
    """Copy what the page needs of another commit or experiment to a folder.

    Raises:
        UserError: there is no such commit, or DVC's cache lacks its predictions.
    """
    with Repo() as repo:
        try:
            files = DVCFileSystem(rev=resolve_rev(repo.scm, commit))
        except SCMError:
            raise UserError(f"--beside {commit}: no such commit or experiment") from None

    def fetch(path: str) -> None:
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        files.get_file(path, str(project / path))

    for path in ("params.yaml", *files.find("metrics", detail=False)):
        fetch(path)
    tracked = [
        (source / name).as_posix()
        for model in scoring.MODELS
        for source in scoring.sources(model, folds)
        for name in ("predictions.csv", "run.json")
    ]
    try:
        for path in tracked:
            if files.exists(path):
                fetch(path)
    except (FileNotFoundError, DataIndexDirError):
        raise UserError(
            f"--beside {commit}: its predictions are not in DVC's cache; `dvc fetch --all-commits`"
        ) from None
