"""A pretrained encoder, whatever its family, as training, embedding and prediction use it."""

import abc
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

from ser import audio
from ser.encoder import layers
from ser.params import Params
from ser.run.errors import UserError

# The parts of transformers' classifiers that sit on the encoder: new in a pretrained checkpoint.
HEAD = ("projector.", "classifier.", "layer_weights")
HEAD_FILE = "head.safetensors"  # in a model's folder: another head than transformers' own


class HiddenStates(NamedTuple):
    """Hidden states of a batch of clips.

    Attributes:
        layers: what enters the first transformer layer, then what each layer makes of it; a tensor
            of shape (batch, frames, width) each. What stands behind a clip's own frames is
            undefined.
        last: what transformers' classifiers look at, (batch, frames, width): the last of `layers`,
            in some models after one more layer norm.
        mask: True for a clip's own frames, (batch, frames).
    """

    layers: tuple[torch.Tensor, ...]
    last: torch.Tensor
    mask: torch.Tensor


class Encoder(nn.Module, abc.ABC):
    """An encoder under a head for labels, with an exact way to batch: what comes out for a
    clip does not depend on what it is batched with.

    The head is transformers' own, or one in `head`.

    A family of encoders is a subclass, in a file of its own; `checkpoint.FAMILIES` lists them. It
    takes clips as *inputs*: what stays the same for a clip in every epoch, computed by `prepare`
    for the clip alone. Everything else works on padded batches of inputs.

    Attributes:
        TYPES: values of `model_type` in config.json that belong to the family.
        OTHER_WEIGHTS: parts of the names of tensors that checkpoints hold beside the encoder: heads
            of pretraining and of speech recognition.
        LEFT_OUT: beginnings of names of tensors that are not even copied from a checkpoint.
        OTHER_PIPELINE: why transformers' pipeline gives other answers than this class with
            transformers' own head; None if it gives the same.
        model: transformers' model for audio classification.
        layers: its transformer layers, in order.
        cnn: the convolutions, where they see the clip itself and can be skipped; else None.
        below: modules and parameters that come before the layers, but for `cnn`.
        head: a module from `HiddenStates` to logits, in place of transformers' own head; None: that
            one is used.
        head_dropout: before the last layer of transformers' own head.
        draws: the random numbers of training, see ser/finetune/draws.py; None outside of it.
        width: channels of a hidden state.
        shortest, longest: samples that a clip may have; `longest` is None where there is no limit.
    """

    TYPES: ClassVar[tuple[str, ...]]
    OTHER_WEIGHTS: ClassVar[tuple[str, ...]]
    LEFT_OUT: ClassVar[tuple[str, ...]] = ()
    OTHER_PIPELINE: ClassVar[str | None] = None

    model: Any  # transformers' own: its parts are known at run time only
    layers: list[nn.Module]
    below: list[nn.Module | nn.Parameter]
    shortest: int
    longest: int | None = None

    def __init__(
        self,
        model: transformers.PreTrainedModel,
        extractor: Any,
        name: str,
        freeze_cnn: bool,
        head: Callable[[int, int, int, float], nn.Module] | None = None,
        head_dropout: float = 0.0,
        draws: Any = None,
    ):
        """Wrap `model`.

        Args:
            extractor: the checkpoint's feature extractor.
            name: of the checkpoint, for messages.
            freeze_cnn: whether what comes before the transformer layers' own inputs, the
                convolutions, stays as it is.
            head: makes `head` of the numbers of layers, of their channels and of labels, and
                `head_dropout`; None: transformers' own head.
            head_dropout: share of the last linear layer's inputs that are zero in training.
            draws: the attribute.
        """
        super().__init__()
        self.model, self.extractor, self.name = model, extractor, name
        self.freeze_cnn, self.draws = freeze_cnn, draws
        self.head_dropout = nn.Dropout(head_dropout)
        self.cnn: Any = None
        self.head: Any = None
        self.width = model.config.hidden_size
        if model.config._attn_implementation == "sdpa":
            model.set_attn_implementation(layers.ATTENTION)
        self.adapt(model)
        if head:
            for parameter in self.parameters_of_head():
                parameter.requires_grad_(False)
            labels = len(model.config.id2label or ())
            self.head = head(len(self.layers), self.width, labels, head_dropout)

    @abc.abstractmethod
    def adapt(self, model: Any) -> None:
        """Prepare `model` for padded batches of inputs, and set the attributes that depend on its
        architecture: `layers`, `cnn`, `below`, `shortest`, `longest`."""

    @staticmethod
    @abc.abstractmethod
    def problem(config: Any, extractor: Any) -> str | None:
        """The reason why a checkpoint of this family, with this configuration and feature
        extractor, does not fit; None if it does."""

    @staticmethod
    def start(model: Any) -> None:
        """Improve on transformers' random weights of a model to be trained from scratch."""

    @staticmethod
    @abc.abstractmethod
    def regularisation(settings: Params) -> tuple[dict[str, object], list[str]]:
        """Regularisation as the params have it.

        Returns:
            the fields of the model's configuration for it, and a line for each knob that is set but
            would do harm, and is ignored.
        """

    def check_length(self, clip: str, samples: int) -> None:
        """Refuse a clip, called `clip`, that is too short or too long.

        Raises:
            UserError: says so.
        """
        if samples < self.shortest:
            raise UserError(f"{clip}: {samples} samples are too short for a frame of {self.name}")
        if self.longest and samples > self.longest:
            raise UserError(
                f"{clip}: {samples / audio.SAMPLE_RATE:.1f} s long; "
                f"{self.name} hears {self.longest / audio.SAMPLE_RATE:g} s at most"
            )

    @abc.abstractmethod
    def prepare(self, samples: np.ndarray) -> np.ndarray:
        """The encoder's input for a clip: what stays the same in every epoch.

        Args:
            samples: float32 in [-1, 1], shape (n,), 16 kHz, `shortest` to `longest` of them.

        Returns:
            float32, shape (length,) or (length, channels).
        """

    @abc.abstractmethod
    def frames(self, lengths: torch.Tensor) -> torch.Tensor:
        """Frames that the layers see of inputs of these lengths, both of shape (batch,)."""

    @abc.abstractmethod
    def hidden_states(self, inputs: torch.Tensor, lengths: torch.Tensor) -> HiddenStates:
        """The hidden states of all layers. In training mode with the regularisation that the
        model's configuration says.

        Args:
            inputs: padded with zeros at the end, shape (batch, longest) or (batch, longest,
                channels).
            lengths: of the inputs without padding, int64, shape (batch,); on the CPU, so that no
                GPU is waited for.
        """

    def forward(self, inputs: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Logits of the labels, shape (batch, labels), by `head`, or by transformers' own: a
        projection, the mean over frames, a linear layer. Arguments as of `hidden_states`."""
        states = self.hidden_states(inputs, lengths)
        if self.head is not None:
            return self.head(states)
        hidden = states.last
        if self.model.config.use_weighted_layer_sum:
            shares = self.model.layer_weights.softmax(-1)
            hidden = sum(share * layer for share, layer in zip(shares, states.layers, strict=True))
        pooled = mean(self.model.projector(hidden), states.mask)
        return self.model.classifier(self.head_dropout(pooled))

    def hidden_frames(self, frames: torch.Tensor) -> torch.Tensor:
        """True where SpecAugment hides frames of clips that have so many, on the CPU; shape (batch,
        the most)."""
        config = self.model.config
        return self.draws.spans(
            frames, config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks
        )

    def hide_channels(self, values: torch.Tensor) -> torch.Tensor:
        """`values`, (batch, frames, channels), with zeros in the channels that SpecAugment
        hides.

        Raises:
            UserError: its spans are wider than that.
        """
        config = self.model.config
        if not config.mask_feature_prob:
            return values
        if config.mask_feature_length > values.shape[2]:
            raise UserError(
                f"mask_feature_length = {config.mask_feature_length}: {self.name} has "
                f"{values.shape[2]} channels to hide"
            )
        spans = self.draws.spans(
            torch.full((len(values),), values.shape[2]),
            config.mask_feature_prob,
            config.mask_feature_length,
            config.mask_feature_min_masks,
        )
        return values.masked_fill(spans[:, None], 0)

    def freeze(self, count: int) -> None:
        """Keep the first `count` layers, and what lies below, as they are.

        Raises:
            UserError: there are fewer layers, or the CNN below them is to be trained.
        """
        if count > len(self.layers):
            raise UserError(f"frozen_layers = {count}: {self.name} has {len(self.layers)} layers")
        if count and not self.freeze_cnn:
            raise UserError(
                f"frozen_layers = {count}: needs freeze_cnn: true, since what lies below frozen "
                "layers stays as well"
            )
        if count:  # what lies below them would get its gradient through them
            for part in (*self.below, *self.layers[:count]):
                part.requires_grad_(False)

    def parameters_of_head(self) -> list[nn.Parameter]:
        """The parameters of the head that is used."""
        if self.head is not None:
            return list(self.head.parameters())
        named = self.model.named_parameters()
        return [parameter for name, parameter in named if name.startswith(HEAD)]

    @property
    def not_pipeline(self) -> str | None:
        """The reason for which transformers' pipeline gives another answer for a saved model than
        this class; None if it gives the same."""
        if self.head is not None:
            return "it does not know a head that looks at all layers"
        return self.OTHER_PIPELINE

    def save(self, folder: Path) -> None:
        """Write the model, and what prepares its input, as transformers' own; and `head` beside
        them, in HEAD_FILE, in place of transformers' own head."""
        if self.head is None:
            self.model.save_pretrained(folder)
        else:
            state = self.model.state_dict()
            encoder = {name: state[name] for name in state if not name.startswith(HEAD)}
            self.model.save_pretrained(folder, state_dict=encoder)
            save_file(self.head.state_dict(), folder / HEAD_FILE)
        self.extractor.save_pretrained(folder)


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`tensor` on `device`, without waiting for what a GPU is still doing."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def mask_of(lengths: torch.Tensor, device: torch.device) -> torch.Tensor:
    """True for the frames of each clip, shape (batch, the longest), on `device`."""
    return send(torch.arange(int(lengths.max())) < lengths.cpu()[:, None], device)


def mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean over the frames that `mask`, (batch, frames), leaves of `values`, (batch, frames,
    channels): (batch, channels)."""
    return values.masked_fill(~mask[..., None], 0).sum(1) / mask.sum(1, keepdim=True)


def mean_and_deviation(
    values: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (of the population, 1e-6 at least) over the frames that `mask`
    leaves, each of shape (batch, channels)."""
    centre = mean(values, mask)
    variance = mean((values - centre[:, None]).square(), mask)
    return centre, variance.clamp(min=1e-12).sqrt()
