"""Run the whole pipeline on the synthetic demo corpus, as a DVC experiment in a temporary work
tree.

    python -m commands.demo

Not a stage, but what `make demo` calls. The work tree, the index and params.yaml stay as they are.

Writes: the DVC experiment `demo`; demo/ (git-ignored): its metrics and pictures, for looking at
"""

import subprocess
from pathlib import Path

from dvc.api import DVCFileSystem

from ser.report import summary
from ser.run import errors, experiments, outputs

# What differs from params.yaml. The rest of the pipeline is the one that runs on RAVDESS.
SETTINGS = (
    "corpus=demo", "folds=[0,1,2]", "checkpoint=configs/demo", "freeze_cnn=false", "precision=fp32", "lr=2e-3", "head_lr=2e-3",
    "batch_size=8", "epochs=12", "speed=0.1", "dropout=0", "mask_time_prob=0",
)  # fmt: skip

NEXT = """
These figures are of the SYNTHETIC demo corpus: they show that the pipeline works, and say nothing about human speech.

Pictures        demo/svm_confusion.png, demo/w2v_confusion.png
Go on with it   dvc exp branch demo demo && git switch demo && dvc checkout
                dvc exp run -S lr=1e-3
On to RAVDESS   make repro (fetches 200 MB from Zenodo; RAVDESS_ARCHIVE=path/to/zip/or/folder saves that)"""


@errors.one_line
def main() -> None:
    """Run the experiment, copy its metrics and pictures to demo/, print the table and what comes
    next."""
    settings = [word for setting in SETTINGS for word in ("-S", setting)]
    subprocess.run(
        ["dvc", "exp", "remove", "--quiet", "demo"],
        env=experiments.environment(),
        stderr=subprocess.DEVNULL,
        check=False,
    )
    if subprocess.run(
        ["dvc", "exp", "run", "--temp", "--name", "demo", *settings],
        env=experiments.environment(),
        check=False,
    ).returncode:
        raise errors.UserError("the pipeline stopped; the lines above say where")

    with outputs.whole("demo") as folder:
        DVCFileSystem(rev="demo").get("metrics", str(folder), recursive=True)
    print("\n".join(["", *summary.lines(Path("demo")), NEXT]))


if __name__ == "__main__":
    main()
