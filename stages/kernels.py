"""How alike two clips are whose features come in blocks: kernels for an SVM."""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics.pairwise import euclidean_distances


def compare(kind: str, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """What `kind` needs of one block, shapes (n, features) and (m, features): squared distances or products, shape (n, m)."""
    return left @ right.T if kind == "linear" else euclidean_distances(left, right, squared=True)


def combine(kind: str, parts: Sequence[np.ndarray], weights: Sequence[float], gamma: float) -> np.ndarray:
    """The kernel of all blocks from what `compare` says of each, shapes (n, m), and their weights, of which only the ratios count.

    linear is the mean of the products; rbf is exp(-gamma · mean of the squared distances); rbf_mean is the mean of
    exp(-gamma · squared distance): there, clips may be alike in one block and far apart in another.
    """
    shares = np.asarray(weights) / np.sum(weights)
    if kind == "rbf_mean":
        return sum(share * np.exp(-gamma * part) for share, part in zip(shares, parts, strict=True))
    mean = sum(share * part for share, part in zip(shares, parts, strict=True))
    return mean if kind == "linear" else np.exp(-gamma * mean)


class BlockKernel:
    """A kernel for `SVC(kernel=…)` over feature blocks that stand side by side.

    Args:
        kind: linear, rbf or rbf_mean (see `combine`).
        sizes: number of features of each block, in order.
        weights: of each block.
        gamma: of the RBF.
    """

    def __init__(self, kind: str, sizes: Sequence[int], weights: Sequence[float], gamma: float):
        self.kind, self.sizes, self.weights, self.gamma = kind, sizes, weights, gamma

    def __call__(self, X: np.ndarray, Y: np.ndarray) -> np.ndarray:
        """Similarities of the rows of X, shape (n, features), and of Y, shape (m, features): shape (n, m)."""
        edges = np.cumsum(self.sizes)[:-1]
        pairs = zip(np.split(X, edges, axis=1), np.split(Y, edges, axis=1), strict=True)
        return combine(self.kind, [compare(self.kind, left, right) for left, right in pairs], self.weights, self.gamma)
