"""Run the whole pipeline on the synthetic demo corpus, as a DVC experiment in a work tree of its
own.

    python -m commands.demo

What `make demo` calls. The work tree, the index and params.yaml stay as they are. Where it has run
on this commit, and no tracked file has changed since, its results are there at once.

Reads:  demo.yaml, what differs from params.yaml
Writes: the DVC experiment `demo`
        demo/ (git-ignored): its metrics, tables, pictures and page, for looking at; commit.txt,
            where no tracked file differed from that commit
"""

import json
import subprocess
from pathlib import Path

from dvc.api import DVCFileSystem
from ruamel.yaml import YAML

from ser import params
from ser.report import summary
from ser.run import errors, experiments, outputs

NEXT = """
These figures are of the SYNTHETIC demo corpus: they show that the pipeline works, and say nothing
about human speech.

The page        demo/index.html: open it in a browser
Pictures        demo/charts/*.png
Go on with it   dvc exp branch demo demo && git switch demo && dvc checkout
                dvc exp run -S lr=1e-3
On to RAVDESS   make repro
                (fetches 200 MB from Zenodo; RAVDESS_ARCHIVE=path/to/zip/or/folder saves that)"""


def collect(folder: Path) -> None:
    """Copy what the experiment's stages wrote to metrics/ and report/, not what else the commit
    has there."""
    files = DVCFileSystem(rev="demo")
    lock = YAML(typ="safe").load(files.read_text("dvc.lock"))
    folder.mkdir()
    for stage in lock["stages"].values():
        for out in stage["outs"]:
            path = Path(out["path"])
            if path.parent.name in ("metrics", "report"):
                files.get(out["path"], str(folder / path.name), recursive=True)


def run() -> None:
    """Run the experiment anew.

    Raises:
        UserError: a stage fails.
    """
    settings = experiments.flat(YAML(typ="safe").load(Path("demo.yaml")))
    # The network is so small that several threads wait for each other more than they work.
    environment = {"OMP_NUM_THREADS": "1", **experiments.environment()}
    remove = ["dvc", "exp", "remove", "--quiet", "demo"]
    subprocess.run(remove, env=environment, stderr=subprocess.DEVNULL, check=False)
    command = ["dvc", "exp", "run", "--temp", "--name", "demo"]
    for name, value in settings.items():
        command += ["-S", f"{name}={json.dumps(value)}"]
    if subprocess.run(command, env=environment, check=False).returncode:
        raise errors.UserError("the pipeline stopped; the lines above say where")


@errors.one_line
def main() -> None:
    """Run the experiment where it has not run yet, copy its results, print the table and what
    comes next."""
    results, changed = Path("demo"), experiments.git("diff", "HEAD", "--name-only")
    commit = experiments.git("rev-parse", "HEAD") + "\n"
    known = results / "commit.txt"
    if changed or not known.exists() or known.read_text(encoding="utf-8") != commit:
        run()
        with outputs.whole(results) as folder:
            collect(folder)
            if not changed:
                (folder / known.name).write_text(commit, encoding="utf-8")
    print("\n".join(["", *summary.lines(results, params.load().models), NEXT]))


if __name__ == "__main__":
    main()
