"""The layout: what lies where, which way imports go, and that lines fit a screen."""

import graphlib
import re

import pytest
from conftest import ROOT
from ruamel.yaml import YAML

from ser.run import code

CODE = ("stages", "commands", "ser", "tests", "benchmarks")
FILES = sorted(file for folder in CODE for file in (ROOT / folder).rglob("*.py"))
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
NAMES = {file: file.relative_to(ROOT).as_posix() for file in FILES}
ABOUT_OTHERS = ("search", "report")  # the subjects that may know others


def kind(name: str) -> tuple[int, str]:
    """How high a file stands, and which room of its floor it is in: `stages/` and `commands/` above
    the subjects, these above `ser/*.py`, and `ser/run/` below all."""
    folder, _, rest = name.partition("/")
    if folder != "ser":
        return 3, folder
    subject = rest.partition("/")[0]
    if subject.endswith(".py"):
        return 1, "ser"
    return (0, "run") if subject == "run" else (2, subject)


def may_import(importer: str, imported: str) -> bool:
    """Whether the layout allows it: downwards, or within a room, unless that is one of scripts."""
    (floor, room), (below, other) = kind(importer), kind(imported)
    if floor != below:
        return floor > below
    return (room == other and floor < 3) or room in ABOUT_OTHERS


def test_stages_holds_the_scripts_of_dvc_yaml_and_nothing_else():
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    scripts = {path.name for path in (ROOT / "stages").iterdir()} - {"__pycache__", "__init__.py"}
    assert scripts == {f"{stage}.py" for stage in stages}


@pytest.mark.parametrize(
    "file", [file for file in FILES if NAMES[file][:3] in ("sta", "com", "ser")], ids=NAMES.get
)
def test_imports_go_downwards(file):
    wrong = [
        NAMES[other] for other in code.imported(file) if not may_import(NAMES[file], NAMES[other])
    ]
    assert not wrong


def test_no_imports_go_in_circles():
    graph = {NAMES[file]: {NAMES[other] for other in code.imported(file)} for file in FILES}
    graphlib.TopologicalSorter(graph).prepare()


def test_lines_fit():
    """In pages but for tables and commands, which can't be broken."""
    texts = {file: file.read_text(encoding="utf-8") for file in [*FILES, *PAGES]}
    for page in PAGES:
        texts[page] = re.sub(r"^(```.*?^```|\|.*?)$", "", texts[page], flags=re.M | re.S)
    long = [
        f"{file.relative_to(ROOT)}: {line}"
        for file, text in texts.items()
        for line in text.splitlines()
        if len(line) > 100
    ]
    assert not long


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("stages/evaluate.py", "ser/scoring.py", True),
        ("commands/predict.py", "ser/run/errors.py", True),
        ("ser/search/space.py", "ser/classifier/model.py", True),
        ("ser/classifier/model.py", "ser/classifier/kernels.py", True),
        ("ser/classifier/model.py", "ser/finetune/clips.py", False),
        ("ser/scoring.py", "ser/report/plots.py", False),
        ("ser/run/errors.py", "ser/params.py", False),
        ("ser/scoring.py", "stages/evaluate.py", False),
        ("commands/predict.py", "stages/evaluate.py", False),
        ("studies/ablation.py", "commands/demo.py", False),
    ],
)
def test_these_rules_tell_right_from_wrong(importer, imported, allowed):
    assert may_import(importer, imported) == allowed
