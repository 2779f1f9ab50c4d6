"""Write the metadata.csv of a published corpus, from its file names.

    python -m commands.describe emodb|crema-d|tess|savee|ravdess FOLDER

Then `corpus: FOLDER` in params.yaml has the pipeline run on it; docs/corpora.md says more.

Reads:  names of the recordings in FOLDER and in the folders within it; for CREMA-D also
            VideoDemographics.csv, if it lies there
Writes: FOLDER/metadata.csv: file_name, label, speaker, and what else the names say
"""

import argparse
import sys
from pathlib import Path

from ser.corpora import folder as own
from ser.corpora import known
from ser.run import errors, outputs


@errors.one_line
def main() -> None:
    """Read the names, write the table, say what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", choices=list(known.CORPORA))
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    corpus = known.CORPORA[options.corpus]
    if not options.folder.is_dir():
        raise errors.UserError(f"{options.folder}: no such folder")
    path = options.folder / own.METADATA
    if path.exists():
        raise errors.UserError(f"{path}: is there already; move it away to have it written anew")
    table = known.table(corpus, options.folder)
    with outputs.whole(path) as part:
        table.to_csv(part, index=False, lineterminator="\n")
    print(f"{corpus.title}: {len(table)} recordings, {table['speaker'].nunique()} speakers")
    for label, clips in table["label"].value_counts().items():
        print(f"  {label}: {clips}")
    if len(table) != corpus.clips:
        print(
            f"describe: {options.folder}: {len(table)} of the {corpus.clips} published recordings",
            file=sys.stderr,
        )
    if options.corpus == "crema-d" and "gender" not in table:
        print(
            f"describe: no {known.DEMOGRAPHICS} in {options.folder}: gender stays unknown",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
