"""The same bytes on a Dask cluster, whose workers are processes that were started elsewhere, and
what a user sees of one that fails."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import joblib
import psutil
import pytest
from conftest import ROOT, one_line
from distributed import Client

from ser.run import cluster, errors, parallel

pytestmark = pytest.mark.slow

DASK = [sys.executable, "-m", "dask"]
WORKERS = ["--nworkers", "2", "--nthreads", "1", "--no-dashboard"]
STAGES = ("resample", "mfcc", "embed", "w2v_features", "svm_train")


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    """A part of the cluster, which writes its log into `folder` and knows nothing of this
    project."""
    hidden = ("PYTHONPATH", "DASK_", "OMP_NUM_THREADS")
    env = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    # Every two seconds, copies that no task waits for are given up.
    env["DASK_DISTRIBUTED__SCHEDULER__ACTIVE_MEMORY_MANAGER__INTERVAL"] = "50ms"
    with (folder / f"{arguments[0]}.log").open("ab") as log:
        return subprocess.Popen(
            [*DASK, *arguments], cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT
        )


def end(process: subprocess.Popen) -> None:
    """Stop a process and those it has started."""
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the scheduler of a cluster with two workers is."""
    folder = tmp_path_factory.mktemp("cluster")
    file = folder / "scheduler.json"
    local = ["--host", "127.0.0.1", "--scheduler-file", str(file)]
    parts = [start(folder, "scheduler", "--port", "0", "--no-dashboard", *local)]
    try:
        parts.append(start(folder, "worker", "--scheduler-file", str(file), *WORKERS))
        while not file.exists():
            assert parts[0].poll() is None, (folder / "scheduler.log").read_text()
            time.sleep(0.1)
        with Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(2, timeout=300)
            yield client.scheduler.address
    finally:
        for part in parts:
            end(part)


@pytest.fixture
def on_cluster(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The environment of someone who uses the cluster."""
    monkeypatch.setenv(cluster.VARIABLE, address)
    return address


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the stages have run without a cluster."""
    import workplace  # torch and transformers take seconds

    folder = workplace.make(tmp_path_factory.mktemp("alone") / "folder", weights=False, emotions=8)
    shutil.copytree(folder / "data/audio", folder / "data/raw/Actor_01")
    workplace.run(folder, "checkpoint", *STAGES)
    return folder


def kill_half_way(address: str, ready: threading.Event, killed: list[int]) -> None:
    """Once there is work, stop one of two busy workers, let the other do what it can, kill the
    first."""
    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=300)
        processes = {worker: psutil.Process(pid) for worker, pid in client.run(os.getpid).items()}
        ready.set()
        stopped, before, since = None, None, time.monotonic()
        while stopped is None or time.monotonic() - since < 1:
            busy = {worker: tasks for worker, tasks in client.processing().items() if tasks}
            if stopped is None and len(busy) == 2:
                stopped = processes[min(busy)]
                stopped.suspend()
            if busy != before:
                before, since = busy, time.monotonic()
            time.sleep(0.02)
        stopped.kill()
        killed.append(stopped.pid)


def test_stages_make_the_same_bytes(alone, on_cluster, tmp_path):
    """Also when one of two workers is killed half-way through those that take longest."""
    import workplace

    folder = tmp_path / "on_cluster"
    made = ("audio", "features", "svm", "*.parquet")
    shutil.copytree(alone, folder, ignore=shutil.ignore_patterns(*made))
    killed: list[int] = []
    for stage in STAGES:
        if stage in ("resample", "w2v_features"):
            workplace.run(folder, stage)
            continue
        ready = threading.Event()
        killer = threading.Thread(
            target=kill_half_way, args=(on_cluster, ready, killed), daemon=True
        )
        killer.start()
        assert ready.wait(timeout=300)
        workplace.run(folder, stage)
        killer.join(timeout=60)
    assert len(set(killed)) == 3
    before, after = (workplace.digest(each / "data") for each in (alone, folder))
    assert after == before
    tables = {"mfcc.parquet", "embeddings.parquet", "features/clips.arrow", "svm/predictions.csv"}
    assert tables <= set(after)


def test_the_page_holds_the_same_sounds(alone, on_cluster, monkeypatch):
    from ser.report import page

    paths = sorted((alone / "data/audio").iterdir())[:20]
    there = parallel.over(page.heard, paths, None)
    monkeypatch.delenv(cluster.VARIABLE)
    assert there == parallel.over(page.heard, paths, None)


def test_predict_gives_the_same_answers(alone, on_cluster):
    """Also for what only this process can read, and for what has no answer."""
    clips = sorted((alone / "data/audio").iterdir())[:40]
    names = [str(path.relative_to(alone)) for path in clips[:30]]
    names[20:20] = ["-", "absent.wav"]
    command = [sys.executable, "-m", "commands.predict", "--json", "--model", "svm", *names]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    there, here = (
        subprocess.run(
            command, cwd=alone, env={**env, cluster.VARIABLE: where},
            input=clips[35].read_bytes(), capture_output=True, check=False, timeout=300,
        )
        for where in (on_cluster, "")
    )  # fmt: skip
    assert there.returncode == here.returncode == 1
    assert there.stderr == here.stderr == b"predict: absent.wav: No such file or directory\n"
    assert there.stdout == here.stdout
    answered = [json.loads(line)["clip"] for line in here.stdout.splitlines()]
    assert answered == [name for name in names if name != "absent.wav"]


def test_workers_do_all_work_an_item_in_one_thread_and_what_it_needs_is_not_sent_each_time(
    on_cluster, tmp_path
):
    """Functions here are defined in the tests, since a worker can't import this module."""
    sent = tmp_path / "sent"

    class Model:
        """Takes note where it arrives."""

        def __setstate__(self, state: dict) -> None:
            self.__dict__ = state
            with state["sent"].open("a") as file:
                file.write(f"{os.getpid()}\n")

    model = Model()
    model.sent = sent

    def item(number: int) -> tuple:
        from threadpoolctl import threadpool_info

        threads = max((pool["num_threads"] for pool in threadpool_info()), default=1)
        return number, bool(model.sent), threads, joblib.effective_n_jobs(-1), os.getpid()

    done = list(parallel.streamed(item, range(200), "count"))
    assert [number for number, *_ in done] == list(range(200))
    assert {tuple(facts) for _, *facts, _ in done} == {(True, 1, 1)}
    workers = [worker for *_, worker in done]
    assert os.getpid() not in workers
    received = sent.read_text().split()
    assert len(received) <= 4, "not with each chunk"
    assert set(map(str, workers)) <= set(received)


def test_a_mistake_found_by_a_worker_is_raised_here(on_cluster):
    def fail(item: int) -> None:
        if item == 20:
            raise errors.UserError("item 20")

    with pytest.raises(errors.UserError, match="^item 20$"):
        parallel.over(fail, range(100), None)


def unreadable() -> Any:
    """What can be sent, but not taken in; of a class that workers do not know."""

    class Thing:
        def __init__(self) -> None:
            self.size = 1

        def __setstate__(self, state: dict) -> None:
            raise FileNotFoundError("on the worker")

    return Thing()


def test_what_a_worker_cannot_take_in_is_one_line(on_cluster):
    model = unreadable()
    with pytest.raises(errors.UserError, match="^tcp://.*: the workers can't take in the work"):
        parallel.over(lambda item: model.size, range(100), None)


def test_what_a_worker_cannot_begin_is_raised_here(on_cluster):
    """joblib's backend would wait for a result that never comes."""
    item = unreadable()
    with pytest.raises((RuntimeError, FileNotFoundError)):
        parallel.over(lambda item: item, [item] * 100, None)


def test_a_worker_that_went_over_to_other_work_says_so(on_cluster):
    def interfere(item: int) -> None:
        os.environ["RAVDESS_SERVED"] = "another work tree"

    with pytest.raises(errors.UserError, match="one at a time"):
        parallel.over(interfere, range(100), None)
    assert parallel.over(lambda item: item, range(9), None) == list(range(9)), "and comes back"


@pytest.mark.parametrize(
    ("folder", "versions", "says"),
    [
        (ROOT, {"numpy": "1.0"}, r"worker tcp://.*: numpy [\d.]+, here 1\.0: the bytes may differ"),
        (
            ROOT / "nowhere",
            {},
            "No such file or directory: '.*nowhere'; it needs the same packages",
        ),
        (ROOT, {}, "holds other code there than here"),
    ],
)
def test_a_worker_that_does_not_fit_is_refused(on_cluster, folder, versions, says):
    with Client(on_cluster, set_as_default=False) as client:
        plugin = cluster.preparation(str(ROOT), str(folder), "other code", versions)
        with pytest.raises(RuntimeError, match=says):
            client.register_plugin(plugin, name=cluster.SERVED)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("tcp://127.0.0.1:9", "no Dask scheduler answers there"),
        ("nonsense://there", "no Dask scheduler answers there"),
    ],
)
def test_a_cluster_that_cannot_be_reached_is_one_line(tmp_path, address, says):
    (tmp_path / "counting.py").write_text(COUNTING)
    env = {**os.environ, "PYTHONPATH": str(ROOT), cluster.VARIABLE: address}
    command = [sys.executable, "-m", "counting"]
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=300
    )
    one_line(done, f"counting: {cluster.VARIABLE} = {address}: {says}")


def test_a_server_that_is_no_scheduler_is_told_from_one(monkeypatch):
    """A client takes its answer for the size of what comes."""
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), http.server.BaseHTTPRequestHandler
    ) as web:
        threading.Thread(target=web.serve_forever).start()
        monkeypatch.setattr(cluster, "CONNECTING", 1)
        monkeypatch.setenv(cluster.VARIABLE, f"tcp://127.0.0.1:{web.server_port}")
        with pytest.raises(errors.UserError, match="no Dask scheduler answers there"):
            parallel.over(abs, range(100), None)
        web.shutdown()


COUNTING = """
from ser.run import errors, parallel

@errors.one_line
def main():
    parallel.over(abs, range(100), "count")

main()
"""
