"""Measure what each part of MFCC + SVM is worth: a DVC experiment per variant, compared with the
default clip by clip.

    python -m studies.ablation [NAME…]

Not a stage. Runs the variants named, or all, one after the other; those that the commit checked out
has already are skipped, so that it can be stopped and started again. Progress goes to stderr, the
table of all variants that there are to stdout.

Reads:  the results of the commit checked out, which are the default
Writes: DVC experiments ablation-NAME; a Markdown table: variant, its settings, accuracy, UAR,
        difference to the default with its 95 % bounds
"""

import subprocess
import sys

import pandas as pd
from dvc.api import DVCFileSystem
from dvc_data.index.index import DataIndexDirError

from ser import scoring
from ser.run import errors, experiments

ORIGINAL = (
    "mfcc.trim_db=35", "mfcc.warps=[1.0]", "mfcc.deltas=0", "mfcc.statistics=[mean]",
    "mfcc.dct_terms=0", "mfcc.segments=[]", "mfcc.covariance=false",
    "svm_train.kernel=[linear,rbf]", "svm_train.C=[0.1,1,10,100]", "svm_train.gamma=[0.1,1,10]",
)  # fmt: skip

# By name: the title in the table, and what differs from params.yaml; the most telling first.
VARIANTS = {
    "original": ("the original project's: mean MFCC, its grid", ORIGINAL),
    "emobox": ("EmoBox's folds", ("split.scheme=emobox",)),
    "speaker-norm": ("TRANSDUCTIVE: speakers normalised", ("svm_train.speaker_norm=true",)),
    "no-trim": ("no trimming", ("mfcc.trim_db=null",)),
    "trim-35": ("trimming at 35 dB", ("mfcc.trim_db=35",)),
    "no-dct": ("no 2-D DCT", ("mfcc.dct_terms=0",)),
    "no-deltas": ("no deltas", ("mfcc.deltas=0",)),
    "one-delta": ("first deltas only", ("mfcc.deltas=1",)),
    "mean": ("statistics: mean", ("mfcc.statistics=[mean]",)),
    "mean-std": ("statistics: mean, deviation", ("mfcc.statistics=[mean,std]",)),
    "mfcc-13": ("13 coefficients", ("mfcc.n_mfcc=13",)),
    "mfcc-20": ("20 coefficients", ("mfcc.n_mfcc=20",)),
    "no-warps": ("frequency axis not stretched", ("mfcc.warps=[1.0]",)),
    "no-seg": ("no segments", ("mfcc.segments=[]",)),
    "no-cov": ("no covariance", ("mfcc.covariance=false",)),
    "rbf": ("one RBF kernel over all blocks", ("svm_train.kernel=[rbf]",)),
}


def predictions(commit: str) -> pd.DataFrame:
    """The SVM's held-out predictions in a commit or an experiment, sorted by clip.

    Raises:
        UserError: it has none, or the DVC cache lacks them.
    """
    try:
        with DVCFileSystem(rev=commit).open("data/predictions/svm/predictions.csv") as file:
            return pd.read_csv(file).sort_values("clip", ignore_index=True)
    except (FileNotFoundError, DataIndexDirError):
        raise errors.UserError(
            f"{commit}: no predictions of the SVM; `dvc repro evaluate@svm` and commit dvc.lock, "
            "or `dvc pull`"
        ) from None


def row(title: str, settings: tuple[str, ...], variant: pd.DataFrame, default: pd.DataFrame) -> str:
    """A variant's line of the Markdown table, from its predictions and the default's."""
    rates = scoring.rates(scoring.per_speaker_confusion(variant).sum(axis=0))
    difference = ""
    if variant is not default:
        figures = scoring.differences(variant, default)
        difference = scoring.as_text(figures, "accuracy", "{:+.1f}")
    changes = " ".join(f"`-S '{setting}'`" for setting in settings)
    return f"| {title} | {changes} | {rates['accuracy']:.1%} | {rates['uar']:.1%} | {difference} |"


def commits() -> dict[str, str]:
    """The commit of each experiment on the commit checked out, by the experiment's name: git keeps
    them under refs/exps."""
    head = experiments.git("rev-parse", "HEAD")
    refs = experiments.git(
        "for-each-ref", "--format=%(refname) %(objectname)", f"refs/exps/{head[:2]}/{head[2:]}"
    )
    pairs = (line.split() for line in refs.splitlines())
    return {ref.rpartition("/")[2]: commit for ref, commit in pairs}


def run(name: str) -> None:
    """Run a variant as an experiment in a work tree of its own; what DVC prints goes to stderr.

    Raises:
        UserError: it fails.
    """
    words = [word for setting in VARIANTS[name][1] for word in ("-S", setting)]
    command = ["dvc", "exp", "run", "--temp", "--name", f"ablation-{name}", *words, "evaluate@svm"]
    done = subprocess.run(command, env=experiments.environment(), stdout=sys.stderr, check=False)
    if done.returncode:
        raise errors.UserError(f"ablation-{name} stopped; the lines above say where")


@errors.one_line
def main() -> None:
    """Run what is missing, print the table."""
    names = sys.argv[1:] or list(VARIANTS)
    if unknown := [name for name in names if name not in VARIANTS]:
        raise errors.UserError(f"{unknown[0]}: no such variant; known are {', '.join(VARIANTS)}")
    sources = ("dvc.yaml", "dvc.lock", "params.yaml", "stages", "ser")
    if changed := experiments.git("diff", "--name-only", "HEAD", "--", *sources):
        # An experiment would take it along and be compared with a default that has it not.
        raise errors.UserError(
            f"{changed.splitlines()[0]}: changed since the last commit; commit or restore it first"
        )
    default = predictions("HEAD")
    for name in names:
        if f"ablation-{name}" not in commits():
            run(name)
    print("| variant | settings | accuracy | UAR | difference in accuracy, points |")
    print("|---" * 5 + "|")
    print(row("default", (), default, default))
    done = commits()
    for name, (title, settings) in VARIANTS.items():
        if f"ablation-{name}" in done:
            print(row(title, settings, predictions(done[f"ablation-{name}"]), default))
    print("\nIn brackets: 95 % bounds, a t interval over speakers, paired.")


if __name__ == "__main__":
    main()
