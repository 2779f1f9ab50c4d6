"""Decode every clip with FFmpeg to 16 kHz, mono, as the encoders expect it.

Reads:  data/clips.csv, data/raw
Writes: data/audio/CLIP.wav: 16 kHz, mono, PCM_16
"""

from pathlib import Path

from ser import audio, tables
from ser.run import errors, outputs, parallel


RAW = Path("data/raw")


def resample(job: tuple[Path, Path]) -> None:
    """Decode `job[0]`, any audio file, to `job[1]`, a 16 kHz mono WAV file."""
    source, target = job
    audio.write(target, audio.decode(source))


@errors.one_line
def main() -> None:
    """Resample all clips on all cores."""
    with outputs.whole("data/audio") as folder:
        folder.mkdir()
        parallel.over(
            resample,
            [(RAW / row.file, folder / f"{row.clip}.wav") for row in tables.clips().itertuples()],
            "resample",
        )


if __name__ == "__main__":
    main()
