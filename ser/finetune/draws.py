"""What training draws at random inside an encoder: for each clip from a generator of its own, so
that what becomes of a clip does not depend on what it is batched with, nor on where."""

import numpy as np
import torch
from torch import nn
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

from ser.finetune.clips import send

ODD = -1640531535  # 2^32 over the golden ratio, as a signed number


class Draws:
    """The random numbers of one batch.

    Attributes:
        generators: one per clip; empty: nothing is drawn.
        keys: a random number for each frame of each clip, int32, shape (clips, frames).
    """

    def __init__(self) -> None:
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

    def end(self) -> None:
        """Nothing is drawn from here on."""
        self.generators = []

    def spans(self, lengths: torch.Tensor, share: float, length: int, least: int) -> torch.Tensor:
        """Places that SpecAugment hides, True, shape (clips, the longest), where the batch is.

        Args:
            lengths: places of each clip, on the CPU.
            share: of a clip's places, about.
            length: of a span, in places.
            least: spans in a clip.

        Source: Park et al. (2019), "SpecAugment"; the draws are transformers'.
        """
        hidden = torch.zeros(len(lengths), int(lengths.max()), dtype=torch.bool)
        for row, places in enumerate(lengths.tolist()):
            # transformers draws from NumPy's global one
            np.random.seed(self.generators[row].integers(2**32))
            drawn = _compute_mask_indices((1, places), share, length, min_masks=least)
            hidden[row, :places] = torch.from_numpy(drawn[0])
        return send(hidden, self.keys.device)


class Dropout(nn.Dropout):
    """torch's dropout, but of each value it is decided by a hash of its clip's and frame's key and
    of its channel: the same on every device, in every batch; and on CPUs faster than torch's.

    Values are (clips, frames, channels), or (clips, channels), which take the key of the first
    frame. Where nothing is drawn, as outside of training, it is torch's own.
    """

    draws: Draws
    number: int  # of this module in its model: another one, other decisions

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """`values` with a share `p` of them zero and the others that much larger, when training."""
        if not (self.training and self.p and self.draws.generators):
            return super().forward(values)
        keys, channels = self.draws.keys, self.channels(values.shape[-1], values.device)
        mixed = (keys[:, :1] if values.ndim == 2 else keys[..., None]) * channels
        mixed ^= mixed >> 13
        mixed *= ODD
        return values * (mixed >= round(self.p * 2**32) - 2**31) * (1 / (1 - self.p))

    def channels(self, count: int, device: torch.device) -> torch.Tensor:
        """An odd random number for each channel, int32, always the same."""
        if not hasattr(self, "odd"):
            drawn = np.random.default_rng(self.number).integers(-(2**31), 2**31, count, np.int32)
            self.odd = torch.from_numpy(drawn | 1).to(device)
        return self.odd


def replace_dropout(model: nn.Module) -> Draws:
    """Make every dropout in `model` one that draws from what is returned."""
    draws = Draws()
    for number, module in enumerate(model.modules()):
        if type(module) is nn.Dropout:
            module.__class__ = Dropout
            module.__dict__.update(draws=draws, number=number)
    return draws
