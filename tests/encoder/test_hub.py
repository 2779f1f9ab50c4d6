"""The checkpoint stage: a hub that answers, lacks, refuses or is not there; folders that fit and
that do not."""

import hashlib
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import transformers
import workplace
from conftest import ROOT
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file
from tiny_models import PREPROCESSOR, TINY, TINY_WHISPER, write_whisper

from ser.corpus import EMOTIONS
from ser.encoder import checkpoint, hub
from ser.run.errors import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {"model_type": "wav2vec2", **TINY, "vocab_size": 8}
# Fields about transcribing in OpenAI's own configurations.
SPEECH = {
    "forced_decoder_ids": [[1, 4], [2, 5]],
    "suppress_tokens": [1, 2, 7],
    "begin_suppress_tokens": [3, 2],
    "max_length": 448,
    "torch_dtype": "float32",
}

# Runs the stage with each of the params.yaml given, in one process: starting Python anew takes most
# of the time.
DRIVER = """
import sys, time
from pathlib import Path
from stages import checkpoint
time.sleep = lambda seconds: None  # the hub's client waits longer and longer between its attempts
for path in sys.argv[1:]:
    Path(path).rename("params.yaml")
    print("CASE", flush=True), print("CASE", file=sys.stderr, flush=True)
    try:
        checkpoint.main()
    except SystemExit as end:
        print(end.code, file=sys.stderr, flush=True)
"""


class Bomb:
    """A pickle of it, loaded, makes a file."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def checkpoints(home: Path) -> None:
    """Models of every kind, in folders under `home`."""

    def folder(name: str, **changes) -> Path:
        (home / name).mkdir()
        (home / name / "config.json").write_text(json.dumps({**CONFIG, **changes}))
        (home / name / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
        return home / name

    def saved(name: str, kind: str, **changes) -> Path:
        torch.manual_seed(0)
        place = folder(name)
        model = getattr(transformers, kind)(transformers.Wav2Vec2Config(**{**CONFIG, **changes}))
        model.save_pretrained(place)
        return place

    folder("bare")
    folder("spectrogram", model_type="audio-spectrogram-transformer")
    folder("nonsense", model_type="no-such-model")
    add(folder("phone") / "preprocessor_config.json", sampling_rate=8000)
    (folder("unprepared") / "preprocessor_config.json").unlink()
    saved("pretrained", "Wav2Vec2ForPreTraining")
    saved("newest", "Wav2Vec2ForPreTraining")
    saved("asr", "Wav2Vec2ForCTC")
    names = dict(enumerate(EMOTIONS))
    ours = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    saved("ours", "Wav2Vec2ForSequenceClassification", **ours)
    saved("others", "Wav2Vec2ForSequenceClassification", num_labels=4)
    # A head of another make, as some published models have: transformers would draw a new one in
    # silence.
    place = saved("foreign", "Wav2Vec2Model")
    weights = load_file(place / "model.safetensors")
    save_file({**weights, "classifier.dense.weight": torch.zeros(8, 16)},
              place / "model.safetensors", {"format": "pt"})  # fmt: skip
    place = saved("nan", "Wav2Vec2Model")
    weights["encoder.layers.0.attention.k_proj.weight"][3, 5] = float("nan")
    save_file(weights, place / "model.safetensors", {"format": "pt"})
    binary(saved("binary", "Wav2Vec2Model"))
    add(saved("wider", "Wav2Vec2Model") / "config.json", intermediate_size=64)
    torn = saved("torn", "Wav2Vec2Model") / "model.safetensors"
    torn.write_bytes(torn.read_bytes()[:2000])
    # Weight norm had other names when the checkpoints of the hub were made.
    old = torch.load(binary(saved("old", "Wav2Vec2ForPreTraining")))
    renamed = {"parametrizations.weight.original0": "weight_g",
               "parametrizations.weight.original1": "weight_v"}  # fmt: skip
    for new, name in renamed.items():
        (key,) = [key for key in old if key.endswith(new)]
        old[key.replace(new, name)] = old.pop(key)
    torch.save(old, home / "old" / "pytorch_model.bin")
    # Anything but tensors in a pickle could run code; so could the code beside a configuration.
    bomb = {"encoder.x": Bomb(home / "executed")}
    torch.save(bomb, folder("pickle") / "pytorch_model.bin")
    torch.save(bomb, write_whisper(home / "whisper-pickle") / "pytorch_model.bin")
    mine = dict.fromkeys(("AutoConfig", "AutoModelForAudioClassification"), "mine.Mine")
    for place in (folder("code", model_type="mine", auto_map=mine),
                  saved("both", "Wav2Vec2Model", auto_map=mine)):  # fmt: skip
        (place / "mine.py").write_text("raise SystemExit('code of a checkpoint ran')\n")

    whisper(home / "whisper", "WhisperForConditionalGeneration")
    add(home / "whisper" / "config.json", **SPEECH)
    half = whisper(home / "half", "WhisperForConditionalGeneration").half()
    half.save_pretrained(home / "half")
    binary(home / "whisper-binary", whisper(home / "whisper-binary", "WhisperModel"))
    add(write_whisper(home / "mels") / "config.json", num_mel_bins=12)


def whisper(folder: Path, kind: str) -> torch.nn.Module:
    """Save a Whisper of this kind to `folder`."""
    torch.manual_seed(0)
    write_whisper(folder)
    model = getattr(transformers, kind)(transformers.WhisperConfig(**TINY_WHISPER))
    model.save_pretrained(folder)
    return model


def add(file: Path, **fields) -> None:
    """Add fields to a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def binary(folder: Path, model: torch.nn.Module | None = None) -> Path:
    """Turn a folder's safetensors into the older pytorch_model.bin; `model` is what it holds."""
    model = model or transformers.AutoModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


class Hub(BaseHTTPRequestHandler):
    """HEAD and GET of /owner/model/resolve/COMMIT/file, with the headers and error codes that the
    hub's client looks at. Asked for a model of `last`, it takes no more connections."""

    def do_GET(self) -> None:
        owner, model, _, revision, file = self.path.strip("/").split("/")
        path, content = self.server.home / model / file, b""
        if owner == "last":
            self.server.socket.close()
        if owner == "gated":
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
        elif path.exists() and revision in (COMMIT, "main"):
            content = path.read_bytes()
            self.send_response(200)
        else:
            lacks = "Entry" if revision in (COMMIT, "main") else "Revision"
            self.send_response(404)
            self.send_header("X-Error-Code", f"{lacks if path.parent.is_dir() else 'Repo'}NotFound")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *arguments) -> None:
        pass


PINNED = f"pretrained, commit {COMMIT}\n"
KNOWN = "not a configuration that transformers knows"
# Of each checkpoint the revision, and what is printed, one line. HOME is the folder of all.
CASES = [
    ("HOME/asr", COMMIT, "pretrained"),
    ("HOME/ours", COMMIT, "pretrained"),
    ("HOME/both", COMMIT, "pretrained"),
    ("HOME/bare", COMMIT, "configuration only"),
    ("HOME/nowhere", COMMIT, "no such folder"),
    ("HOME/nonsense", COMMIT, "no-such-model"),
    ("HOME/code", COMMIT, KNOWN),
    ("HOME/phone", COMMIT, "expects 8000 Hz audio"),
    ("HOME/pickle", COMMIT, "weights do not load"),
    ("HOME/whisper-pickle", COMMIT, "weights do not load"),
    ("HOME/others", COMMIT, "fine-tuned to tell apart LABEL_0, LABEL_1, LABEL_2, LABEL_3"),
    ("HOME/mels", COMMIT, "wants the WhisperFeatureExtractor of 12 mels"),
    ("HOME/foreign", COMMIT, "classifier.dense.weight"),
    ("HOME/nan", COMMIT, "not a number"),
    ("HOME/wider", COMMIT, "weights do not load"),
    ("HOME/torn", COMMIT, "weights do not load"),
    ("me/binary", COMMIT, PINNED),
    ("me/pretrained", COMMIT, PINNED),
    ("me/whisper", COMMIT, PINNED),
    ("me/newest", "main", f"commit {COMMIT}: -S revision={COMMIT} keeps it"),
    ("me/absent", COMMIT, "has no such model, and there is no such folder here"),
    ("not a name", COMMIT, "has no such model, and there is no such folder here"),
    ("gated/pretrained", COMMIT, "wants a token"),
    ("me/bare", COMMIT, "has neither model.safetensors nor pytorch_model.bin of it"),
    ("me/unprepared", COMMIT, "has no preprocessor_config.json"),
    ("me/spectrogram", COMMIT, "architecture audio-spectrogram-transformer does not fit"),
    ("me/asr", "stable", "has no revision stable of it; every model has its own: -S revision=main"),
    ("last/absent", COMMIT, "has no such model"),
    ("me/ours", COMMIT, "cannot be reached"),
    ("me/pretrained", COMMIT, PINNED),  # which was fetched before
]
ACCEPTED = ("pretrained", "configuration only", PINNED)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    checkpoints(folder)
    return folder


@pytest.fixture(scope="module")
def answers(home, tmp_path_factory) -> tuple[Path, list]:
    """The folder in which all cases ran, one after the other, and what each printed, to stdout and
    stderr."""
    folder = tmp_path_factory.mktemp("online")
    values = YAML().load(ROOT / "params.yaml")
    for number, (name, revision, _) in enumerate(CASES):
        values.update({"checkpoint": name.replace("HOME", str(home)), "revision": revision})
        YAML().dump(values, folder / f"{number}.yaml")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.home = home
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = workplace.environment(
        HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}", HF_HOME=str(folder / "hf"),
        no_proxy="127.0.0.1",
    )  # fmt: skip
    command = [sys.executable, "-c", DRIVER, *(f"{number}.yaml" for number in range(len(CASES)))]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr
    printed = (stream.split("CASE\n")[1:] for stream in (done.stdout, done.stderr))
    return folder, list(zip(*printed, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", range(len(CASES)), ids=[f"{number}-{case[0]}" for number, case in enumerate(CASES)]
)
def test_one_line_names_the_checkpoint_or_the_reason_against_it(answers, home, number):
    name, _, expected = CASES[number]
    out, err = answers[1][number]
    assert name.replace("HOME", str(home)) in out + err
    assert expected in out + err and len((out + err).splitlines()) == 1
    assert bool(out) == (expected in ACCEPTED or "keeps it" in expected)


@pytest.mark.slow
def test_the_last_good_checkpoint_is_left_and_no_code_of_any_has_run(answers, home):
    kept = workplace.digest(answers[0] / "data/checkpoint")
    assert kept == workplace.digest(home / "pretrained")
    assert not (home / "executed").exists()


@pytest.mark.parametrize("name", ["whisper", "half", "whisper-binary"])
def test_of_whisper_only_the_encoder_is_kept(home, tmp_path, name):
    """From safetensors or the older format, in half or full precision: the same encoder, in
    float32."""
    hub.collect(str(home / name), COMMIT, tmp_path)
    kept = load_file(tmp_path / "model.safetensors")
    dtype = torch.float16 if name == "half" else torch.float32
    assert {tensor.dtype for tensor in kept.values()} == {dtype}
    assert all("encoder." in key for key in kept)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
    }
    whole = transformers.WhisperModel.from_pretrained(home / "whisper").encoder.state_dict()
    loaded = checkpoint.load(tmp_path, "c", 0).model.encoder.state_dict()
    assert loaded.keys() == whole.keys()
    for key, tensor in loaded.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, whole[key].to(dtype).float()), key


def test_weight_norm_under_its_old_names(home):
    """As the hub's wav2vec 2.0 checkpoints have it: no weight is lost."""
    old, new = (
        dict(checkpoint.load(home / name, "c", 0).named_parameters())
        for name in ("old", "pretrained")
    )
    assert old.keys() == new.keys()
    assert all(torch.equal(old[key], new[key]) for key in new)


def test_a_folder_is_found_from_the_work_tree_of_an_experiment(home, tmp_path, monkeypatch):
    work = tmp_path / "project/.dvc/tmp/exps/standalone/x"
    work.mkdir(parents=True)
    (tmp_path / "shared").symlink_to(home)
    monkeypatch.chdir(work)
    assert hub.local("../shared/pretrained").samefile(home / "pretrained")
    with pytest.raises(UserError, match=r"\.\./shared/nothing: no such folder"):
        hub.local("../shared/nothing")
    assert hub.local("openai/whisper-tiny.en") is None
