"""search.yaml and the space in it: which parameters a search may set to which values, and
params.yaml with such values put in.

A *point* gives parameters their values as they stand in params.yaml, by dotted name. Optuna knows
numbers and texts only, so what it *draws* is a point with every choice between values as JSON.
"""

import copy
import io
import json
import re
from collections.abc import Collection
from typing import Annotated, Any, Literal

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import BeforeValidator, ConfigDict, Field
from ruamel.yaml import YAML

from ser import params
from ser.run.errors import UserError

FILE = "search.yaml"
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
RANGE = re.compile(rf"(int )?(log )?({NUMBER})\.\.({NUMBER})")
SYNTAX = "expected `1..5`, `log 1e-6..1e-3`, `int 3..20`, `int log 8..64` or a list of values"
DIGITS = 4  # of a number drawn: more would only make params.yaml hard to read

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution
Space = dict[str, Distribution]
Point = dict[str, Any]


def distribution(declared: object) -> Distribution:
    """What Optuna calls the values that search.yaml declares.

    Raises:
        ValueError: not in the syntax of search.yaml, or empty.
    """
    if isinstance(declared, list):
        if not declared:
            raise ValueError("nothing to choose from; expected at least one value")
        return CategoricalDistribution([json.dumps(value) for value in declared])
    match = RANGE.fullmatch(declared) if isinstance(declared, str) else None
    if not match:
        raise ValueError(SYNTAX)
    whole, log, low, high = match[1], match[2], float(match[3]), float(match[4])
    if whole and not (low.is_integer() and high.is_integer()):
        raise ValueError("the bounds of `int` are no whole numbers")
    if low >= high:
        raise ValueError("an empty range; expected the lower bound first")
    if log and low <= 0:
        raise ValueError("the bounds of `log` must be above 0")
    if whole:
        return IntDistribution(int(low), int(high), log=bool(log))
    return FloatDistribution(low, high, log=bool(log))


Values = Annotated[Distribution, BeforeValidator(distribution)]


class Search(params.Section):
    """All of search.yaml; what each line means stands there beside it."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    seed: int = Field(ge=0, lt=2**32)
    sampler: Literal["gp", "tpe", "random"]
    startup: int = Field(ge=1)
    fold: int = Field(ge=0)
    svm: dict[str, Values] = Field(min_length=1)
    w2v: dict[str, Values] = Field(min_length=1)


def load() -> Search:
    """Read and validate search.yaml.

    Raises:
        UserError: as `params.read`.
    """
    return params.read(FILE, Search)


def check(branch: str, space: Space, allowed: Collection[str], settings: params.Params) -> None:
    """Try every bound and every choice of a branch's space against the parameter's own validation.

    Args:
        branch: for messages.
        space: what the branch may vary, by dotted name.
        allowed: the top-level keys of params.yaml that it may vary.
        settings: params.yaml.

    Raises:
        UserError: an unknown parameter, one that is not allowed, or a value that is refused.
    """
    values = settings.model_dump()
    for name, possible in space.items():
        where = f"{FILE}: {branch}: {name}"
        try:
            look_up(values, name)
        except LookupError as error:
            raise UserError(f"{where}: {error}") from None
        if name.partition(".")[0] not in allowed:
            message = f"a search of {branch} may vary {', '.join(sorted(allowed))}"
            raise UserError(f"{where}: {message}")
        ends = (
            possible.choices
            if isinstance(possible, CategoricalDistribution)
            else (possible.low, possible.high)
        )
        for end in ends:
            params.check(put(values, {name: value(end, possible)}), where, params.Params)


def value(drawn: Any, possible: Distribution) -> Any:
    """What Optuna drew, as it stands in params.yaml: a number rounded to `DIGITS`, or the choice
    itself."""
    if isinstance(possible, CategoricalDistribution):
        return json.loads(drawn)
    if isinstance(possible, FloatDistribution):
        return min(max(float(f"{drawn:.{DIGITS}g}"), possible.low), possible.high)
    return drawn


def point(drawn: Point, space: Space) -> Point:
    """The point that Optuna drew, in the order of the space."""
    return {name: value(drawn[name], space[name]) for name in space if name in drawn}


def steps(name: str) -> list[str | int]:
    """The keys and places that a dotted name leads through."""
    return [int(step) if step.isdigit() else step for step in name.split(".")]


def look_up(values: dict, name: str) -> Any:
    """The value at a dotted name.

    Raises:
        LookupError: there is none.
    """
    for step in steps(name):
        try:
            values = values[step]
        except (KeyError, IndexError, TypeError):
            message = f"no parameter of params.yaml: nothing is called {step} there"
            raise LookupError(message) from None
    return values


def put(values: dict, point: Point) -> dict:
    """A copy of `values` with those of the point put in.

    A parameter that is a list of candidates, such as svm_train.C, becomes a list of the one value.
    """
    values = copy.deepcopy(values)
    for name, new in point.items():
        *path, last = steps(name)
        place = look_up(values, ".".join(map(str, path))) if path else values
        if isinstance(place[last], list):  # in place: the comment on the line hangs on the list
            place[last][:] = new if isinstance(new, list) else [new]
        else:
            place[last] = new
    return values


def current(values: dict, space: Space) -> Point:
    """What params.yaml says now, as Optuna would draw it.

    Raises:
        UserError: it lies outside the space.
    """
    drawn: Point = {}
    for name, possible in space.items():
        now = look_up(values, name)
        only = now[0] if isinstance(now, list) and len(now) == 1 else now
        if isinstance(possible, CategoricalDistribution):
            inside = [each for each in possible.choices if json.loads(str(each)) in (now, only)]
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


def edit(text: str, point: Point) -> str:
    """The text of params.yaml with the values of the point put in and every comment kept."""
    yaml = YAML()
    yaml.width = 10_000
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(
        type(None), lambda made, _: made.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    flow = {name: yaml.load(json.dumps(new)) for name, new in point.items()}
    written = io.StringIO()
    yaml.dump(put(yaml.load(text), flow), written)
    return written.getvalue()
