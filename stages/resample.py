"""Decode every clip with FFmpeg to 16 kHz, mono, as the encoders expect it.

Reads:  data/raw/Actor_XX/*.wav
Writes: data/audio/*.wav: 16 kHz, mono, PCM_16, same names, one flat folder
"""

from pathlib import Path

from ser import audio, corpus
from ser.run import errors, outputs, parallel


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
            [(source, folder / source.name) for source in corpus.files("data/raw")],
            "resample",
        )


if __name__ == "__main__":
    main()
