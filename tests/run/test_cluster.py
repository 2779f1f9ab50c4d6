"""The same bytes on a Dask cluster, whose workers are processes that were started elsewhere."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import feature_tables
import psutil
import pytest
import workplace

from ser.run import errors, parallel

pytestmark = pytest.mark.slow

STAGES = ("mfcc", "embed", "svm_train")


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    """A part of the cluster, which lies in `folder` and knows nothing of this project."""
    hidden = ("PYTHONPATH", "DASK_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    command = [sys.executable, "-m", "dask", *arguments, "--scheduler-file", "scheduler.json"]
    with (folder / f"{arguments[0]}.log").open("wb") as log:
        return subprocess.Popen(
            [*command, "--no-dashboard"], cwd=folder, env=env, stdout=log, stderr=log
        )


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler with two workers."""
    from distributed import Client

    folder = tmp_path_factory.mktemp("cluster")
    scheduler = start(folder, "scheduler", "--host", "127.0.0.1", "--port", "0")
    worker = start(folder, "worker", "--nworkers", "2", "--nthreads", "1")
    try:
        while not (folder / "scheduler.json").exists():
            assert scheduler.poll() is None, (folder / "scheduler.log").read_text()
            time.sleep(0.1)
        with Client(scheduler_file=folder / "scheduler.json", set_as_default=False) as client:
            client.wait_for_workers(2, timeout=300)
            yield client.scheduler.address
    finally:
        for process in (worker, scheduler):
            for each in [*psutil.Process(process.pid).children(recursive=True), process]:
                each.kill()
            process.wait()


@pytest.fixture
def on_cluster(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(parallel.SCHEDULER, address)


def test_stages_make_the_same_bytes(on_cluster, tmp_path, monkeypatch):
    small = {**feature_tables.SETTINGS, "blocks": [{"dct": 1.0}], "kernel": ["logistic", "rbf"]}
    there = workplace.make(tmp_path / "there", weights=False, labels=8, svm_train=small)
    workplace.run(there, "checkpoint")
    here = shutil.copytree(there, tmp_path / "here")
    workplace.run(there, *STAGES)
    monkeypatch.delenv(parallel.SCHEDULER)
    workplace.run(here, *STAGES)
    assert workplace.digest(there / "data") == workplace.digest(here / "data")
    assert {"mfcc.parquet", "embeddings.parquet"} < {
        path.name for path in (here / "data").iterdir()
    }


def test_workers_do_all_the_work_and_a_mistake_comes_back_as_it_is(on_cluster):
    assert os.getpid() not in parallel.over(lambda item: os.getpid(), range(100), "count")

    def fail(item: int) -> None:
        raise errors.UserError(f"item {item}")

    with pytest.raises(errors.UserError, match="^item 0$"):
        parallel.over(fail, range(100), None)


def test_a_worker_that_dies_is_made_up_for_unless_all_do(on_cluster, tmp_path):
    """As where the memory of the workers is too small, and they are killed."""

    def die_once(item: int) -> int:
        if item == 5 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os._exit(1)
        return item

    assert parallel.over(die_once, range(100), None) == list(range(100))
    with pytest.raises(errors.UserError, match="^tcp://.*: the cluster lost the work"):
        parallel.over(lambda item: os._exit(1), range(1), None)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://there"])
def test_a_cluster_that_cannot_be_reached_is_one_line(monkeypatch, address):
    monkeypatch.setenv(parallel.SCHEDULER, address)
    with pytest.raises(errors.UserError, match=f"= {address}: no Dask scheduler answers"):
        parallel.over(abs, range(100), None)
