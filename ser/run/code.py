"""Which files a result was computed by: a module and those of this project that it imports.

The one place that follows imports. dvc.yaml's deps (a test holds them against this), the name of a
training's saved state and the search's studies all go by it, so that they agree on what a change
makes void.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]

# They cannot change a figure: how things run; params.yaml's reader, whose values are compared
# themselves; the model card's text.
NO_EFFECT = ("ser/run/", "ser/params.py", "ser/finetune/card.py")


def imported(module: Path) -> set[Path]:
    """The files of this project that the file `module` imports itself, wherever in it."""
    files = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = node.module or ""
            names = [parent, *(f"{parent}.{alias.name}" for alias in node.names)]
        else:
            continue
        files |= {ROOT / f"{name.replace('.', '/')}.py" for name in names if name}
    return {file for file in files if file.exists()}


def behind(*modules: Path) -> list[Path]:
    """The files `modules` and all that they import, directly or not, but for `NO_EFFECT`, sorted.

    What only a file of `NO_EFFECT` imports is left out as well.
    """
    reached, waiting = set(), [module.resolve() for module in modules]
    while waiting:
        module = waiting.pop()
        if module in reached or module.relative_to(ROOT).as_posix().startswith(NO_EFFECT):
            continue
        reached.add(module)
        waiting += imported(module)
    return sorted(reached)
