"""Nested cross-validation on small synthetic feature tables: nothing that chooses sees the speakers
that are scored, shortcuts change no number, and the stage writes what it should."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from feature_tables import EMOTIONS, clips, data, features, grid, out_of_fold, settings, write
from ruamel.yaml import YAML
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from ser import params
from ser.classifier import crossval, kernels, model
from ser.run import errors
from stages import svm_train

DEFAULT = params.load(ROOT / "params.yaml")


def one_fold(held_out: int, data: crossval.Data, chosen: params.SvmTrain) -> tuple:
    rows = (data.clips["fold"] != held_out).to_numpy()
    with threadpool_limits(1):
        return crossval.fit_fold(rows, data, grid(chosen, data.table), chosen.inner_folds)


def same(one: model.Model, other: model.Model) -> bool:
    """True if two models are equal to the last bit."""
    pairs = zip(dataclasses.astuple(one), dataclasses.astuple(other), strict=True)
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)


def accuracy(data: crossval.Data, chosen: params.SvmTrain) -> float:
    return (out_of_fold(data, chosen)[0].idxmax(axis=1) == data.clips["label"]).mean()


def test_inner_folds_share_no_speaker_and_cover_every_row():
    rows = clips()
    labels, speakers = rows["label"].to_numpy(dtype=str), rows["speaker"].to_numpy()
    splits = crossval.inner_splits(labels, speakers, 4)
    assert sorted(np.concatenate([test for _, test in splits])) == list(range(len(rows)))
    for train, test in splits:
        assert not set(speakers[train]) & set(speakers[test])
        assert set(labels[train]) == set(labels[test]) == set(EMOTIONS)
    with pytest.raises(errors.UserError, match="inner_folds = 4: a fold has only 3"):
        crossval.inner_splits(np.array(EMOTIONS * 3), np.repeat([1, 2, 3], 8), 4)


def reference(candidate: dict, table: pd.DataFrame, values: np.ndarray, labels: np.ndarray):
    """A candidate in scikit-learn's own parts: scaler and machine, trained on `values`, and what
    standardised features are multiplied by."""
    sizes = [len(model.block_columns(name, table)) for name in candidate["blocks"]]
    weights = np.array(list(candidate["blocks"].values()))
    edges, kind, gamma = np.cumsum(sizes)[:-1], candidate["kernel"], candidate["gamma"]
    scale = np.repeat(np.sqrt(weights / weights.sum() / (2 * np.array(sizes))), sizes)

    def kernel(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        if kind != "rbf_mean":
            far = ((left[:, None] * scale - right * scale) ** 2).sum(axis=2)
            return np.exp(-gamma * far) if kind == "rbf" else (left * scale) @ (right * scale).T
        pairs = zip(np.split(left, edges, 1), np.split(right, edges, 1), sizes, strict=True)
        parts = [((x[:, None] - y) ** 2).sum(axis=2) / (2 * size) for x, y, size in pairs]
        return np.tensordot(weights / weights.sum(), np.exp(-gamma * np.array(parts)), axes=1)

    standard = StandardScaler().fit(values)
    values = standard.transform(values)
    if kind == "logistic":
        machine = LogisticRegression(C=candidate["C"], tol=1e-10, max_iter=10_000)
        return standard, machine.fit(values * scale, labels), scale
    machine = SVC(kernel=kernel, C=candidate["C"], decision_function_shape="ovo")
    return standard, machine.fit(values, labels), 1.0


def test_scores_are_those_of_scikit_learn():
    """Every candidate's class scores on other speakers, as scikit-learn gives them on the
    standardised features themselves."""
    rows = clips()
    table, labels = features(rows), rows["label"].to_numpy(dtype=str)
    train, test = crossval.inner_splits(labels, rows["speaker"].to_numpy(), 3)[0]
    candidates = grid(settings(), table)
    assert len(candidates) == 2 * 2 * (1 + 1 + 2 + 2)
    every = crossval.candidate_scores(table, labels, train, test, candidates)
    for candidate, scores in zip(candidates, every, strict=True):
        blocks = [model.block_columns(block, table) for block in candidate["blocks"]]
        used = table[sum(blocks, [])].to_numpy()
        standard, machine, scale = reference(candidate, table, used[train], labels[train])
        expected = machine.decision_function(standard.transform(used[test]) * scale)
        svm = candidate["kernel"] != "logistic"
        expected = kernels.class_scores(candidate["kernel"], expected, 8)
        # libsvm's own tolerance is 1e-3
        np.testing.assert_allclose(scores, expected, atol=2e-3 if svm else 1e-4)
        assert (scores.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.98


def test_held_out_speakers_change_neither_choice_nor_scaler_nor_calibration_nor_model():
    rows, chosen = clips(), settings()
    table, training = features(rows), (rows["fold"] != 1).to_numpy()
    noise = table.copy()
    noise[~training] = np.random.default_rng(1).normal(1e3, 1e3, size=noise[~training].shape)
    scrambled = rows.copy()
    scrambled.loc[~training, "label"] = "calm"
    honest, search, _ = one_fold(1, data(rows, table), chosen)
    other, other_search, _ = one_fold(1, data(scrambled, noise), chosen)
    assert search == other_search
    assert same(honest, other)
    # and the test can fail: a training speaker's features do change them
    noise[training] = table[training] + np.where(rows[training]["speaker"] == 1, 5.0, 0.0)[:, None]
    assert not same(one_fold(1, data(rows, noise), chosen)[0], honest)


@pytest.mark.parametrize("kernel", ["logistic", "rbf"])
def test_probabilities_are_calibrated_and_in_the_corpus_s_order(kernel):
    """Of folds of any size, a constant feature among the others."""
    rows = clips(((1, 2, 3, 4, 5), (6, 7), (8, 9, 10, 11, 12)))
    table = features(rows).assign(dct_mfcc09_9=-100.0)
    chosen = settings(kernel=[kernel], C=[10.0])
    probabilities, search, _ = out_of_fold(data(rows, table), chosen)
    assert list(probabilities.index) == list(rows.index)
    assert list(probabilities.columns) == EMOTIONS
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    right = probabilities.idxmax(axis=1) == rows["label"]
    assert probabilities.max(axis=1).mean() == pytest.approx(right.mean(), abs=0.15)
    assert search.groupby("fold")["chosen"].sum().tolist() == [1, 1, 1]


def test_folds_side_by_side_are_what_each_is_alone():
    rows, chosen = clips(), settings(C=[10.0])
    probabilities, search, _ = out_of_fold(data(rows), chosen)
    candidates = grid(chosen, features(rows))
    predictions, every_search, final = crossval.fit_folds(
        "svm_train", data(rows), candidates, chosen.inner_folds
    )
    pd.testing.assert_frame_equal(predictions[list(probabilities)], probabilities, rtol=0, atol=0)
    alone, last, _ = one_fold(-1, data(rows), chosen)
    expected = [*search.to_dict("records"), *({"fold": "all", **row} for row in last)]
    assert every_search.astype({"fold": str}).equals(pd.DataFrame(expected).astype({"fold": str}))
    assert same(final, alone)


def test_speaker_normalisation_takes_each_speaker_s_offset_away_without_labels():
    rows = clips()
    original = data(rows, features(rows, speaker=4.0).assign(dct_mfcc09_9=-100.0))
    normal = original.with_speakers_normalised()
    for _, part in normal.table.drop(columns="dct_mfcc09_9").groupby(rows["speaker"]):
        np.testing.assert_allclose(part.mean(), 0, atol=1e-9)
        np.testing.assert_allclose(part.std(ddof=0), 1)
    chosen = settings(C=[10.0], kernel=["rbf"])
    assert accuracy(normal, chosen) > accuracy(original, chosen) + 0.1
    assert crossval.protocol(settings(speaker_norm=True)).startswith("TRANSDUCTIVE")
    assert "TRANSDUCTIVE" not in crossval.protocol(settings())


def test_blocks_that_the_table_has_not_are_left_out():
    table = features(clips()).filter(like="stat")
    assert {tuple(each["blocks"]) for each in grid(settings(), table)} == {("stat",)}
    with pytest.raises(errors.UserError, match="none of these blocks, but stat"):
        grid(settings(blocks=[{"cov": 1.0}]), table)


def test_steep_votes_are_those_of_scikit_learn(monkeypatch):
    rows = clips()
    table, labels = features(rows), rows["label"].to_numpy(dtype=str)
    monkeypatch.setattr(kernels, "STEEPNESS", 1e6)
    margins = SVC(decision_function_shape="ovo").fit(table, labels).decision_function(table)
    soft = kernels.class_scores("rbf", margins, 8)
    hard = SVC(decision_function_shape="ovr").fit(table, labels)
    np.testing.assert_array_equal(soft, 2 * np.rint(hard.decision_function(table)) - 7)


def test_stage_writes_the_same_bytes_twice_and_a_model_that_predicts_from_named_columns(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    rows, folder = clips(), tmp_path / "data"
    write(folder, rows, features(rows), DEFAULT.mfcc.model_dump())
    values = YAML().load(ROOT / "params.yaml")
    values["svm_train"].update({"C": [5], "inner_folds": 2})
    YAML().dump(values, tmp_path / "params.yaml")
    runs = []
    for _ in range(2):
        svm_train.main()
        places = (folder / "predictions" / "svm", folder / "models" / "svm")
        runs.append({path.name: path.read_bytes() for place in places for path in place.iterdir()})
    assert runs[0] == runs[1]
    assert set(runs[0]) == {
        "predictions.csv", "protocol.txt", "search.csv", "model.json", "model.safetensors",
    }  # fmt: skip

    predictions = pd.read_csv(folder / "predictions" / "svm" / "predictions.csv")
    columns = ["clip", "speaker", "fold", "actual", "predicted", *EMOTIONS]
    assert list(predictions.columns) == columns
    assert list(predictions["clip"]) == list(rows["clip"])
    assert list(predictions["predicted"]) == list(predictions[EMOTIONS].idxmax(axis=1))
    right = (predictions["predicted"] == predictions["actual"]).mean()
    assert right > 0.5
    assert f"accuracy on held-out speakers: {right:.3f}" in capsys.readouterr().out
    search = pd.read_csv(folder / "predictions" / "svm" / "search.csv")
    assert search.groupby("fold")["chosen"].sum().to_dict() == {"0": 1, "1": 1, "2": 1, "all": 1}

    loaded = model.load(folder / "models" / "svm")
    assert loaded.settings.features == {"mfcc": DEFAULT.mfcc.model_dump()}
    table = pd.read_parquet(folder / "mfcc.parquet").set_index("clip")
    right = loaded.probabilities(table).idxmax(axis=1)[rows["clip"]] == list(rows["label"])
    assert right.mean() > 0.9  # its own training clips

    (folder / "mfcc.parquet").unlink()
    with pytest.raises(SystemExit, match="svm_train: data/mfcc.parquet: no such table; `dvc repro"):
        svm_train.main()


def test_tables_that_cannot_be_trained_on_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows, path = clips(), tmp_path / "data" / "mfcc.parquet"
    write(tmp_path / "data", rows, features(rows), DEFAULT.mfcc.model_dump())
    assert crossval.read("data/mfcc.parquet", "mfcc", settings()).labels.tolist() == list(
        rows["label"]
    )
    table = pd.read_parquet(path)
    unstated = table.copy()
    unstated.attrs = {}
    broken = {
        f"{table['clip'][0]}: not in both data/folds.csv and data/mfcc.parquet": table[1:],
        "does not say how it was made": unstated,
        "holds a clip twice": pd.concat([table, table[:1]]),
        "stat_mfcc03_mean of a clip is not a number": table.assign(stat_mfcc03_mean=np.nan),
        "not a table of clips": table.drop(columns="clip"),
    }
    for words, content in broken.items():
        content.to_parquet(path, index=False)
        with pytest.raises(errors.UserError, match=words):
            crossval.read("data/mfcc.parquet", "mfcc", settings())
