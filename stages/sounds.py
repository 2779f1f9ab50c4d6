"""Encode every clip for the page of results, as sound, spectrogram and loudness.

Reads:  data/audio/*.wav
Writes: data/sounds.parquet: a row per clip, sorted by clip: clip; sound, Opus in WebM; picture, the
            spectrogram as WebP; loudness, of equal parts of the clip, in dB relative to full scale.
        With the table's `attrs`: quietest, what loudness begins at
"""

from pathlib import Path

import pandas as pd

from ser import audio, corpus
from ser.report import clips
from ser.run import errors, outputs, parallel


def encode(path: Path) -> dict[str, object]:
    """A clip's row."""
    samples = audio.read(path)
    return {
        "clip": path.stem,
        "sound": clips.opus(samples),
        "picture": clips.spectrogram(samples),
        "loudness": clips.loudness(samples),
    }


@errors.one_line
def main() -> None:
    """Encode all clips on all cores, write the table."""
    table = pd.DataFrame(parallel.over(encode, corpus.files("data/audio"), "sounds"))
    table.attrs = {"quietest": clips.QUIETEST}
    with outputs.whole("data/sounds.parquet") as path:
        table.to_parquet(path, index=False)
    print(f"{len(table)} clips, {table['sound'].map(len).sum() / 1e6:.1f} MB of sound")


if __name__ == "__main__":
    main()
