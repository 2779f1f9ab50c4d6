"""One of Optuna's studies, shared by any number of workers: each trial is taken once, and a dead
worker's is taken up again."""

from collections.abc import Callable

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from ser.run.errors import UserError
from ser.search.space import Search, Space
from ser.search.trial_store import TrialStore


def make_sampler(search: Search, position: int) -> optuna.samplers.BaseSampler:
    """The sampler of the trial at this position of the study.

    What it proposes depends on the seed, the position and the trials before it, and not on which
    process asks, so that a search that was killed goes on as it would have gone.
    """
    seed = int(np.random.SeedSequence([search.seed, position]).generate_state(1)[0])
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if search.sampler == "tpe":
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=search.startup, multivariate=True, constant_liar=True
        )
    return optuna.samplers.GPSampler(
        seed=seed, n_startup_trials=search.startup, warn_independent_sampling=False
    )


def is_expected(error: BaseException) -> bool:
    """Whether a trial may fail with this error and the search go on: what the parameters drawn
    can't do, or what does not fit into memory. Anything else is a bug."""
    if isinstance(error, UserError | MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    from accelerate.utils.memory import should_reduce_batch_size  # here, since it loads torch

    return should_reduce_batch_size(error)


class SharedStudy:
    """A study on its way through a number of trials.

    Attributes:
        name: by which all workers know it.
        optuna: Optuna's own study.
    """

    def __init__(self, store: TrialStore, name: str, space: Space, search: Search):
        self.store, self.name, self.space, self.search = store, name, space, search
        with store.turn():
            self.optuna = optuna.create_study(
                study_name=name,
                storage=store.optuna,
                direction="maximize",
                load_if_exists=True,
                # A trial is given up at a quarter of its training if it is worse there than half of
                # those before it.
                pruner=optuna.pruners.MedianPruner(n_startup_trials=search.startup),
            )

    def trials(self) -> list[FrozenTrial]:
        """The trials by number, without those that stand again further on."""
        every = self.optuna.get_trials(deepcopy=False)
        replaced = {trial.user_attrs.get("instead_of") for trial in every}
        return [trial for trial in every if trial.number not in replaced]

    def finished(self) -> list[FrozenTrial]:
        """The trials by number that are done, whether they have a score or failed."""
        return [trial for trial in self.trials() if trial.state.is_finished()]

    def distinct(self) -> list[FrozenTrial]:
        """The finished trials but for those with the parameters of an earlier one."""
        return [trial for trial in self.finished() if "same_as" not in trial.user_attrs]

    def is_running(self) -> bool:
        """Whether a trial runs, here or elsewhere."""
        return any(trial.state == TrialState.RUNNING for trial in self.trials())

    def best(self) -> FrozenTrial | None:
        """The trial with the highest score, of equal ones the first."""
        scored = [trial for trial in self.finished() if trial.state == TrialState.COMPLETE]
        return max(scored, key=lambda trial: (trial.values, -trial.number), default=None)

    def put_back(self, trial: FrozenTrial) -> None:
        """Have a trial that was not finished run again, with the same parameters."""
        again = optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            system_attrs=trial.system_attrs,
            user_attrs={"instead_of": trial.number},
        )
        self.optuna.add_trial(again)  # first, so that a kill here loses no trial
        self.optuna.tell(trial.number, state=TrialState.FAIL)

    def take(self, trials: int, first: Callable[[], dict]) -> Trial | None:
        """The next trial, its parameters drawn; None if as many as `trials` are taken already.

        To be called during a turn.
        """
        for known in self.trials():
            worker = known.user_attrs.get("worker")
            if known.state == TrialState.RUNNING and self.store.is_dead(worker):
                self.put_back(known)
        if not self.trials():
            self.optuna.enqueue_trial(first())
        taken = self.trials()
        waiting = sum(trial.state == TrialState.WAITING for trial in taken)
        distinct = sum("same_as" not in trial.user_attrs for trial in taken)
        # A space may hold fewer points than the budget has trials.
        if not waiting and (distinct >= trials or len(taken) >= 2 * trials):
            return None
        self.optuna.sampler = make_sampler(self.search, len(taken) - waiting)
        trial = self.optuna.ask({**self.space})
        trial.set_user_attr("worker", self.store.worker)
        return trial

    def is_repeated(self, trial: Trial) -> bool:
        """Whether these parameters were drawn before: such a trial ends as that one did, or without
        a score while that one runs.

        To be called during a turn.
        """
        for other in self.trials():
            drawn = other.state != TrialState.WAITING and "same_as" not in other.user_attrs
            if drawn and other.number < trial.number and other.params == trial.params:
                trial.set_user_attr("same_as", other.number)
                done = other.state == TrialState.COMPLETE
                self.optuna.tell(trial, other.value, None if done else TrialState.FAIL)
                return True
        return False

    def step(
        self, trials: int, first: Callable[[], dict], score: Callable[[dict, Trial], float]
    ) -> bool:
        """Take the next trial and score it; False if as many as `trials` are taken already.

        Parameters drawn before are not scored again, and do not count.

        Args:
            trials: of all workers together, and ever.
            first: gives the parameters of the first trial.
            score: of drawn parameters; may report to the trial and give it up. An error that
                `is_expected` makes the trial a failed one, with its reason; after any other the
                trial waits to be run again, and the error goes on.
        """
        with self.store.turn():
            trial = self.take(trials, first)
            if trial is None:
                return False
            if self.is_repeated(trial):
                return True
        try:
            self.optuna.tell(trial, score(trial.params, trial), TrialState.COMPLETE)
        except BaseException as error:
            if not is_expected(error):
                self.put_back(self.optuna.get_trials(deepcopy=False)[trial.number])
                raise
            words = [f"{type(error).__name__}:", *str(error).split()]
            trial.set_user_attr("reason", " ".join(words)[:300])
            self.optuna.tell(trial, state=TrialState.FAIL)
        return True
