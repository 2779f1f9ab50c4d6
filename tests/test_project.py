"""The habits of an open project: declared packages, one version, commands that work."""

import ast
import itertools
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
from conftest import ROOT
from ruamel.yaml import YAML

PRODUCT = ("ser", "stages", "commands", "studies", "benchmarks")
# Run, or used by what is imported, but never imported by this project itself.
RUN = {
    # psycopg: SQLAlchemy's driver of PostgreSQL; -clib: ruamel.yaml's parser in C, for DVC
    "requirements": {"psycopg", "ruamel-yaml-clib", "tensorboard"},
    "requirements-app": set(),
    "requirements-dev": {
        "mypy", "pre-commit", "pre-commit-hooks", "pytest-timeout", "pytest-xdist", "ruff",
    },
}  # fmt: skip


def canonical(name: str) -> str:
    """A distribution's name as package indexes write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(name: str) -> dict[str, str]:
    """The pinned version of each package named in a requirements file; empty if it has none."""
    text = (ROOT / name).read_text()
    lines = (line.partition("#")[0].partition(";")[0].strip() for line in text.splitlines())
    pairs = (line.partition("==") for line in lines if line and not line.startswith("-"))
    return {canonical(name.partition("[")[0]): version for name, _, version in pairs}


def imported(*folders: str) -> set[str]:
    """The packages of the modules that the code in these folders imports, wherever in it."""
    names = set()
    for file in [file for folder in folders for file in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(str(node.module).partition(".")[0])
    own = {*PRODUCT, "tests"} | {file.stem for file in (ROOT / "tests").rglob("*.py")}
    packages = metadata.packages_distributions()
    return {
        canonical(min(packages.get(name, [name])))  # ruamel.yaml, not ruamel.yaml.clib
        for name in names - own - set(sys.stdlib_module_names)
    }


def test_all_packages_that_the_code_imports_are_declared_and_no_others():
    declared = {name: set(requirements(f"{name}.in")) for name in RUN}
    of_product = declared["requirements"] | declared["requirements-app"]
    assert of_product == imported(*PRODUCT) | RUN["requirements"]
    assert declared["requirements-app"] == {"gradio"}  # `commands/app.py` alone imports it
    tests_alone = imported("tests") - of_product
    assert declared["requirements-dev"] == tests_alone | RUN["requirements-dev"]


def test_every_requirement_is_pinned_once():
    pinned = {name: requirements(f"{name}.txt") for name in RUN}
    for name, versions in pinned.items():
        assert all(versions.values())
        for package, version in requirements(f"{name}.in").items():
            assert versions[package] == (version or versions[package]), "`make lock` was not run"
    for first, second in itertools.combinations(pinned.values(), 2):
        assert [name for name in first if first[name] != second.get(name, first[name])] == []


def test_one_version_and_one_licence():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = YAML(typ="safe").load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert (ROOT / "LICENSE").read_text().startswith(f"{project['license']} License")


@pytest.mark.parametrize("has_uv", [True, False])
@pytest.mark.parametrize("forbidden", ["", "1"])
def test_packages_come_from_where_pip_is_told_to_look(tmp_path, has_uv, forbidden):
    """By uv, or without it by pip itself; compiled where Python may not do that later."""
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"""#!/bin/sh
case "$*" in
  *"config list"*) exec {sys.executable} "$@" ;;
  "-m pip"*" uv") exit {int(not has_uv)} ;;
  "-m uv"*) echo "$UV_FIND_LINKS $UV_DEFAULT_INDEX $UV_INDEX $SSL_CERT_FILE" ;;
esac
echo "$*"
""")
    python.chmod(0o755)
    (tmp_path / "pip.conf").write_text("[global]\nfind-links =\n  /a\n  /b\ncert = /else\n")
    told = {
        "PIP_CERT": "/cert", "PIP_INDEX_URL": "https://one", "PIP_EXTRA_INDEX_URL": "https://two",
        "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "PATH": "/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": forbidden,
    }  # fmt: skip
    done = subprocess.run(
        [ROOT / ".ci/install", "-r", "list"], cwd=tmp_path, env=told, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    if has_uv:
        assert "/a,/b https://one https://two /cert\n" in done.stdout
    compiled = "--compile" if forbidden else "--no-compile"
    assert done.stdout.count("-r list") == done.stdout.count(f" {compiled} -r list") == 1
    assert ("-m uv" in done.stdout) == has_uv


@pytest.mark.slow
def test_hooks_find_nothing_to_mend(project):
    elsewhere = "ruff,ruff-format,mypy"  # in `make lint` and `make types`
    done = project.run("pre-commit", "run", "--all-files", check=False, SKIP=elsewhere)
    assert done.returncode == 0, done.stdout
    assert project.run("git", "status", "--porcelain").stdout == ""
