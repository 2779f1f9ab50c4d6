"""Compute once what stays the same in every epoch, fold and experiment: the frozen CNN's output for
each clip, or its samples.

The CNN takes each clip alone and unpadded, since the base checkpoints normalise over time.

Reads:  data/audio/*.wav, data/checkpoint, params `freeze_cnn` and `trim_db`
Writes: data/features/clips.arrow: clip, length, values; a row per clip, sorted by clip. With a
        frozen CNN `length` counts frames and `values` are its output, float32, frame by frame; else
        `length` counts samples and `values` are these, level-normalised if the checkpoint's
        preprocessor wants that.
"""

from pathlib import Path

from tqdm import tqdm

from ser import audio, params
from ser.encoder import checkpoint, clips
from ser.run import errors, outputs


@errors.one_line
def main() -> None:
    """Run over every clip."""
    checkpoint.quiet()
    paths = tqdm(
        sorted(Path("data/audio").glob("*.wav")), desc="features", unit="clip", mininterval=1
    )
    with outputs.whole("data/features") as folder:
        folder.mkdir()
        clips.write(
            folder / "clips.arrow",
            ((path.stem, audio.read(path)) for path in paths),
            Path("data/checkpoint"),
            params.load(),
        )


if __name__ == "__main__":
    main()
