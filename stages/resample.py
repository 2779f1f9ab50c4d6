"""Decode every clip with FFmpeg to 16 kHz, mono, as the encoders expect it.

Reads:  data/clips.csv, data/raw
Writes: data/audio/CLIP.wav: 16 kHz, mono, PCM_16; on stderr a line for each clip of which something
            could not be read
"""

import sys
from pathlib import Path

from ser import audio, corpus, tables
from ser.run import errors, outputs, parallel

RAW = Path("data/raw")


def resample(job: tuple[int, Path, Path]) -> list[str]:
    """Decode an audio file to a 16 kHz mono WAV file; a mistake is told with its line in the table
    of clips. Returns what `audio.decode` notes."""
    line, source, target = job
    try:
        samples, notes = audio.decode(source)
    except errors.UserError as error:
        raise errors.UserError(f"{corpus.CLIPS}, line {line}: {error}") from None
    audio.write(target, samples)
    return notes


@errors.one_line
def main() -> None:
    """Resample all clips on all cores."""
    clips = tables.clips()
    with outputs.whole("data/audio") as folder:
        folder.mkdir()
        jobs = [
            (line, RAW / row.file, folder / f"{row.clip}.wav")
            for line, row in enumerate(clips.itertuples(), start=2)
        ]
        noted = parallel.over(resample, jobs, "resample")
        for (_, source, _), notes in zip(jobs, noted, strict=True):
            for note in notes:
                print(f"resample: {source}: {note}", file=sys.stderr)


if __name__ == "__main__":
    main()
