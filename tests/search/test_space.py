"""search.yaml, and params.yaml with what a search draws put in."""

import pytest
from conftest import ROOT
from ruamel.yaml import YAML

from ser import params
from ser.run.errors import UserError
from ser.search import objective, space

SETTINGS = params.load(ROOT / "params.yaml")
SHIPPED = YAML(typ="safe").load(ROOT / "search.yaml")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sampler": "cma"}, ["sampler = 'cma'", "'gp', 'tpe' or 'random'"]),
        ({"start": 3}, ["start", "unknown parameter"]),
        ({"svm": {}}, ["svm = {}", "at least 1"]),
        ({"svm": {"a.b": {"low": 40, "high": 15}}}, ["svm.a.b", "low=40", "high=15"]),
        ({"svm": {"a.b": {"low": 0, "high": 1.5, "log": True}}}, ["svm.a.b", "low > 0"]),
        ({"svm": {"a.b": {"low": 1, "hihg": 15}}}, ["svm.a.b", "hihg"]),
        ({"svm": {"a.b": 25}}, ["svm.a.b = 25", "expected `{low: 1, high: 5}`"]),
        ({"svm": {"a.b": []}}, ["svm.a.b = []", "or a list"]),
    ],
)
def test_a_bad_search_yaml_is_one_line(change, words):
    with pytest.raises(UserError) as error:
        params.check(SHIPPED | change, "search.yaml", space.Search)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("branch", "name", "declared", "words"),
    [
        ("svm", "mfcc.trim", {"low": 15, "high": 40}, ["no such parameter"]),
        ("svm", "mfcc.trim_db", {"low": -3, "high": 15}, ["trim_db = -3", "greater than 0"]),
        ("svm", "svm_train.kernel", ["rbf", "cubic"], ["kernel", "cubic", "rbf"]),
        ("w2v", "epochs", {"low": 3, "high": 20.5}, ["epochs = 3.0", "integer"]),
        ("w2v", "freeze_cnn", [True, False], ["a search of w2v may vary", "lr"]),
    ],
)
def test_a_space_that_params_refuse_is_one_line(branch, name, declared, words):
    possible = {name: space.distribution(declared)}
    with pytest.raises(UserError) as error:
        space.check(branch, possible, objective.BRANCHES[branch].may_vary, SETTINGS)
    assert str(error.value).startswith(f"search.yaml: {branch}: {name}: ")
    for word in words:
        assert word in str(error.value)


def test_the_shipped_spaces_hold_what_params_say():
    search = params.check(SHIPPED, "search.yaml", space.Search)
    for branch in objective.BRANCHES.values():
        space.check(branch.name, getattr(search, branch.name), branch.may_vary, SETTINGS)
    lists = ("blocks", "kernel", "C", "gamma")
    for name in lists:
        for candidate in getattr(SETTINGS.svm_train, name):
            point = {f"svm_train.{each}": getattr(SETTINGS.svm_train, each)[0] for each in lists}
            values = space.put(SETTINGS.model_dump(), point | {f"svm_train.{name}": candidate})
            assert space.current(values, search.svm).keys() == search.svm.keys()
    assert space.current(SETTINGS.model_dump(), search.w2v)["lr"] == SETTINGS.lr
