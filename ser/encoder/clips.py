"""Clips as an encoder takes them: what stays the same in every epoch, stored once,
memory-mapped."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import datasets
import numpy as np
import soxr
import torch
from datasets import Features, List, Value
from datasets.arrow_writer import ArrowWriter

COLUMNS = Features(
    {"clip": Value("string"), "length": Value("int32"), "values": List(Value("float32"))}
)


def write(path: Path, clips: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write the Arrow file `path`: clips of a name and values, float32, shape (length,) or (length,
    channels)."""
    # `save_to_disk` would add a random fingerprint; the bare Arrow file has none, and memory-maps
    # as well.
    with ArrowWriter(features=COLUMNS, path=str(path), writer_batch_size=64) as writer:
        for name, values in clips:
            writer.write({"clip": name, "length": len(values), "values": values.ravel()})
        writer.finalize()


class Clips:
    """The clips that `w2v_features` stored, memory-mapped. A clip's number is its row.

    Attributes:
        names: of the clips, ascending.
        lengths: samples or frames of each clip, shape (clips,).
    """

    def __init__(self, path: Path):
        """Open the Arrow file `path`."""
        self.table = datasets.Dataset.from_file(str(path)).with_format("numpy")
        self.names, self.lengths = list(self.table["clip"]), np.asarray(self.table["length"])
        channels = len(self.table[0]["values"]) // int(self.lengths[0])
        self.shape = () if channels == 1 else (channels,)

    def batch(
        self,
        numbers: Sequence[int] | np.ndarray,
        change: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The clips of these numbers as one tensor, shape (batch, longest) or (batch, longest,
        channels), and their lengths, shape (batch,).

        Args:
            change: is applied to each clip's values before they are padded.
        """
        values = [self.table[int(number)]["values"].reshape(-1, *self.shape) for number in numbers]
        if change:
            values = [change(clip) for clip in values]
        lengths = torch.tensor([len(clip) for clip in values])
        clips = torch.zeros(len(values), int(lengths.max()), *values[0].shape[1:])
        for row, clip in enumerate(values):
            clips.numpy()[row, : len(clip)] = clip
        return clips, lengths


def respeed(samples: np.ndarray, factor: float) -> np.ndarray:
    """Samples of a clip played `factor` times as fast, float32, shape (about n / factor,): another
    pitch, other formants, another tempo, a voice that the corpus has not.

    Of a faster clip, what would lie above half the sampling rate is left out.

    Source: Ko et al. (2015), "Audio augmentation for speech recognition".
    """
    return soxr.resample(samples, factor, 1)
