"""A trained classifier as it is stored: the same probabilities when it is read again, nothing
executed, one line for what is no model."""

import dataclasses
import json
import pickle

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from feature_tables import clips, data, features, out_of_fold, settings
from sklearn.calibration import CalibratedClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from ser.classifier import choice, kernels, model
from ser.run import errors

ROWS = clips()
OTHERS = features(ROWS, seed=5)


def trained(**changes) -> model.Model:
    """The model of fold 0 for a table as it is stored: float32."""
    chosen = settings(**{"C": [10.0], "gamma": [0.3], **changes})
    table = features(ROWS).astype("float32").astype("float64")
    return out_of_fold(data(ROWS, table), chosen)[2][0]


@pytest.mark.parametrize("kernel", ["linear", "logistic", "rbf", "rbf_mean"])
@pytest.mark.parametrize("blocks", [{"stat": 1.0}, {"dct": 2.0, "stat": 1.0}], ids=["one", "two"])
def test_read_again_it_predicts_the_same_and_writes_the_same_bytes(tmp_path, kernel, blocks):
    original = trained(kernel=[kernel], blocks=[blocks])
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    original.save(tmp_path / "first")
    again = model.load(tmp_path / "first")
    again.save(tmp_path / "second")
    for file in (model.SETTINGS, model.ARRAYS):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
    pd.testing.assert_frame_equal(
        original.probabilities(OTHERS),
        again.probabilities(OTHERS),
        check_exact=False,
        rtol=0,
        atol=1e-12,
    )
    assert list(again.settings.columns) == list(blocks)
    # Columns are taken by name, whatever else the table holds and in whichever order.
    shuffled = OTHERS.assign(seg_other=1.0)[["seg_other", *OTHERS.columns[::-1]]]
    pd.testing.assert_frame_equal(original.probabilities(OTHERS), again.probabilities(shuffled))


def test_features_finer_than_float32_are_kept(tmp_path):
    original = out_of_fold(data(ROWS), settings(C=[10.0], kernel=["rbf"]))[2][0]
    original.save(tmp_path)
    pd.testing.assert_frame_equal(
        original.probabilities(OTHERS),
        model.load(tmp_path).probabilities(OTHERS),
        check_exact=False,
        rtol=0,
        atol=1e-12,
    )


class Votes(SVC):
    """scikit-learn's SVM with our votes."""

    def decision_function(self, X):
        return kernels.decide(self.kernel, super().decision_function(X), 8)


def test_probabilities_are_those_of_the_scikit_learn_object(tmp_path):
    """Trained, calibrated, stored and read by us, against scikit-learn's pipeline and calibration
    on the same splits."""
    table, labels = OTHERS.filter(like="stat"), ROWS["emotion"].to_numpy(dtype=str)
    actors = ROWS["actor"].to_numpy()
    grid = choice.candidates(
        [{"stat": 1.0}], settings(C=[10.0], gamma=[0.6], kernel=["rbf"]), table
    )
    chosen = choice.choose(table, labels, actors, grid, 3)
    ours = choice.train(table, labels, chosen, {"mfcc": {}})
    ours.save(tmp_path)
    svm = Votes(C=10.0, gamma=0.6 / (2 * 10), decision_function_shape="ovo")
    splits = choice.inner_splits(labels, actors, 3)
    machine = make_pipeline(StandardScaler(), svm)
    theirs = CalibratedClassifierCV(machine, method="temperature", cv=splits, ensemble=False)
    theirs.fit(table, labels)
    new = features(ROWS, seed=6)
    expected = pd.DataFrame(theirs.predict_proba(new[table.columns]), columns=theirs.classes_)
    loaded = model.load(tmp_path)
    found = loaded.probabilities(new)
    # But for the temperature, which two minimisers find to some digits, the same to the last ones.
    np.testing.assert_allclose(found, expected[list(found.columns)], atol=1e-5)
    calibrator = theirs.calibrated_classifiers_[0].calibrators[0]
    assert loaded.settings.sharpness == pytest.approx(calibrator.beta_, rel=1e-4)
    settings_ = loaded.settings.model_copy(update={"sharpness": float(calibrator.beta_)})
    found = dataclasses.replace(loaded, settings=settings_).probabilities(new)
    np.testing.assert_allclose(found, expected[list(found.columns)], atol=1e-12)


def test_an_empty_table_has_an_empty_answer():
    assert trained(kernel=["rbf"]).probabilities(OTHERS[:0]).shape == (0, 8)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("executed",))


BROKEN = {
    "no file": (model.ARRAYS, None, "no such file"),
    "no settings": (model.SETTINGS, None, "no such file"),
    "an empty file": (model.ARRAYS, lambda old: b"", "not a model"),
    "half a file": (model.ARRAYS, lambda old: old[: len(old) // 2], "not a model"),
    "a pickle": (model.ARRAYS, lambda old: pickle.dumps(Bomb()), "not a model"),
    "a pickle for settings": (model.SETTINGS, lambda old: pickle.dumps(Bomb()), "not a model"),
    "other arrays": (
        model.ARRAYS, lambda old: safetensors.numpy.save({"mean": np.zeros(3)}), "does not fit",
    ),
    "not a number": (
        model.ARRAYS,
        lambda old: safetensors.numpy.save(
            {name: array * np.nan for name, array in safetensors.numpy.load(old).items()}
        ),
        "not a number",
    ),
    "another kernel": (
        model.SETTINGS, lambda old: old.replace(b'"rbf"', b'"cubic"'), "kernel",
    ),
    "another kind": (
        model.SETTINGS, lambda old: old.replace(b'"rbf"', b'"logistic"'), "does not fit",
    ),
    "fewer columns": (
        model.SETTINGS,
        lambda old: json.dumps(json.loads(old) | {"columns": {"stat": ["stat_a"]}}).encode(),
        "does not fit",
    ),
    "a key of another project": (
        model.SETTINGS, lambda old: json.dumps(json.loads(old) | {"model_type": "x"}).encode(),
        "model_type",
    ),
    "a text": (model.SETTINGS, lambda old: b"hello", "not a model"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_model_is_named_in_one_line(tmp_path, what):
    file, change, words = BROKEN[what]
    trained(kernel=["rbf"]).save(tmp_path)
    if change is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(change((tmp_path / file).read_bytes()))
    with pytest.raises(errors.UserError, match=words) as error:
        model.load(tmp_path)
    assert str(tmp_path / file) in str(error.value) or words == "does not fit"
    assert "\n" not in str(error.value)
