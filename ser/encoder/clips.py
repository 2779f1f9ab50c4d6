"""Clips as an encoder takes them: what stays the same in every epoch, stored once,
memory-mapped."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import datasets
import librosa
import numpy as np
import torch
from datasets import Features, List, Value
from datasets.arrow_writer import ArrowWriter
from transformers import AutoFeatureExtractor

from ser import audio, params
from ser.encoder.checkpoint import load
from ser.run import errors

COLUMNS = Features(
    {"clip": Value("string"), "length": Value("int32"), "values": List(Value("float32"))}
)


@torch.inference_mode()
def write(
    path: Path, clips: Iterable[tuple[str, np.ndarray]], checkpoint: Path, settings: params.Params
) -> None:
    """Write the table for clips of a name and samples, float32, shape (n,), 16 kHz, to the Arrow
    file `path`.

    Raises:
        UserError: a clip is too short for the CNN to make a frame of it.
    """
    extractor = AutoFeatureExtractor.from_pretrained(checkpoint)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load(checkpoint, str(checkpoint), seed=0)
    cnn = model.base_model.feature_extractor.eval().to(device) if settings.freeze_cnn else None
    # `save_to_disk` would add a random fingerprint; the bare Arrow file has none, and memory-maps
    # as well.
    with ArrowWriter(features=COLUMNS, path=str(path), writer_batch_size=64) as writer:
        for name, samples in clips:
            if settings.trim_db:
                samples, _ = librosa.effects.trim(samples, top_db=settings.trim_db)
            if model._get_feat_extract_output_lengths(len(samples)) < 1:
                raise errors.UserError(
                    f"{name}: {len(samples)} samples are too short for a frame of {checkpoint}"
                )
            values = extractor(samples, sampling_rate=audio.SAMPLE_RATE).input_values[0]
            if cnn is not None:
                values = cnn(torch.from_numpy(values)[None].to(device))[0].T.cpu().numpy()
            writer.write({"clip": name, "length": len(values), "values": values.ravel()})
        writer.finalize()


class Clips:
    """The clips that `w2v_features` stored: samples, or the CNN's output, memory-mapped. A clip's
    number is its row.

    Attributes:
        names: of the clips, ascending.
        lengths: samples or frames of each clip, shape (clips,).
    """

    def __init__(self, path: Path, channels: int | None):
        """Open the Arrow file `path`; `channels` of the CNN's output, None for samples."""
        self.table = datasets.Dataset.from_file(str(path)).with_format("numpy")
        self.names, self.lengths = list(self.table["clip"]), np.asarray(self.table["length"])
        self.shape = () if channels is None else (channels,)

    def batch(
        self, numbers: Sequence[int], speed: float = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The clips of these numbers as one tensor, shape (batch, longest) or (batch, longest,
        channels), and their lengths.

        Args:
            speed: of samples: each clip is played up to this share faster or slower, drawn from
                NumPy's global generator. That changes pitch, formants and tempo: a voice that the
                corpus has not. Source: Ko et al. (2015), "Audio augmentation for speech
                recognition".
        """
        values = [self.table[int(number)]["values"].reshape(-1, *self.shape) for number in numbers]
        if speed:
            values = [
                respeed(samples, (1 + speed) ** np.random.uniform(-1, 1)) for samples in values
            ]
        lengths = torch.tensor([len(one) for one in values])
        clips = torch.zeros(len(values), lengths.max(), *self.shape)
        for row, one in enumerate(values):
            clips.numpy()[row, : len(one)] = one
        return clips, lengths


def respeed(samples: np.ndarray, factor: float) -> np.ndarray:
    """Samples of a clip played `factor` times as fast, shape (about n / factor,), interpolated in
    straight lines."""
    return np.interp(np.arange(0, len(samples) - 1, factor), np.arange(len(samples)), samples)
