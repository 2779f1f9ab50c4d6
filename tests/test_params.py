"""The values that params.yaml may hold, and the one line that answers all others."""

import re
import shutil

import numpy as np
import pytest
from conftest import ROOT
from dvc.utils.hydra import apply_overrides
from hypothesis import given, settings
from hypothesis import strategies as st

from ser import mfcc, params
from ser.run import errors

PARAMS = (ROOT / "params.yaml").read_text()


def changed(tmp_path, pattern: str, replacement: str):
    """The real params.yaml with the first match of a pattern replaced."""
    text, count = re.subn(pattern, replacement, PARAMS, count=1, flags=re.MULTILINE)
    assert count == 1, pattern
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return path


def test_the_float_that_dvc_writes_back_is_a_number(tmp_path):
    assert params.load(changed(tmp_path, r"^lr: \S+", "lr: 2e-05")).lr == 2e-5


def refused(path, words: list[str]) -> None:
    """Assert that a file of parameters is refused in one line that says all of `words`."""
    with pytest.raises(errors.UserError) as raised:
        params.load(path)
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("pattern", "replacement", "words"),
    [
        (r"^lr: \S+", "lr: abc", ["lr = 'abc'", "number"]),
        (r"^lr: \S+", "lr: -1", ["lr = -1", "greater than 0"]),
        (r"^lr: \S+", "lr: .nan", ["lr = nan", "finite"]),
        (r"^lr: \S+", "", ["lr", "required"]),
        (r"^lr: ", "lrr: ", ["lrr", "unknown parameter", "did you mean lr"]),
        (r"^folds: \[.*?\]", "folds: [0, 9]", ["folds = [0, 9]", "0 to 5"]),
        (r"^folds: \[.*?\]", "folds: [0, 0]", ["folds = [0, 0]", "distinct"]),
        (r"scheme: six", "scheme: sex", ["split.scheme = 'sex'", "six, emobox, luna"]),
        (r"scheme: six", "scheme: luna", ["folds = [0, 1, 2, 3, 4, 5]", "0 to 4", "five folds"]),
        (r"scheme: six", f"scheme: [{list(range(1, 20))}, [4]]", ["speaker 4", "two places"]),
        (r"scheme: six", f"scheme: [{[*range(1, 12)]}, {[*range(12, 24)]}]", ["scheme", "[24]"]),
        (r"scheme: six", "scheme: [[1, 25], [2]]", ["split.scheme", "25 is not in the corpus"]),
        (r"^corpus: \S+", "corpus: iemocap", ["scheme = six", "for iemocap a number of folds"]),
        (r"^revision: \S+", "revision: 123e456", ["revision = inf", """-S "revision='…'\""""]),
        (r"^corpus: \S+", "corpus: [", ["not YAML"]),
        (r"^  svm: MFCC", "  Svm: MFCC", ["models.Svm", "pattern"]),
        (r"^  svm: MFCC.*", "  svm: ''", ["models.svm", "at least 1"]),
        (r"^mean: \[svm", "mean: [knn", ["mean = ['knn', 'probe', 'w2v']", "svm, probe, w2v"]),
        (r"^mean: \[svm", "mean: [mean", ["mean = ['mean', ", "svm, probe, w2v"]),
        (r"scheme: six", "scheme: {}", ["split.scheme = {}", "six, emobox"]),
        (r"n_mels: \d+", "n_mels: 32", ["mfcc.n_mfcc = 40", "at most mfcc.n_mels, 32"]),
        (r"statistics: \[mean", "statistics: [std", ["mfcc.statistics", "distinct"]),
        (r"statistics: \[mean", "statistics: [p05", ["mfcc.statistics.0 = 'p05'", "pattern"]),
        (r"segments: \[3, 6\]", "segments: [3, 3]", ["mfcc.segments = [3, 3]", "distinct"]),
        (r"blocks: \[.*\]", "blocks: [{}]", ["svm_train.blocks.0 = {}", "at least 1"]),
    ],
)
def test_bad_values_are_named(tmp_path, pattern, replacement, words):
    refused(changed(tmp_path, pattern, replacement), words)


OFF = ["mfcc.statistics=[]", "mfcc.dct_terms=0", "mfcc.segments=[]", "mfcc.covariance=false"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (OFF, ["mfcc.covariance = False", "statistics, dct_terms, segments are off"]),
        (["mfcc.low_mfcc=1", "mfcc.deltas=0"], ["mfcc.covariance = True", "low_mfcc = 1"]),
        (OFF[1:], None),
        ([*OFF[1:], "svm_train.blocks=[{cov:1},{seg:1,dct:1}]"], ["svm_train.blocks", "on: stat"]),
        (["select=inner", f"split.scheme=[{list(range(1, 24))},[24]]", "folds=[0]"], ["select"]),
    ],
)
def test_values_that_exclude_each_other_are_named(tmp_path, changes, words):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    apply_overrides(tmp_path / "params.yaml", changes)
    if words is None:
        params.load(tmp_path / "params.yaml")
    else:
        refused(tmp_path / "params.yaml", words)


@given(
    changes=st.fixed_dictionaries({
        "trim_db": st.sampled_from([None, 1.0, 60.0]),
        "n_fft": st.sampled_from([512, 2048]),
        "hop": st.sampled_from([40, 1024]),
        "n_mels": st.sampled_from([20, 128]),
        "warps": st.sampled_from([[1.0], [0.5, 2.0]]),
        "n_mfcc": st.sampled_from([2, 20, 21, 128]),
        "deltas": st.integers(0, 2),
        "statistics": st.lists(st.sampled_from(["mean", "std", "p5", "p100"]), max_size=2),
        "dct_mfcc": st.sampled_from([1, 200]),
        "dct_terms": st.sampled_from([0, 1, 100]),
        "segments": st.lists(st.sampled_from([1, 20]), max_size=2),
        "low_mfcc": st.sampled_from([1, 2, 200]),
        "covariance": st.booleans(),
    })
)  # fmt: skip
@settings(max_examples=20)
def test_features_can_be_computed_with_whatever_is_let_pass(changes):
    try:
        chosen = params.check(changes, "params.yaml", params.Mfcc)
    except errors.UserError:
        return
    names = mfcc.feature_names(chosen)
    assert len(set(names)) == len(names)
    for samples in (1, 5000):
        noise = np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32)
        values = mfcc.describe(noise, chosen)
        assert len(values) == len(names) and np.isfinite(values).all()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x80", "not UTF-8"),
        (b"[" * 1500, "not YAML"),
        (b"&a [*a]", "params.yaml"),
        (b'"new\\nline": 1', "unknown parameter"),
        (b"checkpoint: [" + b"[1], " * 1000 + b"1]", "checkpoint = "),
    ],
)
def test_whatever_it_holds_the_answer_is_one_line(tmp_path, content, words):
    (tmp_path / "params.yaml").write_bytes(content)
    with pytest.raises(errors.UserError, match=words) as raised:
        params.load(tmp_path / "params.yaml")
    assert len(str(raised.value).splitlines()) == 1 and len(str(raised.value)) < 1500


def test_every_parameter_has_a_comment_of_its_own():
    assert not [
        line for line in PARAMS.splitlines() if re.match(r" *\w+: *[^ #]", line) and "#" not in line
    ]
