"""Checkpoint files: fetched from the model hub at a pinned revision, or copied from a folder."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import httpx2
import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub import errors as hub
from safetensors.torch import load_file, save_file

from ser.encoder import checkpoint
from ser.encoder.families.encoder import HEAD
from ser.run import project
from ser.run.errors import UserError

# The first of them that a checkpoint has; an index names the files that weights are spread over.
WEIGHTS = [name for file in checkpoint.WEIGHTS for name in (file, f"{file}.index.json")]
# Of files of weights for other libraries, of adapters, of variants in half precision.
OTHER_WEIGHTS = (
    ".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".pt", ".pth", ".safetensors",
)  # fmt: skip
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class Origin(NamedTuple):
    """Where a checkpoint's files came from.

    Attributes:
        commit: that the revision stands for on the hub; None for a local folder.
        head: names of the tensors of a head, which are left out: fine-tuning starts from a new one.
    """

    commit: str | None
    head: list[str]


class Repository:
    """A model on the hub, all files of which are taken from one commit.

    Attributes:
        commit: the one that the revision stood for when the first file was found.
        failure: the reason why the hub does not hand out files, other than that it has none of that
            name; from then on only its cache is looked at. None: it does.
    """

    def __init__(self, name: str, revision: str):
        self.name, self.revision = name, revision
        self.commit: str | None = None
        self.failure: str | None = None

    def find(self, file: str) -> Path | None:
        """Download a file, or find it in the hub's cache; None if it is in neither.

        Raises:
            UserError: no such model or revision, or no access.
        """
        try:
            path = Path(
                hf_hub_download(
                    self.name,
                    file,
                    revision=self.commit or self.revision,
                    local_files_only=self.failure is not None,
                )
            )
        except hub.RemoteEntryNotFoundError:
            return None
        except hub.RevisionNotFoundError:
            problem = (
                f"has no revision {self.revision} of it; every model has its own: -S revision=main "
                "takes the newest, and says which commit that is"
            )
        except hub.GatedRepoError:
            problem = "wants a token (HF_TOKEN) that may read it"
        except hub.RepositoryNotFoundError as error:
            problem = "has no such model, and there is no such folder here"
            if error.response.status_code == 401:  # the hub does not say which models are private
                problem += "; a private one wants a token (HF_TOKEN)"
        except hub.HFValidationError:
            problem = "has no such model, and there is no such folder here"
        except hub.LocalEntryNotFoundError as error:
            self.failure = self.failure or reason(error.__cause__)
            return None
        except (hub.HfHubHTTPError, httpx2.HTTPError) as error:
            self.failure = reason(error)
            return None
        else:
            self.commit = self.commit or path.parent.name
            return path
        raise UserError(f"{self.name}: the hub {constants.ENDPOINT} {problem}")

    def first(self, *files: str) -> Path | None:
        """The first of `files` that the hub or its cache has; None if the hub has none of them.

        Raises:
            UserError: as `find`; or the cache has none, and the hub cannot be asked.
        """
        path = next(filter(None, map(self.find, files)), None)
        if path is None and self.failure:
            raise UserError(
                f"{self.name}: the hub {constants.ENDPOINT} {self.failure}, and its cache lacks "
                f"{' and '.join(files)}; set HF_ENDPOINT to a mirror, or name a local folder"
            )
        return path


class Folder:
    """A local folder with a checkpoint, which messages call `name`."""

    def __init__(self, place: Path, name: str):
        self.place, self.name = place, name

    def first(self, *files: str) -> Path | None:
        """The first of `files` that there is.

        Raises:
            UserError: it stands for a file that is elsewhere.
        """
        for path in (self.place / file for file in files):
            if path.is_file():
                with path.open("rb") as stream:
                    if stream.read(len(LFS_POINTER)) == LFS_POINTER:
                        raise UserError(
                            f"{path}: a pointer of Git LFS, not the file itself; `git lfs pull` "
                            "fetches it"
                        )
                return path
            if path.is_symlink():
                raise UserError(f"{path}: a link to {path.readlink()}, where there is no file")
        return None


def reason(error: BaseException | None) -> str:
    """The reason for which the hub does not hand out a file, by the error of its client."""
    if isinstance(error, hub.OfflineModeIsEnabled) or constants.is_offline_mode():
        return "is not asked (HF_HUB_OFFLINE)"
    if not isinstance(error, hub.HfHubHTTPError):
        return "cannot be reached"
    code = error.response.status_code
    meaning = {
        401: "HF_TOKEN is not one of its tokens",
        403: "access is forbidden, with this HF_TOKEN or from here",
        429: "too many requests, more are granted later or with a token (HF_TOKEN)",
    }
    return f"answers {code}: {meaning.get(code, error.response.reason_phrase)}"


def local(name: str) -> Path | None:
    """`project.local_folder`, None if it is a name on the hub.

    Raises:
        UserError: it can only be meant as a folder, and there is none.
    """
    folder = project.local_folder(name)
    if folder is None and name.startswith((".", "/", "~")):
        raise UserError(f"{name}: no such folder")
    return folder


def copy_weights(sources: list[Path], folder: Path, left_out: tuple[str, ...]) -> list[str]:
    """Copy the weights in `sources` into `folder`: one file as it is, or, where there are several
    or some tensors have names that begin as `left_out` says, as model.safetensors without these.
    Nothing in them is executed.

    Returns:
        the names of the tensors left out.
    """
    tensors: dict[str, torch.Tensor] = {}
    for source in sources:
        if source.suffix == ".safetensors":
            tensors |= load_file(source)
        else:
            tensors |= torch.load(source, map_location="cpu", weights_only=True)
    names = [name for name in tensors if name.startswith(left_out)]
    if len(sources) == 1 and not names:
        shutil.copyfile(sources[0], folder / sources[0].name)
    else:
        kept = {name: tensors[name].contiguous() for name in tensors if name not in names}
        save_file(kept, folder / checkpoint.WEIGHTS[0], {"format": "pt"})
    return names


def collect(name: str, revision: str, folder: Path) -> Origin:
    """Copy the files of the checkpoint `name`, a local folder or a model on the hub, into `folder`.

    Raises:
        UserError: no such folder or model, or one without the files needed.
    """
    place = local(name)
    source = Repository(name, revision) if place is None else Folder(place, name)
    for files in (("config.json",), checkpoint.PREPROCESSORS):
        if path := source.first(*files):
            shutil.copyfile(path, folder / path.name)
    # Before hundreds of megabytes are fetched, see whether they would be of use.
    config, _ = checkpoint.read_config(folder, name)
    path = source.first(*WEIGHTS)
    if path is None:
        if place is None:
            raise UserError(
                f"{name}: the hub {constants.ENDPOINT} has neither {' nor '.join(WEIGHTS)} of it"
            )
        others = [file.name for file in sorted(place.iterdir()) if file.suffix in OTHER_WEIGHTS]
        if others:
            raise UserError(f"{name}: holds {others[0]}, but none of {', '.join(WEIGHTS)}")
        return Origin(None, [])
    left_out = checkpoint.family(config).LEFT_OUT + HEAD
    with checkpoint.one_line_for(name, "weights do not load"):
        dropped = copy_weights(parts(source, path), folder, left_out)
    head = sorted(key for key in dropped if key.startswith(HEAD))
    return Origin(source.commit if isinstance(source, Repository) else None, head)


def parts(source: Repository | Folder, path: Path) -> list[Path]:
    """The files of weights that `path` stands for: itself, or those that it, an index, names.

    Raises:
        UserError: one is missing.
    """
    if path.suffix != ".json":
        return [path]
    found = []
    for shard in sorted(set(json.loads(path.read_text())["weight_map"].values())):
        part = source.first(shard)
        if part is None:
            raise UserError(f"{source.name}: has no {shard}, which its {path.name} names")
        found.append(part)
    return found
