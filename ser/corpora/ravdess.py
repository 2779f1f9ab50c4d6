"""RAVDESS: where it comes from, how it is unpacked, and that it is the published corpus."""

import hashlib
import itertools
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import IO

import soundfile
from tqdm import tqdm

from ser import corpus
from ser.corpora import transfer
from ser.run.errors import UserError

ARCHIVE = "Audio_Speech_Actors_01-24.zip"
URL = f"https://zenodo.org/records/1188976/files/{ARCHIVE}?download=1"
SIZE = 208_468_073  # bytes
MD5 = "bc696df654c87fed845eb13823edef8a"
MANIFEST = Path(__file__).with_name("ravdess.md5")
LARGEST = (
    1 << 24
)  # bytes read of a clip, of which none has a tenth; an archive cannot fill memory or disk
# What zipfile raises on an archive that is cut short, damaged, encrypted (RuntimeError) or packed
# by a method it does not know.
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)


def read_manifest(path: Path) -> dict[str, str]:
    """The md5 of every clip by its name, `Actor_XX/….wav`, from a file in the format of md5sum."""
    return {name: md5 for md5, name in (line.split() for line in path.read_text().splitlines())}


def locate() -> Path:
    """The zip or folder to take the corpus from; downloads the archive if none is named and none is
    kept from an earlier time.

    Raises:
        UserError: RAVDESS_ARCHIVE names nothing that exists, or the download fails.
    """
    if named := os.environ.get("RAVDESS_ARCHIVE"):
        if not Path(named).exists():
            raise UserError(
                f"RAVDESS_ARCHIVE={named}: no such zip or folder (looked for {Path(named).absolute()})"
            )
        return Path(named)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ravdess"
    try:
        return transfer.download(os.environ.get("RAVDESS_URL") or URL, cache / ARCHIVE, SIZE, MD5)
    except UserError as error:
        raise UserError(
            f"{error}. Try again later, or set RAVDESS_ARCHIVE to the zip or to the folder it unpacks to"
        ) from None


@contextmanager
def contents(source: Path) -> Iterator[tuple[list[str], Callable[[str], IO[bytes]]]]:
    """The names of all files in a folder or zip, relative to its top, and a function that opens one
    of them.

    Raises:
        UserError: not a zip, or a damaged one (also when that shows only in the `with` block), or
            one that reaches outside.
    """
    if source.is_dir():
        paths = (
            Path(folder, name)
            for folder, _, names in os.walk(source, followlinks=True)
            for name in names
        )
        yield (
            [path.relative_to(source).as_posix() for path in paths],
            lambda name: (source / name).open("rb"),
        )
        return
    try:
        with zipfile.ZipFile(source) as archive:
            for name in archive.namelist():
                path = PureWindowsPath(name)  # which knows the separators and roots of both worlds
                if path.anchor or ".." in path.parts:
                    raise UserError(f"{source}: the path {name!r} in it leads outside; refused")
            yield archive.namelist(), archive.open
    except DAMAGED as error:
        raise UserError(f"{source}: not a zip, or one cut short or damaged: {error}") from None


def check_names(names: list[str], manifest: dict[str, str], source: Path) -> None:
    """Refuse a source that has not exactly the clips of the manifest, each once.

    Other files than WAV, hidden ones and what macOS adds to a zip do no harm and are not looked at.
    """
    clips = [
        name
        for name in names
        if name.lower().endswith(".wav") and not re.search(r"(^|/)(\.|__MACOSX/)", name)
    ]
    missing = sorted(manifest.keys() - set(clips))
    surplus = sorted((Counter(clips) - Counter(manifest.keys())).elements())
    problems = [f"{len(missing)} are missing, {missing[0]} first"] if missing else []
    problems += [f"{len(surplus)} do not belong to it, {surplus[0]} first"] if surplus else []
    if problems:
        raise UserError(
            f"{source}: {len(clips)} WAV files, expected the {len(manifest)} of the corpus; {'; '.join(problems)}"
        )


def unpack(source: Path, folder: Path, manifest: dict[str, str]) -> None:
    """Copy the clips of the manifest from a zip or folder to `folder`, and check each on the way.

    One core does it, in 3 to 6 seconds: a second one gained next to nothing.

    Raises:
        UserError: the source is no zip or folder of exactly these clips, or one of them has another
            md5.
    """
    with contents(source) as (names, open_clip):
        check_names(names, manifest, source)
        with tqdm(manifest.items(), desc="unpack", unit="clip", mininterval=1) as bar:
            for name, md5 in bar:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with open_clip(name) as clip:
                    content = clip.read(LARGEST)
                found = hashlib.md5(content).hexdigest()
                if found != md5:
                    raise UserError(
                        f"{source}: {name} has md5 {found}, expected {md5}: damaged, or not the published clip"
                    )
                (folder / name).write_bytes(content)


def audit(folder: Path, md5s: dict[str, str], name: str) -> dict:
    """Describe the corpus `name` in `folder`.

    Args:
        md5s: the md5 of every clip by its path in `folder`.

    Returns:
        what metrics/corpus.json holds. Counts and no names: DVC's tables leave out lists.
    """
    headers = {clip: soundfile.info(folder / clip) for clip in sorted(md5s)}
    facts = [corpus.describe(Path(clip).stem) for clip in headers]
    by_emotion = Counter(fact["emotion"] for fact in facts)
    [rate] = {header.samplerate for header in headers.values()}
    return {
        "corpus": name,
        **(
            {"note": "synthetic speech that this project makes, not RAVDESS"}
            if name == "demo"
            else {}
        ),
        "clips": len(headers),
        "actors": len({fact["actor"] for fact in facts}),
        "seconds": round(sum(header.frames for header in headers.values()) / rate, 2),
        "sample_rate": rate,
        "stereo_files": sum(header.channels == 2 for header in headers.values()),
        "duplicates": sum(
            1 for one, other in itertools.combinations(md5s.values(), 2) if one == other
        ),
        "by_emotion": {emotion: by_emotion[emotion] for emotion in corpus.EMOTIONS},
    }
