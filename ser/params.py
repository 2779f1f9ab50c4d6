"""params.yaml, read in one place: typed, validated, and refused as a whole before any work when one
value is wrong."""

import difflib
import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML, YAMLError

from ser import corpus, protocols
from ser.run.errors import UserError

Speaker = int | Annotated[str, Field(min_length=1)]
Folds = Annotated[list[Annotated[list[Speaker], Field(min_length=1)]], Field(min_length=2)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Statistic = Annotated[str, Field(pattern=r"^(mean|std|skew|kurtosis|p\d|p[1-9]\d|p100)$")]
Block = Literal["stat", "dct", "seg", "cov"]
ModelName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]


def distinct(values: list) -> list:
    """The values, if none stands there twice."""
    if len(set(values)) < len(values):
        raise ValueError("expected distinct values")
    return values


class Section(BaseModel):
    """A section of params.yaml: unknown keys, wrong types, NaN and infinity are refused; nothing
    changes after reading."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


Kind = TypeVar("Kind", bound=Section)

# A value in a message: of one that holds itself, or a thousand others, no more than fits a line.
SHORT = reprlib.Repr()
SHORT.maxlist, SHORT.maxstring, SHORT.maxother = 24, 100, 100


class Demo(Section):
    """The synthetic corpus that `download` makes for `corpus: demo`."""

    takes: int = Field(ge=1, le=4)
    seconds: float = Field(ge=0.5, le=5.0)


class Split(Section):
    """The split into folds: a name in `protocols`, a number, or the speakers of each fold."""

    scheme: str | int | list[list[Speaker]]
    seed: Seed

    @field_validator("scheme", mode="before")
    @classmethod
    def known(cls, scheme: object) -> object:
        if isinstance(scheme, list):
            return TypeAdapter(Folds).validate_python(scheme, strict=True)
        if isinstance(scheme, int) and scheme >= 2:
            return scheme
        known = [*protocols.RAVDESS, *protocols.ANY]
        if not isinstance(scheme, str) or scheme not in known:
            names = ", ".join(known)
            raise ValueError(
                f"expected one of {names}, a number of folds, or a list of speakers for each fold"
            )
        return scheme


class Mfcc(Section):
    """Settings of the MFCC features."""

    trim_db: Positive | None
    n_fft: Literal[256, 512, 1024, 2048]
    hop: int = Field(ge=40, le=1024)
    n_mels: int = Field(ge=20, le=128)
    warps: list[Annotated[float, Field(ge=0.5, le=2.0)]] = Field(min_length=1)
    n_mfcc: int = Field(ge=2, le=128)
    deltas: int = Field(ge=0, le=2)
    statistics: Annotated[list[Statistic], AfterValidator(distinct)]
    dct_mfcc: int = Field(ge=1)
    dct_terms: int = Field(ge=0, le=100)
    segments: Annotated[list[Annotated[int, Field(ge=1, le=20)]], AfterValidator(distinct)]
    low_mfcc: int = Field(ge=1)
    covariance: bool

    @field_validator("n_mfcc")
    @classmethod
    def one_filter_for_each(cls, n_mfcc: int, info: ValidationInfo) -> int:
        if n_mfcc > (n_mels := info.data.get("n_mels", n_mfcc)):
            raise ValueError(f"expected at most mfcc.n_mels, {n_mels}")
        return n_mfcc

    @field_validator("covariance")
    @classmethod
    def some_block(cls, covariance: bool, info: ValidationInfo) -> bool:
        others = ("statistics", "dct_terms", "segments")
        if not covariance and not any(info.data.get(name, True) for name in others):
            raise ValueError(f"expected true, since {', '.join(others)} are off as well")
        if covariance and info.data.get("low_mfcc") == 1 and info.data.get("deltas") == 0:
            raise ValueError("expected false: low_mfcc = 1 without deltas moves with nothing")
        return covariance

    @property
    def blocks(self) -> set[str]:
        """The blocks of features that are on."""
        on = {
            "stat": self.statistics,
            "dct": self.dct_terms,
            "seg": self.segments,
            "cov": self.covariance,
        }
        return {name for name, setting in on.items() if setting}


class Embed(Section):
    """Settings of the frozen encoder's features."""

    trim_db: Positive | None
    seed: Seed


class Classifier(Section):
    """Values that a classifier on a table of features is chosen from."""

    kernel: list[Literal["linear", "logistic", "rbf", "rbf_mean"]] = Field(min_length=1)
    C: list[Positive] = Field(min_length=1)
    gamma: list[Positive] = Field(min_length=1)
    inner_folds: int = Field(ge=2, le=12)
    speaker_norm: bool


class SvmTrain(Classifier):
    """Values that `svm_train` chooses from."""

    blocks: list[Annotated[dict[Block, Positive], Field(min_length=1)]] = Field(min_length=1)


class ProbeTrain(Classifier):
    """Values that `probe_train` chooses from."""

    layers: list[Literal["all"] | Annotated[int, Field(ge=0)]] = Field(min_length=1)


class Finetuning(Section):
    """The wav2vec 2.0 knobs, at the top level of params.yaml, so that `dvc exp run -S lr=2e-5` is
    all it takes."""

    checkpoint: str = Field(min_length=1)
    revision: str = Field(min_length=1)
    trim_db: Positive | None
    freeze_cnn: bool
    frozen_layers: int = Field(ge=0)
    head: Literal["mean", "layers"]
    head_probe: Positive | None
    head_dropout: float = Field(ge=0, lt=1)
    weighted_layer_sum: bool
    lr: float = Field(gt=0, le=1)
    head_lr: float = Field(gt=0, le=1)
    adam_betas: list[Annotated[float, Field(ge=0, lt=1)]] = Field(min_length=2, max_length=2)
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(ge=0)
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    micro_batch: int | None = Field(ge=1)
    schedule: Literal["wsd", "constant", "linear", "cosine"]
    warmup: Share
    decay_start: Share
    batch_growth: float = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    attention_dropout: float = Field(ge=0, lt=1)
    mask_time_prob: Share
    mask_time_length: int = Field(ge=1)
    mask_feature_prob: Share
    mask_feature_length: int = Field(ge=1)
    speeds: list[Annotated[float, Field(ge=0.5, le=2)]] = Field(min_length=1)
    label_smoothing: float = Field(ge=0, lt=1)
    class_weights: bool
    select: Literal["last", "inner"]
    precision: Literal["auto", "fp32", "bf16"]
    seed: Seed

    @field_validator("revision", mode="before")
    @classmethod
    def not_a_number(cls, revision: object) -> object:
        if isinstance(revision, int | float):
            raise ValueError("""YAML takes it for a number; quote it: -S "revision='…'\"""")
        return revision

    @field_validator("speeds")
    @classmethod
    def clip_as_it_is(cls, speeds: list[float]) -> list[float]:
        if 1 not in speeds or len(set(speeds)) < len(speeds):
            raise ValueError("expected distinct numbers, 1 among them: each clip as it is")
        return speeds


class Params(Finetuning):
    """All of params.yaml; what each knob means stands there beside it."""

    corpus: str = Field(min_length=1)
    folds: list[int] = Field(min_length=1)
    models: dict[ModelName, Annotated[str, Field(min_length=1)]] = Field(min_length=1)
    mean: list[str] = Field(min_length=1)
    demo: Demo
    split: Split
    mfcc: Mfcc
    embed: Embed
    svm_train: SvmTrain
    probe_train: ProbeTrain

    @model_validator(mode="after")
    def mean_of_other_models(self) -> "Params":
        others = [name for name in self.models if name != "mean"]
        if not set(self.mean) <= set(others) or len(set(self.mean)) < len(self.mean):
            raise ValueError(f"mean = {self.mean}: expected distinct names of {', '.join(others)}")
        return self

    @model_validator(mode="after")
    def split_fits_corpus(self) -> "Params":
        scheme, ravdess_like = self.split.scheme, self.corpus in corpus.TITLES
        if isinstance(scheme, str) and scheme in protocols.RAVDESS and not ravdess_like:
            others = ", ".join(protocols.ANY)
            raise ValueError(
                f"split.scheme = {scheme}: a split of RAVDESS; for {self.corpus} a number of "
                f"folds, {others}, or a list of speakers for each fold"
            )
        if isinstance(scheme, list) and ravdess_like:
            try:
                protocols.check_partition(scheme, protocols.ACTORS)
            except UserError as error:
                raise ValueError(f"split.scheme: {error}") from None
        return self

    @model_validator(mode="after")
    def folds_exist(self) -> "Params":
        count = protocols.count(self.split.scheme)
        if min(self.folds) < 0 or len(set(self.folds)) < len(self.folds):
            raise ValueError(f"folds = {self.folds}: expected distinct numbers from 0 up")
        if count is not None and max(self.folds) >= count:
            raise ValueError(
                f"folds = {self.folds}: expected distinct numbers from 0 to {count - 1}, the folds "
                f"of split.scheme: {protocols.title(self.split.scheme)}"
            )
        if self.select == "inner" and count is not None and count < 3:
            raise ValueError(
                "select = 'inner': with two folds in split.scheme, the one that is not held out "
                "would choose the epoch, and none is left to train on"
            )
        return self

    @model_validator(mode="after")
    def svm_has_a_block(self) -> "Params":
        if not any(self.mfcc.blocks & set(weights) for weights in self.svm_train.blocks):
            raise ValueError(
                f"svm_train.blocks = {self.svm_train.blocks}: expected one at least that the "
                f"section mfcc leaves on: {', '.join(sorted(self.mfcc.blocks))}"
            )
        return self


def load(path: str | Path = "params.yaml") -> Params:
    """Read and validate params.yaml: see `read`."""
    return read(path, Params)


def read(path: str | Path, kind: type[Kind]) -> Kind:
    """Read and validate a parameter file with DVC's own YAML 1.2 reader (for PyYAML, the `2e-05`
    that DVC writes is a string).

    Args:
        path: of the file.
        kind: what it must hold.

    Raises:
        UserError: no such file, not YAML, an unknown key, a wrong type or a value out of range; the
            message names the key, the value and what is allowed.
    """
    try:
        values = YAML(typ="safe", pure=True).load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the project's folder") from None
    except UnicodeDecodeError as error:  # a ValueError, too
        raise UserError(f"{path}: not UTF-8: {error}") from None
    except (YAMLError, ValueError, RecursionError) as error:  # of a date, a number, brackets
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    return check(values, str(path), kind)


def check(values: object, where: str, kind: type[Kind]) -> Kind:
    """Validate values that came from `where`, which is how the message begins.

    Raises:
        UserError: as `read`.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {first_problem(error, kind)}") from None


def first_problem(error: ValidationError, kind: type[Section]) -> str:
    """The first of pydantic's findings as `key = value: what is allowed`; a misspelt key before the
    one it leaves missing."""
    problem = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return message
    *section, key = problem["loc"]
    if problem["type"] == "extra_forbidden":
        fields: Any = kind.model_fields
        for name in section:
            fields = fields[name].annotation.model_fields
        near = difflib.get_close_matches(str(key), fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(fields)}"
        message = f"unknown parameter; {hint}"
    value = "" if problem["type"] == "missing" else f" = {SHORT.repr(problem['input'])}"
    return f"{'.'.join(map(str, problem['loc']))}{value}: {message[0].lower()}{message[1:]}"
