"""The checkpoint stage: a hub that answers, lacks, refuses or is not there; folders that fit and
that do not."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import transformers
from conftest import ROOT
from ruamel.yaml import YAML

from ser.corpus import EMOTIONS

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {
    "model_type": "wav2vec2", "conv_dim": [8, 8], "conv_kernel": [40, 8], "conv_stride": [20, 8], "num_feat_extract_layers": 2,
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8, "vocab_size": 8,
}  # fmt: skip
PREPROCESSOR = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "do_normalize": True,
    "sampling_rate": 16000,
}

# Runs the stage for each of the params given, in one process: starting Python anew takes most of
# the time.
DRIVER = """
import json, sys, time
from pathlib import Path
from stages import checkpoint
time.sleep = lambda seconds: None  # the hub's client waits longer and longer between its attempts
for changes in json.loads(sys.argv[1]):
    text = Path("template.yaml").read_text()
    for key, value in changes.items():
        text = text.replace(f"{key}: PLACEHOLDER", f"{key}: {value}")
    Path("params.yaml").write_text(text)
    print("CASE", flush=True), print("CASE", file=sys.stderr, flush=True)
    try:
        checkpoint.main()
    except SystemExit as end:
        print(end.code, file=sys.stderr, flush=True)
"""


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
    (folder("unprepared") / "preprocessor_config.json").unlink()
    saved("pretrained", "Wav2Vec2ForPreTraining")
    saved("asr", "Wav2Vec2ForCTC")
    ours = {
        "id2label": dict(enumerate(EMOTIONS)),
        "label2id": {name: number for number, name in enumerate(EMOTIONS)},
    }
    saved("ours", "Wav2Vec2ForSequenceClassification", **ours)
    saved("others", "Wav2Vec2ForSequenceClassification", num_labels=4)
    # A head of another make, as some published models have: transformers would draw a new one in
    # silence.
    place = saved("foreign", "Wav2Vec2Model")
    weights = {
        **torch.load(binary(saved("temporary", "Wav2Vec2Model"))),
        "classifier.dense.weight": torch.zeros(8, 16),
    }
    (place / "model.safetensors").unlink()
    torch.save(weights, place / "pytorch_model.bin")
    binary(saved("binary", "Wav2Vec2Model"))
    wider = saved("wider", "Wav2Vec2Model")
    (wider / "config.json").write_text(json.dumps({**CONFIG, "intermediate_size": 32}))
    torn = saved("torn", "Wav2Vec2Model") / "model.safetensors"
    torn.write_bytes(torn.read_bytes()[:2000])


def binary(folder: Path) -> Path:
    """Turn a folder's safetensors into the older pytorch_model.bin."""
    model = transformers.AutoModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


class Hub(BaseHTTPRequestHandler):
    """HEAD and GET of /owner/model/resolve/COMMIT/file, with the headers and error codes that the
    hub's client looks at."""

    def do_GET(self) -> None:
        owner, model, _, revision, file = self.path.strip("/").split("/")
        path = self.server.home / model / file
        code = None
        if owner == "gated":
            code, status = "GatedRepo", 403
        elif not path.parent.is_dir():
            code, status = "RepoNotFound", 404
        elif revision != COMMIT:
            code, status = "RevisionNotFound", 404
        elif not path.exists():
            code, status = "EntryNotFound", 404
        if code:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *arguments) -> None:
        pass


HUB_CASES = {
    "me/binary": "pretrained",
    "me/pretrained": "pretrained",
    "me/absent": "has no such model, and there is no such folder here",
    "not a name": "has no such model, and there is no such folder here",
    "gated/pretrained": "wants a token",
    "me/bare": "has neither model.safetensors nor pytorch_model.bin of it",
    "me/unprepared": "has no preprocessor_config.json",
    "me/spectrogram": "architecture audio-spectrogram-transformer does not fit",
    "me/asr": "has no revision main",
}
FOLDER_CASES = [
    ("pretrained", "true", "pretrained"),
    ("asr", "true", "pretrained"),
    ("ours", "true", "pretrained"),
    ("bare", "false", "configuration only"),
    ("bare", "true", "configuration only"),
    ("nowhere", "true", "no such folder"),
    ("spectrogram", "true", "architecture audio-spectrogram-transformer does not fit"),
    ("nonsense", "true", "no-such-model"),
    ("unprepared", "true", "no preprocessor_config.json"),
    ("others", "true", "LABEL_0, LABEL_1, LABEL_2, LABEL_3"),
    ("foreign", "true", "classifier.dense.weight"),
    ("wider", "true", "weights do not load"),
    ("torn", "true", "weights do not load"),
]
ACCEPTED = ("pretrained", "configuration only")


def run(folder: Path, endpoint: str, cases: list[dict]) -> list[tuple[str, str]]:
    """Run the stage in `folder` for several params; return what it printed for each, to stdout and
    stderr."""
    yaml = YAML()
    values = yaml.load(ROOT / "params.yaml")
    values.update(
        {"checkpoint": "PLACEHOLDER", "revision": "PLACEHOLDER", "freeze_cnn": "PLACEHOLDER"}
    )
    yaml.dump(values, folder / "template.yaml")
    cases = [{"revision": COMMIT, "freeze_cnn": "true", **case} for case in cases]
    extra = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(folder / "hf"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(cases)],
        cwd=folder, env={**os.environ, **extra, "no_proxy": "127.0.0.1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return list(
        zip(*(stream.split("CASE\n")[1:] for stream in (done.stdout, done.stderr)), strict=True)
    )


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()} if folder.exists() else {}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    checkpoints(folder)
    return folder


@pytest.fixture(scope="module")
def answers(home, tmp_path_factory) -> tuple[Path, dict]:
    """The folder in which all cases ran, one after the other, and what each printed."""
    folder = tmp_path_factory.mktemp("online")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.home = home
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cases = [
        {"checkpoint": name, "revision": "main" if name == "me/asr" else COMMIT}
        for name in HUB_CASES
    ]
    cases += [
        {"checkpoint": str(home / name), "freeze_cnn": freeze} for name, freeze, _ in FOLDER_CASES
    ]
    printed = run(folder, f"http://127.0.0.1:{server.server_port}", cases)
    server.shutdown()
    server.server_close()
    return folder, {
        (case["checkpoint"], case.get("freeze_cnn")): said
        for case, said in zip(cases, printed, strict=True)
    }


@pytest.mark.parametrize("name", HUB_CASES)
def test_hub(answers, name):
    out, err = answers[1][name, None]
    assert HUB_CASES[name] in out + err and name in out + err and len((out + err).splitlines()) == 1
    assert bool(out) == (HUB_CASES[name] in ACCEPTED)


@pytest.mark.parametrize(("name", "freeze", "expected"), FOLDER_CASES)
def test_folder(answers, home, name, freeze, expected):
    out, err = answers[1][str(home / name), freeze]
    assert (
        expected in out + err
        and str(home / name) in out + err
        and len((out + err).splitlines()) == 1
    )
    assert bool(out) == (expected in ACCEPTED)


def test_refusals_leave_the_last_good_checkpoint(answers, home):
    assert files(answers[0] / "data/checkpoint") == files(home / "bare")


def test_no_network(answers, home):
    """Nothing listens on port 9. What was fetched before needs no network; else one line says what
    can be done."""
    folder, _ = answers
    (_, cached), (_, absent) = run(
        folder, "http://127.0.0.1:9", [{"checkpoint": "me/pretrained"}, {"checkpoint": "me/ours"}]
    )
    assert not cached.strip()
    assert files(folder / "data/checkpoint") == files(home / "pretrained")
    assert (
        len(absent.splitlines()) == 1
        and absent.startswith("checkpoint: me/ours: ")
        and "cannot be reached" in absent
    )
