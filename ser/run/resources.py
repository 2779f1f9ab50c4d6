"""The cost of a result, seconds and memory, noted for the ledger of results, never in the result
itself, which is to be the same bytes every time."""

import hashlib
import json
import sys
import time
from pathlib import Path

import psutil

from ser.run import outputs, parallel, project


def peak_memory() -> int:
    """The most memory that this process has had, in bytes."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def place(made: Path) -> Path:
    """The path of the note on a file: by its path and contents, so that no other result finds it,
    beside TensorBoard's event files."""
    with made.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.sha256(made.as_posix().encode()))
    return project.folder() / "runs" / "resources" / f"{digest.hexdigest()[:32]}.json"


def note(made: str) -> None:
    """Note what this process has taken, from its start to now, to make the file `made`; nothing
    where a cluster did the work."""
    if parallel.cluster_address():
        return
    seconds = time.time() - psutil.Process().create_time()
    outputs.write_json(
        place(Path(made)), {"seconds": round(seconds, 1), "memory_bytes": peak_memory()}
    )


def taken(made: Path) -> dict | None:
    """The note on a file, seconds and memory_bytes; None if this machine did not make it, or made
    it in several goes."""
    path = place(made)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
