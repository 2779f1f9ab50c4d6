"""The search for the parameters of one outer fold."""

import json

import optuna
from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial, Trial, TrialState

from ser import params
from ser.run.errors import UserError
from ser.search import objective, space
from ser.search.space import Point
from ser.search.study import finished, optimize


class FoldSearch:
    """The search, in one branch, for the parameters of an outer fold, whose speakers it must not
    see."""

    def __init__(
        self,
        storage: optuna.storages.BaseStorage,
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
        self.branch, self.fold = objective.BRANCHES[branch], fold
        self.settings, self.search = settings, search
        self.space = getattr(search, branch)
        space.check(branch, self.space, self.branch.may_vary, settings)
        clips = objective.clips_outside(fold)
        parts = [
            objective.origin(self.branch, settings, clips),
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

    def first(self) -> Point:
        """What params.yaml says now, as Optuna would draw it. Where that leaves a choice to the
        branch's stage, what the stage chooses."""
        chosen = self.branch.defaults(self.settings, self.fold)
        known = {name: chosen[name] for name in chosen if name in self.space}
        return space.current(space.put(self.settings.model_dump(), known), self.space)

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
        """`study.optimize`, beginning with what params.yaml says."""
        if not self.study.get_trials(deepcopy=False):
            self.study.enqueue_trial(self.first(), skip_if_exists=True)
        print(f"{self.branch.name} without fold {self.fold}: study {self.study.study_name}")
        optimize(self.study, self.search, self.space, self.score, trials, seconds)

    def best(self) -> FrozenTrial:
        """The trial with the highest score, of equal ones the first.

        Raises:
            UserError: no trial has a score; the message says why the first has none.
        """
        trials = finished(self.study)
        scored = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        if not scored:
            reason = trials[0].user_attrs["reason"] if trials else "the time was up before that"
            raise UserError(f"{self.study.study_name}: no trial has a score: {reason}")
        return max(scored, key=lambda trial: (trial.values, -trial.number))

    def choice(self) -> Point:
        """The best trial's parameters."""
        return space.suggest(self.best(), self.space)
