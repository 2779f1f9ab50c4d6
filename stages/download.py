"""Fetch RAVDESS (or take a copy, or make the demo corpus), check every file of it, and describe it.

Reads:  the zip or folder that the environment's RAVDESS_ARCHIVE names, or else Zenodo, or a mirror
            of it that RAVDESS_URL names
        ser/corpora/ravdess.md5: md5 and name of each of the 1440 files
        params `corpus`, `demo`
Writes: data/raw/Actor_XX/*.wav: the clips as published, or synthetic ones for `corpus: demo`
        metrics/corpus.json: clips, speakers, seconds, sample_rate (Hz), stereo_files, duplicates
            (pairs of files with the same content)
        metrics/corpus.csv: label, clips, speakers, seconds; a row per label
        the user's cache folder, ~/.cache/ravdess/ on Linux: the downloaded archive, for the next
            time
"""

from pathlib import Path

import pandas as pd
import pooch
import soundfile

from ser import corpus, params
from ser.corpora import ravdess, synthesis
from ser.run import errors, outputs


def measure(folder: Path, md5s: dict[str, str]) -> pd.DataFrame:
    """The table of the clips in a folder, with what their headers say.

    Args:
        md5s: the md5 of every clip by its path in `folder`.

    Returns:
        the columns of `corpus.table`, and path, seconds, rate (Hz), channels, md5.
    """
    paths = pd.Series({Path(path).stem: path for path in md5s}, name="path")
    clips = corpus.table(md5s).join(paths, on="clip")
    headers = [soundfile.info(folder / path) for path in clips["path"]]
    return clips.assign(
        seconds=[header.frames / header.samplerate for header in headers],
        rate=[header.samplerate for header in headers],
        channels=[header.channels for header in headers],
        md5=clips["path"].map(md5s),
    )


def figures(clips: pd.DataFrame) -> dict[str, float]:
    """The figures of metrics/corpus.json, from the table of `measure`."""
    alike = clips["md5"].value_counts()
    [rate] = clips["rate"].unique()
    return {
        "clips": len(clips),
        "speakers": clips["speaker"].nunique(),
        "seconds": round(clips["seconds"].sum(), 2),
        "sample_rate": int(rate),
        "stereo_files": int((clips["channels"] == 2).sum()),
        "duplicates": int((alike * (alike - 1) // 2).sum()),
    }


def by_label(clips: pd.DataFrame) -> pd.DataFrame:
    """The table of metrics/corpus.csv: clips, speakers and seconds per label."""
    table = clips.groupby("label").agg(
        clips=("clip", "size"), speakers=("speaker", "nunique"), seconds=("seconds", "sum")
    )
    return table.reindex(corpus.EMOTIONS, fill_value=0).round(2)


@errors.one_line
def main() -> None:
    """Make or fetch the corpus and describe it."""
    settings = params.load()
    source = ravdess.locate() if settings.corpus == "ravdess" else None
    with outputs.together() as output:
        folder = output("data/raw")
        if source:
            print(f"Reading {source}", flush=True)
            md5s = ravdess.read_manifest(ravdess.MANIFEST)
            ravdess.unpack(source, folder, md5s)
        else:
            synthesis.write(folder, settings.demo.takes, settings.demo.seconds)
            md5s = {
                path.relative_to(folder).as_posix(): pooch.file_hash(path, alg="md5")
                for path in folder.rglob("*.wav")
            }
        clips = measure(folder, md5s)
        outputs.write_json(output("metrics/corpus.json"), figures(clips))
        by_label(clips).to_csv(output("metrics/corpus.csv"), lineterminator="\n")
    minutes = clips["seconds"].sum() / 60
    title = corpus.TITLES[settings.corpus]
    print(
        f"{title}: {len(clips)} clips of {clips['speaker'].nunique()} speakers, {minutes:.1f} minutes"
    )


if __name__ == "__main__":
    main()
