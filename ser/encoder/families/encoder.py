"""What training, embedding and prediction ask of a pretrained encoder, whatever its family."""

from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import transformers
from torch import nn
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

from ser import audio
from ser.encoder import layers
from ser.params import Params
from ser.run.errors import UserError

# The parts of transformers' classifiers that sit on the encoder: new in a pretrained checkpoint.
HEAD = ("projector.", "classifier.", "layer_weights")


class HiddenStates(NamedTuple):
    """What an encoder makes of a batch.

    Attributes:
        layers: what enters the first transformer layer, then what each layer makes of it; a tensor
            of shape (batch, frames, width) each. What stands behind a clip's own frames is
            undefined. In training a layer that is skipped by chance (layerdrop) is missing.
        last: what transformers' classifiers look at, (batch, frames, width): the last of `layers`,
            in some models after one more layer norm.
        mask: True for a clip's own frames, (batch, frames).
    """

    layers: tuple[torch.Tensor, ...]
    last: torch.Tensor
    mask: torch.Tensor


class Encoder(nn.Module):
    """An encoder under transformers' own head for our emotions, with an exact way to batch: what
    comes out for a clip does not depend on what it is batched with.

    A family of encoders is a subclass, in a file of its own; `checkpoint.FAMILIES` lists them. It
    takes clips as *inputs*: what stays the same for a clip in every epoch, computed by `prepare`
    for the clip alone. Everything else works on padded batches of inputs.

    Attributes:
        TYPES: values of `model_type` in config.json that belong to the family.
        OTHER_WEIGHTS: parts of the names of tensors that checkpoints hold beside the encoder: heads
            of pretraining and of speech recognition.
        LEFT_OUT: beginnings of names of tensors that are not even copied from a checkpoint.
        model: transformers' model for audio classification.
        layers: its transformer layers, in order.
        below: modules and parameters that come before the layers, but for the CNN.
        width: channels of a hidden state.
        shortest, longest: samples that a clip may have; `longest` is None where there is no limit.
    """

    TYPES: ClassVar[tuple[str, ...]]
    OTHER_WEIGHTS: ClassVar[tuple[str, ...]]
    LEFT_OUT: ClassVar[tuple[str, ...]] = ()

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
    ):
        """Wrap `model`.

        Args:
            extractor: the checkpoint's feature extractor.
            name: of the checkpoint, for messages.
            freeze_cnn: whether what comes before the transformer layers' own inputs, the
                convolutions, stays as it is.
        """
        super().__init__()
        self.model, self.extractor, self.name = model, extractor, name
        self.freeze_cnn = freeze_cnn
        self.width = model.config.hidden_size
        if model.config._attn_implementation == "sdpa":
            model.set_attn_implementation(layers.ATTENTION)

    @staticmethod
    def problem(config: Any, extractor: Any) -> str | None:
        """Why a checkpoint of this family, with this configuration and feature extractor, does not
        fit; None if it does."""
        raise NotImplementedError

    @staticmethod
    def start(model: Any) -> None:
        """Improve on transformers' random weights of a model to be trained from scratch."""

    @staticmethod
    def check_speed(settings: Params) -> None:
        """Refuse a `speed` that does not go with what is stored of each clip.

        Raises:
            UserError: it does not.
        """

    @staticmethod
    def regularisation(settings: Params) -> tuple[dict[str, object], list[str]]:
        """What the params' regularisation means for this family.

        Returns:
            fields of the model's configuration that say it, and a line for each knob that is set
            but would do harm, and is ignored.

        Raises:
            UserError: knobs that exclude each other.
        """
        raise NotImplementedError

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

    def prepare(self, samples: np.ndarray) -> np.ndarray:
        """The encoder's input for a clip: what stays the same in every epoch.

        Args:
            samples: float32 in [-1, 1], shape (n,), 16 kHz, `shortest` to `longest` of them.

        Returns:
            float32, shape (length,) or (length, channels).
        """
        raise NotImplementedError

    def frames(self, lengths: torch.Tensor) -> torch.Tensor:
        """Frames that the layers see of inputs of these lengths, both of shape (batch,)."""
        raise NotImplementedError

    def hidden_states(self, inputs: torch.Tensor, lengths: torch.Tensor) -> HiddenStates:
        """The hidden states of all layers. In training mode with the regularisation that the
        model's configuration says.

        Args:
            inputs: padded with zeros at the end, shape (batch, longest) or (batch, longest,
                channels).
            lengths: of the inputs without padding, int64, shape (batch,); on the CPU, so that no
                GPU is waited for.
        """
        raise NotImplementedError

    def forward(self, inputs: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Logits of the emotions by transformers' own head, shape (batch, 8): a projection, the
        mean over frames, a linear layer. Arguments as of `hidden_states`."""
        states = self.hidden_states(inputs, lengths)
        hidden = states.last
        if self.model.config.use_weighted_layer_sum:
            shares = self.model.layer_weights.softmax(-1)
            hidden = sum(share * layer for share, layer in zip(shares, states.layers, strict=True))
        return self.model.classifier(mean(self.model.projector(hidden), states.mask))

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

    def save(self, folder: Path) -> None:
        """Write the model, and what prepares its input, as transformers' own."""
        self.model.save_pretrained(folder)
        self.extractor.save_pretrained(folder)


def mask_of(lengths: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """True for the frames of each clip, shape (batch, the longest), on `device`."""
    mask = torch.arange(int(lengths.max())) < lengths.cpu()[:, None]
    return mask.to(device, non_blocking=True)


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


def spans(
    lengths: torch.Tensor, places: int, share: float, length: int, least: int
) -> torch.Tensor:
    """Places that SpecAugment hides, True, shape (batch, places), drawn from NumPy's global
    generator.

    Args:
        lengths: places of each clip, on the CPU; nothing behind them is hidden.
        share: of a clip's places, about.
        length: of a span, in places.
        least: spans in a clip.

    Source: Park et al. (2019), "SpecAugment"; the draws are transformers'.
    """
    own: Any = torch.arange(places) < lengths[:, None]
    drawn = _compute_mask_indices((len(lengths), places), share, length, own, least)
    return torch.from_numpy(drawn)
