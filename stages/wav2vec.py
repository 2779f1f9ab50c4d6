"""wav2vec 2.0 and its kin as classifiers of emotions, whose logits for a clip do not depend on what it is batched with."""

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

import datasets
import huggingface_hub
import numpy as np
import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.wav2vec2.modeling_wav2vec2 import eager_attention_forward

from stages import audio, corpus
from stages.errors import UserError
from stages.params import Params

# Encoders of raw waveforms built alike: a CNN, a projection, a transformer; tests/test_w2v.py tests each for exactness.
# data2vec-audio is not among them: in its stack of positional convolutions padding leaks into the clip.
ARCHITECTURES = ("wav2vec2", "hubert", "wavlm", "unispeech-sat")
HEAD = ("projector.", "classifier.", "layer_weights")
# What checkpoints hold beside the encoder: heads of pretraining and of speech recognition, and an embedding only SpecAugment needs.
OTHER_HEADS = ("quantizer.", "project_hid.", "project_q.", "lm_head.", "speaker_proj.", "label_embeddings", "masked_spec_embed")

FILTER_TAPS = 160  # 10 ms: shorter filters cannot tell the bands of a voice apart, and are drawn at random
FILTER_GAIN = 20  # of a filter at 1 kHz: to the layer norm behind the filters, all but silence is loud, and Adam's steps are small


def read_config(folder: Path, name: str) -> transformers.PreTrainedConfig:
    """The configuration of the checkpoint in `folder`, which messages call `name`.

    Raises:
        UserError: it is missing or broken, of an architecture that does not fit, or a classifier of other labels than ours.
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
        raise UserError(f"{name}: not a configuration that transformers knows: {' '.join(str(error).split())[:150]}") from None
    if config.model_type not in ARCHITECTURES or getattr(config, "add_adapter", False):
        raise UserError(
            f"{name}: architecture {config.model_type} does not fit; expected {', '.join(ARCHITECTURES)} without adapter"
        )
    if extractor.sampling_rate != audio.SAMPLE_RATE:
        raise UserError(f"{name}: expects {extractor.sampling_rate} Hz audio; only {audio.SAMPLE_RATE} Hz fits")
    classifier = any(architecture.endswith("ForSequenceClassification") for architecture in config.architectures or [])
    labels = [config.id2label[index] for index in range(config.num_labels)]
    if classifier and labels != list(corpus.EMOTIONS):
        raise UserError(f"{name}: fine-tuned to tell apart {', '.join(labels)}; expected our {', '.join(corpus.EMOTIONS)}, or none")
    return config


def weights(folder: Path) -> Path | None:
    """The file of weights in a checkpoint's folder; None where there is but a configuration, to be trained from scratch."""
    return next((folder / name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).exists()), None)


def filter_bank(channels: int, taps: int) -> torch.Tensor:
    """Band-pass filters for the first convolution of a CNN trained from scratch, shape (channels, 1, taps).

    A quarter as many mel-spaced bands as channels, each in four phases, whose rectified outputs add up to the band's envelope: the
    CNN begins with a spectrogram, which a few hundred clips are too few to find. Training may change it. Their gain grows with
    frequency, since speech falls by about 6 dB an octave.

    Source: Zeghidour et al. (2018), "Learning filterbanks from raw speech for phone recognition".
    """
    edges = 700 * (10 ** (np.linspace(*np.log10(1 + np.array([60, 7600]) / 700), channels // 4 + 2)) - 1)  # Hz
    centres, widths = edges[1:-1, None], (edges[2:] - edges[:-2])[:, None] / 2
    seconds = (np.arange(taps) - (taps - 1) / 2) / audio.SAMPLE_RATE
    spread = np.minimum(1 / (np.pi * widths), taps / audio.SAMPLE_RATE / 5)  # of the Gaussian window; a fifth of the taps fits
    phases = [np.cos(2 * np.pi * (centres * seconds + phase / 4)) * np.exp(-((seconds / spread) ** 2) / 2) for phase in range(4)]
    filters = np.concatenate(phases)
    filters -= filters.mean(axis=1, keepdims=True)
    filters *= FILTER_GAIN * np.tile(centres / 1000, (4, 1)) / np.linalg.norm(filters, axis=1, keepdims=True)
    return torch.tensor(filters, dtype=torch.float32)[:, None]


def load(folder: Path, name: str, seed: int, **changes: object) -> transformers.PreTrainedModel:
    """A model that classifies our emotions: the checkpoint's weights under a new head, or all weights new if it has none.

    Args:
        folder: holds config.json, preprocessor_config.json and perhaps weights.
        name: what messages call the checkpoint.
        seed: of the new weights.
        changes: fields of the configuration that differ from the checkpoint's.

    Raises:
        UserError: what `read_config` refuses; weights that do not fit the configuration; a fine-tuned head that would not be loaded
            but silently made anew.
    """
    config = read_config(folder, name)
    names = dict(enumerate(corpus.EMOTIONS))
    config.update({"id2label": names, "label2id": {name: index for index, name in names.items()}, **changes})
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
    except (RuntimeError, ValueError, OSError, EOFError, UnpicklingError, SafetensorError) as error:  # other sizes, a torn file
        raise UserError(f"{name}: weights do not load: {' '.join(str(error).split())[:200]}") from None
    strange = sorted(key for key in report["unexpected_keys"] if not any(head in key for head in OTHER_HEADS))
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(HEAD) and not key.endswith("masked_spec_embed"))
    if strange or missing:
        what = f"holds {strange[0]}, which has no place in" if strange else f"lacks {missing[0]} of"
        raise UserError(f"{name}: {what} {type(model).__name__}; a head or weights would be lost silently")
    return model


def for_training(folder: Path, settings: Params) -> transformers.PreTrainedModel:
    """`load`, regularised and frozen as the params say."""
    model = load(
        folder,
        settings.checkpoint,
        settings.seed,
        trim_db=settings.trim_db,  # `stages.predict` reads it from the saved model
        hidden_dropout=settings.dropout,
        feat_proj_dropout=settings.dropout,
        attention_dropout=settings.attention_dropout,
        layerdrop=settings.layerdrop,
        apply_spec_augment=settings.mask_time_prob + settings.mask_feature_prob > 0,
        mask_time_prob=settings.mask_time_prob,
        mask_time_length=settings.mask_time_length,
        mask_feature_prob=settings.mask_feature_prob,
        mask_feature_length=settings.mask_feature_length,
        use_weighted_layer_sum=settings.weighted_layer_sum,
    )
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = Dropout
    encoder = model.base_model
    layers = encoder.encoder.layers
    if settings.frozen_layers > len(layers):
        raise UserError(f"frozen_layers = {settings.frozen_layers}: {settings.checkpoint} has {len(layers)} layers")
    if settings.freeze_cnn:
        encoder.feature_extractor.requires_grad_(False)
    if settings.frozen_layers:  # what lies below them would get its gradient through them: frozen as well
        for module in (encoder.feature_projection, encoder.encoder.pos_conv_embed, *layers[: settings.frozen_layers]):
            module.requires_grad_(False)
        if hasattr(encoder, "masked_spec_embed"):
            encoder.masked_spec_embed.requires_grad_(False)
    return model


def mixed_precision(wanted: str) -> str:
    """What Accelerate calls the precision `wanted` (auto, fp32, bf16) on this machine: `no` or `bf16`."""
    if wanted == "auto":
        gpu = torch.cuda.is_available()
        native = torch.cuda.is_bf16_supported(including_emulation=False) if gpu else torch.cpu.get_capabilities().get("avx512_bf16")
        wanted = "bf16" if native else "fp32"
    return {"fp32": "no", "bf16": "bf16"}[wanted]


def quiet() -> None:
    """Keep transformers and datasets from printing: the stages say themselves what they do, and the head is new on purpose."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    huggingface_hub.logging.set_verbosity_error()
    datasets.disable_progress_bars()


def attention(module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, **options):
    """transformers' SDPA, but in half precision on CPUs its plain products, which take half the time there (torch 2.13)."""
    if query.device.type != "cpu" or query.dtype == torch.float32:
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    if mask is not None:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, torch.finfo(query.dtype).min)
    return eager_attention_forward(module, query, key, value, mask, **options)


transformers.AttentionInterface.register("products_on_cpu", attention)
transformers.AttentionMaskInterface.register("products_on_cpu", sdpa_mask)


class Dropout(nn.Dropout):
    """torch's dropout, but on CPUs with random bytes from NumPy's global generator: torch's own draws take a twelfth of a training.

    The rate is rounded to 1/256.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """`values` with a share `p` of them zero and the others that much larger, when training."""
        dropped = min(round(256 * self.p), 255)
        if values.device.type != "cpu" or not self.training or not dropped:
            return super().forward(values)
        drawn = torch.frombuffer(bytearray(np.random.bytes(values.numel())), dtype=torch.uint8).view(values.shape)
        return values * (drawn >= dropped) * (256 / (256 - dropped))


class Classifier(nn.Module):
    """A transformers model for audio classification with an exact way to batch.

    The base checkpoints normalise over time inside their CNN, so a padded clip would get other features than the same clip alone.
    Here the CNN sees unpadded clips (or is skipped, when its output was computed before), and only its output is padded, under a
    mask that counts frames: every clip's logits equal those of transformers' own forward pass of that clip alone.
    """

    def __init__(self, model: transformers.PreTrainedModel):
        super().__init__()
        self.model = model
        if model.config._attn_implementation == "sdpa":
            model.set_attn_implementation("products_on_cpu")
        self.cnn = model.base_model.feature_extractor
        # Convolutions and layer norm see no further than their own frame: only group norm, over time, minds padding.
        self.minds_padding = any(isinstance(module, nn.GroupNorm) for module in self.cnn.modules())
        self.cnn._requires_grad = False  # of its input, which transformers wants for gradient checkpointing: nobody needs it here
        self.frames = model._get_feat_extract_output_lengths
        # From here on the model takes features for samples, and a mask of frames for a mask of samples.
        model.base_model.feature_extractor = nn.Identity()
        for part in (model, model.base_model):
            part._get_feat_extract_output_lengths = lambda lengths, add_adapter=None: lengths

    def forward(self, clips: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Logits of the emotions, shape (batch, 8).

        Args:
            clips: samples, shape (batch, samples), or the CNN's output, shape (batch, frames, channels); padded at the end.
            lengths: samples or frames of each clip without padding, shape (batch,).
        """
        features = clips
        if clips.ndim == 2 and self.minds_padding:
            parts = [self.cnn(clip[None, :length])[0].T for clip, length in zip(clips, lengths.tolist(), strict=True)]
            features, lengths = pad_sequence(parts, batch_first=True), self.frames(lengths)
        elif clips.ndim == 2:
            features, lengths = self.cnn(clips).transpose(1, 2), self.frames(lengths)
        mask = torch.arange(features.shape[1], device=features.device) < lengths[:, None]
        return self.model(features.transpose(1, 2), attention_mask=mask).logits

    def save(self, folder: Path) -> None:
        """Write the model as transformers' own, CNN included."""
        self.model.base_model.feature_extractor = self.cnn
        self.model.save_pretrained(folder)
        self.model.base_model.feature_extractor = nn.Identity()


class Clips:
    """The clips that `w2v_features` stored: samples, or the CNN's output, memory-mapped. A clip's number is its row.

    Attributes:
        names: of the clips, ascending.
        lengths: samples or frames of each clip, shape (clips,).
    """

    def __init__(self, path: Path, channels: int | None):
        """Open the Arrow file `path`; `channels` of the CNN's output, None for samples."""
        self.table = datasets.Dataset.from_file(str(path)).with_format("numpy")
        self.names, self.lengths = list(self.table["clip"]), np.asarray(self.table["length"])
        self.shape = () if channels is None else (channels,)

    def batch(self, numbers: Sequence[int], speed: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """The clips of these numbers as one tensor, shape (batch, longest) or (batch, longest, channels), and their lengths.

        Args:
            speed: of samples: each clip is played up to this share faster or slower, drawn from NumPy's global generator. That
                changes pitch, formants and tempo: a voice that the corpus has not. Source: Ko et al. (2015), "Audio augmentation
                for speech recognition".
        """
        values = [self.table[int(number)]["values"].reshape(-1, *self.shape) for number in numbers]
        if speed:
            values = [respeed(samples, (1 + speed) ** np.random.uniform(-1, 1)) for samples in values]
        lengths = torch.tensor([len(one) for one in values])
        clips = torch.zeros(len(values), lengths.max(), *self.shape)
        for row, one in enumerate(values):
            clips.numpy()[row, : len(one)] = one
        return clips, lengths


def respeed(samples: np.ndarray, factor: float) -> np.ndarray:
    """Samples of a clip played `factor` times as fast, shape (about n / factor,), interpolated in straight lines."""
    return np.interp(np.arange(0, len(samples) - 1, factor), np.arange(len(samples)), samples)
