"""Embeddings of a clip: mean and standard deviation over time of a frozen encoder's hidden
layers."""

import hashlib
from pathlib import Path

import librosa
import numpy as np
import torch

from ser.encoder import checkpoint
from ser.encoder.families.encoder import mean_and_deviation
from ser.params import Embed
from ser.run.errors import UserError


class Embedder:
    """Embeds clips, one at a time: unpadded, without the silence at their ends.

    Attributes:
        columns: names of the features: `layer0_mean_000`, …, `layer0_std_000`, …,
            `layer1_mean_000`, …; layer 0 is what enters the first transformer layer.
        origin: all that the features depend on beside the clip: `checkpoint`, a hash of the
            encoder's files, and the `trim_db` and `seed` of `settings`.
    """

    def __init__(self, folder: Path, name: str, settings: Embed):
        """Load the encoder in `folder`, which messages call `name`, onto a GPU if there is one.

        An encoder without weights gets random ones, drawn from `settings.seed`.

        Raises:
            UserError: it does not fit.
        """
        self.arguments = folder, name, settings
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.encoder = checkpoint.load(folder, name, settings.seed).to(device)
        self.trim_db = settings.trim_db
        width, layers = self.encoder.width, len(self.encoder.layers) + 1
        digits = max(3, len(str(width - 1)))
        self.columns = [
            f"layer{layer}_{statistic}_{channel:0{digits}}"
            for layer in range(layers)
            for statistic in ("mean", "std")
            for channel in range(width)
        ]
        self.origin = {"checkpoint": digest(folder), **settings.model_dump()}

    @classmethod
    def like(cls, origin: dict, folder: Path, name: str) -> "Embedder":
        """The one that a model's training clips were embedded with, by its `origin`.

        Raises:
            UserError: `folder` holds another encoder by now.
        """
        if not folder.exists() or digest(folder) != origin["checkpoint"]:
            raise UserError(
                f"{folder}: not the encoder that the probe was trained on; "
                "`dvc repro probe_train` makes them agree"
            )
        return cls(folder, name, Embed(trim_db=origin["trim_db"], seed=origin["seed"]))

    def __reduce__(self) -> tuple:
        """Sent to another process it is loaded there anew: PyTorch's modules can't all be sent."""
        return Embedder, self.arguments

    @torch.inference_mode()
    def __call__(self, samples: np.ndarray, clip: str) -> np.ndarray:
        """Features of one clip, float32, in the order of `columns`.

        Args:
            samples: float32 in [-1, 1], shape (n,), 16 kHz.
            clip: its name, for messages.

        Raises:
            UserError: too short or too long for the encoder.
        """
        if self.trim_db:
            samples, _ = librosa.effects.trim(samples, top_db=self.trim_db)
        self.encoder.check_length(clip, len(samples))
        inputs = torch.from_numpy(self.encoder.prepare(samples))[None]
        device = next(self.encoder.parameters()).device
        states = self.encoder.hidden_states(inputs.to(device), torch.tensor([inputs.shape[1]]))
        statistics = [mean_and_deviation(layer, states.mask) for layer in states.layers]
        return torch.cat([part[0] for pair in statistics for part in pair]).cpu().numpy()


def digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a checkpoint's files, 64 hex digits."""
    total = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        with file.open("rb") as stream:
            total.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
