"""What trials of a shared study may do: be taken once, be lost, fail, be given up."""

from collections.abc import Iterator

import optuna
import pytest
import torch
from conftest import ROOT
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from ser import params
from ser.run.errors import UserError
from ser.search import space
from ser.search.shared_study import SharedStudy, is_expected, make_sampler
from ser.search.trial_store import TrialStore, opened

SEARCH = params.read(ROOT / "search.yaml", space.Search)
RANDOM = SEARCH.model_copy(update={"sampler": "random"})
NUMBERS = {"x": IntDistribution(0, 3)}

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture
def store(tmp_path, monkeypatch) -> Iterator[TrialStore]:
    """An empty storage in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEARCH_STORAGE", raising=False)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with opened() as store:
        yield store


def first() -> dict:
    return {"x": 3}


@pytest.mark.parametrize("sampler", ["gp", "tpe", "random"])
def test_what_is_proposed_depends_on_seed_and_history_alone(sampler):
    search = SEARCH.model_copy(update={"sampler": sampler, "startup": 3})
    possible = {"x": FloatDistribution(0, 1), "y": CategoricalDistribution(["a", "b"])}

    def proposals(seed: int) -> list[dict]:
        study = optuna.create_study(direction="maximize")
        for position in range(6):
            study.sampler = make_sampler(search.model_copy(update={"seed": seed}), position)
            trial = study.ask(possible)
            study.tell(trial, -((trial.params["x"] - 0.3) ** 2) + (trial.params["y"] == "a"))
        return [trial.params for trial in study.trials]

    at_first = proposals(0)
    assert proposals(0) == at_first
    assert proposals(1) != at_first
    assert len({drawn["x"] for drawn in at_first}) == 6


def test_lost_trials_are_taken_up_and_failed_ones_do_not_stop_the_search(store):
    scored = []

    def score(drawn: dict, trial: optuna.Trial) -> float:
        scored.append(drawn["x"])
        if drawn["x"] == 1:
            raise UserError("not one")
        if drawn["x"] == 2:
            raise MemoryError
        return float(drawn["x"])

    study = SharedStudy(store, "s", NUMBERS, RANDOM)
    study.optuna.enqueue_trial(first())
    study.optuna.ask()  # by a worker that dies before it draws parameters and signs
    while study.step(8, first, score):
        pass
    assert scored[0] == 3
    assert sorted(scored) == [0, 1, 2, 3]  # what is drawn again is not scored again
    assert len(study.distinct()) == 4
    assert len(study.finished()) == 16  # then it gives up looking for more
    assert {trial.state for trial in study.finished()} == {TrialState.COMPLETE, TrialState.FAIL}
    reasons = {trial.user_attrs.get("reason") for trial in study.distinct()}
    assert reasons == {None, "UserError: not one", "MemoryError:"}
    assert study.best().value == 3


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), KeyboardInterrupt()])
def test_any_other_error_goes_on_and_its_trial_is_run_again(store, error):
    def fails(drawn: dict, trial: optuna.Trial) -> float:
        raise error

    study = SharedStudy(store, "s", {"x": FloatDistribution(0, 10)}, RANDOM)
    assert study.step(3, first, lambda drawn, trial: drawn["x"])
    with pytest.raises(type(error)):
        study.step(3, first, fails)
    assert len(study.finished()) == 1
    assert not study.is_running()
    (lost,) = [trial for trial in study.trials() if trial.state == TrialState.WAITING]
    while study.step(3, first, lambda drawn, trial: drawn["x"]):
        pass
    assert [trial.state for trial in study.finished()] == 3 * [TrialState.COMPLETE]
    assert lost.params in [trial.params for trial in study.finished()]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UserError("no such fold"), True),
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (KeyError("actor"), False),
        (OSError(28, "No space left on device"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_only_what_the_parameters_are_to_blame_for_is_a_failed_trial(error, expected):
    assert is_expected(error) is expected


def test_memory_that_is_not_there_is_a_failed_trial(store):
    def score(drawn: dict, trial: optuna.Trial) -> float:
        return float(torch.empty(2**50)[0])

    study = SharedStudy(store, "s", NUMBERS, RANDOM)
    assert study.step(1, first, score)
    (trial,) = study.finished()
    assert trial.state == TrialState.FAIL
    assert "can't allocate memory" in trial.user_attrs["reason"]
