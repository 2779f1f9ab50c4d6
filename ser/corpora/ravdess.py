"""RAVDESS: where it comes from, how it is unpacked, and that it is the published corpus."""

import functools
import hashlib
import lzma
import os
import struct
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from tqdm import tqdm

from ser.corpora import transfer
from ser.run.errors import UserError

ARCHIVE = "Audio_Speech_Actors_01-24.zip"
URL = f"https://zenodo.org/records/1188976/files/{ARCHIVE}?download=1"
SIZE = 208_468_073  # bytes
MD5 = "bc696df654c87fed845eb13823edef8a"
MANIFEST = Path(__file__).with_name("ravdess.md5")

# An archive can fill neither memory nor disk, nor keep us busy for ever.
LARGEST = 1 << 24  # bytes read of a clip; none has a tenth of it
COPIES = 8  # of a clip that are tried
TABLE = 1 << 24  # bytes of a zip's table of contents; with a path of 50 letters, 170,000 members

# What zipfile raises on an archive that is cut short, damaged, encrypted (RuntimeError) or packed
# by a method it does not know (NotImplementedError, which is one of these).
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    OverflowError,
    MemoryError,
)

Copy = tuple[str, Callable[[], IO[bytes]]]  # a file's path in its zip or folder; what opens it


def read_manifest(path: Path) -> dict[str, str]:
    """The md5 of every clip by its name, `Actor_XX/….wav`, from a file in the format of md5sum."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {name: md5 for md5, name in map(str.split, lines)}


def locate() -> Path:
    """The zip or folder to take the corpus from.

    It is what RAVDESS_ARCHIVE names, or else the published archive, which is downloaded unless it
    was kept from an earlier time.

    Raises:
        UserError: RAVDESS_ARCHIVE names nothing that exists, the download fails, or there is no
            home folder to keep it in.
    """
    if named := os.environ.get("RAVDESS_ARCHIVE"):
        source = Path(named)
        if not (source.is_dir() or source.is_file()):
            raise UserError(
                f"RAVDESS_ARCHIVE={named}: no such zip or folder (looked for {source.absolute()})"
            )
        return source
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ravdess"
    except RuntimeError:
        raise UserError(
            "no home folder to keep the archive in: set XDG_CACHE_HOME to a folder, or "
            "RAVDESS_ARCHIVE to the zip or to the folder it unpacks to"
        ) from None
    try:
        return transfer.download(os.environ.get("RAVDESS_URL") or URL, cache / ARCHIVE, SIZE, MD5)
    except UserError as error:
        raise UserError(
            f"{error}. Try again later, or set RAVDESS_ARCHIVE "
            "to the zip or to the folder it unpacks to"
        ) from None


def unpack(source: Path, folder: Path, manifest: dict[str, str]) -> None:
    """Copy the clips of the manifest from a zip or folder to `folder`, and check each on the way.

    A clip may lie anywhere in the source and more than once; the first copy whose md5 is that of
    the manifest counts. What else there is does not matter. One core does it, in 3 to 6 seconds: a
    second one gained next to nothing.

    Raises:
        UserError: the source is no zip, a damaged one, or one with paths that lead outside; a clip
            is missing, or no copy of it is the published one.
    """
    with contents(source) as files:
        copies = sort_copies(files, {PurePosixPath(name).name for name in manifest})
        missing = [name for name in manifest if PurePosixPath(name).name not in copies]
        if missing:
            raise UserError(
                f"{source}: {len(missing)} of the corpus's {len(manifest)} clips are missing, "
                f"{missing[0]} first; expected {ARCHIVE}, or the folder it unpacks to"
            )
        with tqdm(manifest.items(), desc="unpack", unit="clip", mininterval=1) as bar:
            for name, md5 in bar:
                content = published(copies[PurePosixPath(name).name], md5, source)
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)


@contextmanager
def contents(source: Path) -> Iterator[Iterator[Copy]]:
    """All files in a folder or zip.

    Raises:
        UserError: not a zip, or a damaged one, or one with a path that leads outside.
    """
    if source.is_dir():
        yield walk(source)
        return
    try:
        if source.stat().st_size and table_size(source) > TABLE:
            raise UserError(
                f"{source}: a table of contents of more than {TABLE >> 20} MB; expected {ARCHIVE}"
            )
        archive = zipfile.ZipFile(source)
    except (*DAMAGED, OSError) as error:
        if getattr(error, "filename", None):  # cannot be opened at all
            raise
        raise UserError(f"{source}: not a zip, or one cut short or damaged: {error}") from None
    with archive:
        for name in archive.namelist():
            path = PureWindowsPath(name)  # which knows the separators and roots of both worlds
            if path.anchor or ".." in path.parts:
                raise UserError(f"{source}: the path {name!r} in it leads outside; refused")
        yield (
            (member.filename, functools.partial(archive.open, member))
            for member in archive.infolist()
            if not member.filename.endswith("/")  # is_dir() stumbles over an empty name
        )


def table_size(source: Path) -> int:
    """Bytes of the table of contents that a zip says it has; zipfile would read all of it at once,
    ten times as large in memory. 0: no zip."""
    with source.open("rb") as file:
        end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    return end[zipfile._ECD_SIZE] if end else 0  # type: ignore[attr-defined]


def walk(source: Path) -> Iterator[Copy]:
    """All files in a folder and in those within it, links followed, but none into a circle."""
    visited = set()
    for folder, folders, names in os.walk(source, followlinks=True):
        folders.sort()
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        for name in names:
            path = Path(folder, name)
            if path.is_file():
                yield path.relative_to(source).as_posix(), functools.partial(open_file, path)


def open_file(path: Path) -> IO[bytes]:
    """Open a file for reading its bytes."""
    return path.open("rb")


def sort_copies(files: Iterator[Copy], wanted: set[str]) -> dict[str, list[Copy]]:
    """Those of the files whose name without folder is wanted, by that name, the outermost first."""
    copies = defaultdict(list)
    for path, opener in files:
        name = PureWindowsPath(path).name
        if name in wanted:
            copies[name].append((path, opener))
    for alike in copies.values():
        alike.sort(key=lambda copy: (len(PureWindowsPath(copy[0]).parts), copy[0]))
    return copies


def published(copies: list[Copy], md5: str, source: Path) -> bytes:
    """The content of the first copy that has the right md5.

    Raises:
        UserError: none has.
    """
    problems = []
    for path, opener in copies[:COPIES]:
        try:
            with opener() as file:
                content = file.read(LARGEST)
        except (*DAMAGED, OSError) as error:
            problems.append(f"{path} cannot be read: {error}")
            continue
        actual = hashlib.md5(content).hexdigest()
        if actual == md5:
            return content
        if len(content) == LARGEST:
            problems.append(f"{path} is larger than {LARGEST >> 20} MB, which no clip is")
        else:
            problems.append(
                f"{path} has md5 {actual}, expected {md5}: damaged, or not the published clip"
            )
    more = f" (one of {len(copies)} copies, none of which is right)" if len(copies) > 1 else ""
    raise UserError(f"{source}: {problems[0]}{more}")
