"""On a CUDA device: what `pytest -m gpu` checks where there is one."""

import contextlib

import numpy as np
import pytest
import torch
import workplace
from accelerate.state import PartialState

from ser import params
from ser.encoder import finetuning

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", params=["wav2vec2", "whisper"])
def folder(request, tmp_path_factory):
    whisper = request.param == "whisper"
    place = workplace.make(
        tmp_path_factory.mktemp(request.param), weights=not whisper, whisper=whisper,
        head="layers", head_dropout=0.2, average=0.4, speeds=[0.9, 1.0, 1.1],
        mask_feature_prob=0.1, mask_feature_length=2,
    )  # fmt: skip
    workplace.run(place, "checkpoint", "w2v_features")
    return place


def begin(folder, **changes):
    with contextlib.chdir(folder):
        settings = params.load().model_copy(update=changes)
        return finetuning.prepare(settings, 0, inner=False)[0]


def test_clips_are_on_the_device(folder):
    run = begin(folder)
    assert run.clips.stored is not None and run.clips.stored.device.type == "cuda"
    on_device, lengths = run.clips.batch([2, 5], np.array([1, 2]))
    run.clips.stored = None
    stored, again = run.clips.batch([2, 5], np.array([1, 2]))
    assert torch.equal(on_device.cpu(), stored) and torch.equal(lengths, again)


def test_a_step_does_not_wait_for_the_device(folder):
    run = begin(folder)
    run.advance()  # the head is fitted, kernels are loaded
    torch.cuda.set_sync_debug_mode("error")
    try:
        run.advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_it_learns_what_a_cpu_learns(folder, monkeypatch):
    """In single precision the two are close: dropout, SpecAugment and speeds are the same."""
    there = begin(folder)
    for _ in range(2):
        there.advance()
    seen, norms = there.seen.cpu(), there.norms.cpu()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    PartialState._reset_state()  # it remembers the device
    try:
        here = begin(folder)
        assert here.accelerator.device.type == "cpu"
        for _ in range(2):
            here.advance()
    finally:
        PartialState._reset_state()
    assert torch.allclose(seen, here.seen, atol=1e-3)
    assert torch.allclose(norms, here.norms, rtol=1e-2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_twice_the_same_and_resumed_the_same(folder, tmp_path, precision):
    ends = []
    for stop in (None, None, 3):
        run = begin(folder, precision=precision)
        while run.done < len(run.steps):
            if run.done == stop:
                run.settle()
                torch.save(run.state(), tmp_path / "state.pt")
                run = begin(folder, precision=precision)
                run.restore(torch.load(tmp_path / "state.pt", weights_only=True))
                stop = None
            run.advance()
        run.finish()
        ends.append({name: weight.detach().cpu() for name, weight in run.trained.items()})
    for other in ends[1:]:
        assert all(torch.equal(ends[0][name], other[name]) for name in other)
