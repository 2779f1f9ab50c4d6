"""Decode every clip with FFmpeg to 16 kHz, mono, as the encoders expect it.

Reads:  data/raw/Actor_XX/*.wav
Writes: data/audio/*.wav: 16 kHz, mono, PCM_16, same names, one flat folder; on stderr a line for
            each clip of which something could not be read
"""

import sys
from pathlib import Path

from ser import audio, corpus
from ser.run import errors, outputs, parallel


def resample(job: tuple[Path, Path]) -> list[str]:
    """Decode `job[0]`, any audio file, to `job[1]`, a 16 kHz mono WAV file; return what
    `audio.decode` notes."""
    source, target = job
    samples, notes = audio.decode(source)
    audio.write(target, samples)
    return notes


@errors.one_line
def main() -> None:
    """Resample all clips on all cores."""
    with outputs.whole("data/audio") as folder:
        folder.mkdir()
        jobs = [(source, folder / source.name) for source in corpus.files("data/raw")]
        for (source, _), notes in zip(jobs, parallel.over(resample, jobs, "resample"), strict=True):
            for note in notes:
                print(f"resample: {source}: {note}", file=sys.stderr)


if __name__ == "__main__":
    main()
