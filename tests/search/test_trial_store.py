"""Where trials are kept, on a disk and in PostgreSQL: whose turn it is, and who is alive."""

import getpass
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from conftest import ROOT
from optuna.trial import TrialState

from ser.run.errors import UserError
from ser.search.trial_store import opened

# Says that it is ready and waits for a word; then takes trials until there are as many as its first
# argument says, and takes as many seconds for each as the second says.
WORKER = """
import sys, time
from optuna.distributions import FloatDistribution
from ser import params
from ser.search import space
from ser.search.shared_study import SharedStudy
from ser.search.trial_store import opened

def score(drawn, trial):
    time.sleep(float(sys.argv[2]))
    return drawn["x"]

search = params.read(sys.argv[3], space.Search).model_copy(update={"sampler": "random"})
with opened() as store:
    study = SharedStudy(store, "shared", {"x": FloatDistribution(0, 1)}, search)
    print("ready", flush=True)
    input()
    while study.step(int(sys.argv[1]), lambda: {"x": 0.5}, score):
        pass
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]


@pytest.fixture
def database() -> Iterator[str]:
    """The URL of an empty database; the test is skipped where there is no PostgreSQL."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    # The server refuses to run as root.
    owner = {"user": "postgres"} if getpass.getuser() == "root" else {}
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp())  # and not tmp_path, into which another user may not look
    if owner:
        shutil.chown(folder, **owner)

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [programs[-1] / program, "--pgdata", folder / "data", *arguments],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            **owner,
        )

    try:
        run("initdb", "--auth", "trust", "--username", "searcher", "--no-sync")
        options = f"-p {port} -k {folder} -c listen_addresses=localhost -c fsync=off"
        run("pg_ctl", "--wait", "--log", str(folder / "log"), "--options", options, "start")
        try:
            yield f"postgresql://searcher@localhost:{port}/postgres"
        finally:
            run("pg_ctl", "--mode", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(params=["file", "database"])
def place(request, tmp_path, monkeypatch) -> str:
    """An empty storage of each kind, which SEARCH_STORAGE names."""
    place = str(tmp_path / "shared" / "journal.log")
    if request.param == "database":
        place = request.getfixturevalue("database")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEARCH_STORAGE", place)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return place


def start(number: int, trials: int, seconds: float) -> list[subprocess.Popen]:
    """So many processes that work on the study `shared` until it has so many trials."""
    arguments = [str(trials), str(seconds), ROOT / "search.yaml"]
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", WORKER, *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(number)
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n", worker.stderr.read()
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    return workers


def finish(workers: list[subprocess.Popen]) -> None:
    """Wait for workers, which must succeed."""
    for worker in workers:
        _, errors = worker.communicate(timeout=100)
        assert worker.returncode == 0, errors


def shared_trials() -> list[optuna.trial.FrozenTrial]:
    """The trials of the study `shared`."""
    with opened() as store:
        return optuna.load_study(study_name="shared", storage=store.optuna).trials


@pytest.mark.slow
def test_two_workers_take_eight_trials_no_two_alike(place):
    finish(start(2, trials=8, seconds=0.2))
    trials = shared_trials()
    assert len(trials) == len({trial.params["x"] for trial in trials}) == 8
    assert all(trial.state == TrialState.COMPLETE for trial in trials)
    assert len({trial.user_attrs["worker"] for trial in trials}) == 2


@pytest.mark.slow
def test_a_killed_workers_trial_is_run_again_by_the_next(place):
    (killed,) = start(1, trials=8, seconds=100)
    while not shared_trials():
        assert killed.poll() is None, killed.stderr.read()
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    (lost,) = shared_trials()
    assert lost.state == TrialState.RUNNING
    finish(start(1, trials=3, seconds=0))
    states = [trial.state for trial in shared_trials()]
    assert states == [TrialState.FAIL, *3 * [TrialState.COMPLETE]]
    assert shared_trials()[1].params == {"x": 0.5}
    assert shared_trials()[1].user_attrs["instead_of"] == lost.number


def test_workers_that_start_at_a_time_open_an_empty_storage_and_take_turns(place):
    barrier, turns = threading.Barrier(8), []

    def work() -> None:
        barrier.wait()
        with opened() as store:
            for _ in range(5):
                with store.turn():
                    turns.append(store.worker)
                    turns.append(store.worker)

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(turns) == 80
    assert turns[::2] == turns[1::2]


def test_a_database_that_goes_away_is_one_line(database, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEARCH_STORAGE", database)
    everyone = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    )
    with pytest.raises(UserError, match="SEARCH_STORAGE: .*started again"), opened() as store:
        study = optuna.create_study(storage=store.optuna)
        with store.optuna.engine.connect() as connection:
            connection.execute(sqlalchemy.text(everyone))
        with store.turn():
            study.ask()
