"""The results of another commit or experiment, to be shown beside those that are here."""

from pathlib import Path

from dvc.api import DVCFileSystem
from dvc.repo import Repo
from dvc.scm import SCMError, resolve_rev
from dvc_data.index.index import DataIndexDirError

from ser import tables
from ser.run.errors import UserError


def copy(commit: str, project: Path) -> None:
    """Copy params.yaml and all predictions of another commit or experiment to a folder.

    Raises:
        UserError: there is no such commit, or DVC's cache lacks its predictions.
    """
    with Repo() as repo:
        try:
            files = DVCFileSystem(rev=resolve_rev(repo.scm, commit))
        except SCMError:
            raise UserError(f"--beside {commit}: no such commit or experiment") from None
    files.get_file("params.yaml", str(project / "params.yaml"))
    folder = tables.MODELS.as_posix()
    try:
        if files.exists(folder):
            files.get(folder, str(project / folder), recursive=True)
    except (FileNotFoundError, DataIndexDirError):
        raise UserError(
            f"--beside {commit}: its predictions are not in DVC's cache; `dvc fetch --all-commits`"
        ) from None
