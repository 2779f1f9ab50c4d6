"""How alike clips are, block of features by block, and machines trained on that."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.svm import SVC

# Of an SVM's vote over its margin. Larger: more like whole votes, which are half a point better and
# far worse calibrated.
STEEPNESS = 2.0

LINEAR = ("linear", "logistic")  # kernels made of products, not of distances


def compare(left: np.ndarray, right: np.ndarray, linear: bool) -> np.ndarray:
    """Squared distances, or products if `linear`, of clips in one block of standardised features.

    They are divided by twice the number of features, so that squared distances average 1 whatever
    the block's size, and C and gamma mean the same for any block.

    Args:
        left: shape (n, features).
        right: shape (m, features).
        linear: whether to return products.

    Returns:
        shape (n, m).
    """
    values = left @ right.T if linear else euclidean_distances(left, right, squared=True)
    return values / (2 * left.shape[1])


def alike(kind: str, part: np.ndarray, gamma: float) -> np.ndarray:
    """What a block adds to the mean of all: for rbf_mean exp(-gamma · squared distance), else what
    `compare` says of it."""
    return np.exp(-gamma * part) if kind == "rbf_mean" else part


def combine(
    kind: str, parts: Sequence[np.ndarray], weights: Sequence[float], gamma: float
) -> np.ndarray:
    """The kernel of all blocks.

    linear and logistic: the mean of the products. rbf: exp(-gamma · mean of the squared distances).
    rbf_mean: the mean of exp(-gamma · squared distance), for which clips may be alike in one block
    and far apart in another.

    Args:
        parts: what `alike` says of each block, shapes (n, m).
        weights: of the blocks in these means; only their ratios count.
        gamma: of the RBF.

    Returns:
        shape (n, m).
    """
    shares = np.asarray(weights) / np.sum(weights)
    mean = sum(share * part for share, part in zip(shares, parts, strict=True))
    return np.exp(-gamma * mean) if kind == "rbf" else mean


def between(
    kind: str,
    left: Sequence[np.ndarray],
    right: Sequence[np.ndarray],
    weights: Sequence[float],
    gamma: float,
) -> np.ndarray:
    """The kernel of clips with others, shape (n, m).

    Args:
        left: their standardised features, block by block, shapes (n, features).
        right: those of the others, shapes (m, features).
        weights, gamma: see `combine`.
    """
    parts = [compare(*pair, kind in LINEAR) for pair in zip(left, right, strict=True)]
    return combine(kind, [alike(kind, part, gamma) for part in parts], weights, gamma)


def fit(
    kind: str, kernel: np.ndarray, labels: np.ndarray, costs: Sequence[float]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Train a machine on a kernel for each cost: a support vector machine, or for the kind
    `logistic` a multinomial logistic regression.

    The logistic regression is that on the features themselves (its penalty, C, is that of
    scikit-learn on features divided by the root of twice their number), found among the clips, of
    which there are fewer; each cost starts from the solution of the one before.

    Args:
        kernel: of the training clips with each other, shape (n, n).
        labels: shape (n,), of at least three classes.
        costs: the values of C.

    Yields:
        what each clip adds to each margin, shape (margins, n), and what is added to all,
        shape (margins,). An SVM has a margin per pair of classes, a logistic regression per class;
        classes are in alphabetical order.
    """
    if kind == "logistic":
        strengths, axes = np.linalg.eigh(kernel)
        axes = axes[:, strengths > 1e-12 * strengths[-1]]
        roots = np.sqrt(strengths[-axes.shape[1] :])
        # Newton's steps are few and end far closer to the minimum than lbfgs does.
        machine = LogisticRegression(solver="newton-cg", tol=1e-6, max_iter=1000, warm_start=True)
        for C in costs:
            machine.set_params(C=C).fit(axes * roots, labels)
            yield machine.coef_ / roots @ axes.T, machine.intercept_.copy()
        return
    for C in costs:
        machine = SVC(kernel="precomputed", C=C, decision_function_shape="ovo").fit(kernel, labels)
        yield pairwise(machine), machine.intercept_


def pairwise(machine: SVC) -> np.ndarray:
    """What each training clip adds to the margin of each pair of classes: shape (pairs, n).

    scikit-learn keeps a support vector's coefficients against the other classes in rows that skip
    its own class ("dual_coef_" in its user guide on SVMs).
    """
    classes = len(machine.classes_)
    own = np.repeat(np.arange(classes), machine.n_support_)
    pairs = list(itertools.combinations(range(classes), 2))
    coefficients = np.zeros((len(pairs), machine.shape_fit_[0]))
    for row, (first, second) in zip(coefficients, pairs, strict=True):
        for mine, other in ((first, second - 1), (second, first)):
            members = np.flatnonzero(own == mine)
            row[machine.support_[members]] = machine.dual_coef_[other, members]
    return coefficients


def decide(kind: str, margins: np.ndarray, classes: int) -> np.ndarray:
    """A value per class from the margins of `fit`'s machines: shape (n, classes).

    An SVM's one-against-one votes count by their margins, between -1 and 1: probabilities drawn
    from their sums are better than those from whole votes.

    Args:
        margins: shape (n, pairs of classes), or (n, classes) for the kind `logistic`.
    """
    if kind == "logistic":
        return margins
    values = np.zeros((len(margins), classes))
    pairs = itertools.combinations(range(classes), 2)
    for (first, second), vote in zip(pairs, np.tanh(STEEPNESS * margins).T, strict=True):
        values[:, first] += vote
        values[:, second] -= vote
    return values
