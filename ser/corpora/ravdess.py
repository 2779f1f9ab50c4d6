"""RAVDESS: where it comes from, how it is unpacked, that it is the published corpus, and the facts
in its file names."""

import functools
import hashlib
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

import filelock
import pandas as pd
import pooch
import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3 import Retry

from ser.run import project
from ser.run.errors import UserError

ARCHIVE = "Audio_Speech_Actors_01-24.zip"
URL = f"https://zenodo.org/records/1188976/files/{ARCHIVE}?download=1"
MD5 = "bc696df654c87fed845eb13823edef8a"
MANIFEST = Path(__file__).with_name("ravdess.md5")

ACTORS = range(1, 25)
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
# Modality (03 = audio only), channel (01 = speech), emotion, intensity, statement, repetition and
# actor.
NAME = re.compile(r"03-01-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])")

# Zenodo answers 429 to anonymous libraries and asks clients to say who they are and what for.
USER_AGENT = (
    "ravdess-pipeline/0.1.0 "
    "(speech emotion recognition; fetches the RAVDESS speech archive once and keeps it)"
)
# Pauses of 0, 2, 4, 8 and 16 s, or what the server's Retry-After says.
RETRY = Retry(
    total=5,
    backoff_factor=1,
    retry_after_max=120,
    status_forcelist=(408, 429, 500, 502, 503, 504),
    raise_on_status=False,
)
TIMEOUT = 30  # seconds of silence after which a server counts as stalled
BLOCK = 1 << 16  # bytes


def describe(clip: str) -> dict[str, str | int]:
    """The facts in the name of a clip, such as `03-01-05-02-01-01-12`.

    Args:
        clip: a RAVDESS file name without folder and ending.

    Returns:
        clip; speaker (1 to 24); label (one of `EMOTIONS`); gender (male, female); intensity
        (normal, strong); statement and repetition (1 or 2).

    Raises:
        UserError: the name is not that of an audio-only speech clip, or claims a strong neutral,
            which RAVDESS has not.

    Source: Livingstone and Russo (2018), PLoS ONE 13(5): e0196391, "Filename convention".
    """
    match = NAME.fullmatch(clip)
    if not match:
        raise UserError(
            f"{clip}: not the name of a RAVDESS speech clip; expected 03-01-EE-II-SS-RR-AA: "
            "emotion 01-08, intensity, statement, repetition 01-02, actor 01-24"
        )
    emotion, intensity, statement, repetition, actor = map(int, match.groups())
    if emotion == 1 and intensity == 2:
        raise UserError(f"{clip}: neutral has no strong intensity; expected 03-01-01-01-…")
    return {
        "clip": clip,
        "speaker": actor,
        "label": EMOTIONS[emotion - 1],
        "gender": "male" if actor % 2 else "female",
        "intensity": ("normal", "strong")[intensity - 1],
        "statement": statement,
        "repetition": repetition,
    }


def table(files: Iterable[str]) -> pd.DataFrame:
    """The table of clips, sorted by clip: the columns of `describe`, and the file.

    Args:
        files: paths in the corpus's folder, `Actor_XX/….wav`.
    """
    rows = [describe(PurePosixPath(file).stem) | {"file": file} for file in files]
    clips = pd.DataFrame(rows).sort_values("clip", ignore_index=True)
    clips.insert(1, "file", clips.pop("file"))
    return clips


def read_manifest(path: Path) -> dict[str, str]:
    """The md5 of every clip by its name, `Actor_XX/….wav`, from a file in the format of md5sum."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {name: md5 for md5, name in map(str.split, lines)}


def locate() -> Path:
    """The zip or folder to take the corpus from.

    It is what RAVDESS_ARCHIVE names, from the project's folder on, in an experiment's work tree,
    too; or else the published archive, which is downloaded unless it was kept from an earlier time.

    Raises:
        UserError: RAVDESS_ARCHIVE names nothing that exists, or the download fails.
    """
    if named := os.environ.get("RAVDESS_ARCHIVE"):
        source = project.folder() / named
        if not source.exists():
            raise UserError(f"RAVDESS_ARCHIVE={named}: no such zip or folder (looked for {source})")
        return source
    url = os.environ.get("RAVDESS_URL") or URL
    cache = pooch.os_cache("ravdess")
    pooch.get_logger().setLevel("WARNING")  # the progress bar says enough
    try:
        return Path(pooch.retrieve(url, f"md5:{MD5}", ARCHIVE, cache, downloader=resume))
    except (OSError, ValueError) as error:  # requests raises the one, pooch the other: wrong md5
        cause: BaseException = error
        while inner := cause.__cause__ or cause.__context__:  # wrapped by requests and urllib3
            cause = inner
        raise UserError(
            f"{url}: {cause} (to be kept in {cache}). Try again later, or set RAVDESS_ARCHIVE "
            "to the zip or to the folder it unpacks to"
        ) from None


def resume(url: str, output: str, _: object) -> None:
    """Download a file, going on from what an earlier attempt left: a downloader for pooch.

    What has come so far lies beside the output as NAME.part; one process at a time adds to it.

    Raises:
        requests.RequestException: the server cannot be reached, refuses or stalls.
        OSError: full or read-only disk.
    """
    part = Path(output).with_name(f"{ARCHIVE}.part")
    with filelock.FileLock(f"{part}.lock"):
        with part.open("ab") as file, requests.Session() as session:
            # A compressed body would make byte ranges mean something else.
            session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
            session.mount("http://", HTTPAdapter(max_retries=RETRY))
            session.mount("https://", HTTPAdapter(max_retries=RETRY))
            complete = False
            while not complete:
                start = file.tell()
                try:
                    append(session, url, file)
                    complete = True
                except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                    if file.tell() <= start:  # broken off again, and brought nothing
                        raise
        part.replace(output)


def append(session: requests.Session, url: str, file: BinaryIO) -> None:
    """Request what an unfinished file lacks; all of it, if the server knows no ranges."""
    lacking = {"Range": f"bytes={file.tell()}-"}
    with session.get(url, headers=lacking, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == 416:  # nothing beyond what is here: the checksum decides
            return
        if not response.ok:
            raise requests.HTTPError(f"HTTP {response.status_code} {response.reason}")
        if response.status_code != 206:
            file.seek(0)
            file.truncate()
        with tqdm(
            desc=ARCHIVE,
            total=file.tell() + int(response.headers.get("Content-Length", 0)),
            initial=file.tell(),
            unit="B",
            unit_scale=True,
            mininterval=1,
        ) as bar:
            for block in response.iter_content(BLOCK):
                bar.update(file.write(block))


def unpack(source: Path, folder: Path, manifest: dict[str, str]) -> None:
    """Copy the clips of the manifest from a zip or folder to `folder`, and check each on the way.

    A clip may lie anywhere in the source and more than once; a copy whose md5 is that of the
    manifest counts. What else there is does not matter. One core does it, in 3 to 6 seconds: a
    second one gained next to nothing.

    Raises:
        UserError: the source is no zip, a damaged one, or no copy of a clip is the published one.
    """
    missing = {PurePosixPath(name).name: name for name in manifest}
    problems = {}
    with tqdm(total=len(manifest), desc="unpack", unit="clip", mininterval=1) as bar:
        for file, read in contents(source):
            if file not in missing:
                continue
            name = missing[file]
            try:
                content = read()
            except Exception as error:  # damage makes zipfile raise a dozen kinds
                problems[name] = f"cannot be read: {error}"
                continue
            if (md5 := hashlib.md5(content).hexdigest()) != manifest[name]:
                problems[name] = f"has md5 {md5}, expected {manifest[name]}"
                continue
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
            del missing[file]
            bar.update()
    if missing:
        first = next(iter(missing.values()))
        raise UserError(
            f"{source}: {len(missing)} of the corpus's {len(manifest)} "
            "clips are missing, damaged or not the published ones; "
            f"{first}, the first, {problems.get(first, 'is missing')}. "
            f"Expected {ARCHIVE}, or the folder it unpacks to"
        )


def contents(source: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The name, without folder, of every file in a folder or zip, and a function that reads it.

    Raises:
        UserError: not a zip, or one cut short or damaged.
    """
    if source.is_dir():
        for folder, _, names in os.walk(source, followlinks=True):
            for name in names:
                yield name, Path(folder, name).read_bytes
        return
    try:
        archive = zipfile.ZipFile(source)
    except Exception as error:  # damage makes zipfile raise a dozen kinds
        raise UserError(f"{source}: not a zip, or one cut short or damaged: {error}") from None
    with archive:
        for member in archive.infolist():
            # A name as Windows' reads both kinds of separators.
            name = PureWindowsPath(member.filename).name
            yield name, functools.partial(archive.read, member)
