"""Fetch RAVDESS (or take it from where it is, or make the demo corpus), check every file of it, and
describe it.

Reads:  the zip or folder that the environment's RAVDESS_ARCHIVE names, or else Zenodo, or a mirror
        of it that RAVDESS_URL names; ser/corpora/ravdess.md5: md5 and name of each of the 1440
        files; params `corpus`, `demo`
Writes: data/raw/Actor_XX/*.wav: the clips as published, or synthetic ones for `corpus: demo`
        metrics/corpus.json: corpus, clips, actors, seconds, sample_rate (Hz), stereo_files,
        duplicates (pairs), by_emotion ~/.cache/ravdess/ (or $XDG_CACHE_HOME/ravdess/): the
        downloaded archive, for the next time
"""

import json

from ser import params
from ser.corpora import ravdess, transfer
from ser.run import errors, outputs


@errors.one_line
def main() -> None:
    """Make or fetch the corpus, describe it, and put both in place."""
    chosen = params.load()
    source = ravdess.locate() if chosen.corpus == "ravdess" else None
    with outputs.whole("data/raw") as folder:
        if source:
            print(f"Reading {source}", flush=True)
            md5s = ravdess.read_manifest(ravdess.MANIFEST)
            ravdess.unpack(source, folder, md5s)
        else:
            from ser.corpora import synthesis  # whose SciPy takes a second to load

            synthesis.write(folder, chosen.demo.takes, chosen.demo.seconds)
            md5s = {
                path.relative_to(folder).as_posix(): transfer.checksum(path)
                for path in folder.rglob("*.wav")
            }
        description = json.dumps(ravdess.audit(folder, md5s, chosen.corpus), indent=2)
        with outputs.whole(
            "metrics/corpus.json"
        ) as report:  # in here, so that neither output appears without the other
            report.write_text(description + "\n")
    print(description)


if __name__ == "__main__":
    main()
