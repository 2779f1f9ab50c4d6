"""How a classifier is chosen, on small synthetic feature tables: what it may see, that its
shortcuts change nothing, and what the stage writes."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, one_line
from feature_tables import EMOTIONS, clips, data, features, grid, out_of_fold, settings
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from ser import params
from ser.classifier import choice, kernels, model
from ser.classifier import crossval as folds
from ser.run import errors

DEFAULT = params.load(ROOT / "params.yaml")


def one_fold(held_out: int, data: folds.Data, chosen: params.SvmTrain) -> tuple:
    rows = (data.clips["fold"] != held_out).to_numpy()
    with threadpool_limits(1):
        return folds.fold(rows, data, grid(chosen, data.table), chosen.inner_folds)


def same(one: model.Model, other: model.Model) -> bool:
    """Whether two models are equal to the last bit."""
    return all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name))
        if field.name != "settings"
        else one.settings == other.settings
        for field in dataclasses.fields(one)
    )


def test_inner_folds_share_no_actor_and_cover_every_row():
    rows = clips()
    labels, actors = rows["emotion"].to_numpy(dtype=str), rows["actor"].to_numpy()
    splits = choice.inner_splits(labels, actors, 4)
    assert sorted(np.concatenate([test for _, test in splits])) == list(range(len(rows)))
    for train, test in splits:
        assert not set(actors[train]) & set(actors[test])
        assert set(labels[train]) == set(labels[test]) == set(EMOTIONS)


def reference(candidate: dict, table: pd.DataFrame, values: np.ndarray, labels: np.ndarray):
    """A candidate in scikit-learn's own parts: scaler and machine, trained on `values`, and what
    standardised features are multiplied by."""
    sizes = [len(choice.columns_of(name, table)) for name in candidate["blocks"]]
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


@pytest.mark.parametrize("number", range(12))
def test_values_are_those_of_scikit_learn(number):
    """Every candidate's decision values on other actors, as scikit-learn gives them on the
    standardised features themselves."""
    rows = clips()
    table, labels = features(rows), rows["emotion"].to_numpy(dtype=str)
    train, test = choice.inner_splits(labels, rows["actor"].to_numpy(), 3)[0]
    candidates = grid(settings(C=[10.0]), table)
    assert len(candidates) == 2 * (1 + 1 + 2 + 2)
    candidate = candidates[number]
    values = choice.decisions(table, labels, train, test, candidates)[number]
    names = [name for block in candidate["blocks"] for name in choice.columns_of(block, table)]
    used = table[names].to_numpy()
    standard, machine, scale = reference(candidate, table, used[train], labels[train])
    expected = machine.decision_function(standard.transform(used[test]) * scale)
    if candidate["kernel"] != "logistic":
        expected = kernels.decide(candidate["kernel"], expected, 8)
        np.testing.assert_allclose(values, expected, atol=2e-3)  # libsvm's own tolerance is 1e-3
    else:
        np.testing.assert_allclose(values, expected, atol=1e-4)
    assert (values.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.98


def test_costs_in_any_order_give_the_same_logistic_regression():
    """Each starts from the solution of the one before, and arrives all the same."""
    rows = clips()
    labels = rows["emotion"].to_numpy(dtype=str)
    values = StandardScaler().fit_transform(features(rows))
    kernel = kernels.compare(values, values, linear=True)
    upwards = list(kernels.fit("logistic", kernel, labels, [1.0, 10.0, 100.0]))
    downwards = list(kernels.fit("logistic", kernel, labels, [100.0, 10.0, 1.0]))[::-1]
    for (one, _), (other, _) in zip(upwards, downwards, strict=True):
        np.testing.assert_allclose(kernel @ one.T, kernel @ other.T, atol=5e-3)
    assert not np.allclose(kernel @ upwards[0][0].T, kernel @ upwards[1][0].T, atol=0.3)


def test_held_out_actors_change_neither_choice_nor_scaler_nor_calibration_nor_model():
    rows, chosen = clips(), settings()
    table, training = features(rows), (rows["fold"] != 1).to_numpy()
    noise = table.copy()
    noise[~training] = np.random.default_rng(1).normal(1e3, 1e3, size=noise[~training].shape)
    scrambled = rows.copy()
    scrambled.loc[~training, "emotion"] = "calm"
    honest, search, _ = one_fold(1, data(rows, table), chosen)
    other, other_search, _ = one_fold(1, data(scrambled, noise), chosen)
    assert search == other_search
    assert same(honest, other)
    probe = features(rows, seed=5)
    pd.testing.assert_frame_equal(honest.probabilities(probe), other.probabilities(probe))
    # and the test can fail: a training actor's features do change them
    noise[training] = table[training] + np.where(rows[training]["actor"] == 1, 5.0, 0.0)[:, None]
    assert not same(one_fold(1, data(rows, noise), chosen)[0], honest)


@pytest.mark.slow
def test_labels_permuted_within_actor_are_predicted_at_chance():
    rows, chosen = clips(), settings(C=[10.0], gamma=[0.3], kernel=["rbf_mean", "logistic"])
    probabilities, _, _ = out_of_fold(data(rows), chosen)
    assert (probabilities.idxmax(axis=1) == rows["emotion"]).mean() > 0.6
    rng, right = np.random.default_rng(0), []
    for _ in range(5):
        permuted = rows.assign(
            emotion=rows.groupby("actor")["emotion"].transform(
                lambda own: rng.permutation(own.to_numpy())
            )
        )
        predicted = out_of_fold(data(permuted, features(rows)), chosen)[0].idxmax(axis=1)
        right.append((predicted == permuted["emotion"]).mean())
    # about three standard errors of 5 x 192 clips
    assert np.mean(right) == pytest.approx(1 / 8, abs=0.04)


@pytest.mark.parametrize("kernel", ["logistic", "rbf"])
def test_probabilities_are_calibrated_and_in_the_corpus_s_order(kernel):
    rows = clips()
    probabilities, _, models = out_of_fold(data(rows), settings(kernel=[kernel], C=[10.0]))
    assert list(probabilities.columns) == EMOTIONS
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    right = probabilities.idxmax(axis=1) == rows["emotion"]
    assert probabilities.max(axis=1).mean() == pytest.approx(right.mean(), abs=0.15)
    assert all(model.settings.sharpness > 0 for model in models)


def test_sharpness_is_that_of_the_softmax_the_labels_were_drawn_from():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(20_000, 3))
    shares = np.exp(2.5 * values) / np.exp(2.5 * values).sum(axis=1, keepdims=True)
    drawn = (shares.cumsum(axis=1) < rng.random((len(values), 1))).sum(axis=1)
    assert choice.sharpness(values, np.array(["a", "b", "c"])[drawn]) == pytest.approx(2.5, rel=0.1)


def test_folds_may_be_of_any_size():
    rows = clips(((1, 2, 3, 4, 5), (6, 7), (8, 9, 10, 11, 12)))
    probabilities, search, _ = out_of_fold(data(rows), settings(C=[10.0], kernel=["rbf"]))
    assert list(probabilities.index) == list(rows.index)
    assert not probabilities.isna().any(axis=None)
    assert search.groupby("fold")["chosen"].sum().tolist() == [1, 1, 1]


def test_folds_side_by_side_are_what_each_is_alone():
    rows, chosen = clips(), settings(C=[10.0])
    probabilities, search, _ = out_of_fold(data(rows), chosen)
    candidates = grid(chosen, features(rows))
    predictions, every_search, final = folds.train(
        "svm_train", data(rows), candidates, chosen.inner_folds
    )
    pd.testing.assert_frame_equal(predictions[list(probabilities)], probabilities, rtol=0, atol=0)
    _, last, _ = one_fold(-1, data(rows), chosen)
    expected = [*search.to_dict("records"), *({"fold": "all", **row} for row in last)]
    assert every_search.astype({"fold": str}).equals(pd.DataFrame(expected).astype({"fold": str}))
    assert same(final, one_fold(-1, data(rows), chosen)[0])


def test_speaker_normalisation_takes_each_speaker_s_offset_away_without_labels():
    rows = clips()
    original = data(rows, features(rows, speaker=4.0))
    normal = original.with_speakers_normalised()
    for _, part in normal.table.groupby(rows["actor"]):
        np.testing.assert_allclose(part.mean(), 0, atol=1e-9)
        np.testing.assert_allclose(part.std(ddof=0), 1)
    chosen = settings(C=[10.0], kernel=["rbf"])
    accuracy = [
        (out_of_fold(either, chosen)[0].idxmax(axis=1) == rows["emotion"]).mean()
        for either in (original, normal)
    ]
    assert accuracy[1] > accuracy[0] + 0.1
    assert folds.protocol(4, transductive=True).startswith("TRANSDUCTIVE")
    assert "TRANSDUCTIVE" not in folds.protocol(4)


@pytest.mark.parametrize("kernel", ["logistic", "rbf"])
def test_a_constant_feature_does_no_harm(kernel):
    rows = clips()
    original = data(rows, features(rows).assign(dct_mfcc09_9=-100.0))
    for either in (original, original.with_speakers_normalised()):
        probabilities = out_of_fold(either, settings(C=[10.0], kernel=[kernel]))[0]
        assert np.isfinite(probabilities).all(axis=None)


def test_blocks_that_the_table_has_not_are_left_out():
    table = features(clips()).filter(like="stat")
    assert {tuple(each["blocks"]) for each in grid(settings(), table)} == {("stat",)}
    with pytest.raises(errors.UserError, match="none of these blocks, but stat"):
        grid(settings(blocks=[{"cov": 1.0}]), table)


def test_more_inner_folds_than_actors_are_refused():
    with pytest.raises(errors.UserError, match="inner_folds = 4: a fold has only 3"):
        choice.inner_splits(np.array(EMOTIONS * 3), np.repeat([1, 2, 3], 8), 4)


def test_kernels_by_hand():
    left, right = np.array([[0.0, 0.0, 2.0]]), np.array([[2.0, 0.0, 4.0], [0.0, 0.0, 2.0]])
    # Squared distances in the blocks of two and one features, over twice their number: 1 and 2 to
    # the first row, none to the second; products 0 and 4, 0 and 2.
    distances = [kernels.compare(left[:, :2], right[:, :2], False)]
    distances.append(kernels.compare(left[:, 2:], right[:, 2:], False))
    np.testing.assert_allclose(distances, [[[1, 0]], [[2, 0]]], atol=1e-12)
    rbf = kernels.combine("rbf", distances, [3.0, 1.0], 0.5)
    np.testing.assert_allclose(rbf, [[np.exp(-0.5 * (3 * 1 + 1 * 2) / 4), 1]])
    similar = [kernels.alike("rbf_mean", part, 0.5) for part in distances]
    mean = kernels.combine("rbf_mean", similar, [3.0, 1.0], 0.5)
    np.testing.assert_allclose(mean, [[(3 * np.exp(-0.5) + np.exp(-1)) / 4, 1]])
    products = [kernels.compare(left[:, :2], right[:, :2], True)]
    products.append(kernels.compare(left[:, 2:], right[:, 2:], True))
    for kind in ("linear", "logistic"):
        linear = kernels.combine(kind, products, [3.0, 1.0], 1.0)
        np.testing.assert_allclose(linear, [[4 / 4, 2 / 4]])


def test_steep_votes_are_those_of_scikit_learn(monkeypatch):
    rows = clips()
    table, labels = features(rows), rows["emotion"].to_numpy(dtype=str)
    monkeypatch.setattr(kernels, "STEEPNESS", 1e6)
    margins = SVC(decision_function_shape="ovo").fit(table, labels).decision_function(table)
    soft = kernels.decide("rbf", margins, 8)
    hard = SVC(decision_function_shape="ovr").fit(table, labels)
    np.testing.assert_array_equal(soft, 2 * np.rint(hard.decision_function(table)) - 7)


def test_the_original_project_s_baseline_is_a_matter_of_parameters():
    chosen = params.SvmTrain.model_validate(
        DEFAULT.svm_train.model_dump()
        | {"kernel": ["linear", "rbf"], "C": [0.1, 1, 10, 100], "gamma": [0.1, 1, 10]}
    )
    table = pd.DataFrame(columns=[f"stat_mfcc{i:02}_mean" for i in range(40)])
    candidates = grid(chosen, table)
    assert {tuple(candidate["blocks"]) for candidate in candidates} == {("stat",)}
    assert len(candidates) == 4 + 4 * 3


def write_tables(folder, rows: pd.DataFrame, table: pd.DataFrame) -> None:
    """data/folds.csv and data/mfcc.parquet, the latter in another order, as any order will do."""
    folder.mkdir()
    rows.to_csv(folder / "folds.csv", index=False)
    stored = table.astype("float32")[::-1]
    stored.insert(0, "clip", rows["clip"])
    stored.attrs = DEFAULT.mfcc.model_dump()
    stored.to_parquet(folder / "mfcc.parquet", index=False)


@pytest.mark.slow
def test_stage_writes_the_same_bytes_twice_and_a_model_that_predicts_from_named_columns(project):
    rows, folder = clips(), project.path / "data"
    write_tables(folder, rows, features(rows))
    runs = []
    for _ in range(2):
        done = project.stage("svm_train")
        assert done.returncode == 0, done.stderr
        files = [*(folder / "svm").iterdir(), *(folder / "models" / "svm").iterdir()]
        runs.append({path.name: path.read_bytes() for path in files})
    assert runs[0] == runs[1]
    assert set(runs[0]) == {
        "predictions.csv", "protocol.txt", "search.csv", "model.json", "model.safetensors",
    }  # fmt: skip

    predictions = pd.read_csv(folder / "svm" / "predictions.csv")
    assert list(predictions.columns) == ["clip", "actor", "fold", "actual", "predicted", *EMOTIONS]
    assert list(predictions["clip"]) == list(rows["clip"])
    assert list(predictions["predicted"]) == list(predictions[EMOTIONS].idxmax(axis=1))
    accuracy = (predictions["predicted"] == predictions["actual"]).mean()
    assert accuracy > 0.5
    assert f"accuracy on held-out actors: {accuracy:.3f}" in done.stdout
    search = pd.read_csv(folder / "svm" / "search.csv")
    assert search.groupby("fold")["chosen"].sum().to_dict() == {"0": 1, "1": 1, "2": 1, "all": 1}

    loaded = model.load(folder / "models" / "svm")
    assert loaded.settings.features == {"mfcc": DEFAULT.mfcc.model_dump()}
    table = pd.read_parquet(folder / "mfcc.parquet").set_index("clip")
    right = loaded.probabilities(table).idxmax(axis=1)[rows["clip"]] == list(rows["emotion"])
    assert right.mean() > 0.9  # its own training clips


@pytest.mark.slow
def test_stage_refuses_what_it_cannot_train_on_in_one_line(project):
    rows, folder = clips(), project.path / "data"
    write_tables(folder, rows, features(rows))
    table = pd.read_parquet(folder / "mfcc.parquet")
    table[1:].to_parquet(folder / "mfcc.parquet", index=False)
    lonely = "not in both data/folds.csv and data/mfcc.parquet"
    one_line(project.stage("svm_train"), f"{table['clip'][0]}: {lonely}")
    table.to_parquet(folder / "mfcc.parquet", index=False)
    rows[1:].to_csv(folder / "folds.csv", index=False)
    one_line(project.stage("svm_train"), f"{rows['clip'][0]}: {lonely}")
    rows.to_csv(folder / "folds.csv", index=False)
    table.attrs = {}
    table.to_parquet(folder / "mfcc.parquet", index=False)
    one_line(project.stage("svm_train"), "data/mfcc.parquet", "how it was made")
