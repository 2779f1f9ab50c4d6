"""The values that params.yaml may hold, and the one line that answers all others."""

import re

import pytest
from conftest import ROOT

from ser import params
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
        (r"scheme: six", f"scheme: [{list(range(1, 20))}, [4]]", ["actor 4", "two places"]),
        (
            r"scheme: six",
            f"scheme: [{list(range(1, 24))}, []]",
            ["split.scheme", "[24]", "no fold"],
        ),
        (r"scheme: six", "scheme: [[1, 25], [2]]", ["split.scheme", "25", "24"]),
        (r"^corpus: \S+", "corpus: iemocap", ["corpus = 'iemocap'", "'ravdess' or 'demo'"]),
        (r"^epochs: \S+", "epochs: 1.5", ["epochs = 1.5", "integer"]),
        (r"^revision: \S+", "revision: 123e456", ["revision = inf", """-S "revision='…'\""""]),
        (r"^revision: \S+", "revision: 0012", ["revision = 12", "quote it"]),
        (r"^corpus: \S+", "corpus: [", ["not YAML"]),
        (r"^  svm: MFCC", "  Svm: MFCC", ["models.Svm", "pattern"]),
        (r"^  svm: MFCC.*", "  svm: ''", ["models.svm", "at least 1"]),
        (r"^mean: \[svm", "mean: [knn", ["mean = ['knn', 'probe', 'w2v']", "svm, probe, w2v"]),
        (r"^mean: \[svm", "mean: [mean", ["mean = ['mean', ", "svm, probe, w2v"]),
    ],
)
def test_bad_values_are_named(tmp_path, pattern, replacement, words):
    path = changed(tmp_path, pattern, replacement)
    with pytest.raises(errors.UserError) as raised:
        params.load(path)
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x80", "not UTF-8"),
        (b"[" * 5000, "not YAML"),
        (b"&a [*a]", "params.yaml"),
        (b'"new\\nline": 1', "unknown parameter"),
        (b"checkpoint: [" + b"[1], " * 5000 + b"1]", "checkpoint = "),
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
