"""Kernels over feature blocks, and the machines that are trained on them."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.svm import SVC

# Slope of an SVM's votes in their margins. Steeper, they are more like whole votes, which are half
# a point better and far worse calibrated.
STEEPNESS = 2.0

LINEAR = ("linear", "logistic")  # kernels made of products, not of distances

# Both are divided by twice the number of features, so that squared distances of standardised
# features average 1 whatever the block's size, and C and gamma mean the same for any block.


def products(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Scaled products of the rows of `left`, (n, features), and `right`, (m, features): (n, m)."""
    return left @ right.T / (2 * left.shape[1])


def squared_distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Scaled squared distances of the rows of `left`, (n, features), and `right`, (m, features):
    (n, m)."""
    return euclidean_distances(left, right, squared=True) / (2 * left.shape[1])


def measure(kind: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The function of two sets of clips, in one block, that a kernel is made of."""
    return products if kind in LINEAR else squared_distances


def block_term(kind: str, measured: np.ndarray, gamma: float) -> np.ndarray:
    """One block's term in the mean over blocks: exp(-gamma · squared distance) for rbf_mean, else
    the products or squared distances themselves."""
    return np.exp(-gamma * measured) if kind == "rbf_mean" else measured


def combined_kernel(
    kind: str, terms: Sequence[np.ndarray], weights: Sequence[float], gamma: float
) -> np.ndarray:
    """The kernel over all blocks.

    linear and logistic: the mean of the products. rbf: exp(-gamma · mean of the squared distances).
    rbf_mean: the mean of exp(-gamma · squared distance), for which clips may be alike in one block
    and far apart in another.

    Args:
        terms: `block_term` of each block, shapes (n, m).
        weights: of the blocks in these means; only their ratios count.
        gamma: of the RBF.

    Returns:
        shape (n, m).
    """
    shares = np.asarray(weights) / np.sum(weights)
    mean = sum(share * term for share, term in zip(shares, terms, strict=True))
    return np.exp(-gamma * mean) if kind == "rbf" else mean


def kernel_matrix(
    kind: str,
    left: Sequence[np.ndarray],
    right: Sequence[np.ndarray],
    weights: Sequence[float],
    gamma: float,
) -> np.ndarray:
    """The kernel between two sets of clips, shape (n, m).

    Args:
        left: standardised features, block by block, shapes (n, features).
        right: those of the other clips, shapes (m, features).
        weights, gamma: see `combined_kernel`.
    """
    measured = [measure(kind)(*pair) for pair in zip(left, right, strict=True)]
    terms = [block_term(kind, values, gamma) for values in measured]
    return combined_kernel(kind, terms, weights, gamma)


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
        labels: shape (n,), of at least two classes.
        costs: the values of C.

    Yields:
        coefficients of the training clips in each margin, shape (margins, n), and intercepts, shape
        (margins,). An SVM has a margin per pair of classes, a logistic regression per class;
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
            margins, intercepts = machine.coef_ / roots @ axes.T, machine.intercept_.copy()
            if len(machine.classes_) == 2:  # of the second alone
                margins, intercepts = (
                    np.concatenate([-half, half]) for half in (margins / 2, intercepts / 2)
                )
            yield margins, intercepts
        return
    for C in costs:
        machine = SVC(kernel="precomputed", C=C, decision_function_shape="ovo").fit(kernel, labels)
        sign = -1 if len(machine.classes_) == 2 else 1  # scikit-learn turns two classes round
        yield sign * pairwise_coefficients(machine), sign * machine.intercept_


def pairwise_coefficients(machine: SVC) -> np.ndarray:
    """Coefficients of the training clips in the margin of each pair of classes: (pairs, n).

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


def class_scores(kind: str, margins: np.ndarray, classes: int) -> np.ndarray:
    """A score per class from the margins of `fit`'s machines: shape (n, classes).

    An SVM's one-against-one votes count by their margins, between -1 and 1: probabilities drawn
    from their sums are better than those from whole votes.

    Args:
        margins: shape (n, pairs of classes), or (n, classes) for the kind `logistic`.
    """
    if kind == "logistic":
        return margins
    scores = np.zeros((len(margins), classes))
    pairs = itertools.combinations(range(classes), 2)
    for (first, second), vote in zip(pairs, np.tanh(STEEPNESS * margins).T, strict=True):
        scores[:, first] += vote
        scores[:, second] -= vote
    return scores
