"""search.yaml, and params.yaml with what a search draws put in."""

import re

import pytest
from conftest import ROOT

from ser import params
from ser.run.errors import UserError
from ser.search import space, worth

SETTINGS = params.load(ROOT / "params.yaml")
SHIPPED = params.read(ROOT / "search.yaml", space.Search)


def changed(tmp_path, pattern: str, replacement: str):
    """The real search.yaml with the first match of a pattern replaced."""
    text = (ROOT / "search.yaml").read_text()
    text, count = re.subn(pattern, replacement, text, count=1, flags=re.MULTILINE | re.DOTALL)
    assert count == 1, pattern
    path = tmp_path / "search.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("pattern", "replacement", "words"),
    [
        (r"^sampler: gp", "sampler: cma", ["sampler = 'cma'", "'gp', 'tpe' or 'random'"]),
        (r"^seed: 0", "seed: -1", ["seed = -1", "greater than or equal to 0"]),
        (r"^startup: ", "start: ", ["start", "unknown parameter", "did you mean startup"]),
        (r"^w2v:.*", "", ["w2v", "required"]),
        (r"^svm:.*", "svm: {}", ["svm = {}", "at least 1"]),
        (r"int 15..40", "40..15", ["svm.mfcc.trim_db = '40..15'", "empty range"]),
        (r"int 15..40", "int 1.5..40", ["svm.mfcc.trim_db", "no whole numbers"]),
        (r"int 15..40", "from 3 to 15", ["'from 3 to 15'", "expected `1..5`"]),
        (r"int 15..40", "25", ["svm.mfcc.trim_db = 25", "expected `1..5`"]),
        (r"log 0.3..100", "log 0..100", ["svm.svm_train.C = 'log 0..100'", "must be above 0"]),
        (r"\[linear, rbf, rbf_mean\]", "[]", ["svm.svm_train.kernel = []", "nothing to choose"]),
    ],
)
def test_a_bad_search_yaml_is_one_line(tmp_path, pattern, replacement, words):
    path = changed(tmp_path, pattern, replacement)
    with pytest.raises(UserError) as error:
        params.read(path, space.Search)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("branch", "name", "declared", "words"),
    [
        ("svm", "mfcc.trim", "15..40", ["nothing is called trim"]),
        ("svm", "mfcc.trim_db", "-3..15", ["trim_db = -3.0", "greater than 0"]),
        ("svm", "svm_train.kernel", ["rbf", "cubic"], ["kernel", "cubic", "rbf"]),
        ("svm", "svm_train.C.9", "1..2", ["nothing is called 9"]),
        ("svm", "lr", "log 1e-6..1e-3", ["a search of svm may vary mfcc, svm_train"]),
        ("w2v", "epochs", "3..20", ["epochs = 3.0", "integer"]),
        ("w2v", "freeze_cnn", [True, False], ["a search of w2v may vary", "lr"]),
        ("w2v", "adam_betas.1", "0.9..1", ["adam_betas.1 = 1.0", "less than 1"]),
    ],
)
def test_a_space_that_params_refuse_is_one_line(branch, name, declared, words):
    possible = {name: space.distribution(declared)}
    with pytest.raises(UserError) as error:
        space.check(branch, possible, worth.BRANCHES[branch].may_vary, SETTINGS)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"search.yaml: {branch}: {name}: ")
    for word in words:
        assert word in str(error.value)


def test_the_shipped_spaces_hold_what_params_say():
    for branch in worth.BRANCHES.values():
        space.check(branch.name, getattr(SHIPPED, branch.name), branch.may_vary, SETTINGS)
    lists = ("blocks", "kernel", "C", "gamma")
    for name in lists:
        for candidate in getattr(SETTINGS.svm_train, name):
            point = {f"svm_train.{each}": getattr(SETTINGS.svm_train, each)[0] for each in lists}
            values = space.put(SETTINGS.model_dump(), point | {f"svm_train.{name}": candidate})
            assert space.current(values, SHIPPED.svm).keys() == SHIPPED.svm.keys()
    assert space.current(SETTINGS.model_dump(), SHIPPED.w2v)["lr"] == SETTINGS.lr


def test_params_keep_every_comment_and_take_values_as_dvc_writes_them(tmp_path):
    text = (ROOT / "params.yaml").read_text()
    assert space.edit(text, {}) == text
    point = {
        "lr": 3e-5,
        "adam_betas.1": 0.95,
        "svm_train.C": 2.5,
        "mfcc.trim_db": None,
        "mfcc.segments": [2, 4],
    }
    edited = space.edit(text, point)
    assert edited.count("#") == text.count("#")
    (tmp_path / "params.yaml").write_text(edited)
    read = params.load(tmp_path / "params.yaml")
    assert (read.lr, read.adam_betas[1], read.svm_train.C) == (3e-5, 0.95, [2.5])
    assert (read.mfcc.trim_db, read.mfcc.segments) == (None, [2, 4])
