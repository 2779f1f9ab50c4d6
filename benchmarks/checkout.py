"""A clone of this repository to run DVC in, apart from everything else."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from ser.run import errors, experiments

ROOT = Path(__file__).parents[1]
PATIENCE = 3600  # seconds, after which a run hangs


class Checkout:
    """A checkout of this repository, to run DVC in.

    Attributes:
        path: of the checkout.
        cache: DVC's, which nothing else uses.
        env: of its commands.
        targets: the stages that are asked for, with those they need; none: all.
    """

    def __init__(self, path: Path, cache: Path, env: dict[str, str]):
        """Take a checkout that is there."""
        self.path, self.cache, self.env = path, cache, env
        self.targets: list[str] = []

    def start(self, *command: str | Path, cwd: Path | None = None, **env: str) -> subprocess.Popen:
        """Start a command in a process group of its own, both streams into one pipe."""
        return subprocess.Popen(
            [str(word) for word in command],
            cwd=cwd or self.path,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            errors="replace",
        )

    def wait(self, process: subprocess.Popen) -> str:
        """What a started command prints until it ends.

        Raises:
            UserError: it hangs; it is killed.
        """
        try:
            return process.communicate(timeout=PATIENCE)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise errors.UserError(f"{' '.join(process.args)}: hangs") from None

    def run(self, *command: str | Path, cwd: Path | None = None, **env: str) -> tuple[int, str]:
        """Run a command; return its exit code and all that it printed."""
        process = self.start(*command, cwd=cwd, **env)
        printed = self.wait(process)
        return process.returncode, printed

    def repro(self, *arguments: str, **env: str) -> tuple[int, str]:
        """`dvc repro` without the run cache."""
        return self.run("dvc", "repro", "--no-run-cache", *arguments, **env)

    def state(self) -> dict[str, str]:
        """The hash of every file that the pipeline made; what git sees as changed is one more."""
        files = [
            file
            for folder in ("data", "metrics", "report")
            for file in (self.path / folder).rglob("*")
            if file.is_file() and file.name != ".gitignore" and ".partial" not in str(file)
        ]
        hashes = {
            file.relative_to(self.path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in (*files, self.path / "dvc.lock")
        }
        return {**hashes, "git": self.run("git", "status", "--porcelain")[1]}

    def stages(self) -> dict[str, list[Path]]:
        """The stages that have run, and their outputs."""
        text = (self.path / "dvc.lock").read_text(encoding="utf-8")
        locked = YAML(typ="safe").load(text)["stages"]
        return {
            name: [self.path / out["path"] for out in stage["outs"]]
            for name, stage in locked.items()
        }

    def restore(self) -> None:
        """Go back to what is committed, after a state that differs."""
        self.run("git", "reset", "--quiet", "--hard")
        self.run("dvc", "checkout", "--force", "--quiet")


def cloned(home: Path, name: str = "project") -> Checkout:
    """A clone of the last commit in a new folder `name` of `home`, with a cache of its own."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("RAVDESS_", "DVC_", "GIT_"))
    }
    tools = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    user = {"XDG_CACHE_HOME": str(home / "user"), "DVC_NO_ANALYTICS": "1"}
    env = {**kept, **experiments.IDENTITY, **user, "PATH": tools}
    made = Checkout(home / name, home / "cache", env)
    made.run("git", "clone", "--quiet", ROOT, made.path, cwd=home)
    config = "[cache]\n    dir = ../../cache\n"  # DVC reads it in the locale's encoding
    (made.path / ".dvc" / "config.local").write_text(config, encoding="utf-8")
    return made
