"""A training that was killed goes on from where it was: its state, kept outside DVC's outs until
the stage is done.

DVC deletes a stage's outs before it runs, and the work tree of `dvc exp run --temp` after it
failed. So states lie in the project's own `.checkpoints/`, which git ignores, each under a name
made from what makes its numbers: no training with other params, data, code or packages finds it.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from ser.run import outputs, project

# How much work a kill may cost; not a param: the result is the same.
SECONDS = float(os.environ.get("RAVDESS_SAVE_SECONDS", 60))
FORGOTTEN = 30 * 24 * 3600  # seconds


def fingerprint(files: Iterable[Path], values: dict) -> str:
    """32 hex digits that stand for the contents of these files, in order, and for these values."""
    total = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for file in files:
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:32]


class Store:
    """The one state kept for a training; every save replaces the last, whole or not at all."""

    def __init__(self, name: str):
        """Find the place of the state called `name`, and remove states of other trainings that
        nobody went on with for a month."""
        self.path = project.folder() / ".checkpoints" / f"{name}.pt"
        self.saved = time.monotonic()
        for path in self.path.parent.glob("*.pt"):
            if time.time() - path.stat().st_mtime > FORGOTTEN:
                path.unlink(missing_ok=True)

    def load(self) -> dict | None:
        """The state last saved, its tensors in main memory; None if there is none, or one that is
        damaged, which is said and forgotten."""
        if not self.path.exists():
            return None
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception:  # torch and pickle raise what they stumble over
            print(f"{self.path}: damaged; the training begins anew", file=sys.stderr)
            self.remove()
            return None

    def due(self) -> bool:
        """Whether the last save is longer ago than `SECONDS`."""
        return time.monotonic() - self.saved >= SECONDS

    def save(self, state: dict) -> None:
        """Keep `state`: tensors, numbers, strings, and lists and dicts of them."""
        # Into an open file, or PyTorch would hide why it can't write.
        with outputs.whole(self.path) as path, path.open("wb") as file:
            torch.save(state, file)
        self.saved = time.monotonic()

    def remove(self) -> None:
        """Forget the state: the training is done."""
        self.path.unlink(missing_ok=True)
