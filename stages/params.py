"""params.yaml, read in one place: typed, validated, and refused as a whole before any work when one value is wrong."""

import difflib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML, YAMLError

from stages.corpus import ACTORS
from stages.errors import UserError

Actor = Annotated[int, Field(ge=ACTORS[0], le=ACTORS[-1])]


class Section(BaseModel):
    """A section of params.yaml: unknown keys, wrong types, NaN and infinity are refused; nothing changes after reading."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Demo(Section):
    """The synthetic corpus that `download` makes for `corpus: demo`."""

    takes: int = Field(ge=1, le=4)
    seconds: float = Field(ge=0.5, le=5.0)


class Split(Section):
    """Which actors form which fold."""

    folds: list[list[Actor]] = Field(min_length=2)

    @field_validator("folds")
    @classmethod
    def partition(cls, folds: list[list[int]]) -> list[list[int]]:
        actors = [actor for fold in folds for actor in fold]
        twice = sorted({actor for actor in actors if actors.count(actor) > 1})
        if twice:
            raise ValueError(f"actor {twice[0]} stands in two places; each of the actors 1 to 24 belongs to one fold")
        missing = sorted(set(ACTORS) - set(actors))
        if missing or not all(folds):
            raise ValueError(f"actors {missing} are in no fold, or a fold is empty; each of the actors 1 to 24 belongs to one fold")
        return folds


class Params(Section):
    """All of params.yaml; what each knob means stands there beside it."""

    corpus: Literal["ravdess", "demo"]
    folds: list[int] = Field(min_length=1)
    demo: Demo
    split: Split

    @model_validator(mode="after")
    def folds_exist(self) -> "Params":
        allowed = range(len(self.split.folds))
        if not set(self.folds) <= set(allowed) or len(set(self.folds)) < len(self.folds):
            raise ValueError(f"folds = {self.folds}: expected distinct numbers from 0 to {allowed[-1]}")
        return self


def load(path: str | Path = "params.yaml") -> Params:
    """Read and validate a parameter file with DVC's own YAML 1.2 reader (for PyYAML, the `2e-05` that DVC writes is a string).

    Raises:
        UserError: no such file, not YAML, an unknown key, a wrong type or a value out of range; the message names the key, the
            value and what is allowed.
    """
    try:
        values = YAML(typ="safe", pure=True).load(Path(path).read_text())
        return Params.model_validate(values)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the project's folder") from None
    except YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise UserError(f"{path}: {first_problem(error)}") from None


def first_problem(error: ValidationError) -> str:
    """The first of pydantic's findings as `key = value: what is allowed`."""
    problem = error.errors()[0]
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return message
    *section, key = problem["loc"]
    if problem["type"] == "extra_forbidden":
        fields = Params.model_fields
        for name in section:
            fields = fields[name].annotation.model_fields
        near = difflib.get_close_matches(str(key), fields, n=1)
        message = f"unknown parameter; {f'did you mean {near[0]}?' if near else 'known here: ' + ', '.join(fields)}"
    value = "" if problem["type"] == "missing" else f" = {problem['input']!r}"
    return f"{'.'.join(map(str, problem['loc']))}{value}: {message[0].lower()}{message[1:]}"
