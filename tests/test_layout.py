"""The layout: which way imports go, and that lines fit a screen."""

import graphlib
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from imports import imported

CODE = ("stages", "commands", "studies", "ser", "tests", "benchmarks")
FILES = sorted(file for folder in CODE for file in (ROOT / folder).rglob("*.py"))
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
NAMES = {file: file.relative_to(ROOT).as_posix() for file in FILES}
BUILT_ON = {  # the subjects that may know others
    "finetune": ("encoder",),
    "report": ("classifier", "encoder", "finetune"),
    "search": ("classifier", "encoder", "finetune"),
    "trained": ("classifier", "encoder", "finetune"),
}


def kind(name: str) -> tuple[int, str]:
    """A file's floor and its room there: `stages/`, `commands/` and `studies/` above the subjects,
    these above `ser/*.py`, and `ser/run/` below all."""
    folder, _, rest = name.partition("/")
    if folder != "ser":
        return 3, folder
    subject = rest.partition("/")[0]
    if subject.endswith(".py"):
        return 1, "ser"
    return (0, "run") if subject == "run" else (2, subject)


def may_import(importer: str, imported: str) -> bool:
    """True if the layout allows it: downwards, or within a room, unless that is one of scripts."""
    (floor, room), (below, other) = kind(importer), kind(imported)
    if floor != below:
        return floor > below
    return (room == other and floor < 3) or other in BUILT_ON.get(room, ())


def test_imports_go_downwards_and_not_in_circles():
    graph = {NAMES[file]: {NAMES[other] for other in imported(file)} for file in FILES}
    graphlib.TopologicalSorter(graph).prepare()
    assert [
        (name, other)
        for name, others in graph.items()
        for other in others
        if not name.startswith(("tests/", "benchmarks/")) and not may_import(name, other)
    ] == []


@pytest.mark.parametrize(
    ("stages", "packages"),
    [
        (
            "download resample split gather mean evaluate compare report",
            "torch transformers datasets sklearn scipy.stats scipy.signal numba dvc joblib",
        ),
        ("mfcc svm_train probe_train sounds", "torch transformers datasets dvc"),
    ],
)
def test_stages_start_without_what_they_do_not_need(stages, packages):
    """Each of these packages takes up to seconds of every run."""
    modules = ", ".join(f"stages.{stage}" for stage in stages.split())
    program = f"import sys, {modules}; print(sys.modules.keys() & set('{packages}'.split()))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_lines_fit():
    """In pages, whose tables and commands can't be broken; in code ruff sees to it."""
    for page in PAGES:
        text = re.sub(
            r"^(```.*?^```|\|.*?)$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S
        )
        assert [line for line in text.splitlines() if len(line) > 100] == [], page.name
