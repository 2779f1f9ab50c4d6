"""Operations of convolutions, as benchmarks.train counts them."""

import pytest
import torch

from benchmarks.train import flop_counter


@pytest.mark.parametrize("groups", [1, 4, 16])
def test_gradients_of_a_grouped_convolution(groups):
    """Of input and weights, as many operations each as forward."""
    convolution = torch.nn.Conv1d(32, 64, 9, stride=2, groups=groups)
    inputs = torch.randn(2, 32, 50, requires_grad=True)
    with flop_counter() as forward, torch.no_grad():
        convolution(inputs)
    with flop_counter() as both:
        convolution(inputs).sum().backward()
    assert forward.get_total_flops() == 2 * 2 * 64 * 21 * 9 * 32 // groups
    assert both.get_total_flops() == 3 * forward.get_total_flops()
