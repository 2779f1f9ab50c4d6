"""The choice of parameters for one outer fold: a study whose trials are scored on training actors,
each a DVC experiment."""

import hashlib
import json
import time

import numpy as np
from optuna.trial import FrozenTrial, Trial, TrialState
from tqdm import tqdm

from ser import params
from ser.run import experiments
from ser.run.errors import UserError
from ser.search import space, worth
from ser.search.study import Storage, Study


def state(trial: FrozenTrial) -> str:
    """How a finished trial ended."""
    if "same_as" in trial.user_attrs:
        return f"as trial {trial.user_attrs['same_as']}"
    if trial.state == TrialState.FAIL:
        return "failed"
    return (
        f"given up at {trial.user_attrs['given_up_at']:.0%}"
        if "given_up_at" in trial.user_attrs
        else "done"
    )


class Choice:
    """The search, in one branch, for the parameters of an outer fold, whose actors it must not
    see."""

    def __init__(self, storage: Storage, branch: str, fold: int, settings: params.Params):
        self.branch, self.fold, self.settings = branch, fold, settings
        self.text, self.values = space.text(), settings.model_dump()
        self.space = space.read(branch, settings)
        # A study belongs to all that its scores come from: with other parameters, data or code it
        # is another study.
        search = self.values["search"]
        origin = [search["seed"], search["sampler"], search["startup"], search[branch]]
        origin += [worth.relevant(branch, settings), worth.evidence(branch, fold)]
        digest = hashlib.sha256(json.dumps(origin).encode()).hexdigest()[:6]
        self.study = Study(storage, f"{branch}-fold{fold}-{digest}", self.space, settings.search)

    def point(self, trial: FrozenTrial) -> dict[str, object]:
        """A trial's parameters as they stand in params.yaml, by dotted name."""
        return {
            name: space.value(trial.params[name], values)
            for name, values in self.space.items()
            if name in trial.params
        }

    def parameters(self, drawn: dict[str, object]) -> params.Params:
        """All parameters, with Optuna's `drawn` put in."""
        changes = {name: space.value(found, self.space[name]) for name, found in drawn.items()}
        return params.Params.model_validate(space.put(self.values, changes))

    def first(self) -> dict[str, object]:
        """What params.yaml says now. Where that leaves a choice to svm_train, what svm_train
        chooses."""
        values = self.values
        if self.branch == "svm":
            _, best = worth.choose_svm(self.settings, self.fold)
            values = space.put(
                values,
                {
                    f"svm_train.{name}": best[name]
                    for name in best
                    if f"svm_train.{name}" in self.space
                },
            )
        return space.current(values, self.space, self.branch)

    def score(self, drawn: dict[str, object], trial: Trial) -> float:
        """The inner score. A trial that falls behind is given up and keeps the score that it has:
        of Optuna's own pruned trials, a Gaussian process would learn nothing. """  # fmt: skip
        for quarter, score in worth.scores(self.branch, self.parameters(drawn), self.fold):
            trial.report(score, quarter)
            if quarter < worth.QUARTERS and trial.should_prune():
                trial.set_user_attr("given_up_at", quarter / worth.QUARTERS)
                break
        return score

    def experiment(self, trial: FrozenTrial) -> str:
        """The name of a trial's experiment."""
        return f"{self.study.name}-{trial.number:03}"

    def record(self) -> None:
        """Make an experiment of every finished trial, whoever ran it, that is none here yet."""
        known = experiments.names()
        for trial in self.study.finished():
            if self.experiment(trial) in known:
                continue
            point = self.point(trial)
            metrics = {"trial": trial.number, "fold_not_seen": self.fold, "state": state(trial)}
            score = {"reason": trial.user_attrs.get("reason")} if trial.value is None else {
                f"inner_{worth.SCORE[self.branch]}": round(trial.value, 4)
            }  # fmt: skip
            experiments.save(
                self.experiment(trial), trial.datetime_complete, f"search {self.branch}: trial {trial.number}",
                {
                    "params.yaml": space.apply(self.text, point),
                    f"metrics/search/trial/{self.branch}.json": json.dumps(metrics | score, indent=2) + "\n",
                    "metrics/search/trial/dvc.yaml": f"metrics:\n  - {self.branch}.json\n",  # only here is there one to show
                },
                # The figures of params.yaml as it is are not this trial's, which `dvc repro` makes.
                [] if space.put(self.values, point) == self.values else [f"metrics/{self.branch}*", "metrics/compare.json"],
            )  # fmt: skip

    def run(self, trials: int, seconds: float) -> None:
        """Take trials until so many are taken, by all workers together and ever, or so many seconds
        have passed."""
        end = time.monotonic() + seconds
        bar = tqdm(
            total=trials,
            initial=len(self.study.new()),
            desc=f"{self.branch} without fold {self.fold}",
            unit="trial",
        )
        while time.monotonic() < end and self.study.step(trials, self.first, self.score):
            self.record()
            best, bar.n = self.best(), len(self.study.new())
            left = (
                f", {max(0, end - time.monotonic()) / 60:.1f} min left" if np.isfinite(end) else ""
            )
            bar.set_postfix_str(
                (
                    f"best {best.value:.4f} in trial {best.number}"
                    if best
                    else "none has a score yet"
                )
                + left
            )
        bar.close()
        self.record()

    def best(self) -> FrozenTrial | None:
        """The trial with the highest score, of equal ones the first."""
        return self.study.best()

    def require(self) -> None:
        """Make sure that there is something to choose.

        Raises:
            UserError: no trial has a score; the message says why the first has none.
        """
        if self.best() is None:
            reasons = [trial.user_attrs.get("reason") for trial in self.study.finished()]
            raise UserError(
                f"{self.study.name}: no trial has a score: {reasons[0] if reasons else 'the time was up before that'}"
            )
