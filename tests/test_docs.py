"""dvc.yaml against the code it runs, and the README against dvc.yaml."""

import ast
import json
import re

import pytest
from conftest import ROOT
from ruamel.yaml import YAML

STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
README = (ROOT / "README.md").read_text()


def definition(name: str) -> dict:
    """A stage's definition, whether or not it stands under a `foreach`."""
    return STAGES[name].get("do", STAGES[name])


def imported(module: str) -> set[str]:
    """The project's modules that a module imports, itself and what those import included."""
    found, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name in found or not (ROOT / "stages" / f"{name}.py").exists():
            continue
        found.add(name)
        for node in ast.walk(ast.parse((ROOT / "stages" / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "stages":
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stages."):
                waiting.append(node.module.removeprefix("stages."))
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_modules_that_the_stage_imports(stage):
    module = re.match(r"python -m stages\.(\w+)", definition(stage)["cmd"]).group(1)
    listed = {dep.removeprefix("stages/").removesuffix(".py") for dep in definition(stage)["deps"] if dep.endswith(".py")}
    assert listed == imported(module)


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_those_that_the_stage_reads(stage):
    module = re.match(r"python -m stages\.(\w+)", definition(stage)["cmd"]).group(1)
    listed = {param.partition(".")[0] for param in definition(stage).get("params", [])}
    known = set(re.findall(r"^(\w+):", (ROOT / "params.yaml").read_text(), flags=re.MULTILINE))
    assert listed <= known
    assert ("params" in imported(module)) == bool(listed)


def test_every_stage_has_a_sentence():
    assert all(definition(stage).get("desc") for stage in STAGES)


def test_readme_lists_the_stages_with_their_sentences():
    rows = dict(re.findall(r"^\| `([\w@]+)` \| (.+?) \|", README, flags=re.MULTILINE))
    named = {}
    for name, stage in STAGES.items():
        sentence = re.sub(r"\$\{item\}", "K" if name.startswith("w2v") else "MODEL", definition(name)["desc"])
        named[name + ("@K" if name.startswith("w2v_") else "@MODEL") if "foreach" in stage else name] = sentence
    assert rows == named


@pytest.mark.parametrize("template", sorted((ROOT / ".dvc/plots").glob("*.json")), ids=lambda path: path.stem)
def test_plot_templates_zoom_in_one_layer_alone(template):
    """Vega-Lite hands a plot's own selection down to every layer, and then stops at "Duplicate signal name"."""
    spec = json.loads(template.read_text())
    assert not ("layer" in spec and "params" in spec)
