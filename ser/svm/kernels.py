"""A support vector machine for features that come in blocks: its kernels, and how its votes
count."""

import itertools
from collections.abc import Sequence

import numpy as np
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.svm import SVC

STEEPNESS = 2.0  # of a vote over its margin. Larger: more like whole votes, which are half a point better and far worse calibrated


def compare(left: np.ndarray, right: np.ndarray, linear: bool) -> np.ndarray:
    """Squared distances, or inner products if `linear`, of clips in one block of standardised
    features: shape (n, m).

    They are divided by twice the number of features, so that squared distances average 1 whatever
    the block's size.

    Args:
        left: shape (n, features).
        right: shape (m, features).
        linear: whether to return products.
    """
    return (left @ right.T if linear else euclidean_distances(left, right, squared=True)) / (
        2 * left.shape[1]
    )


def combine(
    kind: str, parts: Sequence[np.ndarray], weights: Sequence[float], gamma: float
) -> np.ndarray:
    """The kernel of all blocks from what `compare` says of each, shapes (n, m), and their weights,
    of which only the ratios count.

    linear is the mean of the products; rbf is exp(-gamma · mean of the squared distances); rbf_mean
    is the mean of exp(-gamma · squared distance): there, clips may be alike in one block and far
    apart in another.
    """
    shares = np.asarray(weights) / np.sum(weights)
    if kind == "rbf_mean":
        return sum(share * np.exp(-gamma * part) for share, part in zip(shares, parts, strict=True))
    mean = sum(share * part for share, part in zip(shares, parts, strict=True))
    return mean if kind == "linear" else np.exp(-gamma * mean)


class BlockKernel:
    """A kernel for `SVC(kernel=…)` over blocks of standardised features that stand side by side.

    Args:
        kind: linear, rbf or rbf_mean (see `combine`).
        sizes: number of features of each block, in order.
        weights: of each block.
        gamma: of the RBF.
    """

    def __init__(self, kind: str, sizes: Sequence[int], weights: Sequence[float], gamma: float):
        self.kind, self.sizes, self.weights, self.gamma = kind, sizes, weights, gamma

    def __call__(self, X: np.ndarray, Y: np.ndarray) -> np.ndarray:
        """Similarities of the rows of X, shape (n, features), and of Y, shape (m, features): shape
        (n, m)."""
        edges = np.cumsum(self.sizes)[:-1]
        pairs = zip(np.split(X, edges, axis=1), np.split(Y, edges, axis=1), strict=True)
        return combine(
            self.kind,
            [compare(left, right, self.kind == "linear") for left, right in pairs],
            self.weights,
            self.gamma,
        )


class SoftVotes(SVC):
    """An SVC whose one-against-one votes count by their margins, between -1 and 1: probabilities
    drawn from their sums are better.

    Takes the arguments of SVC; `decision_function_shape` must be "ovo".
    """

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Sum of each class's votes against every other: shape (n, classes)."""
        margins = super().decision_function(X)
        votes = np.zeros((len(margins), len(self.classes_)))
        for (one, other), margin in zip(
            itertools.combinations(range(len(self.classes_)), 2), margins.T, strict=True
        ):
            vote = np.tanh(STEEPNESS * margin)
            votes[:, one] += vote
            votes[:, other] -= vote
        return votes

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The class with the most votes: shape (n,)."""
        return self.classes_[self.decision_function(X).argmax(axis=1)]
