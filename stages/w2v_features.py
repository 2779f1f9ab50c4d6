"""Compute once what stays the same for a clip in every epoch, fold and experiment: what the encoder
takes for input.

Each clip is prepared alone and unpadded: by the frozen CNN of wav2vec 2.0 and its kin, whose base
checkpoints normalise over time, or as a log-mel spectrogram for Whisper.

With `speeds`, each clip is stored as it is and played faster or slower: as many new voices, which
training draws from.

Reads:  data/audio/*.wav, data/checkpoint, params `freeze_cnn`, `speeds` and `trim_db`
Writes: data/features/clips.arrow: clip, speed, length, values; a row per clip and speed, sorted by
        clip, the clip as it is (speed 1) first.
        `values` are float32, frame by frame, and `length` counts the frames:
          wav2vec 2.0 and its kin, CNN frozen    the CNN's output, a frame per 20 ms
          the same, CNN trained                  samples, level-normalised if the checkpoint's
                                                 preprocessor wants that
          Whisper                                log-mel spectrogram, a frame per 10 ms
"""

from itertools import chain
from pathlib import Path

import librosa
import numpy as np
import torch

from ser import audio, corpus, params
from ser.encoder import checkpoint
from ser.finetune import clips
from ser.run import errors, outputs, parallel, resources

CHECKPOINT = Path("data/checkpoint")


class Preparer:
    """Prepares clips, one at a time, at all speeds."""

    def __init__(self, settings: params.Params):
        """Load the encoder, onto a GPU if there is one."""
        checkpoint.quiet()
        self.settings = settings
        self.encoder = checkpoint.load(CHECKPOINT, settings.checkpoint, 0, settings.freeze_cnn)
        self.encoder.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self.speeds = sorted(settings.speeds, key=lambda speed: (speed != 1, speed))

    def __reduce__(self) -> tuple:
        """Sent to another process it is loaded there anew: PyTorch's modules can't all be sent."""
        return Preparer, (self.settings,)

    def __call__(self, path: Path) -> list[tuple[str, float, np.ndarray]]:
        """Name, speed and values of the clip in the file `path`, a row per speed."""
        samples = audio.read(path)
        if self.settings.trim_db:
            samples, _ = librosa.effects.trim(samples, top_db=self.settings.trim_db)
        rows = []
        for speed in self.speeds:
            changed = samples if speed == 1 else clips.respeed(samples, speed)
            self.encoder.check_length(path.stem, len(changed))
            rows.append((path.stem, speed, self.encoder.prepare(changed)))
        return rows


@errors.one_line
def main() -> None:
    """Run over every clip, on all cores or one GPU."""
    settings = params.load()
    if settings.freeze_cnn and checkpoint.weights(CHECKPOINT) is None:
        raise errors.UserError(
            f"freeze_cnn = true: {settings.checkpoint} has no weights to freeze; "
            "from scratch, -S freeze_cnn=false"
        )
    prepare = Preparer(settings)
    torch.set_num_threads(1)  # every core has a clip of its own

    with outputs.whole("data/features") as folder:
        folder.mkdir()
        prepared = parallel.streamed(prepare, corpus.files("data/audio"), "w2v_features")
        clips.write(folder / "clips.arrow", chain.from_iterable(prepared))
    resources.note("data/features/clips.arrow")


if __name__ == "__main__":
    main()
