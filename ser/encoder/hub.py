"""Checkpoints as the model hub has them, fetched at a pinned revision or copied from a folder."""

import shutil
from pathlib import Path

import httpx2
from huggingface_hub import constants, hf_hub_download
from huggingface_hub import errors as hub

from ser.encoder import checkpoint
from ser.encoder.checkpoint import WEIGHTS
from ser.run.errors import UserError

FILES = ("config.json", "preprocessor_config.json", *WEIGHTS)


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
        problem = f"has no revision {revision}"
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
        problem = f"cannot be reached, and its cache lacks {file}; set HF_ENDPOINT to a mirror, or name a local folder"
    raise UserError(f"{name}: the hub {constants.ENDPOINT} {problem}")


def collect(name: str, revision: str, folder: Path) -> None:
    """Copy the files of the checkpoint `name`, a local folder or a model on the hub, into `folder`.

    Raises:
        UserError: no such folder or model, or one without the files needed.
    """
    if not Path(name).is_dir() and name.startswith((".", "/", "~")):
        raise UserError(f"{name}: no such folder")
    hubs = not Path(name).is_dir()
    for file in FILES:
        if file == WEIGHTS[0]:  # before hundreds of megabytes, see whether they would be of use
            checkpoint.read_config(folder, name)
        found = fetch(name, revision, file) if hubs else Path(name, file)
        if found and found.exists():
            shutil.copyfile(found, folder / file)
            if file in WEIGHTS:
                return
    if hubs:
        raise UserError(
            f"{name}: the hub {constants.ENDPOINT} has neither {' nor '.join(WEIGHTS)} of it"
        )
