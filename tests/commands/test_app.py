"""One's own voice on the page of `commands.app`, in a browser whose microphone is a file."""

import importlib.util
import os
import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import workplace
from conftest import CHROMIUM, ROOT, one_line
from playwright.sync_api import Page, expect, sync_playwright
from ruamel.yaml import YAML
from voices import clip

LABELS = ("ja <b>", "1", "so, *so*")
needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="no Gradio; `make app` installs it"
)
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an SVM of labels that no corpus has."""
    home = tmp_path_factory.mktemp("home")
    (home / "data/audio").mkdir(parents=True)
    rows = []
    for number in range(12):
        speaker, label = divmod(number, len(LABELS))
        rows.append((f"c{number}", f"c{number}.wav", f"s{speaker}", LABELS[label], speaker % 2))
        path = home / f"data/audio/c{number}.wav"
        clip(path, 0.4, number, 0.1, pitch=100 + 80 * label, syllables=3 + label)
    columns = ["clip", "file", "speaker", "label", "fold"]
    pd.DataFrame(rows, columns=columns).to_csv(home / "data/folds.csv", index=False)
    values = YAML().load(ROOT / "params.yaml")
    values["corpus"], values["mfcc"]["warps"] = "recorded/my <i>clips", [1.0]
    values["split"]["scheme"], values["folds"] = 2, [0, 1]
    few = {"kernel": ["rbf"], "C": [20], "gamma": [0.5], "inner_folds": 2}
    values["svm_train"].update(few)
    YAML().dump(values, home / "params.yaml")
    workplace.run(home, "mfcc", "svm_train")
    return home


@pytest.fixture(scope="module")
def address(home, tmp_path_factory) -> Iterator[str]:
    """Where the page is served; once it ends nothing is left of what it was given."""
    temporary = tmp_path_factory.mktemp("temporary")
    environment = {**workplace.environment(), "TMPDIR": str(temporary), "HOME": str(temporary)}
    (home / "data/models/broken").mkdir()
    command = [sys.executable, "-m", "commands.app"]
    with subprocess.Popen(
        command,
        cwd=home,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout and process.stderr
        line = process.stdout.readline()
        assert "has the page" in line, process.stderr.read()
        yield line.split()[0]
        kept = [path.name for path in temporary.rglob("*") if path.suffix == ".wav"]
        process.send_signal(signal.SIGINT)
        assert process.wait() == 128 + signal.SIGINT
        broken, end = process.stderr.read().splitlines()
        assert broken.startswith("app: broken: no model there") and end == "app: interrupted"
    assert kept and not [path for path in temporary.rglob("*") if path.suffix == ".wav"]
    assert not list(home.rglob("audio.wav"))


@pytest.fixture
def page(home, address) -> Iterator[Page]:
    """The page, opened; it asks no other server for anything, and no script of it breaks."""
    with sync_playwright() as playwright:
        voice = f"--use-file-for-fake-audio-capture={home / 'data/audio/c4.wav'}"
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*OPTIONS, voice])
        page = browser.new_page()
        elsewhere: list[str] = []
        page.on("pageerror", lambda error: elsewhere.append(str(error)))
        page.on("request", lambda request: elsewhere.append(request.url))
        page.goto(address)
        yield page
        browser.close()
    own = (address, "blob:", "data:")
    assert [text for text in elsewhere if not text.startswith(own)] == []


def drop(page: Page, path: Path) -> None:
    page.locator("input[type=file]").set_input_files(path)


def bars(page: Page) -> dict[str, int]:
    """The percentage beside each label."""
    rows = page.locator(".confidence-set")
    expect(rows).to_have_count(len(LABELS), timeout=60_000)
    texts = [row.inner_text().split("\n") for row in rows.all()]
    return {label: int(share.strip("%")) for label, *_, share in texts}


@needs_gradio
@pytest.mark.slow
@pytest.mark.browser
def test_a_dropped_file_gets_the_answers_of_predict(home, page):
    path = home / "data/audio/c4.wav"
    knows = "svm: trained on my <i>clips. An answer is always one of ja <b>, 1, so, *so*."
    expect(page.get_by_text(knows, exact=True)).to_be_visible(timeout=60_000)
    expect(page.get_by_text("broken: no model there")).to_be_visible()
    drop(page, path)
    answer = workplace.answers(home, "svm", path)[0]
    assert bars(page) == pytest.approx({name: 100 * answer[name] for name in LABELS}, abs=0.51)
    page.get_by_role("button", name="Play", exact=True).click()
    expect(page.get_by_role("button", name="Pause", exact=True)).to_be_visible()


@needs_gradio
@pytest.mark.slow
@pytest.mark.browser
def test_what_is_wrong_with_a_file_is_a_line_on_the_page(home, page, tmp_path):
    content = (home / "data/audio/c4.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(content[: len(content) * 2 // 3])
    soundfile.write(tmp_path / "silent.wav", np.zeros(16_000), 16_000)
    soundfile.write(tmp_path / "short.wav", np.random.default_rng(0).normal(0, 0.1, 900), 16_000)
    remarks = page.locator("#remarks")
    drop(page, tmp_path / "cut.wav")
    expect(remarks).to_contain_text("cut.wav: cut off or damaged: ", timeout=60_000)
    assert sum(bars(page).values()) == pytest.approx(100, abs=2)
    for name, words in (("silent", "holds nothing but silence"), ("short", "too short: 56 ms")):
        page.get_by_role("button", name="Clear").click()
        expect(remarks).to_be_empty()
        drop(page, tmp_path / f"{name}.wav")
        expect(remarks).to_contain_text(f"{name}.wav: {words}")
        expect(page.locator(".confidence-set")).to_have_count(0)


@needs_gradio
@pytest.mark.slow
@pytest.mark.browser
def test_a_recording_of_the_microphone_is_answered(page):
    page.get_by_role("button", name="Record audio").click(timeout=60_000)
    page.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(1500)
    page.get_by_role("button", name="Stop", exact=True).first.click()
    assert sum(bars(page).values()) == pytest.approx(100, abs=2)
    expect(page.locator("#remarks")).to_be_empty()
    page.get_by_role("button", name="Play", exact=True).click()


@needs_gradio
@pytest.mark.slow
@pytest.mark.browser
def test_a_long_file_is_answered_along_time(page, tmp_path):
    """As far as it can be read; then a short one as a whole."""
    samples = np.random.default_rng(0).normal(0, 0.1, 90 * 16_000).astype(np.float32)
    samples[80 * 16_000 :] = np.nan
    soundfile.write(tmp_path / "long.wav", samples, 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "short.wav", samples[:16_000], 16_000)
    remarks, picture = page.locator("#remarks"), page.locator(".matplotlib img")
    drop(page, tmp_path / "long.wav")
    expect(picture).to_be_visible(timeout=120_000)
    expect(remarks).to_contain_text("long.wav: more than a minute, so in windows of 4 s, every 2 s")
    expect(remarks).to_contain_text("long.wav: holds samples that are not numbers")
    expect(page.locator(".confidence-set")).to_have_count(0)
    page.get_by_role("button", name="Clear").click()
    expect(picture).to_have_count(0)
    drop(page, tmp_path / "short.wav")
    assert sum(bars(page).values()) == pytest.approx(100, abs=2)


def test_without_gradio_a_model_or_an_address_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setitem(sys.modules, "gradio", None)
    one_line(workplace.outcome(tmp_path, "commands.app"), "data/models: no model", "`dvc repro`")
    done = workplace.outcome(tmp_path, "commands.app", "--model", "svm")
    one_line(done, "the page needs gradio, which is not installed: `make app`")
    done = workplace.outcome(tmp_path, "commands.app", "--model", "svm", "--host", "203.0.113.7")
    one_line(done, "--host 203.0.113.7: ")
    monkeypatch.setitem(sys.modules, "gradio", types.ModuleType("gradio"))
    done = workplace.outcome(tmp_path, "commands.app", "--model", "a", "b")
    one_line(done, "a: no model there", "b: no model there")
