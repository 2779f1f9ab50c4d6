"""search.yaml and the space in it: which parameters a search may set to which values, and
params.yaml with such values put in.

A *point* gives parameters their values as they stand in params.yaml, by dotted name.
"""

import copy
import json
from collections.abc import Callable, Collection
from typing import Annotated, Any, Literal

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial
from pydantic import BeforeValidator, ConfigDict, Field

from ser import params
from ser.run.errors import UserError

FILE = "search.yaml"

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution
Space = dict[str, Distribution]
Point = dict[str, Any]


def distribution(declared: object) -> Distribution:
    """Optuna's distribution of what search.yaml declares: a list of choices, or the arguments of a
    FloatDistribution or, if both bounds are whole numbers, of an IntDistribution.

    Raises:
        ValueError: neither, or empty.
    """
    if isinstance(declared, list) and declared:
        # Optuna stores numbers and texts only.
        return CategoricalDistribution(
            [json.dumps(each) if isinstance(each, list | dict) else each for each in declared]
        )
    if isinstance(declared, dict):
        ends = [declared.get(end) for end in ("low", "high")]
        kind = IntDistribution if all(isinstance(end, int) for end in ends) else FloatDistribution
        try:
            return kind(**declared)
        except (TypeError, ValueError) as error:
            raise ValueError(str(error)) from None
    raise ValueError("expected `{low: 1, high: 5}`, with `log: true` or a `step`, or a list")


class Search(params.Section):
    """All of search.yaml; what each line means stands there beside it."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    seed: int = Field(ge=0, lt=2**32)
    sampler: Literal["gp", "tpe", "random"]
    startup: int = Field(ge=1)
    fold: int = Field(ge=0)
    svm: dict[str, Annotated[Distribution, BeforeValidator(distribution)]] = Field(min_length=1)
    w2v: dict[str, Annotated[Distribution, BeforeValidator(distribution)]] = Field(min_length=1)


def check(branch: str, space: Space, allowed: Collection[str], settings: params.Params) -> None:
    """Try every bound and every choice of a branch's space against the parameter's own validation.

    Args:
        branch: for messages.
        space: what the branch may vary.
        allowed: the top-level keys of params.yaml that it may vary.
        settings: params.yaml.

    Raises:
        UserError: an unknown parameter, one that is not allowed, or a value that is refused.
    """
    for name, possible in space.items():
        where = f"{FILE}: {branch}: {name}"
        if name.partition(".")[0] not in allowed:
            raise UserError(f"{where}: a search of {branch} may vary {', '.join(sorted(allowed))}")
        values: tuple = (
            possible.choices
            if isinstance(possible, CategoricalDistribution)
            else (possible.low, possible.high)
        )
        for value in values:
            try:
                changed = put(settings.model_dump(), {name: decode(value, possible)})
            except LookupError:
                raise UserError(f"{where}: no such parameter in params.yaml") from None
            params.check(changed, where, params.Params)


def suggest(trial: Trial, space: Space) -> None:
    """Have a trial draw all parameters of a space."""
    methods: dict[type, Callable] = {
        CategoricalDistribution: trial.suggest_categorical,
        FloatDistribution: trial.suggest_float,
        IntDistribution: trial.suggest_int,
    }
    for name, possible in space.items():
        methods[type(possible)](name, **vars(possible))


def point(drawn: dict[str, Any], space: Space) -> Point:
    """The point that a trial's `params` stand for."""
    return {name: decode(drawn[name], possible) for name, possible in space.items()}


def decode(drawn: Any, possible: Distribution) -> Any:
    """A drawn value as it stands in params.yaml: a float with four digits, since more would only
    make it hard to read."""
    if isinstance(possible, FloatDistribution):
        return float(f"{drawn:.4g}")
    return json.loads(drawn) if str(drawn).startswith(("[", "{")) else drawn


def look_up(values: dict, name: str) -> Any:
    """The value of a dotted name.

    Raises:
        LookupError: no such parameter.
    """
    section, _, key = name.rpartition(".")
    return (values[section] if section else values)[key]


def put(values: dict, point: Point) -> dict:
    """A copy of `values` with those of the point put in.

    A parameter that is a list of candidates, such as svm_train.C, becomes a list of the one value.

    Raises:
        LookupError: no such parameter.
    """
    values = copy.deepcopy(values)
    for name, new in point.items():
        section, _, key = name.rpartition(".")
        candidates = isinstance(look_up(values, name), list) and not isinstance(new, list)
        (values[section] if section else values)[key] = [new] if candidates else new
    return values


def current(values: dict, space: Space) -> dict[str, Any]:
    """The values in params.yaml, as Optuna would draw them.

    Raises:
        UserError: it lies outside the space.
    """
    drawn = {}
    for name, possible in space.items():
        now = look_up(values, name)
        only = now[0] if isinstance(now, list) and len(now) == 1 else now
        if isinstance(possible, CategoricalDistribution):
            inside = [each for each in possible.choices if decode(each, possible) in (now, only)]
        else:
            number = isinstance(only, int | float) and not isinstance(only, bool)
            inside = [only] if number and possible.low <= only <= possible.high else []
        if not inside:
            raise UserError(
                f"params.yaml: {name} = {json.dumps(now)}: outside the space in {FILE}; the first "
                "trial has what params.yaml says: widen the space, or change this"
            )
        drawn[name] = inside[0]
    return drawn
