"""Trials as DVC experiments, written straight into git: what an experiment is, a commit on the
baseline under refs/exps.

`dvc exp run` or `dvc exp save` would take seconds for each and want a work tree of its own; this
takes milliseconds and none.
"""

import os
import subprocess
import tempfile
from datetime import datetime
from pathlib import Path

from ser.run.errors import UserError

IDENTITY = {
    f"GIT_{role}_{key}": "search@localhost"
    for role in ("AUTHOR", "COMMITTER")
    for key in ("NAME", "EMAIL")
}


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


def save(name: str, when: datetime, message: str, files: dict[str, str], stale: list[str]) -> None:
    """Make the experiment `name`: the work tree's tracked files as they are, but for some.

    The same arguments make the same commit, also on another machine.

    Args:
        when: the commit's date.
        files: text of the files that differ or are new, by path.
        stale: git's patterns of files that say nothing about this experiment and are left out.
    """
    known = (
        subprocess.run(
            ["git", "var", "GIT_COMMITTER_IDENT"], capture_output=True, check=False
        ).returncode
        == 0
    )
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
    commit = git(
        "commit-tree", tree, "-p", "HEAD", "-m", message, **({} if known else IDENTITY), **dates
    )
    git("update-ref", f"{baseline()}/{name}", commit)
