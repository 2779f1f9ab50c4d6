"""Optuna studies that any number of workers share: where trials are kept, how a worker runs them,
and the study of one outer fold."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import optuna
import torch
from optuna.distributions import distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import DBAPIError

from ser import params
from ser.run.errors import UserError
from ser.search import objective, space
from ser.search.space import Point, Search, Space

HEARTBEAT = 30  # seconds; the trial of a worker that has missed two is run again
# What a trial may fail by while the search goes on: its parameters. Anything else is a bug.
EXPECTED = (UserError, MemoryError, torch.OutOfMemoryError)


@contextmanager
def storage(heartbeat: int = HEARTBEAT) -> Iterator[RDBStorage]:
    """The PostgreSQL database that SEARCH_STORAGE names, else a SQLite file in `objective.STATE`.

    Raises:
        UserError: another kind of URL; the database can't be reached, or not any more.
    """
    url, options = os.environ.get("SEARCH_STORAGE", ""), {}
    if not url:
        objective.STATE.mkdir(parents=True, exist_ok=True)
        url = f"sqlite:///{objective.STATE}/trials.db"
        options = {"timeout": 60}  # seconds to wait while another worker writes
    elif not url.startswith("postgresql://"):
        raise UserError("SEARCH_STORAGE: expected postgresql://user@host/name")
    url = url.replace("postgresql://", "postgresql+psycopg://")
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
    """

    def run(trial: Trial) -> float:
        study.sampler = sampler(search, trial.number)
        try:
            space.suggest(trial, possible)
            for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
                if other.params == trial.params and other.value is not None:
                    return other.value
            return score(space.point(trial.params, possible), trial)
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
            run,
            n_trials=missing,
            timeout=None if seconds == float("inf") else seconds,
            catch=EXPECTED,
            callbacks=[stop],
            show_progress_bar=True,
        )


class FoldSearch:
    """The search, in one branch, for the parameters of an outer fold, whose speakers it must not
    see."""

    def __init__(
        self,
        storage: RDBStorage,
        branch: str,
        fold: int,
        settings: params.Params,
        search: Search,
    ):
        """Check the space, and open the study that belongs to all that its scores come from: with
        other parameters, data or code it is another study.

        Raises:
            UserError: a space that can't be searched, or no such fold.
        """
        self.branch, self.fold = objective.BRANCHES[branch], fold
        self.settings, self.search = settings, search
        self.space = getattr(search, branch)
        space.check(branch, self.space, self.branch.may_vary, settings)
        parts = [
            objective.origin(self.branch, settings, objective.clips_outside(fold)),
            [search.seed, search.sampler, search.startup],
            {name: distribution_to_json(values) for name, values in self.space.items()},
        ]
        self.study = optuna.create_study(
            study_name=f"{branch}-fold{fold}-{objective.digest(parts, [])[:6]}",
            storage=storage,
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=search.startup),
        )

    def parameters(self, point: Point) -> params.Params:
        """All parameters, with the point put in.

        Raises:
            UserError: they exclude each other.
        """
        values = space.put(self.settings.model_dump(), point)
        return params.check(values, f"with {json.dumps(point)}", params.Params)

    def score(self, point: Point, trial: Trial) -> float:
        """The inner score. A trial that is pruned keeps the score that it has: a Gaussian process
        learns from completed trials only, and would propose the same again."""
        for quarter, score in self.branch.scores(self.parameters(point), self.fold):
            trial.report(score, quarter)
            if quarter < objective.QUARTERS and trial.should_prune():
                trial.set_user_attr("pruned_at", quarter / objective.QUARTERS)
                break
        return score

    def run(self, trials: int, seconds: float) -> None:
        """Run trials, the first with what params.yaml says. Where that leaves a choice to the
        branch's stage, the first has what the stage chooses."""
        if not self.study.get_trials(deepcopy=False):
            chosen = self.branch.defaults(self.settings, self.fold)
            known = {name: value for name, value in chosen.items() if name in self.space}
            first = space.put(self.settings.model_dump(), known)
            self.study.enqueue_trial(space.current(first, self.space), skip_if_exists=True)
        print(f"{self.branch.name} without fold {self.fold}: study {self.study.study_name}")
        optimize(self.study, self.search, self.space, self.score, trials, seconds)

    def choice(self) -> Point:
        """The parameters of the trial with the highest score, of equal ones the first.

        Raises:
            UserError: no trial has a score; the message says why the first has none.
        """
        trials = finished(self.study)
        scored = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        if not scored:
            reason = trials[0].user_attrs["reason"] if trials else "the time was up before that"
            raise UserError(f"{self.study.study_name}: no trial has a score: {reason}")
        best = max(scored, key=lambda trial: (trial.values, -trial.number))
        return space.point(best.params, self.space)
