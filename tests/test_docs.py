"""dvc.yaml against the code it runs, and docs/pipeline.md against dvc.yaml."""

import re
import subprocess

import pytest
from conftest import ROOT
from imports import NO_EFFECT, behind
from ruamel.yaml import YAML

STAGES = {
    name: stage.get("do", stage)
    for name, stage in YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"].items()
}


def holds(dep: str, module: str) -> bool:
    """True if a dep is a module, or a folder that it lies in."""
    return module == dep or module.startswith(f"{dep}/")


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_modules_that_can_change_a_stages_outputs(stage):
    deps = [dep for dep in STAGES[stage]["deps"] if dep.startswith(("ser/", "stages/"))]
    modules = behind(ROOT / "stages" / f"{stage}.py")
    assert [module for module in modules if not any(holds(dep, module) for dep in deps)] == []
    assert [dep for dep in deps if not any(holds(dep, module) for module in modules)] == []
    ignored = (ROOT / ".dvcignore").read_text().splitlines()
    inside = [name for name in NO_EFFECT if any(holds(dep, name) for dep in deps)]
    assert set(inside) <= set(ignored)


def test_every_stage_runs_its_script_and_has_a_sentence():
    scripts = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}
    assert scripts == set(STAGES)
    for name, stage in STAGES.items():
        assert stage["cmd"].startswith(f"python -m stages.{name}") and stage["desc"]


def test_git_keeps_metrics_until_there_are_new_ones():
    """DVC removes other outputs before a stage runs."""
    for stage in STAGES.values():
        for out in (*stage.get("outs", []), *stage.get("metrics", [])):
            path, options = next(iter(out.items())) if isinstance(out, dict) else (out, {})
            kept = (
                {"cache": False, "persist": True}
                if path.startswith(("metrics/", "data/sources/"))
                else {}
            )
            assert options == kept, path


def test_docs_have_the_sentences_of_the_stages():
    text = (ROOT / "docs" / "pipeline.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)(?:@\w+)?` \| (.+?) \|", text, flags=re.MULTILINE))
    assert len(rows) > 10
    for name, sentence in rows.items():
        items = STAGES[name]["desc"].replace("${item}", "K").replace("${key}", "NAME")
        assert sentence == items


@pytest.mark.parametrize(
    "script", sorted((ROOT / "docs").rglob("*.sh")), ids=lambda path: path.name
)
def test_scripts_can_be_parsed(script):
    subprocess.run(["bash", "-n", script], check=True)
