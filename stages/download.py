"""Fetch RAVDESS, take a folder of one's own recordings, or make the demo corpus; check every file
of it, and describe it.

Reads:  RAVDESS: the zip or folder that the environment's RAVDESS_ARCHIVE names, or else Zenodo, or
            a mirror of it that RAVDESS_URL names; ser/corpora/ravdess.md5: md5 and name of each of
            the 1440 files
        a folder: its metadata.csv, and the recordings that stand there
        params `corpus`, `demo`
Writes: data/raw/: the recordings, as they are
        data/clips.csv: clip, file, speaker, label, and what else the corpus knows of a clip; a row
            per clip
        metrics/corpus.json: clips, speakers, seconds, sample_rate (Hz; of several the most
            frequent), stereo_files, duplicates (pairs of files with the same content)
        metrics/corpus.csv: label, clips, speakers, seconds; a row per label
        the user's cache folder, ~/.cache/ravdess/ on Linux: the downloaded archive, for the next
            time
"""

from pathlib import Path

import pandas as pd
import pooch

from ser import audio, corpus, params
from ser.corpora import folder as own
from ser.corpora import ravdess, synthesis
from ser.run import errors, outputs, parallel, project


def measure(folder: Path, clips: pd.DataFrame) -> pd.DataFrame:
    """`corpus.COLUMNS` with what the files in a folder say of themselves: seconds, rate (Hz),
    channels, md5."""
    paths = [folder / file for file in clips["file"]]
    facts = parallel.over(audio.facts, paths, None)
    columns = ["seconds", "rate", "channels"]
    measured = clips[list(corpus.COLUMNS)].join(pd.DataFrame(facts, clips.index, columns))
    return measured.assign(md5=[pooch.file_hash(str(path), alg="md5") for path in paths])


def figures(clips: pd.DataFrame) -> dict[str, float]:
    """The figures of metrics/corpus.json, from the table of `measure`."""
    alike = clips["md5"].value_counts()
    return {
        "clips": len(clips),
        "speakers": clips["speaker"].nunique(),
        "seconds": round(clips["seconds"].sum(), 2),
        "sample_rate": int(clips["rate"].mode()[0]),
        "stereo_files": int((clips["channels"] == 2).sum()),
        "duplicates": int((alike * (alike - 1) // 2).sum()),
    }


def by_label(clips: pd.DataFrame) -> pd.DataFrame:
    """The table of metrics/corpus.csv: clips, speakers and seconds per label."""
    table = clips.groupby("label", sort=False).agg(
        clips=("clip", "size"), speakers=("speaker", "nunique"), seconds=("seconds", "sum")
    )
    return table.round(2)


@errors.one_line
def main() -> None:
    """Make, fetch or copy the corpus and describe it."""
    settings = params.load()
    source = ravdess.locate() if settings.corpus == "ravdess" else None
    with outputs.together() as output:
        folder = output("data/raw")
        if source:
            print(f"Reading {source}", flush=True)
            manifest = ravdess.read_manifest(ravdess.MANIFEST)
            ravdess.unpack(source, folder, manifest)
            clips = ravdess.table(manifest)
        elif settings.corpus == "demo":
            synthesis.write(folder, settings.demo.takes, settings.demo.seconds)
            files = [path.relative_to(folder).as_posix() for path in folder.rglob("*.wav")]
            clips = ravdess.table(files)
        else:
            home = project.local_folder(settings.corpus) or Path(settings.corpus)
            clips = own.read(home)
            own.copy(home, folder, clips["file"].to_list())
        clips.to_csv(output(corpus.CLIPS), index=False, lineterminator="\n")
        measured = measure(folder, clips)
        outputs.write_json(output("metrics/corpus.json"), figures(measured))
        by_label(measured).to_csv(output("metrics/corpus.csv"), lineterminator="\n")
    minutes = measured["seconds"].sum() / 60
    title = corpus.title(settings.corpus)
    speakers = clips["speaker"].nunique()
    print(f"{title}: {len(clips)} clips of {speakers} speakers, {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
