"""Dropout and SpecAugment are drawn for each clip, the same in every batch."""

import numpy as np
import pytest
import torch
from torch import nn

from ser.finetune import draws


def begin(seeds: list[int], frames: list[int]) -> tuple[nn.Sequential, draws.Draws]:
    """Three dropouts, ready for a batch of clips of these frames."""
    model = nn.Sequential(nn.Dropout(0.25), nn.Dropout(0.25), nn.Dropout(0.9))
    drawn = draws.Draws()
    draws.replace_dropout(model, drawn)
    generators = [np.random.default_rng(seed) for seed in seeds]
    drawn.begin(generators, torch.tensor(frames), torch.device("cpu"))
    return model, drawn


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_dropout_drops_its_share_and_keeps_the_mean(share):
    model, _ = begin([0, 1, 2, 3], [600] * 4)
    model[0].p = share
    values = torch.ones(4, 600, 500, requires_grad=True)
    dropped = model[0](values)
    zero = (dropped == 0).float()
    assert zero.mean().item() == pytest.approx(share, abs=0.002)
    for over in ((0, 1), (0, 2), (1, 2)):  # every channel, frame and clip
        assert (zero.mean(over) - share).abs().max() < 0.08
    assert dropped.mean().item() == pytest.approx(1, abs=0.1)
    dropped.sum().backward()
    assert torch.equal(values.grad, dropped)
    assert torch.equal(model[0].eval()(values), values)


def test_what_is_dropped_in_one_place_says_nothing_about_another():
    """Neighbouring frames and channels, other clips, and the next module."""
    model, _ = begin([0, 1], [400, 400])
    first, second = ((module(torch.ones(2, 400, 300)) == 0).float() - 0.25 for module in model[:2])
    pairs = {
        "module": (first, second),
        "frame": (first[:, 1:], first[:, :-1]),
        "channel": (first[..., 1:], first[..., :-1]),
        "clip": (first[0], first[1]),
    }
    for name, (one, other) in pairs.items():
        assert abs((one * other).mean()) < 0.003, name


def test_what_a_clip_gets_does_not_depend_on_its_batch():
    values = torch.ones(3, 50, 20)
    lengths = torch.tensor([50, 31, 8])
    model, drawn = begin([7, 8, 9], lengths.tolist())
    together = model(values), drawn.spans(lengths, 0.2, 4, 1), model[0](values[:, 0])
    for row, (seed, length) in enumerate(zip([7, 8, 9], lengths.tolist(), strict=True)):
        alone, own = begin([seed], [length])
        assert torch.equal(alone(values[:1, :length])[0], together[0][row, :length])
        assert torch.equal(
            own.spans(lengths[row : row + 1], 0.2, 4, 1)[0], together[1][row, :length]
        )
        assert torch.equal(alone[0](values[:1, 0])[0], together[2][row])
        assert not together[1][row, length:].any()
