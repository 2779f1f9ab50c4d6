import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import tomllib
import tracemalloc
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from urllib3 import Retry

from ser import audio, corpus
from ser.corpora import ravdess, transfer
from ser.run.errors import UserError
from stages import download

CONTENT = random.Random(0).randbytes(1_000_000)
MD5 = hashlib.md5(CONTENT).hexdigest()
HALF = len(CONTENT) // 2
QUICK = {"retry": Retry(total=2, backoff_factor=0.01), "timeout": (1, 0.3)}


# ---- a server that can misbehave


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append(dict(self.headers))
        next(self.server.plan)(self)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    """Answers the requests one after the other with the steps of a plan, the last step for ever."""

    def __init__(self, *plan):
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan = itertools.chain(plan, itertools.repeat(plan[-1]))
        self.seen = []
        self.stop = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/archive.zip"

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # a client that leaves is no error
            super().handle_error(request, client_address)


def serves(content=CONTENT, upto=None, ranges=True, stalls=False, length=True):
    """Send `content`, or what the Range asks for, but break off (or stall) at byte `upto`."""

    def step(handler):
        start = int(handler.headers["Range"][6:-1]) if ranges and "Range" in handler.headers else 0
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if length:
            handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        handler.wfile.write(content[start:upto])
        if stalls:
            handler.server.stop.wait(20)

    return step


def answers(status, **headers):
    """Send nothing but a status."""

    def step(handler):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return step


@pytest.fixture
def start(monkeypatch):
    """Start a server with a plan; it ends with the test."""
    monkeypatch.setenv("NO_PROXY", "*")
    servers = []

    def start(*plan):
        servers.append(Server(*plan))
        threading.Thread(
            target=servers[-1].serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def unused_url(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        # Bound and not listening: refused.
        yield f"http://127.0.0.1:{unused.getsockname()[1]}/archive.zip"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "archive.zip"


def fetched(server, path, **arguments):
    """Download, and the Range of each request."""
    assert transfer.download(server.url, path, len(CONTENT), MD5, **{**QUICK, **arguments}) == path
    assert path.read_bytes() == CONTENT
    assert not part(path).exists()
    return [headers.get("Range") for headers in server.seen]


def refused(server, path, words, **arguments):
    """The message of the UserError that downloading ends in."""
    url = server if isinstance(server, str) else server.url
    with pytest.raises(UserError, match=words) as error:
        transfer.download(url, path, len(CONTENT), MD5, **{**QUICK, **arguments})
    assert not path.exists()
    assert url in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def part(path):
    return path.with_name("archive.zip.part")


# ---- fetch


def test_says_who_it_is_and_keeps_the_file_for_next_time(start, path):
    server = start(serves())
    assert fetched(server, path) == [None]
    assert fetched(server, path) == [None], "the second time needs no request"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    agent = server.seen[0]["User-Agent"]
    assert agent.startswith(f"{project['name']}/{project['version']} (") and "@" not in agent
    assert server.seen[0]["Accept-Encoding"] == "identity"


def test_a_kept_file_that_went_bad_is_fetched_again(start, path):
    path.parent.mkdir()
    path.write_bytes(CONTENT[:-1] + b"?")
    assert fetched(start(serves()), path) == [None]


def test_goes_on_where_a_transfer_broke_off(start, path):
    server = start(serves(upto=HALF), serves())
    ranges = fetched(server, path)
    assert len(ranges) == 2 and ranges[0] is None
    assert HALF - transfer.BLOCK <= int(ranges[1].removeprefix("bytes=").removesuffix("-")) <= HALF


def test_any_number_of_breaks_is_fine_as_long_as_it_gets_further(start, path):
    steps = [serves(upto=end) for end in range(100_000, 1_000_000, 100_000)]
    assert len(fetched(start(*steps, serves()), path)) > QUICK["retry"].total + 3


def test_starts_over_when_the_server_ignores_ranges(start, path):
    assert len(fetched(start(serves(upto=HALF), serves(ranges=False)), path)) == 2


def test_gives_up_when_every_transfer_breaks_at_the_same_place(start, path):
    server = start(serves(upto=HALF, ranges=False))
    assert "gave up after 3 attempts" in refused(server, path, "IncompleteRead")
    assert len(server.seen) == 3


def test_notices_an_early_end_without_a_content_length(start, path):
    assert len(fetched(start(serves(upto=HALF, length=False), serves()), path)) == 2


def test_goes_on_in_the_next_run(start, path):
    refused(start(serves(upto=HALF), answers(404)), path, "HTTP 404")
    assert part(path).stat().st_size > HALF - transfer.BLOCK
    (only,) = fetched(start(serves()), path)
    assert only.startswith("bytes=")


@pytest.mark.parametrize(
    "left", [CONTENT + b"more", b"x" * 1000], ids=["longer than the file", "not of the file"]
)
def test_a_part_that_does_not_fit_is_thrown_away(start, path, left):
    path.parent.mkdir()
    part(path).write_bytes(left)
    steps = [serves()] if len(left) > len(CONTENT) else [answers(416), serves()]
    assert fetched(start(*steps), path)[-1] is None


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(start, path, status):
    assert len(fetched(start(answers(status), answers(status), serves()), path)) == 3


def test_waits_as_long_as_the_server_asks_for(start, path):
    begin = time.monotonic()
    fetched(start(answers(429, Retry_After="1"), serves()), path)
    assert 1 <= time.monotonic() - begin < 5


def test_an_unreadable_retry_after_is_ignored(start, path):
    fetched(start(answers(503, Retry_After="soon"), serves()), path)


def test_pauses_get_longer(start, path):
    begin = time.monotonic()
    server = start(answers(503))
    assert "gave up after 4 attempts" in refused(
        server, path, "HTTP 503", retry=Retry(total=3, backoff_factor=0.2)
    )
    assert 0.4 + 0.8 <= time.monotonic() - begin < 5
    assert len(server.seen) == 4


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_not_repeated(start, path, status):
    server = start(answers(status))
    refused(server, path, f"HTTP {status}")
    assert len(server.seen) == 1


def test_no_connection(unused_url, path):
    assert "gave up after 3 attempts" in refused(unused_url, path, "Connection refused")


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1/archive.zip", "http://"])
def test_not_a_url(url, path):
    refused(url, path, "No scheme|No connection adapters|No host")


@pytest.mark.parametrize("upto", [0, HALF])
def test_a_stalled_transfer_is_resumed(start, path, upto):
    begin = time.monotonic()
    assert len(fetched(start(serves(upto=upto, stalls=True), serves()), path)) == 2
    assert time.monotonic() - begin < 5


def test_a_server_that_always_stalls_is_given_up(start, path):
    refused(
        start(lambda handler: handler.server.stop.wait(20)),
        path,
        "timed out; gave up after 3 attempts",
    )


def test_a_damaged_transfer_is_thrown_away(start, path):
    server = start(serves(CONTENT[:-1] + b"?"), serves())
    refused(server, path, f"expected {MD5}")
    assert not part(path).exists()
    assert fetched(server, path)[-1] is None


@pytest.mark.parametrize("content", [b"<html>Please log in</html>", CONTENT * 2])
def test_another_file_is_refused_before_it_is_transferred(start, path, content):
    refused(start(serves(content)), path, f"{len(content)} bytes, expected {len(CONTENT)}")
    assert not part(path).exists()


def test_a_body_without_end_is_cut_off(start, path):
    refused(
        start(serves(CONTENT * 20, length=False)),
        path,
        f"more than the expected {len(CONTENT)} bytes",
    )
    assert part(path).stat().st_size <= len(CONTENT) + transfer.BLOCK
    fetched(start(serves()), path)


def test_two_at_once_transfer_it_once_and_those_that_wait_say_so(start, path, capsys):
    server = start(serves())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fetched(server, path), range(4)))
    assert len(server.seen) == 1
    started = start(serves(upto=HALF, stalls=True), serves())
    path.unlink()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fetched, started, path, timeout=(1, 5))
        while not started.seen:
            time.sleep(0.01)
        capsys.readouterr()
        second = pool.submit(fetched, started, path)
        time.sleep(0.5)
        started.stop.set()
        assert first.result() == second.result()
    assert "archive.zip: another process is fetching it" in capsys.readouterr().out


def test_a_kept_file_is_taken_from_a_folder_that_cannot_be_written_to(unused_url, path):
    """As on a cluster, where one person fetches for all."""
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    assert transfer.download(unused_url, path, len(CONTENT), MD5, **QUICK) == path
    assert list(path.parent.iterdir()) == [path], "not even a lock"


# ---- download, as a process in a project of its own

CLIPS = {
    "Actor_01/03-01-01-01-01-01-01.wav": 1,
    "Actor_01/03-01-05-02-01-01-01.wav": 2,  # stereo
    "Actor_02/03-01-03-01-02-01-02.wav": 1,
    "Actor_02/03-01-03-01-02-02-02.wav": 1,  # the same as the one before
}
FIRST, *_, LAST = CLIPS
OLDER = Path("data/raw/older")
CHILD = """
import functools, os, resource, sys
from pathlib import Path
from urllib3 import Retry
from ser.corpora import ravdess, transfer
from stages import download

ravdess.MANIFEST = Path("clips.md5")
ravdess.SIZE, ravdess.MD5 = int(os.environ["SIZE"]), os.environ["MD5"]
transfer.download = functools.partial(transfer.download, retry=Retry(1), timeout=(1, 1))
if limit := os.environ.get("LARGEST_FILE"):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
download.main()
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a corpus of four clips as folder `source` and as `source.zip`, and with
    results of an earlier run."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    samples = np.random.default_rng(0).integers(-9999, 9999, (4, 24_000)).astype(np.int16)
    for (name, channels), clip in zip(CLIPS.items(), samples[[0, 1, 2, 2]], strict=True):
        Path("source", name).parent.mkdir(parents=True, exist_ok=True)
        audio.write(Path("source", name), np.stack([clip] * channels, axis=1), 48_000)
    Path("clips.md5").write_text(
        "".join(f"{transfer.checksum(Path('source', name))}  {name}\n" for name in CLIPS)
    )
    archive = Path(shutil.make_archive("source", "zip", "source"))
    variables = {
        "SIZE": archive.stat().st_size,
        "MD5": transfer.checksum(archive),
        "PYTHONPATH": ROOT,
        "XDG_CACHE_HOME": "cache",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    for name in ("RAVDESS_ARCHIVE", "RAVDESS_URL"):
        monkeypatch.delenv(name, raising=False)
    for older in (Path("data/raw/older"), Path("metrics/corpus.json"), Path("metrics/corpus.csv")):
        older.parent.mkdir(parents=True, exist_ok=True)
        older.write_text("older")
    return tmp_path


def run(*arguments, **variables):
    """Run the child, or other arguments of Python, with more environment variables."""
    command = [sys.executable, *(arguments or ("-c", CHILD))]
    return subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, timeout=60
    )


def succeeds(done):
    assert done.returncode == 0, done.stderr
    assert {
        path.relative_to("data/raw").as_posix()
        for path in Path("data/raw").rglob("*")
        if path.is_file()
    } == set(CLIPS)
    for name in CLIPS:
        assert Path("data/raw", name).read_bytes() == Path("source", name).read_bytes()
    return [Path(f"metrics/corpus.{ending}").read_text() for ending in ("json", "csv")]


def fails(done, *words):
    """One clear line at the end, exit code 1, no half-written output, and nothing lost."""
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.count("download: ") == 1
    unharmed(done.stderr.splitlines()[-1], words)


def refuses(monkeypatch, source, *words):
    """The same of `main` within this process, which saves a second for each of many cases."""
    monkeypatch.setattr(ravdess, "MANIFEST", Path("clips.md5"))
    monkeypatch.setenv("RAVDESS_ARCHIVE", source)
    with pytest.raises(SystemExit) as exit_:
        download.main()
    unharmed(exit_.value.code, words)


def takes(monkeypatch, source, published):
    """`main` within this process takes the clips, given as content by name, and nothing else."""
    monkeypatch.setattr(ravdess, "MANIFEST", Path("clips.md5"))
    monkeypatch.setenv("RAVDESS_ARCHIVE", source)
    download.main()
    raw = Path("data/raw")
    taken = {path.relative_to(raw).as_posix(): path for path in raw.rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in taken.items()} == published


def unharmed(line, words):
    assert line.startswith("download: ") and "\n" not in line
    for word in words:
        assert word in line
    left = {path for folder in ("data", "metrics") for path in Path(folder).rglob("*")}
    files = {Path(f"metrics/corpus.{ending}") for ending in ("json", "csv")} | {OLDER}
    assert left == files | {Path("data/raw")}
    assert {path.read_text() for path in files} == {"older"}


@pytest.mark.slow
def test_folder_and_zip_give_the_same(project):
    description = succeeds(run(RAVDESS_ARCHIVE="source"))
    assert succeeds(run(RAVDESS_ARCHIVE=str(project / "source.zip"))) == description
    figures, table = description
    assert json.loads(figures) == {
        "clips": 4,
        "actors": 2,
        "seconds": 2.0,
        "sample_rate": 48_000,
        "stereo_files": 1,
        "duplicates": 1,
    }
    head, *rows = table.splitlines()
    assert head == "emotion,clips,actors,seconds"
    assert [row.split(",")[0] for row in rows] == list(corpus.EMOTIONS)
    assert rows[:3] == ["neutral,1,1,0.5", "calm,0,0,0.0", "happy,2,1,1.0"]


def test_downloads_and_needs_no_server_the_second_time(project, start, unused_url):
    server = start(answers(429), serves(Path("source.zip").read_bytes()))
    succeeds(run(RAVDESS_URL=server.url))
    shutil.rmtree("data")
    succeeds(run(RAVDESS_URL=unused_url))


def test_an_interrupted_download_is_resumed(project, start, monkeypatch):
    content = Path("source.zip").read_bytes()
    server = start(serves(content, upto=len(content) // 2, stalls=True), serves(content))
    monkeypatch.setenv("RAVDESS_URL", server.url)
    child = subprocess.Popen([sys.executable, "-c", CHILD], stderr=subprocess.PIPE, text=True)
    unfinished = Path("cache/ravdess/Audio_Speech_Actors_01-24.zip.part")
    while not (unfinished.exists() and unfinished.stat().st_size):
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGTERM)
    assert child.communicate()[1].splitlines()[-1] == "download: interrupted"
    assert child.returncode == 128 + signal.SIGTERM
    assert Path("data/raw/older").exists()
    succeeds(run())
    assert [headers.get("Range", "")[:6] for headers in server.seen] == ["", "bytes="]


def test_no_network_says_what_to_do(project, unused_url):
    fails(run(RAVDESS_URL=unused_url), unused_url, "Connection refused", "RAVDESS_ARCHIVE")


def test_no_home_says_what_to_do(project, monkeypatch):
    """As for a user that the system has no entry of."""
    pwd = pytest.importorskip("pwd")
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    with pytest.raises(UserError, match="no home folder .* set XDG_CACHE_HOME"):
        ravdess.locate()


def test_a_path_that_standard_output_cannot_show(project):
    Path("source").rename("Maße ü")
    done = run(RAVDESS_ARCHIVE="Maße ü", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert r"Reading Ma\xdfe \xfc" in done.stdout


def test_a_download_with_the_wrong_md5(project, start):
    content = Path("source.zip").read_bytes()
    server = start(serves(content[:-1] + b"?"))
    fails(run(RAVDESS_URL=server.url), server.url, "wrong md5", "RAVDESS_ARCHIVE")
    assert not list(Path("cache/ravdess").glob("*.part"))


def missing(folder):
    (folder / FIRST).unlink()


def misnamed(folder):
    (folder / LAST).rename(folder / "Actor_02/angry_02.wav")


def corrupt(folder):
    content = bytearray((folder / LAST).read_bytes())
    content[20_000] ^= 1
    (folder / LAST).write_bytes(content)


def empty(folder):
    (folder / LAST).write_bytes(b"")


def nothing_of_it(folder):
    """The songs, whose names differ in a digit."""
    for path in folder.rglob("*.wav"):
        path.rename(path.with_name(path.name.replace("03-01-", "03-02-", 1)))


def a_folder_in_its_place(folder):
    missing(folder)
    (folder / FIRST).mkdir()


def corrupt_twice(folder):
    corrupt(folder)
    nested_again(folder)


BAD = {
    missing: [f"1 of the corpus's 4 clips are missing, {FIRST} first"],
    misnamed: [f"1 of the corpus's 4 clips are missing, {LAST} first"],
    nothing_of_it: [f"4 of the corpus's 4 clips are missing, {FIRST} first", ravdess.ARCHIVE],
    a_folder_in_its_place: [f"1 of the corpus's 4 clips are missing, {FIRST} first"],
    corrupt: [f": {LAST} has md5", "expected", "damaged, or not the published clip"],
    empty: [f": {LAST} has md5 {hashlib.md5().hexdigest()}, expected"],
    corrupt_twice: [f": {LAST} has md5", "one of 2 copies, none of which is right"],
}


# ---- copies as people have them


def as_published(folder):
    pass


def below_a_folder(folder):
    """As unpacking programs make it, or as a zip made of the folder."""
    folder.rename("inner")
    folder.mkdir()
    Path("inner").rename(folder / "Audio_Speech_Actors_01-24")


def nested_again(folder):
    """As on Kaggle: every clip a second time, below a folder of its own."""
    shutil.copytree(folder, "inner")
    Path("inner").rename(folder / "audio_speech_actors_01-24")


def beside_other_files(folder):
    for name in (
        "README.txt",
        "Actor_01/.DS_Store",
        "Actor_01/._03-01-01-01-01-01-01.wav",
        "__MACOSX/Actor_01/._03-01-01-01-01-01-01.wav",
        "Actor_01/03-02-01-01-01-01-01.wav",  # a song
        "Actor_01/03-01-01-01-01-01-03.wav",  # a clip that nobody published
        "Actor_01/angry.WAV",
        "Audio_Song_Actors_01-24.zip",
        "Video_Speech_Actor_01/Actor_01/01-01-01-01-01-01-01.mp4",
        "Maße/ü.wav",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def without_folders(folder):
    for path in folder.rglob("*.wav"):
        path.rename(folder / path.name)


def damaged_with_a_good_copy(folder):
    """What lies outermost is tried first, and here it is not the one that counts."""
    nested_again(folder)
    corrupt(folder)
    (folder / FIRST).write_bytes(b"")


GOOD = (
    as_published,
    below_a_folder,
    nested_again,
    beside_other_files,
    without_folders,
    damaged_with_a_good_copy,
)


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("arrange", GOOD, ids=lambda arrange: arrange.__name__)
def test_a_copy_as_people_have_it_is_taken(project, monkeypatch, capsys, arrange, packed):
    published = {name: Path("source", name).read_bytes() for name in CLIPS}
    arrange(project / "source")
    if packed:
        shutil.make_archive("source", "zip", "source")
    takes(monkeypatch, "source.zip" if packed else "source", published)
    printed = capsys.readouterr().out
    assert "RAVDESS speech: 4 clips of 2 actors, 0.0 minutes" in printed


def test_links_are_followed_but_not_in_circles(project, monkeypatch):
    published = {name: Path("source", name).read_bytes() for name in CLIPS}
    Path("source/Actor_02").rename("elsewhere")
    Path("source/Actor_02").symlink_to("../elsewhere")
    for name in ("a", "b", "c"):  # followed forty links deep these would be 3 ** 40 folders
        Path("source", name).symlink_to(".")
    Path("source/nowhere.wav").symlink_to("nowhere")
    takes(monkeypatch, "source", published)


def test_a_zip_from_windows_or_with_a_name_twice(project, monkeypatch):
    published = {name: Path("source", name).read_bytes() for name in CLIPS}
    with zipfile.ZipFile("odd.zip", "w") as archive:
        for name, content in published.items():
            archive.writestr(name.replace("/", "\\"), content)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(FIRST.replace("/", "\\"), b"damaged")
    takes(monkeypatch, "odd.zip", published)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_methods_of_packing(project, monkeypatch, method):
    published = {name: Path("source", name).read_bytes() for name in CLIPS}
    with zipfile.ZipFile("odd.zip", "w", method) as archive:
        for name, content in published.items():
            archive.writestr(name, content)
    takes(monkeypatch, "odd.zip", published)


# ---- and those that are refused


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
def test_a_bad_source_is_refused(project, monkeypatch, spoil, packed):
    spoil(project / "source")
    if packed:
        shutil.make_archive("source", "zip", "source")
    refuses(monkeypatch, "source.zip" if packed else "source", "source", *BAD[spoil])


def test_many_copies_of_which_none_is_right_are_not_all_tried(project, monkeypatch):
    with zipfile.ZipFile("copies.zip", "w") as archive:
        for number in range(1000):
            for name in CLIPS:
                archive.writestr(f"{number}/{name}", b"")
    tried = []
    read = zipfile.ZipFile.open
    monkeypatch.setattr(
        zipfile.ZipFile, "open", lambda self, *rest: tried.append(rest) or read(self, *rest)
    )
    refuses(monkeypatch, "copies.zip", f"0/{FIRST} has md5", "one of 1000 copies")
    assert len(tried) == ravdess.COPIES


def test_a_zip_damaged_anywhere_is_refused_or_taken_whole(project, monkeypatch):
    """A thousand damaged zips: every one ends in one line, or in the right clips."""
    monkeypatch.setattr(ravdess, "MANIFEST", Path("clips.md5"))
    contents = {name: random.Random(name).randbytes(40) * 3 for name in CLIPS}
    manifest = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    whole = []
    for method in methods:
        with zipfile.ZipFile("small.zip", "w", method) as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
        whole.append(Path("small.zip").read_bytes())
    rng, outcomes = random.Random(0), Counter()
    for case in range(1000):
        content = bytearray(whole[case % len(whole)])
        for _ in range(rng.choice([1, 1, 2, 5, 20])):
            match rng.randrange(4):
                case 0 | 1:
                    content[rng.randrange(len(content))] = rng.randrange(256)
                case 2:
                    start = rng.randrange(len(content))
                    del content[start : start + rng.randrange(1, 9)]
                case 3:
                    start = rng.randrange(len(content))
                    content[start:start] = rng.randbytes(rng.randrange(1, 9))
        Path("damaged.zip").write_bytes(content)
        target = Path("target", str(case))
        try:
            ravdess.unpack(Path("damaged.zip"), target, manifest)
        except UserError as error:
            assert "\n" not in str(error), case
            outcomes["refused"] += 1
            continue
        assert {name: (target / name).read_bytes() for name in CLIPS} == contents, case
        outcomes["taken"] += 1
    assert outcomes["refused"] > 600 and outcomes["taken"] > 20, outcomes


@pytest.mark.parametrize(
    "outside",
    ["../outside.wav", "a/../../outside.wav", "/outside.wav", "C:\\outside.wav", "..\\outside.wav"],
)
def test_a_zip_that_climbs_out_is_refused(project, monkeypatch, outside):
    with zipfile.ZipFile("source.zip", "a") as archive:
        archive.writestr(outside, b"")
    refuses(monkeypatch, "source.zip", "source.zip", repr(outside), "leads outside")
    assert not list(project.parent.rglob("*outside.wav"))


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-30_000])


def no_zip(path):
    path.write_text("<html>Please log in</html>")


def nothing(path):
    path.write_bytes(b"")


def bit_rot(path):
    content = bytearray(path.read_bytes())
    content[30_000] ^= 1
    path.write_bytes(content)


def encrypted(path):
    """Set the flag that says so, in the headers of the members and in the table of contents;
    zipfile cannot write such a zip."""
    flags = rb"(PK\x03\x04..|PK\x01\x02....)."
    path.write_bytes(
        re.sub(flags, lambda match: match[1] + b"\x01", path.read_bytes(), flags=re.DOTALL)
    )


@pytest.mark.parametrize(
    ("spoil", "words"),
    {
        cut_short: "not a zip, or one cut short or damaged: ",
        no_zip: "not a zip, or one cut short or damaged: ",
        nothing: "not a zip, or one cut short or damaged: ",
        bit_rot: "Actor_02/03-01-03-01-02-01-02.wav cannot be read: Bad CRC-32",
        encrypted: f"{FIRST} cannot be read: ",
    }.items(),
    ids=lambda spoil: getattr(spoil, "__name__", ""),
)
def test_a_bad_zip_is_refused(project, monkeypatch, spoil, words):
    spoil(project / "source.zip")
    refuses(monkeypatch, "source.zip", f"source.zip: {words}")


@pytest.mark.slow
def test_a_bomb_is_refused_and_fills_nothing(project, monkeypatch):
    """A gigabyte of zeros under the name of a clip, in as many bytes as a few clips have."""
    with zipfile.ZipFile("bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in CLIPS:
            with archive.open(name, "w") as member:
                for _ in range(64 if name == FIRST else 0):
                    member.write(bytes(1 << 24))
    assert zipfile.ZipFile("bomb.zip").getinfo(FIRST).file_size == 1 << 30
    assert Path("bomb.zip").stat().st_size < 10 << 20
    tracemalloc.start()
    refuses(monkeypatch, "bomb.zip", f"{FIRST} is larger than 16 MB, which no clip is")
    assert tracemalloc.get_traced_memory()[1] < 5 * ravdess.LARGEST
    tracemalloc.stop()


def test_a_table_of_contents_that_fills_memory_is_refused_before_it_is_read(project, monkeypatch):
    """400,000 empty members, 30 MB."""
    with zipfile.ZipFile("many.zip", "w") as archive:
        archive.writestr("x" * 40, b"")
    content = Path("many.zip").read_bytes()
    member, table = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    end = bytearray(content[table:])
    end[8:16] = struct.pack("<HHL", 65535, 65535, 400_000 * (table - member))
    Path("many.zip").write_bytes(content[:member] + content[member:table] * 400_000 + end)
    tracemalloc.start()
    refuses(monkeypatch, "many.zip", "many.zip: a table of contents of more than 16 MB")
    assert tracemalloc.get_traced_memory()[1] < 2 * ravdess.TABLE
    tracemalloc.stop()


def test_a_member_that_claims_less_than_it_holds_is_refused(project, monkeypatch):
    """A megabyte of zeros that both headers call a hundred bytes."""
    with zipfile.ZipFile("liar.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in CLIPS:
            archive.writestr(name, bytes(1 << 20))
    size, claimed = struct.pack("<L", 1 << 20), struct.pack("<L", 100)
    content = Path("liar.zip").read_bytes()
    assert content.count(size) == 2 * len(CLIPS)
    Path("liar.zip").write_bytes(content.replace(size, claimed))
    refuses(monkeypatch, "liar.zip", f"{FIRST} cannot be read: Bad CRC-32")


@pytest.mark.slow
def test_bad_sources_in_a_process_of_their_own(project):
    corrupt(project / "source")
    fails(run(RAVDESS_ARCHIVE="source"), f"source: {LAST} has md5")
    fails(run(RAVDESS_ARCHIVE="nowhere"), "RAVDESS_ARCHIVE=nowhere: no such zip or folder")
    cut_short(project / "source.zip")
    fails(run(RAVDESS_ARCHIVE="source.zip"), "source.zip: not a zip, or one cut short")


def test_a_full_disk(project):
    """A file larger than allowed fails like one on a full disk: in the middle of a write."""
    fails(run(RAVDESS_ARCHIVE="source", LARGEST_FILE="30000"), "File too large")


def test_a_full_disk_while_downloading(project, start):
    content = Path("source.zip").read_bytes()
    fails(
        run(RAVDESS_URL=start(serves(content)).url, LARGEST_FILE="30000"),
        "cache/ravdess/",
        ".part: File too large",
    )


def test_neither_output_without_the_other(project):
    """The folder of the second output cannot be made."""
    shutil.rmtree("metrics")
    Path("metrics").write_text("in the way")
    done = run(RAVDESS_ARCHIVE="source")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "download: metrics: File exists")
    assert Path("data/raw/older").read_text() == "older"
    assert [path.name for path in Path("data").iterdir()] == ["raw"]


@pytest.mark.slow
@pytest.mark.slow
def test_the_demo_corpus(project):
    chosen = Path("params.yaml").read_text().replace("corpus: ravdess", "corpus: demo")
    Path("params.yaml").write_text(
        re.sub(r"seconds: [\d.]+", "seconds: 0.5", re.sub(r"takes: \d", "takes: 1", chosen))
    )
    done = run("-m", "stages.download", RAVDESS_ARCHIVE="ignored", RAVDESS_URL="ignored")
    assert done.returncode == 0, done.stderr
    assert "SYNTHETIC demo corpus, not RAVDESS" in done.stdout
    description = json.loads(Path("metrics/corpus.json").read_text())
    assert (description["clips"], description["actors"]) == (192, 24)
    rows = Path("metrics/corpus.csv").read_text().splitlines()[1:]
    assert [row.split(",")[:3] for row in rows] == [[name, "24", "24"] for name in corpus.EMOTIONS]
    assert (description["sample_rate"], description["duplicates"]) == (48_000, 0)
    assert 0.4 < description["seconds"] / description["clips"] < 0.6
    assert len(list(Path("data/raw").glob("Actor_*/*.wav"))) == 192
    assert not Path("data/raw/older").exists()


def test_the_manifest_lists_the_published_corpus(project):
    manifest = ravdess.read_manifest(ravdess.MANIFEST)
    facts = corpus.table(manifest)
    assert len(facts) == corpus.CLIPS
    assert facts["emotion"].value_counts().to_dict() == dict.fromkeys(corpus.EMOTIONS, 192) | {
        "neutral": 96
    }
    assert set(facts["actor"].value_counts()) == {60}
    assert len(set(manifest.values())) == corpus.CLIPS - 1, "one pair of clips is the same"
    assert all(name.startswith(f"Actor_{name[-6:-4]}/") for name in manifest)


def test_the_stage_itself_checks_against_the_committed_manifest(project):
    fails(
        run("-m", "stages.download", RAVDESS_ARCHIVE="source"),
        "1436 of the corpus's 1440 clips are missing, Actor_01/03-01-01-01-01-02-01.wav first",
    )
