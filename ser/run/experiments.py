"""Run DVC experiments and find them in git, where they are commits under refs/exps."""

import os
import subprocess
import sys
from collections.abc import Sequence
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


def git(*arguments: str) -> str:
    """Run git; return what it prints.

    Raises:
        UserError: it fails.
    """
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"git {arguments[0]}: {' '.join(done.stderr.split())[:300]}")
    return done.stdout.strip()


def commits() -> dict[str, str]:
    """The commit of each experiment on the commit checked out, by the experiment's name."""
    head = git("rev-parse", "HEAD")
    refs = git(
        "for-each-ref", "--format=%(refname) %(objectname)", f"refs/exps/{head[:2]}/{head[2:]}"
    )
    pairs = (line.split() for line in refs.splitlines())
    return {ref.rpartition("/")[2]: commit for ref, commit in pairs}


def run(name: str, settings: Sequence[str], target: str) -> None:
    """Run the experiment `name` in a work tree of its own; what DVC prints goes to stderr.

    Args:
        settings: such as `lr=2e-5`.
        target: the stage that it is about.

    Raises:
        UserError: it fails.
    """
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
