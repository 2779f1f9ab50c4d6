"""Pretrained encoders of speech: which fit, and their weights under a head for our emotions."""

import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import torch
import transformers

from ser import audio, corpus
from ser.encoder.families.encoder import HEAD, Encoder
from ser.encoder.families.waveform import Waveform
from ser.encoder.families.whisper import Whisper
from ser.run.errors import UserError

FAMILIES = (Waveform, Whisper)
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that there is
# What no encoder of speech comes near: layers, other numbers in a configuration, weights, frames.
MOST, LARGEST, WEIGHTS_AT_MOST, FRAMES_AT_MOST = 1000, 1 << 20, 1 << 32, 1000
CLASSIFIERS = ("ForSequenceClassification", "ForAudioClassification")


def family(config: transformers.PreTrainedConfig) -> type[Encoder]:
    """The family of a checkpoint that `read_config` let pass."""
    return next(family for family in FAMILIES if config.model_type in family.TYPES)


@contextmanager
def foreign(name: str, what: str) -> Iterator[None]:
    """Make one line of whatever goes wrong inside: transformers and torch check little of what a
    checkpoint's files say, and may stumble over it anywhere.

    Args:
        name: what messages call the checkpoint.
        what: is wrong with it.

    Raises:
        UserError: says both.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{name}: {what}: {said}") from None


def check_sizes(file: Path, name: str) -> None:
    """Refuse a configuration by whose numbers alone a model would fill memory or take for ever.

    Raises:
        UserError: it has one, or is no JSON object.
    """
    waiting = [("", json.loads(file.read_bytes()))]
    if not isinstance(waiting[0][1], dict):
        raise UserError(f"{name}: {file.name} is no JSON object")
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += ((key, item) for item in value)
        elif isinstance(value, int) and abs(value) > (MOST if "layers" in key else LARGEST):
            raise UserError(f"{name}: {key} = {value:.3g} in {file.name}: larger than any model's")


def read_config(
    folder: Path, name: str
) -> tuple[transformers.PreTrainedConfig, transformers.FeatureExtractionMixin]:
    """Configuration and feature extractor of the checkpoint in `folder`, which messages call
    `name`. Code that may lie beside them is not run.

    Raises:
        UserError: a file is missing or broken, the architecture does not fit, or it is a classifier
            of other labels than ours.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; `dvc repro checkpoint` makes it")
    for file in ("config.json", "preprocessor_config.json"):
        if not (folder / file).exists():
            raise UserError(
                f"{name}: has no {file}; a checkpoint has config.json, preprocessor_config.json "
                "and, if pretrained, weights"
            )
        with foreign(name, "not a configuration that transformers knows"):
            check_sizes(folder / file, name)
    with foreign(name, "not a configuration that transformers knows"):
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        extractor = transformers.AutoFeatureExtractor.from_pretrained(
            folder, trust_remote_code=False
        )
        check_fit(config, extractor, name)
    return config, extractor


def check_fit(config: Any, extractor: Any, name: str) -> None:
    """Refuse what `read_config` says.

    Raises:
        UserError: it does not fit.
    """
    known = [kind for family in FAMILIES for kind in family.TYPES]
    if config.model_type not in known:
        raise UserError(
            f"{name}: architecture {config.model_type} does not fit; expected {', '.join(known)}"
        )
    if extractor.sampling_rate != audio.SAMPLE_RATE:
        raise UserError(
            f"{name}: expects {extractor.sampling_rate} Hz audio; only {audio.SAMPLE_RATE} Hz fits"
        )
    if problem := family(config).problem(config, extractor):
        raise UserError(f"{name}: architecture {config.model_type} {problem}")
    classifier = any(kind.endswith(CLASSIFIERS) for kind in config.architectures or [])
    labels = [config.id2label[index] for index in range(config.num_labels)]
    if classifier and labels != list(corpus.EMOTIONS):
        raise UserError(
            f"{name}: fine-tuned to tell apart {', '.join(labels)}; "
            f"expected our {', '.join(corpus.EMOTIONS)}, or none"
        )
    with torch.device("meta"):  # which takes no memory
        model = transformers.AutoModelForAudioClassification.from_config(config)
    if (size := sum(parameter.numel() for parameter in model.parameters())) > WEIGHTS_AT_MOST:
        raise UserError(f"{name}: {size:.3g} weights; {WEIGHTS_AT_MOST:.3g} at most")


def weights(folder: Path) -> Path | None:
    """The file of weights in a checkpoint's folder; None where there is but a configuration, whose
    weights are drawn at random."""
    return next((folder / name for name in WEIGHTS if (folder / name).exists()), None)


def load(
    folder: Path,
    name: str,
    seed: int,
    freeze_cnn: bool = True,
    headless: bool = True,
    head: Callable[[int, int, float], torch.nn.Module] | None = None,
    head_dropout: float = 0.0,
    draws: Any = None,
    **changes: object,
) -> Encoder:
    """An encoder under a head for our emotions: the checkpoint's weights, or all weights new if it
    has none. The head is new unless the checkpoint has one for our emotions.

    Args:
        folder: holds config.json, preprocessor_config.json and perhaps weights, of any precision;
            here they are float32.
        name: what messages call the checkpoint.
        seed: of the new weights.
        freeze_cnn: whether the convolutions stay as they are.
        headless: whether the weights may lack transformers' own head, which is then made anew.
        head, head_dropout, draws: as of `Encoder`.
        changes: fields of the configuration that differ from the checkpoint's.

    Raises:
        UserError: what `read_config` refuses; weights that do not fit the configuration, or give
            what is not a number; a fine-tuned head that would not be loaded but silently made anew.
    """
    exact()
    config, extractor = read_config(folder, name)
    kind = family(config)
    names = dict(enumerate(corpus.EMOTIONS))
    config.update(
        {"id2label": names, "label2id": {name: index for index, name in names.items()}, **changes}
    )
    torch.manual_seed(seed)
    if weights(folder) is None:
        with foreign(name, "no model comes of its configuration"):
            model = transformers.AutoModelForAudioClassification.from_config(config)
            kind.start(model)
            return tried(kind(model, extractor, name, freeze_cnn, head, head_dropout, draws))
    with foreign(name, "weights do not load"):
        model, report = transformers.AutoModelForAudioClassification.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
        )
    strange = sorted(
        key
        for key in report["unexpected_keys"]
        if not any(part in key for part in kind.OTHER_WEIGHTS)
    )
    new = HEAD if headless else ()
    missing = sorted(
        key
        for key in report["missing_keys"]
        if not key.startswith(new) and not key.endswith("masked_spec_embed")
    )
    if strange or missing:
        what = f"holds {strange[0]}, which has no place in" if strange else f"lacks {missing[0]} of"
        raise UserError(
            f"{name}: {what} {type(model).__name__}; a head or weights would be lost silently"
        )
    if "layer_weights" in report["missing_keys"]:
        # transformers (5.23) leaves them as the memory was.
        model.layer_weights.data.fill_(1 / len(model.layer_weights))
    with foreign(name, "no model comes of its configuration"):
        return tried(kind(model, extractor, name, freeze_cnn, head, head_dropout, draws))


def tried(encoder: Encoder) -> Encoder:
    """`encoder`, after it has heard a quarter of a second of noise.

    Raises:
        UserError: it cuts a second into more frames than attention has memory for, or what comes
            out is not a number.
    """
    length = max(encoder.shortest, audio.SAMPLE_RATE // 4)
    length = min(length, encoder.longest or length)
    noise = np.random.default_rng(0).normal(0, 0.1, length).astype(np.float32)
    modes = {module: module.training for module in encoder.modules()}
    # transformers draws for layerdrop even in vain, and a head may be drawn after this.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        inputs = torch.from_numpy(encoder.eval().prepare(noise))[None]
        lengths = torch.tensor([inputs.shape[1]])
        frames = int(encoder.frames(lengths)[0])
        if frames * audio.SAMPLE_RATE > FRAMES_AT_MOST * length:
            raise UserError(
                f"{encoder.name}: {frames} frames of {length / audio.SAMPLE_RATE:g} s; "
                f"{FRAMES_AT_MOST} a second at most"
            )
        if not encoder(inputs, lengths).isfinite().all():
            raise UserError(f"{encoder.name}: its weights or settings give what is not a number")
    for module, training in modes.items():
        module.training = training
    return encoder


def exact() -> None:
    """Make single precision mean it, and every run the same, on GPUs as well.

    Left to itself, cuDNN rounds the factors of convolutions to ten bits (TF32), and CUDA adds up
    some gradients in whatever order they arrive.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        deterministic: Any = torch.utils.deterministic
        deterministic.fill_uninitialized_memory = False


def quiet() -> None:
    """Keep transformers and datasets from printing: the stages say themselves what they do, and the
    head is new on purpose."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    huggingface_hub.logging.set_verbosity_error()
    datasets.disable_progress_bars()
