"""On a CUDA device: what `pytest -m gpu` checks where there is one."""

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
from ser.finetune import finetuning
from ser.finetune.clips import Clips

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


def test_clips_that_do_not_fit_stay_where_they_are(folder, monkeypatch):
    runs = [begin(folder)]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 1000))
    runs.append(begin(folder))
    assert [run.clips.stored is None for run in runs] == [False, True]
    for run in runs:
        for _ in range(2):
            run.advance()
    assert torch.equal(runs[0].seen, runs[1].seen)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stored", [True, False])
def test_a_step_does_not_wait_for_the_device(folder, monkeypatch, precision, stored):
    """None of them, also those whose weights go into the mean; what they leave behind is fetched
    once, after the last."""
    if not stored:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 1000))
    run = begin(folder, precision=precision, max_grad_norm=1.0, label_smoothing=0.1)
    run.advance()  # the head is fitted, kernels are loaded
    torch.cuda.set_sync_debug_mode("error")
    try:
        while run.done < len(run.steps):
            run.advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.averaged
    run.settle()
    assert len(run.curve) == len(run.steps)


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


def test_where_memory_runs_out_micro_batches_shrink(folder):
    """CUDA's own error is understood, and what comes out differs by rounding alone."""
    runs = [begin(folder, micro_batch=8) for _ in range(2)]

    def too_much(_: torch.nn.Module, arguments: tuple) -> None:
        if len(arguments[0]) > 2:
            torch.empty(2**50, dtype=torch.uint8, device="cuda")  # a petabyte

    hook = runs[1].encoder.head.linear.register_forward_pre_hook(too_much)
    for run in runs:
        for _ in range(2):
            run.advance()
    hook.remove()
    assert [run.micro_batch for run in runs] == [8, 2]
    assert torch.allclose(runs[0].seen, runs[1].seen, atol=1e-3)
    assert torch.allclose(runs[0].norms, runs[1].norms, rtol=1e-3)


def test_single_precision_is_not_cut_to_ten_bits(folder):
    """As TF32 does, which would be off by 1e-4 here: nowhere in convolutions and products."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    begin(folder)
    generator = torch.Generator("cuda").manual_seed(0)
    left, right = torch.randn(2, 512, 512, device="cuda", generator=generator)
    convolve = torch.nn.functional.conv1d
    pairs = [
        (left @ right, left.double() @ right.double()),
        (
            convolve(left[None], right[..., None]),
            convolve(left[None].double(), right[..., None].double()),
        ),
    ]
    for found, exact in pairs:
        assert (found - exact).abs().max() < 1e-5 * exact.abs().max()


def test_frozen_features_are_those_of_a_cpu(folder):
    """What `w2v_features` and `embed` stored, against the same on the CPU."""
    with contextlib.chdir(folder):
        workplace.run(folder, "embed")
        settings = params.load()
        stored = Clips(finetuning.FEATURES)
        table = pd.read_parquet("data/embeddings.parquet").set_index("clip")
        embedder = Embedder(finetuning.CHECKPOINT, "tiny", settings.embed)
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
