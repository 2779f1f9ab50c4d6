"""README and docs against the project: commands run, figures are the committed ones, links and
names exist."""

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, Project, clone_of
from dvc.utils.hydra import apply_overrides
from tiny_models import write_whisper

from ser import params

README = (ROOT / "README.md").read_text()
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

BACK = "git stash push -u metrics params.yaml dvc.lock && dvc checkout -q --allow-missing"
RERUN = "(Running stage '{0}'|Stage '{0}' is cached)"

# The commands of the README, in its order, and what each prints on the shrunken demo corpus.
COMMANDS = [
    ("make demo", None),  # in tests/commands/test_demo.py
    ("make repro", r"MFCC \+ SVM: SYNTHETIC demo corpus"),
    (". .venv/bin/activate", "^$"),
    ("dvc repro evaluate@svm", "Data and pipelines are up to date"),
    (
        'git add metrics dvc.lock && git commit --allow-empty -m "As run on this machine"',
        "As run on this machine",
    ),
    (
        "dvc exp run -S checkpoint=openai/whisper-tiny.en -S revision=main evaluate@svm "
        "evaluate@probe",
        RERUN.format("probe_train"),
    ),
    (
        "dvc exp run -S trim_db=30 -S head=layers -S head_dropout=0.3 -S lr=3e-5 -S head_lr=1e-4 "
        "-S 'adam_betas=[0.9,0.98]' -S 'speeds=[0.8,0.9,1,1.1,1.2]' -S label_smoothing=0.1 "
        "-S mask_time_prob=0.1 -S mask_feature_prob=0.1",
        RERUN.format("w2v_finetune@1"),
    ),
    ("python -m commands.results", "encoder, fine-tuned: .*openai/whisper-tiny.en"),
    (BACK, "Saved working directory"),
    ("python -m commands.predict --model svm clip.wav", r"^{header}\nclip\.wav +[a-z]+ +[01]\.\d"),
    ("dvc exp run -S mfcc.trim_db=35 evaluate@svm", RERUN.format("mfcc")),
    ("make experiments", r"mfcc\.trim_db(.*\n)+.* 35 "),
    (BACK, "Saved working directory"),
    ("git switch -c trim-35", "^$"),
    ("dvc exp run -S mfcc.trim_db=35 evaluate@svm", RERUN.format("mfcc")),
    ('git commit -am "Trim less"', "Trim less"),
    ("dvc metrics diff main trim-35", r"metrics.svm\.json"),
]


def blocks(text: str) -> list[str]:
    """The shell commands in a page, comments left out, continued lines joined."""
    found = "".join(re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))
    lines = (re.sub(r"\s+# .*", "", line) for line in found.replace("\\\n", " ").splitlines())
    return [" ".join(line.split()) for line in lines if line.strip()]


@pytest.fixture
def reader(done: Project, tmp_path: Path) -> Project:
    """A project as the README's reader has it: a clone of the shrunken demo."""
    project = clone_of(done, tmp_path / "clone")
    project.run("git", "switch", "--quiet", "--force-create", "main")
    # In the place of the model hub, and as git ignores it.
    encoder = project.path / "openai" / "whisper-tiny.en"
    write_whisper(encoder, max_source_positions=200, num_mel_bins=16)
    (project.path / ".git" / "info" / "exclude").write_text("/clip.wav\n/openai/\n")
    (project.path / ".venv" / "bin").mkdir()
    (project.path / ".venv" / "bin" / "activate").touch()  # this environment is active
    project.env["COLUMNS"] = "120"  # of the reader's screen
    return project


def test_each_command_of_the_readme_is_run():
    assert blocks(README) == [command for command, _ in COMMANDS]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_readme_commands(reader):
    header = re.search(r"^clip +predicted .*$", README, flags=re.MULTILINE)
    columns = " +".join(header[0].split())
    for command, prints in COMMANDS:
        if not prints:
            continue
        if "clip.wav" in command:
            clip = next((reader.path / "data" / "raw").rglob("*.wav"))
            shutil.copy(clip, reader.path / "clip.wav")
        printed = reader.run("bash", "-e", "-c", command)
        pattern = prints.replace("{header}", columns)
        assert re.search(pattern, printed.stdout, flags=re.MULTILINE), (command, printed)


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_names_in_pages_exist(page, tmp_path):
    text = page.read_text()
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [*blocks(text), *re.findall(r"`([^`]+)`", prose)]
    for target in re.findall(r"\bmake ([a-z][a-z-]*)", "\n".join(lines)):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text(), f"make {target}"
    for module in re.findall(r"python -m ((?:stages|commands|studies|benchmarks)\.\w+)", text):
        if module not in ("stages.NAME", "stages.knn"):
            assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target
    for anchor in re.findall(r"\]\(#([^)]+)\)", text):
        titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}
    for line in lines:
        changes = [
            first or second
            for first, second in re.findall(r"-S (?:'([^']+)'|(\S+=\S*[^\s…=]))", line)
            if "key=value" not in (first, second)
        ]
        changes = [re.sub(r"=(\d+)(,\d+)+$", r"=\1", change) for change in changes]  # of a grid
        if changes:
            shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
            apply_overrides(tmp_path / "params.yaml", changes)
            params.load(tmp_path / "params.yaml")  # or it says what is wrong


def test_figures_in_sentences_are_the_committed_ones():
    accuracy = json.loads((ROOT / "metrics" / "svm.json").read_text())["accuracy"]
    results = (ROOT / "docs" / "results.md").read_text()
    sentence = re.search(r"in view: ([\d.]+) % is somewhat\s+optimistic", results)
    assert sentence[1] == f"{accuracy:.1%}".rstrip("%")


def test_messages_in_troubleshooting_are_what_the_code_says():
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    code = (
        "".join(
            file.read_text()
            for folder in ("ser", "stages", "commands")
            for file in (ROOT / folder).rglob("*.py")
        )
        + (ROOT / "Makefile").read_text()
    )
    headings = re.findall(r"^\*\*(.+?)\*\*", page, flags=re.MULTILINE | re.DOTALL)
    quoted = [text for heading in headings for text in re.findall(r"`([^`]+)`", heading)]
    ours = [text for text in quoted if " " in text and not text.startswith(("dvc ", "Key "))]
    assert ours
    for text in ours:
        assert text in code, text
