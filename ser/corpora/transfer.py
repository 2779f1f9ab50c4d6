"""Fetch one file over HTTP: resumed, retried, checked, and kept for the next time."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import requests
from tqdm import tqdm
from urllib3 import BaseHTTPResponse, Retry
from urllib3.exceptions import InvalidHeader

from ser.run.errors import UserError

# Zenodo answers 429 to anonymous libraries and asks clients to say who they are and what for.
USER_AGENT = (
    "ravdess-pipeline/0.1.0 "
    "(speech emotion recognition; fetches the RAVDESS speech archive once and keeps it)"
)
BLOCK = 1 << 16  # bytes: what a broken connection loses at most
TIMEOUT = (10, 30)  # seconds to connect, and of silence after which a server counts as stalled
# Pauses of 0, 2, 4, 8 and 16 s, or what the server's Retry-After says.
RETRY = Retry(total=5, backoff_factor=1, retry_after_max=120)
# Errors that are worth another attempt.
PASSING = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
)


def download(
    url: str,
    path: Path,
    size: int,
    md5: str,
    retry: Retry = RETRY,
    timeout: tuple[float, float] = TIMEOUT,
) -> Path:
    """Fetch the file of `size` bytes and checksum `md5` from `url` to `path`, unless it is there.

    An unfinished transfer stays beside it as `NAME.part`, and the next run goes on from there. Of
    several processes that want the same file one transfers it, and the others wait for that.

    Args:
        retry: how many attempts in a row may fail to get any further, and the pauses between them.
        timeout: seconds to wait for a connection, and for the next bytes.

    Returns:
        `path`.

    Raises:
        UserError: the server cannot be reached, refuses, or sends something else.
        OSError: full or read-only disk.
    """
    if holds(path, md5):  # before anything is written: the folder may be a shared, read-only one
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock(path):
        if not holds(path, md5):
            part = path.with_name(f"{path.name}.part")
            complete(url, part, size, retry, timeout)
            received = checksum(part)
            if received != md5:
                part.unlink()
                raise UserError(
                    f"{url}: wrong md5 {received}, expected {md5}: "
                    "not the published file, or damaged on its way"
                )
            part.replace(path)
    return path


def holds(path: Path, md5: str) -> bool:
    """Whether `path` is a file with this checksum."""
    return path.is_file() and checksum(path) == md5


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Let one process at a time transfer to `path`, and say so to those that wait."""
    guard = filelock.FileLock(path.with_name(f"{path.name}.lock"))
    try:
        guard.acquire(blocking=False)
    except filelock.Timeout:
        print(f"{path.name}: another process is fetching it; waiting for that", flush=True)
        guard.acquire()
    try:
        yield
    finally:
        guard.release()


def checksum(path: Path) -> str:
    """The md5 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def held(part: Path) -> int:
    """The number of bytes that an unfinished transfer has brought so far."""
    return part.stat().st_size if part.exists() else 0


def complete(url: str, part: Path, size: int, retry: Retry, timeout: tuple[float, float]) -> None:
    """Request what `part` lacks until it has `size` bytes.

    urllib3's Retry counts the attempts, backs off and reads Retry-After; the loop is here because
    only here a body that broke off can be resumed.
    """
    if held(part) > size:
        part.unlink()
    furthest, left = held(part), retry
    with (
        requests.Session() as session,
        tqdm(desc=part.stem, total=size, unit="B", unit_scale=True, mininterval=1) as bar,
    ):
        # A compressed body would make byte ranges mean something else.
        session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
        while held(part) < size:
            problem, refusal = attempt(session, url, part, size, timeout, bar)
            if held(part) > furthest:
                furthest, left = held(part), retry
            elif not left.total:
                raise UserError(f"{url}: {problem}; gave up after {len(left.history) + 1} attempts")
            if held(part) < size:
                bar.set_postfix_str(f"{problem}; trying again")
                left = left.increment("GET", response=refusal)
                pause(left, refusal)


def attempt(
    session: requests.Session,
    url: str,
    part: Path,
    size: int,
    timeout: tuple[float, float],
    bar: tqdm,
) -> tuple[str, BaseHTTPResponse | None]:
    """Request the rest of `part` once.

    Returns:
        why it may still be incomplete, and the server's answer if that was to come back later.

    Raises:
        UserError: another attempt would not help.
    """
    start = held(part)
    try:
        with session.get(
            url, headers={"Range": f"bytes={start}-"} if start else {}, stream=True, timeout=timeout
        ) as response:
            status = f"HTTP {response.status_code} {response.reason}"
            if response.status_code in (408, 429) or response.status_code >= 500:
                return status, response.raw
            if start and response.status_code == 416:
                # The server's file ends before `start`: what is here is of something else.
                part.unlink()
                return status, None
            if not response.ok:
                raise UserError(f"{url}: {status}")
            store(response, part, start, size, bar)
    except PASSING as error:
        return innermost(error), None
    except requests.RequestException as error:
        raise UserError(f"{url}: {innermost(error)}") from None
    except OSError as error:  # of the disk: a failed write does not say to which file
        error.filename = error.filename or str(part)
        raise
    return "the transfer ended early", None


def store(response: requests.Response, part: Path, start: int, size: int, bar: tqdm) -> None:
    """Append the body to `part`, which has `start` bytes; begin anew if the server ignored that."""
    if response.status_code != 206:
        start = 0
        announced = int(response.headers.get("Content-Length", size))
        if announced != size:
            raise UserError(
                f"{response.url}: {announced} bytes, expected {size}: not the published file"
            )
    bar.set_postfix_str("", refresh=False)
    bar.n = start
    with part.open("ab" if start else "wb") as file:
        for block in response.iter_content(BLOCK):
            file.write(block)
            bar.update(len(block))
            if bar.n > size:
                raise UserError(
                    f"{response.url}: more than the expected {size} bytes: not the published file"
                )


def pause(left: Retry, refusal: BaseHTTPResponse | None) -> None:
    """Wait as long as the server asks for, or else ever longer."""
    try:
        left.sleep(refusal)
    except InvalidHeader:
        left.sleep()


def innermost(error: BaseException) -> str:
    """What an exception says, without those that requests and urllib3 have wrapped it in."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return " ".join((getattr(error, "strerror", None) or str(error)).split())
