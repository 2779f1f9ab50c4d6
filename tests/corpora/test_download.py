"""The stage `download`: from a server that misbehaves, from copies as people have them, from
damaged ones."""

import hashlib
import itertools
import json
import re
import shutil
import socket
import sys
import threading
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from ser import audio
from ser.corpora import ravdess
from stages import download

CLIPS = {
    "Actor_01/03-01-01-01-01-01-01.wav": 1,
    "Actor_01/03-01-05-02-01-01-01.wav": 2,  # stereo
    "Actor_02/03-01-03-01-02-01-02.wav": 1,
    "Actor_02/03-01-03-01-02-02-02.wav": 1,  # the same as the one before
}
FIRST, *_, LAST = CLIPS
PART = Path("cache/ravdess", f"{ravdess.ARCHIVE}.part")
OLDER = [Path(path) for path in ("data/raw/older", "metrics/corpus.json", "metrics/corpus.csv")]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append(self.headers)
        next(self.server.plan)(self)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    """Answers requests with one step of a plan after the other, and with the last one for ever."""

    def __init__(self, *plan):
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan = itertools.chain(plan, itertools.repeat(plan[-1]))
        self.seen, self.stop = [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/archive.zip"

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # a client that leaves is no error
            super().handle_error(request, client_address)


def serves(content, upto=None, ranges=True, stalls=False):
    """Send `content` from where the request's Range says; break off, or stall, at byte `upto`."""

    def step(handler):
        start = int(handler.headers["Range"][6:-1]) if ranges else 0
        handler.send_response(206 if ranges else 200)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        handler.wfile.write(content[start:upto])
        if stalls:
            handler.server.stop.wait()

    return step


def answers(status):
    """Send nothing but a status, and that the client may ask again at once."""

    def step(handler):
        handler.send_response(status)
        handler.send_header("Retry-After", "0")
        handler.end_headers()

    return step


@pytest.fixture
def content(published):
    return Path("source.zip").read_bytes()


@pytest.fixture
def start(monkeypatch):
    """Start a server with a plan and have RAVDESS_URL name it."""
    servers = []

    def start(*plan):
        servers.append(server := Server(*plan))
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("RAVDESS_URL", server.url)
        return server

    yield start
    for server in servers:
        server.stop.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def published(tmp_path, monkeypatch):
    """The contents of four clips by their names; a working folder with this corpus as the folder
    `source` and as `source.zip`, and with the outputs of an earlier run."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    samples = np.random.default_rng(0).integers(-9999, 9999, (4, 24_000)).astype(np.int16)
    for (name, channels), clip in zip(CLIPS.items(), samples[[0, 1, 2, 2]], strict=True):
        Path("source", name).parent.mkdir(parents=True, exist_ok=True)
        audio.write(Path("source", name), np.stack([clip] * channels, axis=1), 48_000)
    published = {name: Path("source", name).read_bytes() for name in CLIPS}
    md5s = {name: hashlib.md5(content).hexdigest() for name, content in published.items()}
    Path("clips.md5").write_text("".join(f"{md5}  {name}\n" for name, md5 in md5s.items()))
    shutil.make_archive("source", "zip", "source")
    monkeypatch.setattr(ravdess, "MANIFEST", Path("clips.md5"))
    monkeypatch.setattr(ravdess, "MD5", hashlib.md5(Path("source.zip").read_bytes()).hexdigest())
    monkeypatch.setattr(ravdess, "RETRY", ravdess.RETRY.new(total=2, backoff_factor=0.01))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("RAVDESS_ARCHIVE", raising=False)
    monkeypatch.delenv("RAVDESS_URL", raising=False)
    for path in OLDER:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("older")
    return published


def files(folder):
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def fails(*words):
    """One line with all of `words`, exit code 1; the earlier outputs stay, and nothing beside."""
    with pytest.raises(SystemExit) as end:
        download.main()
    line = end.value.code
    assert line.startswith("download: ") and "\n" not in line
    for word in words:
        assert word in line
    left = [path for folder in ("data", "metrics") for path in Path(folder).rglob("*.*")]
    assert sorted([*left, OLDER[0]]) == sorted(OLDER)
    assert {path.read_text() for path in OLDER} == {"older"}


def test_fetches_once_and_says_who_asks(published, content, start):
    server = start(answers(429), answers(503), serves(content))
    download.main()
    assert files("data/raw") == published
    assert len(server.seen) == 3
    download.main()
    assert len(server.seen) == 3, "the second time it was kept"
    PART.with_suffix("").write_bytes(content[:-1] + b"?")
    download.main()
    assert len(server.seen) == 4, "what was kept went bad"
    assert files("data/raw") == published
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert server.seen[0]["User-Agent"].startswith(f"{project['name']}/{project['version']} (")

    assert json.loads(Path("metrics/corpus.json").read_text()) == {
        "clips": 4,
        "speakers": 2,
        "seconds": 2.0,
        "sample_rate": 48_000,
        "stereo_files": 1,
        "duplicates": 1,
    }
    head, *rows = Path("metrics/corpus.csv").read_text().splitlines()
    assert head == "label,clips,speakers,seconds"
    assert rows == ["neutral,1,1,0.5", "happy,2,1,1.0", "angry,1,1,0.5"]


def test_goes_on_where_a_transfer_broke_off(published, content, start):
    ends = [len(content) // 2, len(content) * 9 // 10]
    server = start(*(serves(content, upto=end) for end in ends), serves(content))
    download.main()
    assert files("data/raw") == published
    first, second, third = (int(headers["Range"][6:-1]) for headers in server.seen)
    assert first == 0 < second <= ends[0] < third <= ends[1]


def test_goes_on_where_a_transfer_stalled(published, content, start, monkeypatch):
    monkeypatch.setattr(ravdess, "TIMEOUT", 0.5)
    server = start(serves(content, upto=len(content) // 2, stalls=True), serves(content))
    download.main()
    assert files("data/raw") == published
    assert server.seen[1]["Range"] != "bytes=0-"


@pytest.mark.parametrize("ranges", [True, False])
def test_goes_on_in_the_next_run_where_the_server_knows_ranges(published, content, start, ranges):
    start(serves(content, upto=len(content) // 2), answers(404))
    fails("HTTP 404")
    server = start(serves(content, ranges=ranges))
    download.main()
    assert files("data/raw") == published
    assert server.seen[0]["Range"] != "bytes=0-"
    assert not PART.exists()


def test_several_at_once_do_not_mix_their_parts(content, start):
    start(serves(content))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: ravdess.locate(), range(4)))
    assert {path.read_bytes() for path in found} == {content}


@pytest.mark.parametrize(
    ("step", "requests", "words"),
    [
        (answers(404), 1, "HTTP 404 Not Found"),
        (answers(429), 3, "HTTP 429"),
        (serves(b"a" * 99, upto=9, ranges=False), 1, "9 bytes read, 90 more expected"),
        (serves(b"<html>Please log in</html>", ranges=False), 1, "does not match the known hash"),
        (answers(416), 1, "does not match the known hash"),
    ],
    ids=["missing", "busy", "breaks", "another file", "too long a part"],
)
def test_a_refusal_ends_in_one_line(published, start, step, requests, words):
    server = start(step)
    fails(server.url, words, "set RAVDESS_ARCHIVE")
    assert len(server.seen) == requests
    assert "hash" not in words or not PART.exists()


def test_silence_ends_in_one_line(published, start, monkeypatch):
    monkeypatch.setattr(ravdess, "TIMEOUT", 0.2)
    server = start(lambda handler: handler.server.stop.wait())
    fails(server.url, "timed out", "set RAVDESS_ARCHIVE")


def test_no_connection_ends_in_one_line(published, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen: refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/archive.zip"
        monkeypatch.setenv("RAVDESS_URL", url)
        fails(f"{url}: [Errno ", "Connection refused", "set RAVDESS_ARCHIVE")


@pytest.mark.parametrize(
    ("name", "words"),
    [("RAVDESS_URL", "nowhere: Invalid URL"), ("RAVDESS_ARCHIVE", "nowhere: no such zip")],
)
def test_a_setting_that_names_nothing_ends_in_one_line(published, monkeypatch, name, words):
    monkeypatch.setenv(name, "nowhere")
    fails(words)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_ends_in_one_line(published, content, start):
    PART.parent.mkdir(parents=True)
    PART.symlink_to("/dev/full")
    server = start(serves(content))
    fails(server.url, "No space left on device", str(PART.parent), "set RAVDESS_ARCHIVE")


# ---- copies as people have them


def without_folders_beside_others(folder):
    for path in folder.rglob("*.wav"):
        path.rename(folder / path.name)
    for name in ("README.txt", "._03-01-01-01-01-01-01.wav", "03-02-01-01-01-01-01.wav", "ü.WAV"):
        (folder / name).touch()


def damaged_beside_a_good_copy(folder):
    """Every clip twice, as on Kaggle, of which one is damaged and one empty."""
    shutil.copytree(folder, "inner")
    Path("inner").rename(folder / "audio_speech_speakers_01-24")
    damaged(folder)
    (folder / FIRST).write_bytes(b"")


def damaged(folder):
    content = bytearray((folder / LAST).read_bytes())
    content[20_000] ^= 1
    (folder / LAST).write_bytes(content)


def songs(folder):
    """Named like the clips but for one digit."""
    for path in folder.rglob("*.wav"):
        path.rename(path.with_name(path.name.replace("03-01-", "03-02-", 1)))


def arranged(arrange, packed):
    arrange(Path("source"))
    if packed:
        shutil.make_archive("source", "zip", "source")
    return "source.zip" if packed else "source"


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("arrange", [without_folders_beside_others, damaged_beside_a_good_copy])
def test_a_copy_is_taken(published, monkeypatch, arrange, packed):
    monkeypatch.setenv("RAVDESS_ARCHIVE", arranged(arrange, packed))
    download.main()
    assert files("data/raw") == published


def test_a_linked_folder_is_followed(published, monkeypatch):
    Path("source/Actor_02").rename("elsewhere")
    Path("source/Actor_02").symlink_to("../elsewhere")
    monkeypatch.setenv("RAVDESS_ARCHIVE", "source")
    download.main()
    assert files("data/raw") == published


def test_paths_in_a_zip_say_nothing_about_where_clips_go(published, monkeypatch, tmp_path):
    shutil.copytree(".", inside := tmp_path / "a/b/c")
    monkeypatch.chdir(inside)
    with zipfile.ZipFile("odd.zip", "w") as archive:
        for name, content in published.items():
            archive.writestr(f"../../{name}".replace("/", "\\"), content)
        archive.writestr("../outside.wav", b"")
    before = set(files(tmp_path))
    monkeypatch.setenv("RAVDESS_ARCHIVE", "odd.zip")
    download.main()
    assert files("data/raw") == published
    new = set(files(tmp_path)) - before - {"a/b/c/data/clips.csv"}
    assert new == {f"a/b/c/data/raw/{name}" for name in CLIPS}


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize(
    ("arrange", "number", "words"),
    [
        (damaged, 1, [f"{LAST}, the first, has md5 ", "expected "]),
        (songs, 4, [f"{FIRST}, the first, is missing", f"Expected {ravdess.ARCHIVE}"]),
    ],
)
def test_an_incomplete_copy_is_refused(published, monkeypatch, arrange, packed, number, words):
    monkeypatch.setenv("RAVDESS_ARCHIVE", source := arranged(arrange, packed))
    fails(f"{source}: {number} of the corpus's 4 clips are missing, damaged or not", *words)


def encrypted(content):
    """The flag set that says so, in members and table of contents; zipfile can't write such."""
    return re.sub(rb"(PK\x03\x04..|PK\x01\x02....).", b"\\1\x01", content, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: content[:-30_000], "not a zip, or one cut short or damaged: "),
        (lambda content: content[:30_000] + b"?" + content[30_001:], "cannot be read: Bad CRC-32"),
        (encrypted, "is encrypted, password required"),
    ],
    ids=["cut short", "bit rot", "encrypted"],
)
def test_a_bad_zip_is_refused(published, content, monkeypatch, damage, words):
    Path("source.zip").write_bytes(damage(content))
    monkeypatch.setenv("RAVDESS_ARCHIVE", "source.zip")
    fails("source.zip: ", words)


@pytest.mark.parametrize("tree", [".", ".dvc/tmp/exps/tmp0", ".dvc/tmp/exps/tmp0/inner"])
def test_a_relative_archive_is_found_from_the_work_tree_of_an_experiment(
    tmp_path, monkeypatch, tree
):
    (tmp_path / "x.zip").touch()
    (tmp_path / "project" / tree).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / tree)
    monkeypatch.setenv("RAVDESS_ARCHIVE", "../x.zip")
    assert ravdess.locate().samefile(tmp_path / "x.zip")
    monkeypatch.setenv("RAVDESS_ARCHIVE", str(tmp_path / "x.zip"))
    assert ravdess.locate() == tmp_path / "x.zip"
