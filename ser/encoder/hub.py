"""Checkpoint files: fetched from the model hub at a pinned revision, or copied from a folder."""

import shutil
from pathlib import Path

import httpx2
import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub import errors as hub
from safetensors import safe_open
from safetensors.torch import save_file

from ser.encoder import checkpoint
from ser.run import project
from ser.run.errors import UserError

CONFIGURATION = ("config.json", "preprocessor_config.json")


def fetch(name: str, revision: str, file: str) -> Path | None:
    """Download one file of a model on the hub, or find it in the hub's cache; None if the model has
    no such file.

    Raises:
        UserError: no such model or revision, no access, or no network and not in the cache.
    """
    try:
        return Path(hf_hub_download(name, file, revision=revision))
    except hub.RemoteEntryNotFoundError:
        return None
    except hub.RevisionNotFoundError:
        problem = (
            f"has no revision {revision} of it; every model has its own: -S revision=main takes "
            "the newest, and says which commit that is"
        )
    except hub.GatedRepoError:
        problem = "wants a token (HF_TOKEN) that may read it"
    except (hub.RepositoryNotFoundError, hub.HFValidationError):
        problem = "has no such model, and there is no such folder here"
    except (
        hub.LocalEntryNotFoundError,
        hub.OfflineModeIsEnabled,
        hub.HfHubHTTPError,
        httpx2.HTTPError,
    ):
        problem = (
            f"cannot be reached, and its cache lacks {file}; set HF_ENDPOINT to a mirror, "
            "or name a local folder"
        )
    raise UserError(f"{name}: the hub {constants.ENDPOINT} {problem}")


def local(name: str) -> Path | None:
    """The folder called `name`, relative to this folder or to the project's (an experiment may run
    in a work tree elsewhere); None if it is a name on the hub.

    Raises:
        UserError: it can only be meant as a folder, and there is none.
    """
    place = Path(name).expanduser()
    for folder in (place, project.folder() / place):
        if folder.is_dir():
            return folder
    if name.startswith((".", "/", "~")):
        raise UserError(f"{name}: no such folder")
    return None


def copy_weights(source: Path, folder: Path, left_out: tuple[str, ...]) -> None:
    """Copy a file of weights into `folder`: as it is, or, where it holds tensors whose names begin
    as `left_out` says, as model.safetensors without these. Nothing in it is executed."""
    kept = {}
    if source.suffix == ".safetensors":
        with safe_open(source, "pt") as file:
            names = list(file.keys())
            if any(name.startswith(left_out) for name in names):
                kept = {n: file.get_tensor(n) for n in names if not n.startswith(left_out)}
    elif left_out:
        tensors = torch.load(source, map_location="cpu", weights_only=True)
        if any(name.startswith(left_out) for name in tensors):
            kept = {n: tensors[n].contiguous() for n in tensors if not n.startswith(left_out)}
    if kept:
        save_file(kept, folder / checkpoint.WEIGHTS[0], {"format": "pt"})
    else:
        shutil.copyfile(source, folder / source.name)


def collect(name: str, revision: str, folder: Path) -> str | None:
    """Copy the files of the checkpoint `name`, a local folder or a model on the hub, into `folder`.

    Returns:
        the commit that `revision` stands for on the hub; None for a local folder.

    Raises:
        UserError: no such folder or model, or one without the files needed.
    """
    place = local(name)

    def find(file: str) -> Path | None:
        if place is None:
            return fetch(name, revision, file)
        return place / file if (place / file).exists() else None

    for file in CONFIGURATION:
        if path := find(file):
            shutil.copyfile(path, folder / file)
    # Before hundreds of megabytes are fetched, see whether they would be of use.
    config, _ = checkpoint.read_config(folder, name)
    path = next(filter(None, map(find, checkpoint.WEIGHTS)), None)
    if path is None and place is None:
        raise UserError(
            f"{name}: the hub {constants.ENDPOINT} has neither "
            f"{' nor '.join(checkpoint.WEIGHTS)} of it"
        )
    if path is not None:
        with checkpoint.one_line_for(name, "weights do not load"):
            copy_weights(path, folder, checkpoint.family(config).LEFT_OUT)
    return path.parent.name if path and place is None else None
