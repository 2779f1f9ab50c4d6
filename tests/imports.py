"""Imports among the modules of this project."""

import ast
from pathlib import Path

from conftest import ROOT

# They cannot change a result, and what only they import is no dep either.
NO_EFFECT = ("ser/run/", "ser/params.py", "ser/finetune/card.py")


def imported(file: Path) -> set[Path]:
    """The files of this project that a file imports itself, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)}
    files = {ROOT / f"{name.replace('.', '/')}.py" for name in names}
    return {file for file in files if file.exists()}


def behind(script: Path) -> set[str]:
    """The paths of a script and of all that it imports, directly or not, but for `NO_EFFECT`."""
    reached, waiting = set(), [script]
    while waiting:
        file = waiting.pop()
        name = file.relative_to(ROOT).as_posix()
        if name not in reached and not name.startswith(NO_EFFECT):
            reached.add(name)
            waiting += imported(file)
    return reached
