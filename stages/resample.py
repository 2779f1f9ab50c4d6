"""Decode every clip with FFmpeg to 16 kHz, mono, as the encoders expect it.

Reads:  data/clips.csv, data/raw
Writes: data/audio/CLIP.wav: 16 kHz, mono, PCM_16
"""

from pathlib import Path

from ser import audio, corpus, tables
from ser.run import errors, outputs, parallel

RAW = Path("data/raw")


def resample(job: tuple[int, Path, Path]) -> None:
    """Decode an audio file to a 16 kHz mono WAV file; a mistake is told with its line in the table
    of clips."""
    line, source, target = job
    try:
        samples = audio.decode(source)
    except errors.UserError as error:
        raise errors.UserError(f"{corpus.CLIPS}, line {line}: {error}") from None
    audio.write(target, samples)


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
        parallel.over(resample, jobs, "resample")


if __name__ == "__main__":
    main()
