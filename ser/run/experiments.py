"""The environment and the calls of commands that run DVC and git."""

import os
import subprocess
import sys
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


def flat(values: dict, prefix: str = "") -> dict[str, object]:
    """Nested parameters by dotted name."""
    leaves: dict[str, object] = {}
    for name, value in values.items():
        leaves |= (
            flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return leaves
