"""Files that users hand in, damaged in all ways: a right result or one line, nothing else.

A few examples of each by default; `--hypothesis-profile=thorough` tries a thousand."""

import copy
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from ser import audio, mfcc, params, protocols
from ser.run.errors import UserError

pytestmark = pytest.mark.slow

PARAMS = (ROOT / "params.yaml").read_bytes()
SETTINGS = params.load(ROOT / "params.yaml").mfcc
ODD = (
    None, True, 0, -1, 3, 10**6, 2**31, 2**63, 10**30, 0.5, 1e-320, 1e30, float("nan"),
    float("inf"), "", "x", "1", "é\n\x00", [], [0], [[]], ["x"], {}, {"x": 1}, {"0": {}},
)  # fmt: skip


def answer(read: Callable, *arguments: object) -> object:
    """The result of `read`; None if it refuses with one line, as `one_line` would print it."""
    try:
        return read(*arguments)
    except UserError as error:
        assert len(str(error).splitlines()) == 1, str(error)
        assert len(str(error)) < 1500, len(str(error))
        return None


@st.composite
def damaged(draw: st.DrawFn, content: bytes, upto: int | None = None) -> bytes:
    """`content` with bytes replaced, put in or cut out among its first `upto`, or cut short."""
    new = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(len(new), upto or len(new))))
        removed = draw(st.integers(0, 16) | st.just(len(new)))
        new[at : at + removed] = draw(st.binary(max_size=8))
    return bytes(new)


def places(tree: object, where: tuple = ()) -> list[tuple]:
    """The paths of all values in nested dicts and lists."""
    items = dict(enumerate(tree)) if isinstance(tree, list) else tree
    items = items.items() if isinstance(items, dict) else ()
    return [where, *(path for key, value in items for path in places(value, (*where, key)))]


@st.composite
def changed(draw: st.DrawFn, tree: dict) -> object:
    """`tree` with some of its values replaced, removed, or beside new ones."""
    new = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        *path, key = draw(st.sampled_from(places(new)[1:] or [("x",)]))
        parent = new
        for step in path:
            parent = parent[step]
        match draw(st.sampled_from(("replace", "remove", "add"))):
            case "replace":
                value = st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=5)
                parent[key] = copy.deepcopy(draw(value))
            case "remove" if key in parent or isinstance(parent, list):
                del parent[key]
            case "add" if isinstance(parent, dict):
                parent[draw(st.text(max_size=5))] = copy.deepcopy(draw(st.sampled_from(ODD)))
    return new


@st.composite
def as_yaml(draw: st.DrawFn) -> bytes:
    """params.yaml with other values."""
    text = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.dump(draw(changed(yaml.load(PARAMS))), text)
    return text.getvalue().encode("utf-8", errors="surrogatepass")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the cases below are written to."""
    return tmp_path_factory.mktemp("fuzz")


@given(content=damaged(PARAMS) | as_yaml())
def test_params(home, content):
    (home / "params.yaml").write_bytes(content)
    settings = answer(params.load, home / "params.yaml")
    if settings is not None:  # whatever is let pass is what params.yaml may hold, and stays so
        assert params.check(settings.model_dump(), "again", params.Params) == settings
        assert set(settings.folds) <= set(range(protocols.count(settings.split.scheme)))


def recording(kind: str, subtype: str | None = None, rate: int = 16000, channels: int = 1) -> bytes:
    """A fifth of a second of noise, as a file of this format."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 0.1, (rate // 5, channels))
    soundfile.write(file, noise, rate, subtype, format=kind)
    return file.getvalue()


WAVS = [recording("WAV"), recording("WAV", "FLOAT"), recording("WAV", "ULAW", 8000, 2)]
OTHERS = [recording("FLAC"), recording("OGG"), recording("MP3"), recording("AIFF")]


@given(content=st.sampled_from(WAVS).flatmap(lambda wav: damaged(wav, upto=64)))
def test_wav_headers(home, content):
    (home / "clip.wav").write_bytes(content)
    samples = answer(audio.read, home / "clip.wav")
    if samples is not None:
        assert samples.dtype == np.float32 and samples.ndim == 1 and len(samples)
        assert np.isfinite(samples).all()


@given(content=st.sampled_from([*WAVS, *OTHERS]).flatmap(damaged))
def test_recordings(home, content):
    """Samples of which features can be computed, or the reason why there are none."""
    (home / "any").write_bytes(content)
    found = answer(audio.decode, home / "any", 16000, 2.0)
    if found is not None:
        samples, notes = found
        assert len(notes) <= 3 and all(note.isprintable() for note in notes)
        assert samples.dtype == np.int16 and samples.ndim == 1 and 0 < len(samples) <= 32_100
        assert np.isfinite(mfcc.describe(samples / np.float32(32768), SETTINGS)).all()
