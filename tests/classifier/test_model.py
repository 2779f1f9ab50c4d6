"""A trained classifier as it is stored: the same probabilities when it is read again, nothing
executed, one line for what is no model."""

import dataclasses
import functools
import pickle

import numpy as np
import pandas as pd
import pytest
from feature_tables import EMOTIONS, clips, data, features, out_of_fold, settings
from sklearn.calibration import CalibratedClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from ser.classifier import crossval, kernels, model
from ser.run import errors

ROWS = clips()
OTHERS = features(ROWS, seed=5)


@functools.cache
def trained(kernel: str, dtype: str = "float32") -> model.Model:
    """The model of fold 0, for features of this precision; float32 is how they are stored."""
    chosen = settings(kernel=[kernel], C=[10.0], gamma=[0.3], blocks=[{"dct": 2.0, "stat": 1.0}])
    table = features(ROWS).astype(dtype).astype("float64")
    return out_of_fold(data(ROWS, table), chosen)[2][0]


@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [*((kernel, "float32") for kernel in ("linear", "logistic", "rbf", "rbf_mean")),
     ("rbf", "float64")],
)  # fmt: skip
def test_read_again_it_predicts_the_same_and_writes_the_same_bytes(tmp_path, kernel, dtype):
    original = trained(kernel, dtype)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    original.save(tmp_path / "first")
    again = model.load(tmp_path / "first")
    again.save(tmp_path / "second")
    for file in (model.SETTINGS, model.ARRAYS):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
    expected = original.probabilities(OTHERS)
    pd.testing.assert_frame_equal(again.probabilities(OTHERS), expected, rtol=0, atol=1e-12)
    assert list(again.settings.columns) == ["dct", "stat"]
    # Columns are taken by name, whatever else the table holds and in whichever order.
    shuffled = OTHERS.assign(seg_other=1.0)[["seg_other", *OTHERS.columns[::-1]]]
    pd.testing.assert_frame_equal(again.probabilities(shuffled), expected)
    assert again.probabilities(OTHERS[:0]).shape == (0, 8)


class Votes(SVC):
    """scikit-learn's SVM with our votes."""

    def decision_function(self, X):
        return kernels.class_scores(self.kernel, super().decision_function(X), 8)


def test_probabilities_are_those_of_the_scikit_learn_object(tmp_path):
    """Trained, calibrated, stored and read by us, against scikit-learn's pipeline and calibration
    on the same splits."""
    table, labels = OTHERS.filter(like="stat"), ROWS["label"].to_numpy(dtype=str)
    speakers = ROWS["speaker"].to_numpy()
    chosen = settings(blocks=[{"stat": 1.0}], C=[10.0], gamma=[0.6], kernel=["rbf"])
    grid = crossval.candidates(chosen.blocks, chosen, table)
    choice = crossval.choose(table, labels, speakers, grid, 3)
    model.fit(table, labels, choice.best, choice.scores, {"mfcc": {}}, EMOTIONS).save(tmp_path)
    svm = Votes(C=10.0, gamma=0.6 / (2 * 10), decision_function_shape="ovo")
    splits = crossval.inner_splits(labels, speakers, 3)
    machine = make_pipeline(StandardScaler(), svm)
    theirs = CalibratedClassifierCV(machine, method="temperature", cv=splits, ensemble=False)
    theirs.fit(table, labels)
    new = features(ROWS, seed=6)
    expected = pd.DataFrame(theirs.predict_proba(new[table.columns]), columns=theirs.classes_)
    loaded = model.load(tmp_path)
    # But for the temperature, which two minimisers find to some digits, the same to the last ones.
    calibrator = theirs.calibrated_classifiers_[0].calibrators[0]
    assert loaded.settings.sharpness == pytest.approx(calibrator.beta_, rel=1e-4)
    exact = loaded.settings.model_copy(update={"sharpness": float(calibrator.beta_)})
    found = dataclasses.replace(loaded, settings=exact).probabilities(new)
    np.testing.assert_allclose(found, expected[list(found.columns)], atol=1e-12)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("executed",))


BROKEN = {
    "no file": (model.ARRAYS, None, "no such file"),
    "no settings": (model.SETTINGS, None, "no such file"),
    "half a file": (model.ARRAYS, lambda old: old[: len(old) // 2], "not a model"),
    "a pickle": (model.ARRAYS, lambda old: pickle.dumps(Bomb()), "not a model"),
    "a pickle for settings": (model.SETTINGS, lambda old: pickle.dumps(Bomb()), "not a model"),
    "another version": (model.SETTINGS, lambda old: old.replace(b"rbf", b"cubic"), "kernel"),
    "other columns": (
        model.SETTINGS, lambda old: old.replace(b'"stat_mfcc03_mean",', b""), "does not fit",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_no_model_is_named_in_one_line(tmp_path, case):
    file, change, words = BROKEN[case]
    trained("rbf").save(tmp_path)
    if change is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(change((tmp_path / file).read_bytes()))
    with pytest.raises(errors.UserError, match=words) as error:
        model.load(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
