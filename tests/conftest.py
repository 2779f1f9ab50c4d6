"""Fixtures: throw-away projects made of this checkout's files, the real configuration shrunk until
it runs in seconds."""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from filelock import FileLock
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
REAL_CORPUS = ROOT.parent / "shared" / "ravdess"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
NO_CHROMIUM = "no Chromium or Chrome; Debian's package `chromium` will do"

# The demo, shrunk: one short clip per voice and label, two folds, one epoch, a small grid.
SHRUNK = (
    "corpus=demo", "demo.takes=1", "demo.seconds=0.6", "folds=[0,1]", "checkpoint=configs/demo",
    "freeze_cnn=false", "epochs=1", "lr=1e-3", "mfcc.warps=[1.0]", "svm_train.kernel=[rbf]",
    "svm_train.C=[1,10]", "svm_train.gamma=[0.5]",
)  # fmt: skip

# For tests/test_fuzz.py: the same few cases every time, or a thousand other ones.
settings.register_profile(
    "quick",
    max_examples=10,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile(
    "thorough", max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("quick")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine has not: the genuine corpus, a browser, a CUDA device. All that wait
    for the demo come first, in one process, while the others have something else to do; and the
    longest of them at the start."""
    items.sort(key=lambda item: "done" not in getattr(item, "fixturenames", ()))
    items.sort(key=lambda item: item.name != "test_readme_commands")
    marked = {
        name: [item for item in items if item.get_closest_marker(name)]
        for name in ("real", "browser", "gpu")
    }
    if not REAL_CORPUS.exists():
        for item in marked["real"]:
            item.add_marker(pytest.mark.skip(reason=f"no genuine corpus in {REAL_CORPUS}"))
    if not CHROMIUM:
        for item in marked["browser"]:
            item.add_marker(pytest.mark.skip(reason=NO_CHROMIUM))
    if marked["gpu"]:
        import torch  # two seconds, which most runs do without

        if not torch.cuda.is_available():
            for item in marked["gpu"]:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


class Project:
    """A git checkout of its own, to run commands in as a user would."""

    def __init__(self, path: Path, cache: Path, warm: Path | None = None):
        """`warm`: a folder with programs that start within a moment, see tests/warm.py."""
        self.path = path
        self.warm = warm
        folders = [*([warm] if warm else []), Path(sys.executable).parent, os.environ["PATH"]]
        self.env = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("RAVDESS_", "DVC_", "GIT_"))
            },
            "PATH": os.pathsep.join(map(str, folders)),
            "OMP_NUM_THREADS": "1",  # as in `make demo`; the last digits depend on it
            "XDG_CACHE_HOME": str(cache / "user"),
            **{
                f"GIT_{role}_{key}": "test@localhost"
                for role in ("AUTHOR", "COMMITTER")
                for key in ("NAME", "EMAIL")
            },
        }

    def run(
        self, *command: str | Path, check: bool = True, **env: str
    ) -> subprocess.CompletedProcess:
        """Run a command in the project; its stdout and stderr are kept as text."""
        done = subprocess.run(
            [str(word) for word in command],
            cwd=self.path,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, (
            f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        )
        return done

    def stage(self, module: str, *arguments: str, **env: str) -> subprocess.CompletedProcess:
        """Run one stage's script, whatever its exit code."""
        return self.run("python", "-m", f"stages.{module}", *arguments, check=False, **env)

    def command(
        self, module: str, *arguments: str | Path, **env: str
    ) -> subprocess.CompletedProcess:
        """Run one of `commands/`, whatever its exit code."""
        return self.run("python", "-m", f"commands.{module}", *arguments, check=False, **env)


def make_project(path: Path, cache: Path, warm: Path | None = None) -> Project:
    """A new repository in `path` with the files of this checkout that git does not ignore, as they
    are now, and a DVC cache in `cache`."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.splitlines()):
        if (ROOT / name).is_file():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, path / name)
    project = Project(path, cache, warm)
    project.run("git", "init", "--quiet", "--initial-branch", "main")
    (path / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {cache / 'dvc'}\n")
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "start")
    return project


@pytest.fixture
def project(warm: Path, tmp_path: Path) -> Project:
    """A fresh project in which nothing has run."""
    return make_project(tmp_path / "project", tmp_path, warm)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all processes of a test run."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def warm(shared: Path) -> Path:
    """A folder with `python` and `dvc` that start within a moment, see tests/warm.py."""
    home = shared / "warm"
    with FileLock(f"{home}.lock"):
        if not home.exists():
            home.mkdir()
            owner = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
            # In a shell, which ends at once: the last process of the test run that needs it may be
            # another than this one.
            words = shlex.join([sys.executable, f"{ROOT}/tests/warm.py", str(home), str(owner)])
            offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "XDG_CACHE_HOME": str(home)}
            subprocess.run(
                ["sh", "-c", f"{words} > {shlex.quote(str(home))}/log 2>&1 &"],
                env={**os.environ, **offline, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C ends the test run, and so it
                check=True,
            )
            while not (home / "bin" / "dvc").exists():
                time.sleep(0.05)
    return home / "bin"


@pytest.fixture(scope="session")
def done(shared: Path, warm: Path) -> Project:
    """A project with a shrunken demo: committed on `main`, and on `demo`, which is checked out, run
    as a whole.

    One for all processes of a test run: the first that wants it makes it, others wait. Nobody
    changes it; take a `clone`. All clones share its DVC cache, so what one has run, the next takes
    from there.
    """
    home = shared / "done"
    with FileLock(f"{home}.lock"):
        if not (home / "finished").exists():
            shutil.rmtree(home, ignore_errors=True)  # of a process that failed
            project = make_project(home / "project", home, warm)
            (project.path / "demo.yaml").write_text("{}\n")
            apply_overrides(project.path / "demo.yaml", [f"++{setting}" for setting in SHRUNK])
            project.run("git", "commit", "--quiet", "--all", "--message", "A shrunken demo")
            project.run("git", "switch", "--quiet", "--create", "demo")
            project.run("dvc", "exp", "run", *(word for each in SHRUNK for word in ("-S", each)))
            project.run("git", "add", "--all")
            project.run("git", "commit", "--quiet", "--message", "The shrunken demo corpus")
            (home / "finished").touch()
    return Project(home / "project", home, warm)


def clone_of(done: Project, path: Path, branch: str = "demo") -> Project:
    """A clone of the finished project that shares its DVC cache, nothing checked out of it yet; for
    `make` this environment is the clone's."""
    done.run("git", "clone", "--quiet", "--branch", branch, done.path, path)
    shutil.copy(done.path / ".dvc" / "config.local", path / ".dvc" / "config.local")
    (path / ".venv").mkdir()
    (path / ".venv" / "installed").touch()  # after requirements.txt
    return Project(path, path.parent, done.warm)


@pytest.fixture
def clone(done: Project, tmp_path: Path) -> Project:
    """A clone of the finished project that shares its DVC cache, with the outputs checked out."""
    project = clone_of(done, tmp_path / "clone")
    project.run("dvc", "checkout", "--quiet")
    project.stage("sources")  # of which no cache has a copy
    return project


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which fold 0 is fine-tuned: a frozen CNN under a transformer with dropout and
    SpecAugment."""
    import workplace  # torch and transformers take seconds

    folder = workplace.make(tmp_path_factory.mktemp("trained"), weights=True)
    workplace.run(folder, "checkpoint", "w2v_features", "w2v_finetune 0")
    return folder


@contextlib.contextmanager
def small_files(size: int) -> Iterator[None]:
    """A disk, so to speak, that is full once a file has so many bytes."""
    import resource  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def one_line(done: subprocess.CompletedProcess, *words: str) -> None:
    """Assert what a user's mistake must look like: exit code 1 and a single line on stderr that
    says all of `words`."""
    bar = "%|"
    lines = [line for line in done.stderr.splitlines() if line.strip() and bar not in line]
    assert done.returncode == 1, done
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0], (word, lines[0])
