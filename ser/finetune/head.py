"""A head over all layers of an encoder, which can start as a probe of the frozen one."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from ser.encoder.families.encoder import HiddenStates, mean_and_deviation

ITERATIONS = 1000  # at most; twenty are enough for Whisper tiny.en


class LayersHead(nn.Module):
    """One linear layer on mean and deviation over time of all transformer layers side by side.

    These are standardised by what the frozen encoder made of the training clips, so that a logistic
    regression on the frozen encoder, fitted by `fit`, is a start for the linear layer: fine-tuning
    distorts good features when what stands on them is random.

    Source: Kumar et al. (2022), ICLR, "Fine-tuning can distort pretrained features and underperform
    out-of-distribution".
    """

    centre: torch.Tensor
    scale: torch.Tensor

    def __init__(self, layers: int, width: int, labels: int, dropout: float):
        """Fit an encoder with `layers` layers of `width` channels and so many labels; `dropout` is
        the share of the standardised numbers that are zero in training."""
        super().__init__()
        count = 2 * layers * width
        self.register_buffer("centre", torch.zeros(count))
        self.register_buffer("scale", torch.ones(count))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(count, labels)

    @staticmethod
    def pool(states: HiddenStates) -> torch.Tensor:
        """Mean and deviation over time of every layer, float32, (clips, 2 * layers * width)."""
        parts = [
            part
            for layer in states.layers[1:]  # not what enters the first
            for part in mean_and_deviation(layer.float(), states.mask)
        ]
        return torch.cat(parts, dim=1)

    def forward(self, states: HiddenStates) -> torch.Tensor:
        """Logits of the labels, float32, shape (clips, labels)."""
        with torch.autocast(states.mask.device.type, enabled=False):
            return self.linear(self.dropout((self.pool(states) - self.centre) / self.scale))

    @torch.no_grad()
    def fit(self, pooled: np.ndarray, labels: np.ndarray, C: float | None) -> None:
        """Standardise by these clips, and start with a logistic regression on them.

        Args:
            pooled: float32, shape (clips, 2 * layers * width).
            labels: their numbers; those that do not occur keep the weights they have.
            C: of the regression, the inverse of its L2 penalty; None: the linear layer stays as it
                is.
        """
        scaler = StandardScaler().fit(pooled.astype(float))
        self.centre.copy_(torch.from_numpy(scaler.mean_))
        self.scale.copy_(torch.from_numpy(scaler.scale_))
        if C is None:
            return
        # To the end: where one stops early depends on the last digits, as of several processes.
        probe = LogisticRegression(C=C, solver="newton-cg", tol=1e-6, max_iter=ITERATIONS)
        probe.fit(scaler.transform(pooled.astype(float)), labels)
        weight, bias = probe.coef_, probe.intercept_
        if len(probe.classes_) == 2:  # of the second alone
            weight, bias = (np.concatenate([-half, half]) for half in (weight / 2, bias / 2))
        self.linear.weight[probe.classes_] = torch.from_numpy(weight).to(self.linear.weight)
        self.linear.bias[probe.classes_] = torch.from_numpy(bias).to(self.linear.bias)
