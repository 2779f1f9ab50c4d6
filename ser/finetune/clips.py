"""Clips as an encoder takes them: what stays the same in every epoch, stored once,
memory-mapped."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import datasets
import numpy as np
import soxr
import torch
from datasets import Features, List, Value
from datasets.arrow_writer import ArrowWriter

from ser.encoder.families.encoder import send

COLUMNS = Features(
    {
        "clip": Value("string"),
        "speed": Value("float32"),
        "length": Value("int32"),
        "values": List(Value("float32")),
    }
)


def write(path: Path, clips: Iterable[tuple[str, float, np.ndarray]]) -> None:
    """Write the Arrow file `path`: clips of a name, a speed and values, float32, shape (length,) or
    (length, channels). Every clip has the same speeds, one after the other, as it is (1) first."""
    # `save_to_disk` would add a random fingerprint; the bare Arrow file has none, and memory-maps
    # as well.
    with ArrowWriter(features=COLUMNS, path=str(path), writer_batch_size=64) as writer:
        for name, speed, values in clips:
            row = {"clip": name, "speed": speed, "length": len(values), "values": values.ravel()}
            writer.write(row)
        writer.finalize()


class Clips:
    """An encoder's inputs for the clips of a corpus, in main memory, memory-mapped, or on a GPU.

    Attributes:
        names: of the clips, ascending; a clip's number is its place here.
        speeds: that every clip is stored at; the first is 1.
        lengths: samples or frames, shape (clips, speeds).
    """

    def __init__(
        self, names: list[str], speeds: list[float], lengths: np.ndarray, rows: list[np.ndarray]
    ):
        """Take all attributes, and the values of every clip at each speed, clip by clip, flat."""
        self.names, self.speeds, self.rows = names, speeds, rows
        self.lengths = lengths.reshape(len(names), len(speeds))
        channels = len(rows[0]) // int(self.lengths[0, 0])
        self.shape = () if channels == 1 else (channels,)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths.ravel())[:-1]])  # of rows
        self.stored: torch.Tensor | None = None  # all values, one after another, on a device

    @classmethod
    def read(cls, path: Path) -> "Clips":
        """The clips in the Arrow file `path`, memory-mapped."""
        table = datasets.Dataset.from_file(str(path))
        names = list(dict.fromkeys(table["clip"][:]))
        speeds = table["speed"][: len(table) // len(names)]
        # Views of the file, without a copy: a list per row group that was written.
        rows: list[np.ndarray] = []
        for chunk in table.data.column("values").chunks:
            ends = chunk.offsets.to_numpy()
            values = chunk.values.to_numpy(zero_copy_only=True)
            rows += [values[start:end] for start, end in zip(ends, ends[1:], strict=False)]
        return cls(names, speeds, np.asarray(table["length"][:]), rows)

    def to(self, device: torch.device) -> None:
        """Move all clips to a GPU if they take at most half of the memory it has left."""
        size = sum(row.nbytes for row in self.rows)
        if device.type != "cuda" or size > torch.cuda.mem_get_info(device)[0] / 2:
            return
        self.keep(device)

    def keep(self, device: torch.device | str) -> None:
        """Move all clips to a device."""
        stored = torch.from_numpy(np.concatenate(self.rows)).view(-1, *self.shape)
        self.stored = stored.to(device)

    def batch(
        self, numbers: Sequence[int] | np.ndarray, speeds: np.ndarray | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The clips of these numbers as one tensor, padded with zeros, shape (batch, longest) or
        (batch, longest, channels), where they are stored; and their lengths, shape (batch,), on the
        CPU.

        Args:
            speeds: of each clip the place in `speeds`; None: all as they are.
        """
        numbers = np.asarray(numbers)
        speeds = np.zeros(len(numbers), int) if speeds is None else speeds
        rows = numbers * len(self.speeds) + speeds
        lengths = torch.from_numpy(self.lengths[numbers, speeds].astype(np.int64))
        if self.stored is not None:
            places = torch.arange(int(lengths.max()))
            own = places < lengths[:, None]
            places = torch.where(own, torch.from_numpy(self.starts[rows])[:, None] + places, 0)
            device = self.stored.device
            own, places = (send(tensor, device) for tensor in (own, places))
            clips = self.stored[places]
            return clips.masked_fill_(~own.view(*own.shape, *(1 for _ in self.shape)), 0), lengths
        clips = torch.zeros(len(rows), int(lengths.max()), *self.shape)
        for place, (row, length) in enumerate(zip(rows, lengths.tolist(), strict=True)):
            clips.numpy()[place, :length] = self.rows[row].reshape(-1, *self.shape)
        return clips, lengths


def respeed(samples: np.ndarray, factor: float) -> np.ndarray:
    """Samples of a clip played `factor` times as fast, float32, shape (about n / factor,): another
    pitch, other formants, another tempo, a voice that the corpus has not.

    Of a faster clip, what would lie above half the sampling rate is left out.

    Source: Ko et al. (2015), "Audio augmentation for speech recognition".
    """
    return soxr.resample(samples, factor, 1)
