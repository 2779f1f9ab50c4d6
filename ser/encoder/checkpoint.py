"""Pretrained encoders of speech, loaded under a head for the labels of a corpus."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import torch
import transformers

from ser import audio
from ser.encoder.families.encoder import HEAD, Encoder
from ser.encoder.families.waveform import Waveform
from ser.encoder.families.whisper import Whisper
from ser.run.errors import UserError

FAMILIES = (Waveform, Whisper)
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that there is
# transformers 5 keeps the settings of a feature extractor in the second, if it saves a processor.
PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")


def family(config: transformers.PreTrainedConfig) -> type[Encoder]:
    """The family of a checkpoint that `read_config` let pass."""
    return next(family for family in FAMILIES if config.model_type in family.TYPES)


@contextmanager
def one_line_for(name: str, problem: str) -> Iterator[None]:
    """Turn any exception into one line: transformers and torch check little of a checkpoint's
    files, and may stumble over them anywhere.

    Args:
        name: of the checkpoint, for messages.
        problem: begins the message.

    Raises:
        UserError: instead of what was raised inside.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{name}: {problem}: {reason}") from None


def read_config(
    folder: Path, name: str
) -> tuple[transformers.PreTrainedConfig, transformers.FeatureExtractionMixin]:
    """Read configuration and feature extractor of the checkpoint in `folder`, which messages call
    `name`. Code beside them is not run.

    Raises:
        UserError: a file is missing or broken, or the architecture does not fit.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; `dvc repro checkpoint` makes it")
    for files in (("config.json",), PREPROCESSORS):
        if not any((folder / file).exists() for file in files):
            raise UserError(
                f"{name}: has no {' or '.join(files)}; a checkpoint has config.json, "
                f"{PREPROCESSORS[0]} and, if pretrained, weights"
            )
    with one_line_for(name, "not a configuration that transformers knows"):
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        extractor = transformers.AutoFeatureExtractor.from_pretrained(
            folder, trust_remote_code=False
        )
        check_fit(config, extractor, name)
    return config, extractor


def check_fit(config: Any, extractor: Any, name: str) -> None:
    """Refuse a checkpoint that is no encoder of ours, see `read_config`.

    Raises:
        UserError: says why.
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


def labels_of(config: Any) -> list[str]:
    """What a checkpoint's head tells apart, in order; placeholders where it has no head."""
    return [config.id2label[index] for index in range(config.num_labels)]


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
    labels: Sequence[str] | None = None,
    head: Callable[[int, int, int, float], torch.nn.Module] | None = None,
    head_dropout: float = 0.0,
    draws: Any = None,
    **changes: object,
) -> Encoder:
    """Load an encoder under a head, in eval mode: with the checkpoint's weights, or new ones if it
    has none.

    Args:
        folder: holds config.json, preprocessor_config.json and perhaps weights, of any precision;
            here they are float32.
        name: of the checkpoint, for messages.
        seed: of the new weights.
        freeze_cnn: whether the convolutions stay as they are.
        headless: whether the weights may lack transformers' own head, which is then new.
        labels: what the head tells apart; None: what the checkpoint's does.
        head, head_dropout, draws: as of `Encoder`.
        changes: fields of the configuration that differ from the checkpoint's.

    Raises:
        UserError: as `read_config`; or the weights do not fit the configuration, they give NaN, or
            a fine-tuned head would silently be replaced by a new one.
    """
    exact()
    config, extractor = read_config(folder, name)
    kind = family(config)
    names = dict(enumerate(labels or labels_of(config)))
    config.update({
        "id2label": names,
        "label2id": {name: index for index, name in names.items()},
        "problem_type": None,  # of a head of regression
        **changes,
    })  # fmt: skip
    torch.manual_seed(seed)
    if weights(folder) is None:
        with one_line_for(name, "no model comes of its configuration"):
            model = transformers.AutoModelForAudioClassification.from_config(config)
            kind.start(model)
    else:
        model = pretrained(folder, config, name, headless)
    with one_line_for(name, "no model comes of its configuration"):
        encoder = kind(model, extractor, name, freeze_cnn, head, head_dropout, draws).eval()
        check_finite(encoder)
    return encoder


def pretrained(folder: Path, config: Any, name: str, headless: bool) -> Any:
    """transformers' model of the checkpoint in `folder`. Arguments and errors as of `load`."""
    with one_line_for(name, "weights do not load"):
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
        if not any(part in key for part in family(config).OTHER_WEIGHTS)
    )
    new = HEAD if headless else ()
    missing = sorted(
        key
        for key in report["missing_keys"]
        if not key.startswith(new) and not key.endswith("masked_spec_embed")
    )
    if strange or missing:
        problem = (
            f"holds {strange[0]}, which has no place in" if strange else f"lacks {missing[0]} of"
        )
        raise UserError(
            f"{name}: {problem} {type(model).__name__}; a head or weights would be lost silently"
        )
    if "layer_weights" in report["missing_keys"]:
        # transformers (5.23) leaves them as the memory was.
        model.layer_weights.data.fill_(1 / len(model.layer_weights))
    return model


def check_finite(encoder: Encoder) -> None:
    """Have an encoder in eval mode hear a quarter of a second of noise.

    Raises:
        UserError: its logits are not numbers.
    """
    length = max(encoder.shortest, audio.SAMPLE_RATE // 4)
    length = min(length, encoder.longest or length)
    noise = np.random.default_rng(0).normal(0, 0.1, length).astype(np.float32)
    # transformers draws random numbers even in vain, and a head may be drawn after this.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        inputs = torch.from_numpy(encoder.prepare(noise))[None]
        if not encoder(inputs, torch.tensor([inputs.shape[1]])).isfinite().all():
            raise UserError(f"{encoder.name}: its weights or settings give what is not a number")


def exact() -> None:
    """Turn on full single precision and repeatable results, on GPUs as well.

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
    """Keep transformers from printing: stages print themselves, and the head is new on purpose."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    huggingface_hub.logging.set_verbosity_error()
