"""Optuna studies that any number of workers share: where trials are kept, and how a worker runs
them."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import optuna
import torch
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import DBAPIError

from ser.run.errors import UserError
from ser.search import space
from ser.search.space import Point, Search, Space

STATE = Path(".checkpoints/search")  # what searches go on from: outside git and DVC
HEARTBEAT = 30  # seconds; the trial of a worker that has missed two is run again
# What a trial may fail by while the search goes on: its parameters. Anything else is a bug.
EXPECTED = (UserError, MemoryError, torch.OutOfMemoryError)


@contextmanager
def storage(heartbeat: int = HEARTBEAT) -> Iterator[RDBStorage]:
    """The PostgreSQL database that SEARCH_STORAGE names, else a SQLite file in `STATE`.

    Raises:
        UserError: another kind of URL; the database can't be reached, or not any more.
    """
    where, options = os.environ.get("SEARCH_STORAGE", ""), {}
    if not where:
        STATE.mkdir(parents=True, exist_ok=True)
        where = f"sqlite:///{STATE}/trials.db"
        options = {"timeout": 60}  # seconds to wait while another worker writes
    elif not where.startswith("postgresql://"):
        raise UserError("SEARCH_STORAGE: expected postgresql://user@host/name")
    url = where.replace("postgresql://", "postgresql+psycopg://")
    try:
        database = connect(url, {"connect_args": options}, heartbeat)
        try:
            yield database
        finally:
            database.remove_session()
            database.engine.dispose()
    except (DBAPIError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        reason = " ".join(str(getattr(cause, "orig", cause)).split())[:200]
        raise UserError(f"SEARCH_STORAGE: {reason}; started again, the search goes on") from None


def connect(url: str, options: dict, heartbeat: int) -> RDBStorage:
    """Optuna's storage at a URL, its tables made if need be.

    Of several workers that find an empty database at the same time, one makes the tables; the
    others fail over that and try again.
    """
    for _ in range(10):
        try:
            return RDBStorage(
                url,
                engine_kwargs=options,
                heartbeat_interval=heartbeat,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
            )
        except DBAPIError as error:
            failure = error
            time.sleep(0.2)
    raise failure


def sampler(search: Search, number: int) -> optuna.samplers.BaseSampler:
    """The sampler of a trial.

    Its proposals depend on the seed, the trial's number and the trials before it: a search that is
    started again, or by several workers, does not repeat them.
    """
    seed = int(np.random.SeedSequence([search.seed, number]).generate_state(1)[0])
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if search.sampler == "tpe":
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=search.startup, multivariate=True, constant_liar=True
        )
    return optuna.samplers.GPSampler(
        seed=seed, n_startup_trials=search.startup, warn_independent_sampling=False
    )


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """The trials by number that have a score, or a reason why not."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state == TrialState.COMPLETE or "reason" in trial.user_attrs
    ]


def optimize(
    study: optuna.Study,
    search: Search,
    possible: Space,
    score: Callable[[Point, Trial], float],
    trials: int,
    seconds: float = float("inf"),
) -> None:
    """Run trials until as many are finished, by all workers together and ever, or so many seconds
    have passed.

    A trial that fails by an `EXPECTED` error keeps its reason. One that is stopped by another error
    or by a signal is put into the queue again.

    Args:
        score: of a point; it may prune the trial.
    """

    def objective(trial: Trial) -> float:
        study.sampler = sampler(search, trial.number)
        try:
            drawn = space.suggest(trial, possible)
            for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
                if other.params == trial.params and other.value is not None:
                    return other.value
            return score(drawn, trial)
        except EXPECTED as error:
            words = [f"{type(error).__name__}:", *str(error).split()]
            trial.set_user_attr("reason", " ".join(words)[:300])
            raise
        except BaseException:
            study.enqueue_trial(trial.params)
            raise

    def stop(study: optuna.Study, _: FrozenTrial) -> None:
        if len(finished(study)) >= trials:
            study.stop()

    missing = trials - len(finished(study))
    if missing > 0:
        study.optimize(
            objective,
            n_trials=missing,
            timeout=None if seconds == float("inf") else seconds,
            catch=EXPECTED,
            callbacks=[stop],
            show_progress_bar=True,
        )
