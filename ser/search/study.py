"""One study of Optuna's, shared by any number of workers: each trial taken once, a dead worker's
taken up again.

The storage is the file .checkpoints/search/journal.log, or what SEARCH_STORAGE names: another file,
on a disk that several machines share, or a database's URL, such as
postgresql+psycopg2://user@host/name, for machines that share nothing else.
"""

import os
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from ser import params
from ser.run.errors import UserError

STATE = Path(".checkpoints/search")  # what searches go on from: outside git and DVC
HEARTBEAT = (
    30  # seconds between signs of life in a database; two missed, and the worker counts as dead
)


def make_sampler(settings: params.Search, position: int) -> optuna.samplers.BaseSampler:
    """The sampler of the trial at this position of the study: what it proposes depends on the seed,
    the position and the trials before it, and not on which process asks, so that a search that was
    killed goes on as it would have gone. """  # fmt: skip
    seed = int(np.random.SeedSequence([settings.seed, position]).generate_state(1)[0])
    if settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if settings.sampler == "tpe":
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=settings.startup, multivariate=True, constant_liar=True
        )
    return optuna.samplers.GPSampler(
        seed=seed, n_startup_trials=settings.startup, warn_independent_sampling=False
    )


def draw(trial: Trial, name: str, values: BaseDistribution) -> object:
    """One parameter of a trial."""
    if isinstance(values, CategoricalDistribution):
        return trial.suggest_categorical(name, values.choices)
    suggest = (
        trial.suggest_int
        if isinstance(values, optuna.distributions.IntDistribution)
        else trial.suggest_float
    )
    return suggest(name, values.low, values.high, log=values.log)


def held(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        with FileLock(path, blocking=False):
            return False
    except Timeout:
        return True


class Storage:
    """Where studies are kept, and who is alive.

    A journal lies on a disk that all workers see. There every worker holds a lock of its own as
    long as it lives, which the operating system lets go of when it is killed: a running trial whose
    worker's lock is free is taken up at once. A database has Optuna's heartbeat for that.
    """

    def __init__(self):
        """Open the storage.

        Raises:
            UserError: it can't be opened.
        """
        place = os.environ.get("SEARCH_STORAGE") or str(STATE / "journal.log")
        self.lock, self.workers, self.worker = None, None, uuid.uuid4().hex
        self.retry = RetryHeartbeatStaleTrialCallback()
        if "://" in place:
            try:
                self.optuna = self.database(place)
            except (
                ImportError,
                ValueError,
                SQLAlchemyError,
                optuna.exceptions.OptunaError,
            ) as error:
                name = place.partition("://")[0]
                raise UserError(
                    f"SEARCH_STORAGE = {name}://…: {' '.join(str(error).split())[:200]}"
                ) from None
            return
        path = Path(place).resolve()
        self.workers = path.with_name(f"{path.name}.workers")
        self.workers.mkdir(parents=True, exist_ok=True)
        self.optuna = JournalStorage(JournalFileBackend(str(path)))
        self.lock = FileLock(path.with_name(f"{path.name}.ask"))
        self.alive = FileLock(self.workers / self.worker)
        with self.lock:
            for worker in self.workers.iterdir():
                if not held(worker):
                    worker.unlink()
            self.alive.acquire()

    def database(self, url: str) -> RDBStorage:
        """A database, and in an empty one the tables: of workers that start at a time one makes
        them, the others fail once."""
        open_it = partial(
            RDBStorage, url, heartbeat_interval=HEARTBEAT, heartbeat_stale_trial_callback=self.retry
        )
        try:
            return open_it()
        except (IntegrityError, ProgrammingError):
            time.sleep(2)
            return open_it()

    def dead(self, trial: FrozenTrial) -> bool:
        """Whether nobody works on this running trial any more. To be called while holding
        `lock`."""
        worker = trial.user_attrs.get("worker")
        if (
            worker is None
        ):  # killed between taking the trial and signing for it, which a worker does while holding `lock`
            return True
        return worker != self.worker and not held(self.workers / worker)


class Study:
    """A study on its way through a number of trials."""

    def __init__(
        self,
        storage: Storage,
        name: str,
        space: dict[str, BaseDistribution],
        settings: params.Search,
    ):
        self.storage, self.name, self.space, self.settings = storage, name, space, settings
        self.optuna = optuna.create_study(
            study_name=name, storage=storage.optuna, direction="maximize", load_if_exists=True,
            # A trial is given up at a quarter of its training if it is worse there than half of
            # those before it.
            pruner=optuna.pruners.MedianPruner(n_startup_trials=settings.startup),
        )  # fmt: skip

    def trials(self) -> list[FrozenTrial]:
        """The trials by number, without those whose worker died and that stand again further on."""
        every = self.optuna.get_trials(deepcopy=False)
        retried = {
            number for trial in every for number in trial.system_attrs.get("retry_history", [])
        }
        return [trial for trial in every if trial.number not in retried]

    def finished(self) -> list[FrozenTrial]:
        """The trials by number that are done, whether they have a score or failed."""
        return [trial for trial in self.trials() if trial.state.is_finished()]

    def new(self) -> list[FrozenTrial]:
        """The finished trials but for those with the parameters of an earlier one."""
        return [trial for trial in self.finished() if "same_as" not in trial.user_attrs]

    def running(self) -> bool:
        """Whether a trial runs, here or elsewhere."""
        return any(trial.state == TrialState.RUNNING for trial in self.trials())

    def best(self) -> FrozenTrial | None:
        """The trial with the highest score, of equal ones the first."""
        scored = [trial for trial in self.finished() if trial.state == TrialState.COMPLETE]
        return max(scored, key=lambda trial: (trial.value, -trial.number), default=None)

    def take_up_lost(self) -> None:
        """Put the running trials of dead workers back, to be taken by whoever asks next."""
        if self.storage.lock is None:
            optuna.storages.fail_stale_trials(self.optuna)
            return
        for trial in self.trials():
            if trial.state == TrialState.RUNNING and self.storage.dead(trial):
                self.put_back(trial.number)

    def put_back(self, number: int) -> None:
        """Have a trial that was not finished run again, with the same parameters."""
        trial = self.optuna.get_trials()[number]
        if not trial.state.is_finished():
            self.optuna.tell(number, state=TrialState.FAIL)
        self.storage.retry(self.optuna, trial)

    def step(
        self, trials: int, first: Callable[[], dict], score: Callable[[dict, Trial], float]
    ) -> bool:
        """Take the next trial and score it; False if as many as `trials` are taken already.

        Parameters drawn before are not scored again, and do not count.

        Args:
            first: gives the parameters of the first trial.
            score: of drawn parameters; may report to the trial and give it up. What it raises makes
                the trial a failed one.
        """

        def objective(trial: Trial) -> float:
            trial.set_user_attr("worker", self.storage.worker)
            drawn = {name: draw(trial, name, values) for name, values in self.space.items()}
            same = [
                other
                for other in self.trials()
                if other.number < trial.number and other.params == drawn
            ]
            if self.storage.lock:
                self.storage.lock.release()
            try:
                for other in same:
                    if other.state in (TrialState.COMPLETE, TrialState.RUNNING):
                        trial.set_user_attr("same_as", other.number)
                    if other.state == TrialState.COMPLETE:
                        return other.value
                    if other.state == TrialState.RUNNING:
                        raise UserError(f"trial {other.number} runs elsewhere")
                return score(drawn, trial)
            except Exception as error:
                trial.set_user_attr(
                    "reason", f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
                )
                raise
            except KeyboardInterrupt:
                interrupted.append(trial.number)
                raise

        interrupted = []
        try:
            if self.storage.lock:
                self.storage.lock.acquire()
            self.take_up_lost()
            taken = self.trials()
            if not taken:
                self.optuna.enqueue_trial(first())
                taken = self.trials()
            new = [trial for trial in taken if "same_as" not in trial.user_attrs]
            enough = (
                len(new) >= trials or len(taken) >= 2 * trials
            )  # a space may hold fewer points than the budget has trials
            if enough and not any(trial.state == TrialState.WAITING for trial in taken):
                return False
            self.optuna.sampler = make_sampler(
                self.settings, sum(trial.state != TrialState.WAITING for trial in taken)
            )
            self.optuna.optimize(objective, n_trials=1, catch=(Exception,))
        finally:
            if self.storage.lock:
                self.storage.lock.release(force=True)
            for number in interrupted:
                self.put_back(number)
        return True
