"""Fine-tuning on a CUDA device: `pytest -m gpu`, where there is one."""

import contextlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import workplace

from benchmarks import gpu
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


@pytest.mark.parametrize("check", gpu.CHECKS)
def test_what_the_benchmark_checks(folder, check):
    check(lambda **changes: workplace.training(folder, **changes))


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
