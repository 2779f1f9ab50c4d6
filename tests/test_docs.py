"""dvc.yaml against the code it runs, and docs/pipeline.md against dvc.yaml."""

import json
import re
import subprocess

import pytest
from conftest import ROOT
from ruamel.yaml import YAML

from ser.run import code

STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
PIPELINE = (ROOT / "docs" / "pipeline.md").read_text()


def definition(name: str) -> dict:
    """A stage's definition, whether or not it stands under a `foreach`."""
    return STAGES[name].get("do", STAGES[name])


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_modules_that_can_change_what_the_stage_makes(stage):
    listed = {dep for dep in definition(stage)["deps"] if dep.endswith(".py")}
    script = ROOT / "stages" / f"{stage}.py"
    assert definition(stage)["cmd"].startswith(f"python -m stages.{stage}")
    assert listed == {file.relative_to(ROOT).as_posix() for file in code.behind(script)}


def test_every_stage_has_a_sentence():
    assert all(definition(stage).get("desc") for stage in STAGES)


def test_docs_list_the_stages_with_their_sentences():
    rows = dict(re.findall(r"^\| `([\w@]+)` \| (.+?) \|", PIPELINE, flags=re.MULTILINE))
    named = {}
    for name, stage in STAGES.items():
        sentence = re.sub(
            r"\$\{item\}", "K" if name.startswith("w2v") else "MODEL", definition(name)["desc"]
        )
        named[
            name + ("@K" if name.startswith("w2v_") else "@MODEL") if "foreach" in stage else name
        ] = sentence
    assert rows == named


@pytest.mark.parametrize(
    "template", sorted((ROOT / ".dvc/plots").glob("*.json")), ids=lambda path: path.stem
)
def test_plot_templates_zoom_in_one_layer_alone(template):
    """Vega-Lite hands a plot's own selection down to every layer, and then stops at "Duplicate
    signal name"."""
    spec = json.loads(template.read_text())
    assert not ("layer" in spec and "params" in spec)


@pytest.mark.parametrize(
    "script", sorted((ROOT / "docs").rglob("*.sh")), ids=lambda path: path.name
)
def test_scripts_can_be_parsed(script):
    subprocess.run(["bash", "-n", script], check=True)
