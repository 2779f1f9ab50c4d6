"""What people expect of an open project: declared packages, one version, commands that work."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from conftest import ROOT
from ruamel.yaml import YAML

# What is run, or used by what is imported, but never imported by this project itself.
RUN = {
    "dvc-s3",  # DVC's remotes on S3
    "flask",  # moto's server
    "flask-cors",
    "moto",
    "mypy",
    "pre-commit",
    "pre-commit-hooks",
    "psycopg",  # sqlalchemy's driver of PostgreSQL
    "pytest-timeout",
    "pytest-xdist",
    "ruff",
    "tensorboard",
}


def canonical(name: str) -> str:
    """A distribution's name as package indexes write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(text: str) -> dict[str, str]:
    """The pinned version of each package named in a requirements file; empty if it has none."""
    lines = (line.partition("#")[0].partition(";")[0].strip() for line in text.splitlines())
    pairs = (line.partition("==") for line in lines if line)
    return {canonical(name.partition("[")[0]): version for name, _, version in pairs}


def imported(file: Path) -> set[str]:
    """The top-level names of the modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(str(node.module).partition(".")[0])
    return names


def test_all_packages_that_the_code_imports_are_in_requirements_in_and_no_others():
    folders = [ROOT / name for name in ("ser", "stages", "commands", "benchmarks", "tests")]
    files = [file for folder in folders for file in folder.rglob("*.py")]
    own = {folder.name for folder in folders} | {file.stem for file in folders[-1].rglob("*.py")}
    foreign = set.union(*map(imported, files)) - own - set(sys.stdlib_module_names)
    packages = metadata.packages_distributions()
    assert foreign <= set(packages), "imported, but not installed"
    needed = {canonical(packages[name][0]) for name in foreign}
    declared = set(requirements((ROOT / "requirements.in").read_text()))
    assert needed - declared == set(), "imported, but not in requirements.in"
    assert declared - needed == RUN & declared, "in requirements.in, but neither imported nor run"


def test_every_requirement_is_pinned():
    pinned = requirements((ROOT / "requirements.txt").read_text())
    assert all(pinned.values())
    for name, version in requirements((ROOT / "requirements.in").read_text()).items():
        assert pinned[name] == (version or pinned[name]), f"{name}: `make lock` was not run"


def test_one_version_and_one_licence():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = YAML(typ="safe").load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert (ROOT / "LICENSE").read_text().startswith(f"{project['license']} License")


def test_make_help_names_every_target():
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    printed = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert re.findall(r"make (\S+)", printed) == phony[1].split()


def test_forge_and_ci_run_the_same_commands():
    workflow = YAML(typ="safe").load((ROOT / ".github/workflows/ci.yml").read_text())
    assert {"run": ".ci/run"} in workflow["jobs"]["check"]["steps"]
    commands = [line for line in (ROOT / ".ci/run").read_text().splitlines() if "make" in line]
    assert commands[-3:] == ["make lint", "make types", "make test"]


@pytest.mark.slow
def test_pytest_stops_in_the_debugger(tmp_path):
    (tmp_path / "test_wrong.py").write_text(
        "def test_wrong():\n    number = 41\n    assert not number\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "--pdb", tmp_path],
        cwd=ROOT,
        input="p number + 1\nq\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert "(Pdb) 42" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_hooks_find_nothing_to_mend(project):
    elsewhere = "ruff,ruff-format,mypy"  # in `make lint` and `make types`
    done = project.run("pre-commit", "run", "--all-files", check=False, SKIP=elsewhere)
    assert done.returncode == 0, done.stdout
    assert project.run("git", "status", "--porcelain").stdout == ""
