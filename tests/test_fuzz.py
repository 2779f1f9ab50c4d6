"""What is read from outside, damaged in all ways: a right result or one line, nothing else.

A few examples of each by default; `--hypothesis-profile=thorough` tries a thousand."""

import contextlib
import copy
import hashlib
import io
import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import ROOT
from feature_tables import clips, features
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from tiny_models import write_checkpoint, write_whisper

from commands import predict
from ser import audio, params, protocols, scoring, tables
from ser import mfcc as features_of
from ser.classifier import crossval
from ser.corpora import ravdess
from ser.corpus import EMOTIONS
from ser.encoder import checkpoint, hub
from ser.run.errors import UserError
from stages import svm_train

pytestmark = pytest.mark.slow

PARAMS = (ROOT / "params.yaml").read_bytes()
ODD = (
    None, True, 0, -1, 3, 10**6, 2**31, 2**63, 10**30, 0.5, 1e-320, 1e30, float("nan"),
    float("inf"), "", "x", "1", "é\n\x00", [], [0], [[]], ["x"], {}, {"x": 1}, {"0": {}},
)  # fmt: skip


def answer(read: Callable, *arguments: object) -> object:
    """What `read` returns; None if it refuses with one line, as `one_line` would print it."""
    try:
        return read(*arguments)
    except UserError as error:
        assert len(str(error).splitlines()) == 1, str(error)
        assert len(str(error)) < 1500, len(str(error))
        return None


def run(main: Callable[[], None], *arguments: object) -> tuple[str, str] | None:
    """What `main` prints on stdout and stderr; None if it ends with one line and exit code 1."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["fuzz", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            if isinstance(end.code, str):
                assert len(end.code.splitlines()) == 1, end.code
                return None
            assert end.code in (0, 1, None), end.code
    return out.getvalue(), err.getvalue()


@st.composite
def damaged(draw: st.DrawFn, content: bytes, upto: int | None = None) -> bytes:
    """`content` with bytes replaced, put in or cut out among its first `upto`, or cut short."""
    made = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(len(made), upto or len(made))))
        match draw(st.sampled_from(("replace", "insert", "remove", "shorten"))):
            case "replace":
                new = draw(st.binary(min_size=1, max_size=4))
                made[at : at + len(new)] = new
            case "insert":
                made[at:at] = draw(st.binary(min_size=1, max_size=8))
            case "remove":
                del made[at : at + draw(st.integers(1, 16))]
            case "shorten":
                del made[at:]
    return bytes(made)


def places(tree: object, where: tuple = ()) -> list[tuple]:
    """The paths of all values in nested dicts and lists."""
    items = dict(enumerate(tree)) if isinstance(tree, list) else tree
    items = items.items() if isinstance(items, dict) else ()
    return [where, *(path for key, value in items for path in places(value, (*where, key)))]


@st.composite
def changed(draw: st.DrawFn, tree: dict) -> object:
    """`tree` with some of its values replaced, removed, or beside new ones."""
    made = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        *path, key = draw(st.sampled_from(places(made)[1:] or [("x",)]))
        parent = made
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
    return made


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the cases below are written to."""
    return tmp_path_factory.mktemp("fuzz")


# ---- params.yaml


@pytest.fixture(scope="module")
def load_params(home: Path) -> Callable[[bytes], params.Params]:
    """Read these bytes as params.yaml."""

    def load(content: bytes) -> params.Params:
        (home / "params.yaml").write_bytes(content)
        return params.load(home / "params.yaml")

    return load


def as_yaml(values: object) -> bytes:
    text = io.StringIO()
    YAML(typ="safe", pure=True).dump(values, text)
    return text.getvalue().encode("utf-8", errors="surrogatepass")


def good(settings: params.Params) -> None:
    """Whatever is let pass is what params.yaml may hold, and stays so."""
    again = params.check(settings.model_dump(), "again", params.Params)
    assert again == settings
    assert set(settings.folds) <= set(range(protocols.count(settings.split.scheme)))


@given(content=damaged(PARAMS))
def test_params_with_damaged_text(load_params, content):
    if (settings := answer(load_params, content)) is not None:
        good(settings)


@given(values=changed(YAML(typ="safe", pure=True).load(PARAMS)))
def test_params_with_other_values(load_params, values):
    if (settings := answer(load_params, as_yaml(values))) is not None:
        good(settings)


# ---- recordings


def recording(kind: str, subtype: str | None = None, rate: int = 16000, channels: int = 1) -> bytes:
    """A fifth of a second of noise, as a file of this format."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 0.1, (rate // 5, channels))
    soundfile.write(file, noise, rate, subtype, format=kind)
    return file.getvalue()


WAVS = [recording("WAV"), recording("WAV", "FLOAT"), recording("WAV", "ULAW", 8000, 2)]
OTHERS = [recording("FLAC"), recording("OGG"), recording("MP3"), recording("AIFF")]


def decoded(samples: np.ndarray | None, most: int) -> None:
    if samples is not None:
        assert samples.dtype == np.int16 and samples.ndim == 1
        assert 0 < len(samples) <= most


@given(content=st.sampled_from(WAVS).flatmap(lambda wav: damaged(wav, upto=64)))
def test_wav_headers(home, content):
    (home / "clip.wav").write_bytes(content)
    decoded(answer(audio.decode, home / "clip.wav", 16000, 2.0), 32_100)
    samples = answer(audio.read, home / "clip.wav")
    if samples is not None:
        assert samples.dtype == np.float32 and samples.ndim == 1 and len(samples)
        assert np.isfinite(samples).all()


@given(content=st.sampled_from(OTHERS).flatmap(damaged))
def test_other_recordings(home, content):
    (home / "clip").write_bytes(content)
    decoded(answer(audio.decode, home / "clip", 16000, 2.0), 32_100)


# ---- the corpus's archive


CONTENTS = {f"Actor_01/03-01-0{n}-01-01-01-01.wav": bytes([n]) * 90 for n in (1, 2, 3)}
MANIFEST = {name: hashlib.md5(content).hexdigest() for name, content in CONTENTS.items()}


def archive(method: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        for name, content in CONTENTS.items():
            made.writestr(name, content)
    return file.getvalue()


METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


@given(content=st.sampled_from([archive(method) for method in METHODS]).flatmap(damaged))
def test_archives(home, content):
    (home / "corpus.zip").write_bytes(content)
    target = home / "unpacked"
    shutil.rmtree(target, ignore_errors=True)
    unpacked = answer(lambda: ravdess.unpack(home / "corpus.zip", target, MANIFEST) or True)
    made = {
        path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*.wav")
    }
    assert made.items() <= CONTENTS.items()
    assert not unpacked or made == CONTENTS


# ---- tables

CLIPS = clips()
CELL = st.sampled_from(
    ["", "x", "-1", "0", "1", "99", "1.5", "nan", "inf", "1e400", "True", '"', "a,b", "é",
     "angry", "03-01-01-01-01-01-01", "9" * 30, "\x00", "2026-01-01"]
)  # fmt: skip


@st.composite
def edited(draw: st.DrawFn, table: pd.DataFrame) -> bytes:
    """A CSV file of `table` with cells, lines or bytes that are changed."""
    lines = table.to_csv(index=False).splitlines()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(("cell", "cell", "cell", "repeat", "remove", "swap", "bytes"))):
            case "cell":
                cells = lines[at].split(",")
                cells[draw(st.integers(0, len(cells) - 1))] = draw(CELL)
                lines[at] = ",".join(cells)
            case "repeat":
                lines.insert(at, lines[at])
            case "remove" if len(lines) > 1:
                del lines[at]
            case "swap":
                lines[at] = ",".join(reversed(lines[at].split(",")))
            case "bytes":
                return draw(damaged("\n".join(lines).encode()))
    return "\n".join(lines).encode()


@given(content=edited(CLIPS))
def test_folds(home, content):
    (home / "folds.csv").write_bytes(content)
    table = answer(tables.folds, home / "folds.csv")
    if table is not None:
        assert table["clip"].is_unique and set(table["emotion"]) <= set(EMOTIONS)
        assert (table["clip"].str[-2:].astype(int) == table["actor"]).all()
        assert (table.groupby("actor")["fold"].nunique() == 1).all()
        assert table["fold"].nunique() > 1


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/folds.csv and data/mfcc.parquet."""
    folder = tmp_path_factory.mktemp("parquet")
    (folder / "data").mkdir()
    CLIPS.to_csv(folder / "data/folds.csv", index=False)
    table = features(CLIPS)
    table.insert(0, "clip", CLIPS["clip"])
    table.attrs = {"hop": 160}
    table.to_parquet(folder / "data/mfcc.parquet", index=False)
    shutil.copy(folder / "data/mfcc.parquet", folder / "whole.parquet")
    return folder


@given(data=st.data())
def test_feature_tables(parquet, data):
    content = data.draw(damaged((parquet / "whole.parquet").read_bytes()))
    with contextlib.chdir(parquet):
        Path("data/mfcc.parquet").write_bytes(content)
        table = answer(crossval.read, "data/mfcc.parquet", "mfcc")
    if table is not None:
        assert len(table.table) == len(CLIPS) and np.isfinite(table.table).all(axis=None)


PREDICTIONS = CLIPS[["clip", "actor", "fold"]].assign(
    actual=CLIPS["emotion"],
    predicted=CLIPS["emotion"],
    **{emotion: np.where(CLIPS["emotion"] == emotion, 0.3, 0.1) for emotion in EMOTIONS},
)


@given(content=edited(PREDICTIONS))
def test_predictions(home, content):
    (home / "data/svm").mkdir(parents=True, exist_ok=True)
    (home / "data/svm/predictions.csv").write_bytes(content)
    (home / "data/svm/protocol.txt").write_text("made up\n")
    with contextlib.chdir(home):
        table = answer(scoring.read, "svm", [0, 1, 2])
    if table is None:
        return
    assert table["clip"].is_unique and not table.isna().any(axis=None)
    assert np.allclose(table[list(EMOTIONS)].sum(axis=1), 1, atol=1e-3)
    figures = scoring.summary(table)
    assert all(np.isfinite(value) and value >= 0 for value in figures.values())
    assert sum(scoring.by_emotion(table)["clips"]) == len(table)


# ---- checkpoints and models


def copied(source: Path, target: Path) -> Path:
    """A copy of `source` in place of `target`."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


@pytest.fixture(scope="module", params=["wav2vec2", "whisper"])
def pretrained(request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with weights, as safetensors and as pytorch_model.bin beside it."""
    import torch
    import transformers

    write = {"wav2vec2": write_checkpoint, "whisper": write_whisper}[request.param]
    folder = write(tmp_path_factory.mktemp("pretrained") / "tiny")
    config = transformers.AutoConfig.from_pretrained(folder)
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config)
    model.save_pretrained(folder)
    torch.save(model.state_dict(), folder.parent / "pytorch_model.bin")
    return folder


SAMPLES = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)


def start_from(folder: Path) -> np.ndarray:
    """What an encoder makes of a clip, after `checkpoint` has taken it."""
    import torch

    target = folder.parent / "taken"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    hub.collect(str(folder), "main", target)
    encoder = checkpoint.load(target, "tiny", seed=0).eval()
    encoder.check_length("clip", len(SAMPLES))
    inputs = torch.from_numpy(encoder.prepare(SAMPLES))[None]
    with torch.inference_mode():
        logits = encoder(inputs, torch.tensor([inputs.shape[1]]))
    return logits.softmax(-1)[0].numpy()


def shares(probabilities: np.ndarray | None) -> None:
    """Nothing, or eight probabilities."""
    if probabilities is not None:
        assert len(probabilities) == 8 and np.isfinite(probabilities).all()
        assert sum(probabilities) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
@given(data=st.data())
def test_configurations(home, pretrained, file, data):
    folder = copied(pretrained, home / "checkpoint")
    if data.draw(st.booleans(), "without weights"):
        (folder / "model.safetensors").unlink()
    values = json.loads((folder / file).read_text())
    whole = json.dumps(values).encode()
    content = data.draw(changed(values).map(lambda new: json.dumps(new).encode()) | damaged(whole))
    (folder / file).write_bytes(content)
    shares(answer(start_from, folder))


@given(data=st.data())
def test_weights(home, pretrained, data):
    folder = copied(pretrained, home / "checkpoint")
    name = data.draw(st.sampled_from(["model.safetensors", "pytorch_model.bin"]))
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
        shutil.copy(pretrained.parent / name, folder / name)
    whole = (folder / name).read_bytes()
    upto = data.draw(st.sampled_from([8, 200, None]))
    (folder / name).write_bytes(data.draw(damaged(whole, upto)))
    shares(answer(start_from, folder))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> dict[str, Path]:
    """The folders of an SVM and of a fine-tuned encoder, and a clip to answer."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "data").mkdir()
    CLIPS.to_csv(folder / "data/folds.csv", index=False)
    settings = params.load(ROOT / "params.yaml").mfcc
    names = features_of.feature_names(settings)
    table = pd.DataFrame(
        np.random.default_rng(0).normal(size=(len(CLIPS), len(names))), columns=names
    ).astype("float32")
    table.insert(0, "clip", CLIPS["clip"])
    table.attrs = settings.model_dump()
    table.to_parquet(folder / "data/mfcc.parquet", index=False)
    values = YAML().load(PARAMS)
    few = {"kernel": ["logistic"], "C": [1.0], "gamma": [1.0], "blocks": [{"dct": 1.0}]}
    values["svm_train"].update(few)
    YAML().dump(values, folder / "params.yaml")
    with contextlib.chdir(folder):
        run(svm_train.main)
    audio.write(folder / "clip.wav", np.rint(SAMPLES * 2**15).astype(np.int16))
    return {
        "svm": folder / "data/models/svm",
        "w2v": trained / "data/models/w2v/fold_0",
        "clip": folder / "clip.wav",
    }


def predicted(folder: Path, clip: Path) -> None:
    """`predict` answers with probabilities, or says in one line why not."""
    printed = run(predict.main, "--json", "--model", folder, clip)
    if printed is None:
        return
    out, err = printed
    lines = [*out.splitlines(), *err.splitlines()]
    assert len(lines) == 1, lines
    if out:
        line = json.loads(out)
        assert list(line["probabilities"]) == list(EMOTIONS)
        shares(np.array(list(line["probabilities"].values())))


@given(data=st.data())
def test_models(home, models, data):
    kind = data.draw(st.sampled_from(["svm", "w2v"]))
    folder = copied(models[kind], home / "model")
    names = {"svm": ["model.json"], "w2v": ["config.json", "preprocessor_config.json"]}[kind]
    file = folder / data.draw(st.sampled_from([*names, "model.safetensors"]))
    whole = file.read_bytes()
    if file.suffix == ".json" and data.draw(st.booleans()):
        file.write_text(json.dumps(data.draw(changed(json.loads(whole)))))
    else:
        file.write_bytes(data.draw(damaged(whole, data.draw(st.sampled_from([8, 400, None])))))
    predicted(folder, models["clip"])


@given(content=st.sampled_from([*WAVS, *OTHERS]).flatmap(damaged))
def test_files_to_predict(home, models, content):
    (home / "any").write_bytes(content)
    predicted(models["svm"], home / "any")
