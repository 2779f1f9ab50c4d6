"""Pretrained encoders of speech: which fit, and their weights under a head for our emotions."""

from pathlib import Path
from pickle import UnpicklingError

import datasets
import huggingface_hub
import torch
import transformers
from safetensors import SafetensorError

from ser import audio, corpus
from ser.encoder.scratch import FILTER_TAPS, filter_bank
from ser.run.errors import UserError

# Encoders of raw waveforms built alike: a CNN, a projection, a transformer; tests/test_w2v.py tests
# each for exactness. data2vec-audio is not among them: in its stack of positional convolutions
# padding leaks into the clip.
ARCHITECTURES = ("wav2vec2", "hubert", "wavlm", "unispeech-sat")
HEAD = ("projector.", "classifier.", "layer_weights")
# What checkpoints hold beside the encoder: heads of pretraining and of speech recognition, and an
# embedding only SpecAugment needs.
OTHER_HEADS = (
    "quantizer.",
    "project_hid.",
    "project_q.",
    "lm_head.",
    "speaker_proj.",
    "label_embeddings",
    "masked_spec_embed",
)


def read_config(folder: Path, name: str) -> transformers.PreTrainedConfig:
    """The configuration of the checkpoint in `folder`, which messages call `name`.

    Raises:
        UserError: it is missing or broken, of an architecture that does not fit, or a classifier of
            other labels than ours.
    """
    for file in ("config.json", "preprocessor_config.json"):
        if not (folder / file).exists():
            raise UserError(
                f"{name}: has no {file}; a checkpoint has config.json, preprocessor_config.json and, if pretrained, weights"
            )
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(
            f"{name}: not a configuration that transformers knows: {' '.join(str(error).split())[:150]}"
        ) from None
    if config.model_type not in ARCHITECTURES or getattr(config, "add_adapter", False):
        raise UserError(
            f"{name}: architecture {config.model_type} does not fit; expected {', '.join(ARCHITECTURES)} without adapter"
        )
    if extractor.sampling_rate != audio.SAMPLE_RATE:
        raise UserError(
            f"{name}: expects {extractor.sampling_rate} Hz audio; only {audio.SAMPLE_RATE} Hz fits"
        )
    classifier = any(
        architecture.endswith("ForSequenceClassification")
        for architecture in config.architectures or []
    )
    labels = [config.id2label[index] for index in range(config.num_labels)]
    if classifier and labels != list(corpus.EMOTIONS):
        raise UserError(
            f"{name}: fine-tuned to tell apart {', '.join(labels)}; expected our {', '.join(corpus.EMOTIONS)}, or none"
        )
    return config


def weights(folder: Path) -> Path | None:
    """The file of weights in a checkpoint's folder; None where there is but a configuration, to be
    trained from scratch."""
    return next(
        (
            folder / name
            for name in ("model.safetensors", "pytorch_model.bin")
            if (folder / name).exists()
        ),
        None,
    )


def load(folder: Path, name: str, seed: int, **changes: object) -> transformers.PreTrainedModel:
    """A model that classifies our emotions: the checkpoint's weights under a new head, or all
    weights new if it has none.

    Args:
        folder: holds config.json, preprocessor_config.json and perhaps weights.
        name: what messages call the checkpoint.
        seed: of the new weights.
        changes: fields of the configuration that differ from the checkpoint's.

    Raises:
        UserError: what `read_config` refuses; weights that do not fit the configuration; a
            fine-tuned head that would not be loaded but silently made anew.
    """
    config = read_config(folder, name)
    names = dict(enumerate(corpus.EMOTIONS))
    config.update(
        {"id2label": names, "label2id": {name: index for index, name in names.items()}, **changes}
    )
    torch.manual_seed(seed)
    if weights(folder) is None:
        model = transformers.AutoModelForAudioClassification.from_config(config)
        first = model.base_model.feature_extractor.conv_layers[0].conv
        channels, _, taps = first.weight.shape
        if taps >= FILTER_TAPS and channels % 4 == 0:
            first.weight.data.copy_(filter_bank(channels, taps))
        return model
    try:
        model, report = transformers.AutoModelForAudioClassification.from_pretrained(
            folder, config=config, dtype=torch.float32, output_loading_info=True
        )
    except (
        RuntimeError,
        ValueError,
        OSError,
        EOFError,
        UnpicklingError,
        SafetensorError,
    ) as error:  # other sizes, a torn file
        raise UserError(
            f"{name}: weights do not load: {' '.join(str(error).split())[:200]}"
        ) from None
    strange = sorted(
        key for key in report["unexpected_keys"] if not any(head in key for head in OTHER_HEADS)
    )
    missing = sorted(
        key
        for key in report["missing_keys"]
        if not key.startswith(HEAD) and not key.endswith("masked_spec_embed")
    )
    if strange or missing:
        what = f"holds {strange[0]}, which has no place in" if strange else f"lacks {missing[0]} of"
        raise UserError(
            f"{name}: {what} {type(model).__name__}; a head or weights would be lost silently"
        )
    return model


def quiet() -> None:
    """Keep transformers and datasets from printing: the stages say themselves what they do, and the
    head is new on purpose."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    huggingface_hub.logging.set_verbosity_error()
    datasets.disable_progress_bars()
