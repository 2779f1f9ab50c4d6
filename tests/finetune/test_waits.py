"""A training step asks nothing of the device: a GPU that is asked first finishes what it has."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.state import PartialState
from conftest import ROOT
from tiny_models import write_checkpoint, write_whisper
from torch.optim import adam
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ser import params
from ser.encoder.families.waveform import Waveform
from ser.finetune import device, train
from ser.finetune.clips import Clips

pytestmark = [
    pytest.mark.parametrize("architecture", [*Waveform.TYPES, "whisper"]),
    pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask"),  # WavLM
]
LABELS = ["no", "yes"]
SETTINGS = params.load(ROOT / "params.yaml").model_copy(
    update={
        "epochs": 2, "batch_size": 4, "precision": "fp32", "speeds": [1, 1.1],
        "head_dropout": 0.1, "attention_dropout": 0.1, "mask_time_prob": 0.3, "class_weights": True,
        "mask_time_length": 2, "mask_feature_prob": 0.3, "mask_feature_length": 2,
    }
)  # fmt: skip
VARIANTS = ({}, {"max_grad_norm": 1.0, "weighted_layer_sum": True, "freeze_cnn": False})


def begun(folder: Path, architecture: str, **changes: object) -> train.Training:
    """A training of a tiny model of this architecture on noise."""
    if not folder.exists():
        whisper = architecture == "whisper"
        write_whisper(folder) if whisper else write_checkpoint(folder, model_type=architecture)
    settings = SETTINGS.model_copy(update=changes)
    accelerator = device.make_accelerator(settings.precision)
    encoder = train.fine_tunable(folder, settings, LABELS)
    rng = np.random.default_rng(0)
    noise = [rng.normal(0, 0.1, length).astype(np.float32) for length in range(4000, 7200, 100)]
    rows = [encoder.prepare(samples) for samples in noise]
    lengths = np.array([len(row) for row in rows])
    clips = Clips([f"{n:02}" for n in range(16)], [1, 1.1], lengths, [row.ravel() for row in rows])
    table = pd.DataFrame({"fold": np.arange(16) % 2, "label": np.resize(LABELS, 16)})
    if accelerator.device.type == "meta":
        clips.keep(accelerator.device)
    return train.Training(encoder, clips, table, LABELS, 0, settings, accelerator)


class Waits(TorchDispatchMode):
    """Lists what a GPU would wait for though there is no value to fetch: what lies on the host,
    unless `send` copies it; a number written to places; anything else written where a mask says."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        there = any(getattr(leaf, "is_meta", False) for leaf in (*tensors, *tree_leaves(out)))
        here = any(not tensor.is_meta and tensor.ndim for tensor in tensors)
        if there and here and not (kwargs or {}).get("non_blocking"):
            self.found.append(func)
        if func.overloadpacket in (torch.ops.aten.index_put, torch.ops.aten.index_put_):
            by_mask = any(index is not None and index.dtype == torch.bool for index in args[1])
            if by_mask != (args[2].ndim == 0):
                self.found.append(func)
        return out


def test_a_step_needs_no_value_of_the_device(tmp_path, monkeypatch, architecture):
    PartialState()
    monkeypatch.setitem(PartialState._shared_state, "device", torch.device("meta"))
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda _: None)  # meta is none
    for changes in VARIANTS:
        run = begun(tmp_path / "c", architecture, **changes)
        with Waits() as waits:
            run.step()
        assert waits.found == [], changes
        assert next(iter(run.trained.values())).is_meta


@pytest.mark.gpu
@pytest.mark.parametrize("stored", [True, False])
def test_a_step_does_not_wait_for_a_gpu(tmp_path, monkeypatch, architecture, stored):
    """Losses and norms of the steps are fetched once, after the last."""
    if not stored:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 1000))
    for changes in (*VARIANTS, {"precision": "bf16"}, {"head": "layers"}):
        run = begun(tmp_path / "c", architecture, **changes)
        assert (run.clips.stored is not None) == stored
        run.step()  # the first loads kernels
        torch.cuda.set_sync_debug_mode("error")
        try:
            while run.done < len(run.batches):
                run.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        run.settle()
        assert len(run.curve) == len(run.batches)
