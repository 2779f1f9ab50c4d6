"""Dropout and SpecAugment drawn for each clip from a generator of its own, so that a clip's result
does not depend on what it is batched with, nor on the device."""

import numpy as np
import torch
from torch import nn
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

from ser.encoder.families.encoder import send

ODD = -1640531535  # 2^32 over the golden ratio, as a signed number


class Draws:
    """The random numbers of one batch.

    Attributes:
        generators: one per clip; empty before the first batch.
        keys: a random number for each frame of each clip, int32, shape (clips, frames).
    """

    def __init__(self) -> None:
        """Begin without a batch: nothing is drawn."""
        self.generators: list[np.random.Generator] = []
        self.keys = torch.empty(0, 0, dtype=torch.int32)

    def begin(
        self, generators: list[np.random.Generator], frames: torch.Tensor, device: torch.device
    ) -> None:
        """Get ready for a batch of clips with so many frames, shape (clips,), on the CPU."""
        keys = np.zeros((len(generators), int(frames.max())), np.int32)
        for row, generator, count in zip(keys, generators, frames.tolist(), strict=True):
            row[:count] = generator.integers(-(2**31), 2**31, count, np.int32)
        self.generators, self.keys = generators, send(torch.from_numpy(keys), device)

    def spans(self, lengths: torch.Tensor, share: float, length: int, least: int) -> torch.Tensor:
        """SpecAugment's mask: True where a place is hidden, shape (clips, the longest), on the
        batch's device.

        Args:
            lengths: places of each clip, on the CPU.
            share: of a clip's places, about.
            length: of a span, in places.
            least: spans in a clip.

        Source: Park et al. (2019), "SpecAugment"; the draws are transformers'.
        """
        hidden = torch.zeros(len(lengths), int(lengths.max()), dtype=torch.bool)
        for row, places in enumerate(lengths.tolist()):
            # transformers draws from NumPy's global generator
            np.random.seed(self.generators[row].integers(2**32))
            drawn = _compute_mask_indices((1, places), share, length, min_masks=least)
            hidden[row, :places] = torch.from_numpy(drawn[0])
        return send(hidden, self.keys.device)


class Dropout(nn.Dropout):
    """Dropout by a hash of the clip's and frame's key and of the channel: the same on every device,
    in every batch; and on CPUs faster than torch's.

    Values are (clips, frames, channels), or (clips, channels), which take the key of the first
    frame. Outside of training, and before the first batch, it is torch's own.
    """

    def __init__(self, p: float, draws: Draws, number: int):
        """Drop a share `p`; modules of other numbers drop other values."""
        super().__init__(p)
        self.draws, self.number = draws, number
        self.odd: torch.Tensor | None = None  # a random odd number for each channel, int32

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """`values`, in training with a share `p` of them zero and the others scaled up."""
        if not (self.training and self.p and self.draws.generators):
            return super().forward(values)
        if self.odd is None:
            generator = np.random.default_rng(self.number)
            drawn = generator.integers(-(2**31), 2**31, values.shape[-1], np.int32)
            self.odd = send(torch.from_numpy(drawn | 1), values.device)
        keys = self.draws.keys
        mixed = (keys[:, :1] if values.ndim == 2 else keys[..., None]) * self.odd
        mixed ^= mixed >> 13
        mixed *= ODD
        return values * (mixed >= round(self.p * 2**32) - 2**31) * (1 / (1 - self.p))


def replace_dropout(model: nn.Module, draws: Draws) -> None:
    """Put a `Dropout` that takes its numbers from `draws` in the place of every torch dropout."""
    for number, (name, module) in enumerate(list(model.named_modules())):
        if type(module) is nn.Dropout:
            own = Dropout(module.p, draws, number).train(module.training)
            model.set_submodule(name, own)
