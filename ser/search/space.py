"""The space of a search: which parameters may take which values, and params.yaml with one point of
it put in.

In params.yaml, beside what they search, `search.svm` and `search.w2v` map a parameter's name,
dotted as for `dvc exp run -S`, to
    1..5, log 1e-6..1e-3, int 3..20, int log 8..64     all numbers between two bounds, evenly or by
    orders of magnitude [a, b]                                             one of these
A number in the name is a place in a list: `adam_betas.1`. A parameter that is a list of candidates,
such as svm_train.C, becomes a list of the one value drawn.
"""

import copy
import io
import json
import re
from pathlib import Path

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import ValidationError
from ruamel.yaml import YAML

from ser import params
from ser.run.errors import UserError

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
RANGE = re.compile(rf"(int )?(log )?({NUMBER})\.\.({NUMBER})")
UPSTREAM = {
    "checkpoint",
    "revision",
    "trim_db",
    "freeze_cnn",
}  # of stages before the fine-tuning, which would have to run anew
DIGITS = 4  # of a number drawn: more would only make params.yaml hard to read


def distribution(declared: str | list) -> BaseDistribution:
    """What Optuna calls the values declared. A choice is kept as JSON, since Optuna knows no lists
    and dicts.

    Raises:
        ValueError: not in the syntax of this module, or empty.
    """
    if isinstance(declared, list):
        if not declared:
            raise ValueError("nothing to choose from; expected at least one value")
        return CategoricalDistribution([json.dumps(value) for value in declared])
    match = RANGE.fullmatch(declared)
    if not match:
        raise ValueError(
            "expected `1..5`, `log 1e-6..1e-3`, `int 3..20`, `int log 8..64` or a list of values"
        )
    whole, log, low, high = match[1], match[2], float(match[3]), float(match[4])
    if whole and not (low.is_integer() and high.is_integer()):
        raise ValueError("the bounds of `int` are no whole numbers")
    if low >= high:
        raise ValueError("an empty range; expected the lower bound first")
    if log and low <= 0:
        raise ValueError("the bounds of `log` must be above 0")
    return (
        IntDistribution(int(low), int(high), log=bool(log))
        if whole
        else FloatDistribution(low, high, log=bool(log))
    )


def value(found: object, values: BaseDistribution) -> object:
    """What stands for a value that Optuna drew, in params.yaml: a number rounded to `DIGITS`, or
    the choice itself."""
    if isinstance(values, CategoricalDistribution):
        return json.loads(found)
    if isinstance(values, FloatDistribution):
        return min(max(float(f"{found:.{DIGITS}g}"), values.low), values.high)
    return found


def read(branch: str, settings: params.Params) -> dict[str, BaseDistribution]:
    """The space of a branch, `svm` or `w2v`, every bound and every choice of it tried against the
    parameter's own validation.

    Raises:
        UserError: an unknown parameter, one that this branch does not depend on, an empty range, a
            value refused.
    """
    declared, values, space = getattr(settings.search, branch), settings.model_dump(), {}
    for name, text in declared.items():
        where = f"params.yaml: search.{branch}: {name}: {text if isinstance(text, str) else json.dumps(text)}"
        try:
            space[name] = distribution(text)
            look_up(values, name)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
        section = name.partition(".")[0]
        fits = (
            section in ("mfcc", "svm_train")
            if branch == "svm"
            else section in params.Finetuning.model_fields
        )
        if not fits or section in UPSTREAM:
            depends = (
                "mfcc and svm_train"
                if branch == "svm"
                else f"fine-tuning at the top level, but for {', '.join(sorted(UPSTREAM))}"
            )
            raise UserError(f"{where}: {branch} searches the parameters of {depends}")
        ends = (
            [space[name].low, space[name].high] if isinstance(text, str) else map(json.dumps, text)
        )
        for end in ends:
            try:
                params.Params.model_validate(put(values, {name: value(end, space[name])}))
            except ValidationError as error:
                raise UserError(f"{where}: {params.first_problem(error)}") from None
    return space


def steps(name: str) -> list[str | int]:
    """The keys and places that a dotted name leads through."""
    return [int(step) if step.isdigit() else step for step in name.split(".")]


def look_up(values: dict, name: str) -> object:
    """The value at a dotted name.

    Raises:
        ValueError: there is none.
    """
    for step in steps(name):
        try:
            values = values[step]
        except (KeyError, IndexError, TypeError):
            raise ValueError(
                f"no parameter of params.yaml: nothing is called {step} there"
            ) from None
    return values


def put(values: dict, changes: dict[str, object]) -> dict:
    """A copy of `values` with the changes, by dotted name, made."""
    values = copy.deepcopy(values)
    for name, new in changes.items():
        *path, last = steps(name)
        place = look_up(values, ".".join(map(str, path))) if path else values
        if isinstance(place[last], list) and not isinstance(new, list):
            new = [new]
        if isinstance(place[last], list):  # in place: the comment on the line hangs on the list
            place[last][:] = new
        else:
            place[last] = new
    return values


def current(values: dict, space: dict[str, BaseDistribution], branch: str) -> dict[str, object]:
    """What params.yaml says now, as Optuna's parameters: the first trial, so that a search can only
    improve on it.

    Raises:
        UserError: it lies outside the space.
    """
    found = {}
    for name, possible in space.items():
        now = look_up(values, name)
        one = (
            now[0] if isinstance(now, list) and len(now) == 1 else now
        )  # of a list of candidates, the only one
        if isinstance(possible, CategoricalDistribution):
            inside = [choice for choice in possible.choices if json.loads(choice) in (now, one)]
        else:
            number = isinstance(one, int | float) and not isinstance(one, bool)
            inside = [one] if number and possible.low <= one <= possible.high else []
        if not inside:
            raise UserError(
                f"params.yaml: {name} = {json.dumps(now)}: outside the space search.{branch}, whose first trial it is; "
                "widen the space, or change this"
            )
        found[name] = inside[0]
    return found


def apply(text: str, changes: dict[str, object]) -> str:
    """The text of params.yaml with the changes, by dotted name, made and every comment kept."""
    yaml = YAML()
    yaml.width = 10_000
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(
        type(None), lambda made, _: made.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    flow = {name: yaml.load(json.dumps(new)) for name, new in changes.items()}
    written = io.StringIO()
    yaml.dump(put(yaml.load(text), flow), written)
    return written.getvalue()


def text() -> str:
    """params.yaml as it is now."""
    return Path("params.yaml").read_text()
