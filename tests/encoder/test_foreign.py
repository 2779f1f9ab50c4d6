"""Checkpoints from anywhere: nothing in them is executed, and nothing fills memory or passes for a
model that is none."""

import json
import pickle
from pathlib import Path

import pytest
import torch
import transformers
from tiny_models import write_checkpoint, write_whisper

from ser.encoder import checkpoint, hub
from ser.run.errors import UserError


class Bomb:
    """What, unpickled, makes a file."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def start_from(folder: Path) -> None:
    """What the stage `checkpoint` does with a local folder."""
    target = folder.parent / "taken"
    target.mkdir(exist_ok=True)
    hub.collect(str(folder), "main", target)
    checkpoint.load(target, "tiny", seed=0)


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize("write", [write_checkpoint, write_whisper])
def test_a_pickle_is_not_executed(tmp_path, write):
    folder = write(tmp_path / "tiny")
    for content in (
        pickle.dumps(Bomb(tmp_path / "executed")),
        pickle.dumps({"encoder.conv1.weight": Bomb(tmp_path / "executed")}),
    ):
        (folder / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(UserError, match="weights do not load"):
            start_from(folder)
    torch.save({"model.encoder.conv1.weight": Bomb(tmp_path / "executed")}, folder / "w")
    (folder / "w").replace(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="weights do not load"):
        start_from(folder)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("kind", ["wav2vec2", "my-own"])
def test_code_beside_a_configuration_is_not_run(tmp_path, kind):
    folder = write_checkpoint(tmp_path / "tiny")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    names = {"AutoConfig": "evil.C", "AutoModelForAudioClassification": "evil.M"}
    change(folder / "config.json", model_type=kind, auto_map=names)
    change(folder / "preprocessor_config.json", auto_map={"AutoFeatureExtractor": "evil.E"})
    if kind == "my-own":
        with pytest.raises(UserError):
            start_from(folder)
    else:
        start_from(folder)
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "taken" / "evil.py").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_labels": 10**9}, "num_labels = 1e.09 in config.json: larger"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers"),
        ({"hidden_size": 2**20, "intermediate_size": 2**20}, "weights; 4.29e.09 at most"),
        ({"conv_stride": [1, 1]}, "frames"),
        ({"layer_norm_eps": float("nan")}, "not a number"),
        ({"activation_dropout": None}, "not a configuration"),
        ({"conv_kernel": [40, 0]}, "tiny"),
        ({"id2label": []}, "tiny"),
    ],
)
def test_a_configuration_of_which_no_model_comes(tmp_path, values, words):
    folder = write_checkpoint(tmp_path / "tiny")
    change(folder / "config.json", **values)
    with pytest.raises(UserError, match=words):
        start_from(folder)


def test_weights_that_are_not_numbers(tmp_path):
    folder = write_checkpoint(tmp_path / "tiny")
    model = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(folder))
    model.encoder.layers[0].attention.k_proj.weight.data[3, 5] = float("nan")
    model.save_pretrained(folder)
    with pytest.raises(UserError, match="not a number"):
        start_from(folder)
