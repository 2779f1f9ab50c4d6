"""The search for the parameters of one outer fold: trials scored on training actors, each a DVC
experiment."""

import json
import time
from pathlib import Path

from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial, Trial, TrialState
from tqdm import tqdm

from ser import params
from ser.run import experiments
from ser.run.errors import UserError
from ser.search import space, worth
from ser.search.shared_study import SharedStudy
from ser.search.trial_store import TrialStore


def ending(trial: FrozenTrial) -> str:
    """How a finished trial ended, in a few words."""
    if "same_as" in trial.user_attrs:
        return f"as trial {trial.user_attrs['same_as']}"
    if trial.state == TrialState.FAIL:
        return "failed"
    if "given_up_at" in trial.user_attrs:
        return f"given up at {trial.user_attrs['given_up_at']:.0%}"
    return "done"


class FoldSearch:
    """The search, in one branch, for the parameters of an outer fold, whose actors it must not
    see."""

    def __init__(
        self,
        store: TrialStore,
        branch: str,
        fold: int,
        settings: params.Params,
        search: space.Search,
    ):
        """Check the space, and open the study that belongs to all that its scores come from: with
        other parameters, data or code it is another study.

        Raises:
            UserError: a space that can't be searched, or no such fold.
        """
        self.branch, self.fold, self.settings = worth.BRANCHES[branch], fold, settings
        self.text = Path("params.yaml").read_text(encoding="utf-8")
        self.values = settings.model_dump()
        self.space = getattr(search, branch)
        space.check(branch, self.space, self.branch.may_vary, settings)
        origin = [
            (search.seed, search.sampler, search.startup),
            {name: distribution_to_json(values) for name, values in self.space.items()},
            self.branch.depends_on(settings),
            worth.evidence(self.branch, fold),
        ]
        name = f"{branch}-fold{fold}-{worth.digest(origin)[:6]}"
        self.study = SharedStudy(store, name, self.space, search)

    def point(self, trial: FrozenTrial) -> space.Point:
        """A trial's parameters as they stand in params.yaml, by dotted name."""
        return space.point(trial.params, self.space)

    def parameters(self, drawn: space.Point) -> params.Params:
        """All parameters, with Optuna's `drawn` put in.

        Raises:
            UserError: they exclude each other.
        """
        point = space.point(drawn, self.space)
        values = space.put(self.values, point)
        return params.check(values, f"with {json.dumps(point)}", params.Params)

    def first(self) -> space.Point:
        """What params.yaml says now. Where that leaves a choice to the branch's stage, what the
        stage chooses."""
        chosen = self.branch.chosen_by_stage(self.settings, self.fold)
        known = {name: chosen[name] for name in chosen if name in self.space}
        return space.current(space.put(self.values, known), self.space)

    def score(self, drawn: space.Point, trial: Trial) -> float:
        """The inner score. A trial that falls behind is given up and keeps the score that it has:
        of Optuna's own pruned trials, a Gaussian process would learn nothing."""
        for quarter, score in self.branch.scores(self.parameters(drawn), self.fold):
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
        known, name = experiments.names(), self.branch.name
        for trial in self.study.finished():
            when = trial.datetime_complete
            if self.experiment(trial) in known or when is None:
                continue
            point = self.point(trial)
            score = {} if trial.value is None else {self.branch.score: round(trial.value, 4)}
            reason = trial.user_attrs.get("reason")
            message = f"search {name}: trial {trial.number}, {ending(trial)}"
            files = {
                "params.yaml": space.edit(self.text, point),
                f"metrics/search/trial/{name}.json": json.dumps(score, indent=2) + "\n",
                # Only in an experiment is there one to show.
                "metrics/search/trial/dvc.yaml": f"metrics:\n  - {name}.json\n",
            }
            # The figures of params.yaml as it is are not this trial's, which `dvc repro` makes.
            unchanged = space.put(self.values, point) == self.values
            stale = [] if unchanged else [f"metrics/{name}*", "metrics/compare*"]
            experiments.save(
                self.experiment(trial),
                when,
                f"{message}: {reason}" if reason else message,
                files,
                stale,
            )

    def run(self, trials: int, seconds: float) -> None:
        """Take trials until so many are taken, by all workers together and ever, or so many seconds
        have passed."""
        end = time.monotonic() + seconds
        bar = tqdm(
            total=trials,
            initial=len(self.study.distinct()),
            desc=f"{self.branch.name} without fold {self.fold}",
            unit="trial",
        )
        with bar:
            while time.monotonic() < end and self.study.step(trials, self.first, self.score):
                self.record()
                best, bar.n = self.study.best(), len(self.study.distinct())
                text = "none has a score yet"
                if best:
                    text = f"best {best.value:.4f} in trial {best.number}"
                if end < float("inf"):
                    text += f", {max(0, end - time.monotonic()) / 60:.1f} min left"
                bar.set_postfix_str(text)
        self.record()

    def best(self) -> FrozenTrial:
        """The trial with the highest score, of equal ones the first.

        Raises:
            UserError: no trial has a score; the message says why the first has none.
        """
        best = self.study.best()
        if best is None:
            reasons = [trial.user_attrs.get("reason") for trial in self.study.finished()]
            reason = reasons[0] if reasons else "the time was up before that"
            raise UserError(f"{self.study.name}: no trial has a score: {reason}")
        return best
