"""Studies that workers share: killed and stopped trials, failures, proposals; SQLite and
PostgreSQL."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import torch
from conftest import ROOT
from optuna.distributions import FloatDistribution
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState

from ser import params
from ser.run.errors import UserError
from ser.search import space
from ser.search.study import finished, optimize, storage

SEARCH = params.read(ROOT / "search.yaml", space.Search).model_copy(update={"startup": 3})
SPACE = {"x": FloatDistribution(0, 1)}

# Whoever takes the first trial says so and never ends it; the others end when they are told to.
WORKER = """
import os, time, optuna
from pathlib import Path
from optuna.distributions import FloatDistribution
from ser import params
from ser.search import space
from ser.search.study import optimize, storage

parent = os.getppid()

def ended():
    return Path("end").exists() or os.getppid() != parent

def score(point, trial):
    if trial.number == 0:
        Path("first").write_text(str(os.getpid()))
    while trial.number == 0 and not ended():
        time.sleep(0.1)
    if ended():
        os._exit(0)
    time.sleep(0.1)
    return point["x"]

search = params.read("search.yaml", space.Search).model_copy(update={"sampler": "random"})
with storage(heartbeat=1) as database:
    study = optuna.create_study(study_name="shared", storage=database, load_if_exists=True)
    optimize(study, search, {"x": FloatDistribution(0, 1)}, score, 10_000)
"""

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> None:
    """An empty folder, without a database."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEARCH_STORAGE", raising=False)
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture
def postgresql() -> Iterator[str]:
    """The URL of an empty database; the test is skipped where there is no PostgreSQL."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    # The server refuses to run as root.
    owner = {"user": "postgres"} if getpass.getuser() == "root" else {}
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    data = Path(tempfile.mkdtemp())  # and not tmp_path, into which another user may not look
    if owner:
        shutil.chown(data, **owner)

    def run(program: str, *arguments: str) -> None:
        command = [programs[-1] / program, "--pgdata", data / "db", *arguments]
        subprocess.run(command, check=True, cwd=data, stdout=subprocess.DEVNULL, **owner)

    try:
        run("initdb", "--auth", "trust", "--username", "searcher", "--no-sync")
        options = f"-p {port} -k {data} -c listen_addresses=localhost -c fsync=off"
        run("pg_ctl", "--wait", "--log", str(data / "log"), "--options", options, "start")
        yield f"postgresql://searcher@localhost:{port}/postgres"
        run("pg_ctl", "--mode", "immediate", "stop")
    finally:
        shutil.rmtree(data)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_killed_workers_trial_is_run_again(kind, request, monkeypatch, warm):
    if kind == "postgresql":
        monkeypatch.setenv("SEARCH_STORAGE", request.getfixturevalue("postgresql"))
    shutil.copy(ROOT / "search.yaml", "search.yaml")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # Both at once, so that they meet over the empty database.
    Path("worker.py").write_text(WORKER)
    workers = [subprocess.Popen([warm / "python", "-m", "worker"]) for _ in range(2)]
    try:
        while not (Path("first").exists() and Path("first").read_text()):
            assert all(worker.poll() is None for worker in workers)
            time.sleep(0.1)
        os.kill(int(Path("first").read_text()), signal.SIGKILL)
        again: list = []
        while not again:
            assert any(worker.poll() is None for worker in workers)
            time.sleep(0.1)
            with storage() as database:
                trials = optuna.load_study(study_name="shared", storage=database).trials
            done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
            again = [
                trial
                for trial in done
                if RetryHeartbeatStaleTrialCallback.retried_trial_number(trial) == 0
            ]
    finally:
        Path("end").touch()
        for worker in workers:
            worker.wait()
    assert trials[0].state == TrialState.FAIL
    assert [trial.params for trial in again] == [trials[0].params]
    assert len({trial.params["x"] for trial in done}) == len(done)


@pytest.mark.parametrize(
    "url", ["mysql://user:secret@host/name", "postgresql://user:secret@localhost:1/name"]
)
def test_a_database_that_cannot_be_used_is_one_line_without_its_password(url, monkeypatch):
    monkeypatch.setenv("SEARCH_STORAGE", url)
    with pytest.raises(UserError, match="SEARCH_STORAGE: ") as error, storage():
        pass
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("sampler", ["gp", "tpe", "random"])
def test_proposals_depend_on_seed_and_history_and_never_repeat(sampler):
    def proposals(seed: int, *budgets: int) -> list[float]:
        search = SEARCH.model_copy(update={"sampler": sampler, "seed": seed})
        study = optuna.create_study(direction="maximize")
        for trials in budgets:
            optimize(study, search, SPACE, lambda point, _: -((point["x"] - 0.3) ** 2), trials)
        return [trial.params["x"] for trial in study.trials]

    at_once = proposals(0, 6)
    assert proposals(0, 2, 5, 6) == at_once  # started again twice
    assert len(set(at_once)) == 6
    assert proposals(1, 6) != at_once


def test_a_failed_trial_has_its_reason_and_a_stopped_one_waits():
    raised = iter([UserError("no"), torch.OutOfMemoryError("2 GiB"), MemoryError()])

    def fail_first(point: dict, trial: optuna.Trial) -> float:
        for error in raised:
            raise error
        return point["x"]

    study = optuna.create_study(direction="maximize")
    optimize(study, SEARCH, SPACE, fail_first, 5)
    reasons = [trial.user_attrs.get("reason") for trial in study.trials]
    assert reasons == ["UserError: no", "OutOfMemoryError: 2 GiB", "MemoryError:", None, None]

    for error in (ZeroDivisionError("a bug"), KeyboardInterrupt()):
        raised = iter([error])
        with pytest.raises(type(error)):
            optimize(study, SEARCH, SPACE, fail_first, 6)
    raised = iter([])
    optimize(study, SEARCH, SPACE, fail_first, 6)
    stopped, again, last = study.trials[-3:]
    assert [trial.state.name for trial in (stopped, again, last)] == ["FAIL", "FAIL", "COMPLETE"]
    assert stopped.params == again.params == last.params
    assert len(finished(study)) == 6


def test_parameters_drawn_before_are_not_scored_again():
    scored = []
    study = optuna.create_study(direction="maximize")
    possible = {"x": optuna.distributions.IntDistribution(0, 1)}
    optimize(study, SEARCH, possible, lambda point, _: scored.append(1) or point["x"], 8)
    assert len(scored) == 2
    assert len(finished(study)) == 8
