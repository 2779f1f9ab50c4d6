"""A clip described by what a frozen encoder makes of it: mean and deviation over time of every
hidden layer."""

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
    """Describes clips, one at a time: unpadded, without the silence at their ends.

    Attributes:
        columns: names of the numbers, `layer0_mean_000`, …, `layer0_std_000`, …, `layer1_mean_000`,
            …; layer 0 is what enters the first transformer layer.
        origin: what the numbers depend on beside the clip: `checkpoint`, the encoder's files as 64
            hex digits, and the `trim_db` and `seed` of `settings`.
    """

    def __init__(self, folder: Path, name: str, settings: Embed):
        """Load the encoder in `folder`, which messages call `name`, onto a GPU if there is one.

        An encoder without weights gets random ones, drawn from `settings.seed`.

        Raises:
            UserError: it does not fit.
        """
        self.arguments = folder, name, settings
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.encoder = checkpoint.load(folder, name, settings.seed).eval().to(device)
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
        """The one that described the clips a model was trained on, by the `origin` it had.

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
        """Numbers that describe one clip, float32, in the order of `columns`.

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
        numbers = [mean_and_deviation(layer, states.mask) for layer in states.layers]
        return torch.cat([part[0] for pair in numbers for part in pair]).cpu().numpy()


def digest(folder: Path) -> str:
    """64 hex digits that stand for the files of a checkpoint, in whatever order they were
    written."""
    total = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        with file.open("rb") as stream:
            total.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
