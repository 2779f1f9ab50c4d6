"""Fetch the wav2vec 2.0 checkpoint that fine-tuning starts from, and make sure that it fits.

`checkpoint` in params.yaml is a model's name on the hub (at the pinned `revision`), a local folder with weights, or a local folder
with a configuration only, whose weights fine-tuning then draws at random. HF_ENDPOINT, HF_HOME and HF_TOKEN are honoured.

Reads:  the model hub or a local folder, params `checkpoint`, `revision`
Writes: data/checkpoint/: config.json, preprocessor_config.json and model.safetensors or pytorch_model.bin, as they were found
"""

import shutil
from pathlib import Path

import httpx2
from huggingface_hub import constants, hf_hub_download
from huggingface_hub import errors as hub

from stages import errors, outputs, params, wav2vec
from stages.errors import UserError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that there is
FILES = ("config.json", "preprocessor_config.json", *WEIGHTS)


def fetch(name: str, revision: str, file: str) -> Path | None:
    """Download one file of a model on the hub, or find it in the hub's cache; None if the model has no such file.

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
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, hub.HfHubHTTPError, httpx2.HTTPError):
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
            wav2vec.read_config(folder, name)
        found = fetch(name, revision, file) if hubs else Path(name, file)
        if found and found.exists():
            shutil.copyfile(found, folder / file)
            if file in WEIGHTS:
                return
    if hubs:
        raise UserError(f"{name}: the hub {constants.ENDPOINT} has neither {' nor '.join(WEIGHTS)} of it")


@errors.one_line
def main() -> None:
    """Collect the files, load the model once, copy nothing that does not load."""
    settings = params.load()
    wav2vec.quiet()
    with outputs.whole("data/checkpoint") as folder:
        folder.mkdir()
        collect(settings.checkpoint, settings.revision, folder)
        model = wav2vec.load(folder, settings.checkpoint, seed=0)
        if settings.freeze_cnn and wav2vec.weights(folder) is None:
            raise UserError(f"freeze_cnn = true: {settings.checkpoint} has no weights to freeze; from scratch, -S freeze_cnn=false")
    size = sum(parameter.numel() for parameter in model.parameters())
    origin = "pretrained" if wav2vec.weights(Path("data/checkpoint")) else "configuration only, weights drawn at random"
    print(f"{settings.checkpoint}: {type(model).__name__}, {size / 1e6:.1f} M parameters, {origin}")


if __name__ == "__main__":
    main()
