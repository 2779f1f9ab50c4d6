"""The checkpoint stage: a hub that answers, lacks, refuses or is not there; folders that fit and
that do not."""

import hashlib
import json
import shutil
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
from huggingface_hub import constants
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file
from tiny_models import PREPROCESSOR, TINY, TINY_WHISPER, write_checkpoint, write_whisper

from ser.corpus import EMOTIONS
from ser.encoder import checkpoint, hub
from ser.encoder.families.encoder import Encoder
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

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 380267417\n"
MODEL_TYPES = {"UniSpeechSat": "unispeech-sat", "WavLM": "wavlm", "Hubert": "hubert"}

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
    # A head of another make, as some published models have.
    place = saved("foreign", "Wav2Vec2Model")
    weights = load_file(place / "model.safetensors")
    save_file({**weights, "classifier.dense.weight": torch.zeros(8, 16)},
              place / "model.safetensors", {"format": "pt"})  # fmt: skip
    place = saved("nan", "Wav2Vec2Model")
    weights["encoder.layers.0.attention.k_proj.weight"][3, 5] = float("nan")
    save_file(weights, place / "model.safetensors", {"format": "pt"})
    lost = {"encoder.layers.7.attention.k_proj.weight": torch.zeros(16, 16)}
    place = saved("deeper", "Wav2Vec2Model")
    save_file({**weights, **lost}, place / "model.safetensors", {"format": "pt"})
    model = transformers.AutoModel.from_pretrained(binary(saved("binary", "Wav2Vec2Model")).parent)
    model.save_pretrained(folder("sharded"), max_shard_size="20KB")
    shards = json.loads((home / "sharded/model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(shards.values())) == 2
    binary_shards(folder("binary-sharded"), model.state_dict())
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


def binary_shards(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """Write weights as PyTorch's older format has them where they are many: two files, an index."""
    index = {name: f"pytorch_model-{1 + number % 2}.bin" for number, name in enumerate(state)}
    for file in set(index.values()):
        torch.save({name: state[name] for name in state if index[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))


def cached(home: Path, hub_cache: Path) -> None:
    """A hub's cache with the model `cached/binary`, complete, as another program would leave it:
    it does not say which files the model lacks."""
    model = hub_cache / "models--cached--binary"
    (model / "refs").mkdir(parents=True)
    (model / "refs/main").write_text(COMMIT)
    (model / "blobs").mkdir()
    (model / "snapshots" / COMMIT).mkdir(parents=True)
    for file in (home / "binary").iterdir():
        content = file.read_bytes()
        blob = model / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (model / "snapshots" / COMMIT / file.name).symlink_to(Path("../../blobs") / blob.name)


class Hub(BaseHTTPRequestHandler):
    """HEAD and GET of /owner/model/resolve/COMMIT/file, with the headers and error codes that the
    hub's client looks at. For models of the owner `refuses-401` it answers so; those of `moving`
    get another commit as soon as config.json is known. Asked for a model of `last`, it takes no
    more connections."""

    def do_GET(self) -> None:
        owner, model, _, revision, file = self.path.strip("/").split("/")
        path, content = self.server.home / model / file, b""
        if owner == "last":
            self.server.socket.close()
        if owner == "moving" and (revision == "main") != (file == "config.json"):
            revision = "another"
        if owner.startswith("refuses-"):
            self.send_response(int(owner.removeprefix("refuses-")))
            if model == "private":
                self.send_header("X-Error-Code", "RepoNotFound")
            elif owner == "refuses-401":
                self.send_header("X-Error-Message", "Invalid credentials in Authorization header")
        elif owner == "gated":
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
WITHOUT = "without its head: "
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
    ("HOME/others", COMMIT, f"{WITHOUT}classifier.bias, classifier.weight, projector.bias, "),
    ("HOME/mels", COMMIT, "wants the WhisperFeatureExtractor of 12 mels"),
    ("HOME/foreign", COMMIT, f"{WITHOUT}classifier.dense.weight"),
    ("HOME/deeper", COMMIT, "encoder.layers.7.attention.k_proj.weight, which has no place"),
    ("HOME/nan", COMMIT, "not a number"),
    ("HOME/wider", COMMIT, "weights do not load"),
    ("HOME/torn", COMMIT, "weights do not load"),
    ("me/binary", COMMIT, PINNED),
    ("me/pretrained", COMMIT, PINNED),
    ("me/whisper", COMMIT, PINNED),
    ("me/sharded", COMMIT, PINNED),
    ("moving/newest", "main", f"commit {COMMIT}: -S revision={COMMIT} keeps it"),
    ("me/newest", "main", f"commit {COMMIT}: -S revision={COMMIT} keeps it"),
    ("me/absent", COMMIT, "has no such model, and there is no such folder here"),
    ("not a name", COMMIT, "has no such model, and there is no such folder here"),
    ("gated/pretrained", COMMIT, "wants a token"),
    ("refuses-401/private", COMMIT, "a private one wants a token"),
    ("refuses-401/pretrained", COMMIT, "answers 401: HF_TOKEN is not one of its tokens"),
    ("refuses-403/pretrained", COMMIT, "answers 403: access is forbidden"),
    ("refuses-429/pretrained", COMMIT, "answers 429: too many requests"),
    ("refuses-501/pretrained", COMMIT, "answers 501: Not Implemented"),
    ("me/bare", COMMIT, "has neither model.safetensors nor model.safetensors.index.json nor "),
    ("me/unprepared", COMMIT, "has no preprocessor_config.json"),
    ("me/spectrogram", COMMIT, "architecture audio-spectrogram-transformer does not fit"),
    ("me/asr", "stable", "has no revision stable of it; every model has its own: -S revision=main"),
    ("last/absent", COMMIT, "has no such model"),
    ("me/ours", COMMIT, "cannot be reached, and its cache lacks config.json"),
    ("cached/binary", COMMIT, PINNED),
    ("cached/binary", "main", f"commit {COMMIT}: -S revision={COMMIT} keeps it"),
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
    cached(home, folder / "hf/hub")
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
    accepted = expected in ACCEPTED or "keeps it" in expected or expected.startswith(WITHOUT)
    assert bool(out) == accepted


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


def parameters(encoder: Encoder) -> dict[str, torch.Tensor]:
    """An encoder's weights by the names that they have in transformers' model."""
    cnn = encoder.cnn.named_parameters(prefix="feature_extractor")
    return {**dict(encoder.model.base_model.named_parameters()), **dict(cnn)}


def collected(folder: Path, tmp_path: Path) -> Encoder:
    """The encoder that the stage makes of a local folder."""
    hub.collect(str(folder), COMMIT, tmp_path)
    return checkpoint.load(tmp_path, "c", 0)


@pytest.mark.parametrize("name", ["sharded", "binary-sharded"])
def test_weights_in_several_files_are_put_together(home, tmp_path, name):
    found = parameters(collected(home / name, tmp_path))
    whole = transformers.AutoModel.from_pretrained(home / "binary")
    assert found.keys() == dict(whole.named_parameters()).keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in whole.named_parameters())
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
    }


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("tf_model.h5", b"x", "holds tf_model.h5, but none of model.safetensors, "),
        ("model.fp16.safetensors", b"x", "holds model.fp16.safetensors"),
        ("adapter_model.bin", b"x", "holds adapter_model.bin"),
        ("checkpoint_best.pt", b"x", "holds checkpoint_best.pt"),
        ("model.safetensors", LFS, "model.safetensors: a pointer of Git LFS"),
        ("preprocessor_config.json", LFS, "preprocessor_config.json: a pointer of Git LFS"),
        ("pytorch_model.bin", Path("../../blobs/0"), "pytorch_model.bin: a link to ../../blobs/0"),
        (
            "model.safetensors.index.json",
            b'{"weight_map": {"a": "model-1.safetensors"}}',
            "has no model-1.safetensors, which its model.safetensors.index.json names",
        ),
        ("model.safetensors.index.json", b"[", "weights do not load"),
    ],
)
def test_a_folder_whose_weights_cannot_be_read_never_counts_as_one_without(
    home, tmp_path, file, content, words
):
    place = shutil.copytree(home / "bare", tmp_path / "c")
    if isinstance(content, Path):
        (place / file).symlink_to(content)
    else:
        (place / file).write_bytes(content)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError) as raised:
        hub.collect(str(place), COMMIT, tmp_path / "out")
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_what_lies_in_the_cache_is_found_offline(home, tmp_path, monkeypatch):
    """As with HF_HUB_OFFLINE=1: only pytorch_model.bin, the name that is asked for third."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    cached(home, tmp_path / "cache")
    (tmp_path / "c").mkdir()
    assert hub.collect("cached/binary", "main", tmp_path / "c") == (COMMIT, [])
    assert workplace.digest(tmp_path / "c") == workplace.digest(home / "binary")
    for file in (tmp_path / "cache").rglob("pytorch_model.bin"):
        file.unlink()
    with pytest.raises(UserError, match="is not asked .HF_HUB_OFFLINE., and its cache lacks model"):
        hub.collect("cached/binary", COMMIT, tmp_path / "c")
    with pytest.raises(UserError, match="is not asked .* lacks config.json"):
        hub.collect("cached/nothing", COMMIT, tmp_path / "c")


def test_a_processor_holds_the_feature_extractor_in_transformers_5(home, tmp_path):
    place = shutil.copytree(home / "pretrained", tmp_path / "c")
    (place / "preprocessor_config.json").unlink()
    nested = {"feature_extractor": {**PREPROCESSOR, "do_normalize": False},
              "processor_class": "Wav2Vec2Processor"}  # fmt: skip
    (place / "processor_config.json").write_text(json.dumps(nested))
    (tmp_path / "out").mkdir()
    encoder = collected(place, tmp_path / "out")
    assert type(encoder.extractor).__name__ == "Wav2Vec2FeatureExtractor"
    assert not encoder.extractor.do_normalize


@pytest.mark.parametrize("kind", ["UniSpeechSat", "WavLM", "Hubert"])
def test_of_other_models_than_ours_the_encoder_is_taken(tmp_path, kind):
    """With all that UniSpeech-SAT's pretraining needs beside it, or another's head, of another
    number of labels or for regression."""
    write_checkpoint(tmp_path / "c", model_type=MODEL_TYPES[kind], codevector_dim=16)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "c")
    head = "ForPreTraining" if kind == "UniSpeechSat" else "ForSequenceClassification"
    config.update({"num_labels": 4, "use_weighted_layer_sum": True, "problem_type": "regression"})
    torch.manual_seed(0)
    own = getattr(transformers, f"{kind}{head}")(config)
    own.save_pretrained(tmp_path / "c")
    (tmp_path / "out").mkdir()
    dropped = hub.collect(str(tmp_path / "c"), COMMIT, tmp_path / "out").head
    assert (dropped == []) == (kind == "UniSpeechSat")
    encoder = checkpoint.load(tmp_path / "out", "c", 0)
    assert encoder.model.classifier.out_features == len(EMOTIONS)
    assert encoder.model.config.problem_type is None
    found = parameters(encoder)
    expected = dict(own.base_model.named_parameters())
    assert all(torch.equal(found[key], expected[key]) for key in expected if key in found)
    assert expected.keys() - found.keys() <= {"masked_spec_embed"}
    with pytest.raises(UserError, match="its head tells apart LABEL_0, LABEL_1"):
        checkpoint.load(tmp_path / "c", "c", 0, headless=False)


def test_a_batch_norm_is_refused(tmp_path):
    write_checkpoint(tmp_path / "c", model_type="hubert", conv_pos_batch_norm=True)
    with pytest.raises(UserError, match=r"hubert with a batch norm \(conv_pos_batch_norm\)"):
        checkpoint.read_config(tmp_path / "c", "c")


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
