"""Fine-tuning on a CUDA device: `pytest -m gpu`, where there is one."""

import contextlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import workplace
from accelerate.state import PartialState

from ser import audio, params
from ser.encoder.embeddings import Embedder
from ser.finetune import train
from ser.finetune.clips import Clips

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", params=["wav2vec2", "whisper"])
def folder(request, tmp_path_factory):
    return workplace.with_a_head(tmp_path_factory.mktemp(request.param), request.param)


def stepped(folder: Path, steps: int, **changes: object) -> train.Training:
    """A training after so many steps."""
    run = workplace.training(folder, **changes)
    while run.done < steps:
        run.step()
    return run


def test_it_learns_what_a_cpu_learns(folder, monkeypatch):
    """In single precision the two are close: dropout, SpecAugment and speeds are the same."""
    there = stepped(folder, 2)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    PartialState._reset_state()  # it remembers the device
    try:
        here = stepped(folder, 2)
        assert here.accelerator.device.type == "cpu"
    finally:
        PartialState._reset_state()
    assert torch.allclose(there.seen.cpu(), here.seen, atol=1e-3)
    assert torch.allclose(there.norms.cpu(), here.norms, rtol=1e-2)


def test_where_memory_runs_out_micro_batches_shrink(folder):
    """CUDA's own error is understood, and what comes out differs by rounding alone."""
    runs = [workplace.training(folder, micro_batch=8) for _ in range(2)]

    def too_much(_: torch.nn.Module, arguments: tuple) -> None:
        if len(arguments[0]) > 2:
            torch.empty(2**50, dtype=torch.uint8, device="cuda")  # a petabyte

    runs[1].encoder.head.linear.register_forward_pre_hook(too_much)
    for run in runs:
        for _ in range(2):
            run.step()
    assert [run.micro_batch for run in runs] == [8, 2]
    assert torch.allclose(runs[0].seen, runs[1].seen, atol=1e-3)
    assert torch.allclose(runs[0].norms, runs[1].norms, rtol=1e-3)


def test_frozen_features_are_those_of_a_cpu(folder):
    """The outputs of `w2v_features` and `embed`, against the same on the CPU."""
    with contextlib.chdir(folder):
        workplace.run(folder, "embed")
        stored = Clips.read(train.FEATURES)
        table = pd.read_parquet("data/embeddings.parquet").set_index("clip")
        embedder = Embedder(train.CHECKPOINT, "tiny", params.load().embed)
        assert next(embedder.encoder.parameters()).device.type == "cuda"
        embedder.encoder.cpu()
        for number in (0, 7):
            name = stored.names[number]
            samples = audio.read(Path(f"data/audio/{name}.wav"))
            inputs, _ = stored.batch([number])
            expected = torch.from_numpy(embedder.encoder.prepare(samples))
            assert torch.allclose(inputs[0], expected, atol=1e-4)
            numbers = embedder(samples, name)
            assert np.abs(table.loc[name].to_numpy() - numbers).max() < 1e-4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_twice_the_same_and_resumed_the_same(folder, tmp_path, precision):
    ends = []
    for stop in (None, None, 3):
        saved = tmp_path / "state.pt"
        if stop:
            run = stepped(folder, stop, precision=precision)
            run.settle()
            train.save(run.state(), saved)
        run = workplace.training(folder, saved=saved, precision=precision)
        assert run.done == (stop or 0)
        while run.done < len(run.batches):
            run.step()
        run.finish()
        ends.append({name: weight.detach().cpu() for name, weight in run.trained.items()})
    for other in ends[1:]:
        assert all(torch.equal(ends[0][name], other[name]) for name in other)
