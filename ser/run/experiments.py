"""DVC experiments: what `dvc exp run` needs to run from here, and experiments written straight into
git, which are commits on the baseline under refs/exps.

`dvc exp run` or `dvc exp save` takes seconds for each and wants a work tree of its own; `save`
takes milliseconds and none.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from ser.run.errors import UserError

IDENTITY = {  # to commit with where git has none
    f"GIT_{role}_{key}": "experiments@localhost"
    for role in ("AUTHOR", "COMMITTER")
    for key in ("NAME", "EMAIL")
}


def environment() -> dict[str, str]:
    """The environment for DVC: this interpreter first on PATH, and an identity to commit with."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    email = subprocess.run(["git", "config", "user.email"], capture_output=True, check=False)
    return {**(IDENTITY if email.returncode else {}), **os.environ, "PATH": path}


def git(*arguments: str, text: str | None = None, **env: str) -> str:
    """Run git; return what it prints.

    Raises:
        UserError: it fails.
    """
    done = subprocess.run(
        ["git", *arguments],
        input=text,
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        check=False,
    )
    if done.returncode:
        raise UserError(f"git {arguments[0]}: {' '.join(done.stderr.split())[:300]}")
    return done.stdout.strip()


def baseline() -> str:
    """Where the experiments on the commit checked out have their refs."""
    commit = git("rev-parse", "HEAD")
    return f"refs/exps/{commit[:2]}/{commit[2:]}"


def names() -> set[str]:
    """The names of the experiments on the commit checked out."""
    return {
        ref.rpartition("/")[2]
        for ref in git("for-each-ref", "--format=%(refname)", baseline()).splitlines()
    }


def run(name: str, settings: Sequence[str], target: str) -> None:
    """Make the experiment `name` in a work tree of its own; an older one of that name goes. What
    DVC prints goes to stderr.

    Args:
        settings: such as `lr=2e-5`.
        target: the stage that it is about.

    Raises:
        UserError: it fails.
    """
    if name in names():
        remove = ["dvc", "exp", "remove", "--quiet", name]
        subprocess.run(remove, env=environment(), stdout=sys.stderr, check=True)
    words = [word for setting in settings for word in ("-S", setting)]
    command = ["dvc", "exp", "run", "--temp", "--name", name, *words, target]
    if subprocess.run(command, env=environment(), stdout=sys.stderr, check=False).returncode:
        raise UserError(f"{name} stopped; the lines above say where")


def flat(values: dict, prefix: str = "") -> dict[str, object]:
    """Nested parameters by dotted name."""
    leaves: dict[str, object] = {}
    for name, value in values.items():
        leaves |= (
            flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return leaves


def save(name: str, when: datetime, message: str, files: dict[str, str], stale: list[str]) -> None:
    """Make the experiment `name`: the work tree's tracked files as they are, but for some.

    The same arguments make the same commit, also on another machine.

    Args:
        when: the commit's date.
        files: text of the files that differ or are new, by path.
        stale: git's patterns of files that say nothing about this experiment and are left out.
    """
    dates = dict.fromkeys(
        ("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), when.isoformat(timespec="seconds")
    )
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        git("read-tree", "HEAD", **index)
        git("add", "--update", ".", **index)
        if stale:
            git("rm", "--cached", "--quiet", "--ignore-unmatch", "-r", "--", *stale, **index)
        for path, text in files.items():
            blob = git("hash-object", "-w", "--stdin", text=text)
            git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", **index)
        tree = git("write-tree", **index)
    commit = git("commit-tree", tree, "-p", "HEAD", "-m", message, **environment(), **dates)
    git("update-ref", f"{baseline()}/{name}", commit)
