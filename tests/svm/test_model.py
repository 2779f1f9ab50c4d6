"""The SVM on small synthetic feature tables: what it may see, that its shortcuts change nothing,
and what it writes."""

import sys

import joblib
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, one_line
from feature_tables import EMOTIONS, features, settings
from sklearn.svm import SVC

from ser import corpus, params
from ser.run import errors
from ser.svm import kernels
from ser.svm import model as svm
from stages import split


def clips(folds=((1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12))) -> pd.DataFrame:
    actors = [actor for fold in folds for actor in fold]
    names = [
        f"03-01-{code:02}-01-{statement:02}-01-{actor:02}"
        for code in range(1, 9)
        for statement in (1, 2)
        for actor in actors
    ]
    return split.assign(corpus.table(names), [list(fold) for fold in folds])


def out_of_fold(table, rows, chosen):
    """Predictions of all clips and the search's rows, as the stage makes them."""
    done = [
        svm.fold((str(k), (rows["fold"] != k).to_numpy()), table, rows, chosen)
        for k in sorted(rows["fold"].unique())
    ]
    return pd.concat([part for _, _, part in done]).sort_index(), [
        row for _, found, _ in done for row in found
    ]


def test_inner_folds_share_no_actor_and_cover_every_row():
    rows = clips()
    labels, actors = rows["emotion"].to_numpy(dtype=str), rows["actor"].to_numpy()
    splits = svm.inner_splits(labels, actors, 4)
    assert sorted(np.concatenate([test for _, test in splits])) == list(range(len(rows)))
    for train, test in splits:
        assert not set(actors[train]) & set(actors[test])
        assert set(labels[train]) == set(labels[test]) == set(EMOTIONS)


def test_search_gives_the_scores_of_the_models_themselves():
    rows, chosen = clips(), settings()
    table, labels = features(rows), rows["emotion"].to_numpy(dtype=str)
    train, test = svm.inner_splits(labels, rows["actor"].to_numpy(), 3)[0]
    grid = svm.candidates(chosen, table)
    assert len(grid) == 2 * (2 + 4 + 4)
    for candidate, score in zip(grid, svm.scores(table, labels, train, test, grid), strict=True):
        used = table[
            [column for name in candidate["blocks"] for column in svm.columns_of(name, table)]
        ]
        model = svm.pipeline(candidate, table).fit(used.iloc[train], labels[train])
        assert score == model.score(used.iloc[test], labels[test]), candidate


def test_held_out_actors_change_neither_choice_nor_scaler_nor_calibration_nor_model():
    rows, chosen = clips(), settings()
    table, training = features(rows), (rows["fold"] != 1).to_numpy()
    noise, probe = table.copy(), features(rows, seed=5)
    noise[~training] = np.random.default_rng(1).normal(1e3, 1e3, size=noise[~training].shape)
    scrambled = rows.copy()
    scrambled.loc[~training, "emotion"] = "calm"
    honest, found, _ = svm.fold(("1", training), table, rows, chosen)
    other, also_found, _ = svm.fold(("1", training), noise, scrambled, chosen)
    assert found == also_found
    assert joblib.hash(honest) == joblib.hash(other)
    used = honest.feature_names_in_
    np.testing.assert_array_equal(
        honest.predict_proba(probe[used]), other.predict_proba(probe[used])
    )
    # and the test can fail: a training actor's features do change them
    noise[training] = table[training] + np.where(rows[training]["actor"] == 1, 5.0, 0.0)[:, None]
    assert joblib.hash(svm.fold(("1", training), noise, rows, chosen)[0]) != joblib.hash(honest)


def test_labels_permuted_within_actor_are_predicted_at_chance():
    rows, chosen = clips(), settings(C=[10.0], gamma=[0.3], kernel=["rbf_mean"])
    table = features(rows)
    probabilities, _ = out_of_fold(table, rows, chosen)
    assert (probabilities.idxmax(axis=1) == rows["emotion"]).mean() > 0.6
    rng, right = np.random.default_rng(0), []
    for _ in range(5):
        permuted = rows.assign(
            emotion=rows.groupby("actor")["emotion"].transform(
                lambda own: rng.permutation(own.to_numpy())
            )
        )
        right.append(
            (out_of_fold(table, permuted, chosen)[0].idxmax(axis=1) == permuted["emotion"]).mean()
        )
    assert np.mean(right) == pytest.approx(
        1 / 8, abs=0.04
    )  # about three standard errors of 5 x 192 clips


def test_probabilities_are_calibrated_and_in_the_corpus_s_order():
    rows = clips()
    probabilities, _ = out_of_fold(features(rows), rows, settings())
    assert list(probabilities.columns) == EMOTIONS
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    right = probabilities.idxmax(axis=1) == rows["emotion"]
    assert probabilities.max(axis=1).mean() == pytest.approx(right.mean(), abs=0.15)


def test_folds_may_be_of_any_size():
    rows = clips(((1, 2, 3, 4, 5), (6, 7), (8, 9, 10, 11, 12)))
    probabilities, found = out_of_fold(features(rows), rows, settings(C=[10.0], kernel=["rbf"]))
    assert list(probabilities.index) == list(rows.index)
    assert not probabilities.isna().any(axis=None)
    assert pd.DataFrame(found).groupby("fold")["chosen"].sum().tolist() == [1, 1, 1]


def test_speaker_normalisation_takes_each_speaker_s_offset_away_without_labels():
    rows = clips()
    table = features(rows, speaker=4.0)
    normal = svm.normalise_speakers(table, rows["actor"])
    for _, part in normal.groupby(rows["actor"]):
        np.testing.assert_allclose(part.mean(), 0, atol=1e-9)
        np.testing.assert_allclose(part.std(ddof=0), 1)
    chosen = settings(C=[10.0], kernel=["rbf"])
    accuracy = [
        (out_of_fold(one, rows, chosen)[0].idxmax(axis=1) == rows["emotion"]).mean()
        for one in (table, normal)
    ]
    assert accuracy[1] > accuracy[0] + 0.1
    assert svm.protocol(settings(speaker_norm=True)).startswith("TRANSDUCTIVE")
    assert "TRANSDUCTIVE" not in svm.protocol(settings())


def test_a_constant_feature_does_no_harm():
    rows = clips()
    table = features(rows).assign(dct_mfcc09_9=-100.0)
    for one in (table, svm.normalise_speakers(table, rows["actor"])):
        assert np.isfinite(out_of_fold(one, rows, settings(C=[10.0], kernel=["rbf"]))[0]).all(
            axis=None
        )


def test_blocks_that_the_table_has_not_are_left_out():
    table = features(clips()).filter(like="stat")
    assert {tuple(candidate["blocks"]) for candidate in svm.candidates(settings(), table)} == {
        ("stat",)
    }
    with pytest.raises(errors.UserError, match=r"svm_train\.blocks.*none of these blocks"):
        svm.candidates(settings(blocks=[{"cov": 1.0}]), table)


def test_more_inner_folds_than_actors_are_refused():
    with pytest.raises(errors.UserError, match=r"inner_folds = 4: a fold has only 3"):
        svm.inner_splits(np.array(EMOTIONS * 3), np.repeat([1, 2, 3], 8), 4)


def test_kernels_by_hand():
    left, right = np.array([[0.0, 0.0, 2.0]]), np.array([[2.0, 0.0, 4.0], [0.0, 0.0, 2.0]])
    # squared distances of the first are 4 and 4, products 0 and 8: over twice the features 1 and 2,
    # 0 and 4
    one = kernels.BlockKernel("rbf", [2, 1], [3.0, 1.0], 0.5)
    np.testing.assert_allclose(one(left, right), [[np.exp(-0.5 * (3 * 1 + 1 * 2) / 4), 1]])
    mean = kernels.BlockKernel("rbf_mean", [2, 1], [3.0, 1.0], 0.5)
    np.testing.assert_allclose(mean(left, right), [[(3 * np.exp(-0.5) + np.exp(-1)) / 4, 1]])
    linear = kernels.BlockKernel("linear", [2, 1], [3.0, 1.0], 1.0)
    np.testing.assert_allclose(linear(left, right), [[4 / 4, 2 / 4]])


def test_steep_votes_are_those_of_scikit_learn(monkeypatch):
    rows = clips()
    table, labels = features(rows), rows["emotion"].to_numpy(dtype=str)
    monkeypatch.setattr(kernels, "STEEPNESS", 1e6)
    soft = kernels.SoftVotes(decision_function_shape="ovo").fit(table, labels)
    hard = SVC(decision_function_shape="ovr").fit(table, labels)
    np.testing.assert_array_equal(
        soft.decision_function(table), 2 * np.rint(hard.decision_function(table)) - 7
    )
    assert (soft.predict(table) == hard.predict(table)).mean() > 0.9  # but for ties


@pytest.mark.slow
def test_stage_writes_the_same_bytes_twice_and_a_model_that_predicts_from_named_columns(project):
    rows = clips()
    data = project.path / "data"
    data.mkdir()
    rows.to_csv(data / "folds.csv", index=False)
    table = features(rows)
    table.insert(0, "clip", rows["clip"])
    table[::-1].astype(dict.fromkeys(table.columns[1:], "float32")).to_parquet(
        data / "mfcc.parquet", index=False
    )
    runs = []
    for _ in range(2):
        done = project.stage("svm_train")
        assert done.returncode == 0, done.stderr
        runs.append({path.name: path.read_bytes() for path in (data / "svm").iterdir()})
    assert runs[0] == runs[1]
    assert set(runs[0]) == {"predictions.csv", "protocol.txt", "search.csv"}

    predictions = pd.read_csv(data / "svm" / "predictions.csv")
    assert list(predictions.columns) == ["clip", "actor", "fold", "actual", "predicted", *EMOTIONS]
    assert list(predictions["clip"]) == list(rows["clip"])
    assert list(predictions["predicted"]) == list(predictions[EMOTIONS].idxmax(axis=1))
    assert (predictions["predicted"] == predictions["actual"]).mean() > 0.5
    search = pd.read_csv(data / "svm" / "search.csv")
    assert search.groupby("fold")["chosen"].sum().to_dict() == {"0": 1, "1": 1, "2": 1, "all": 1}

    script = (
        "import joblib, pandas as pd; t = pd.read_parquet('data/mfcc.parquet').set_index('clip');"
        "m = joblib.load('data/models/svm/model.joblib'); print(*m.predict(t[m.feature_names_in_].astype(float)))"
    )
    done = project.run(sys.executable, "-c", script)
    right = (
        np.array(done.stdout.split())
        == rows.set_index("clip")["emotion"].loc[table["clip"][::-1]].to_numpy()
    )
    assert right.mean() > 0.9  # its own training clips


def test_seed_s_baseline_is_a_matter_of_parameters():
    values = params.load(ROOT / "params.yaml").model_dump()
    values["mfcc"] |= {
        "warps": [1.0],
        "deltas": 0,
        "statistics": ["mean"],
        "dct_terms": 0,
        "segments": [],
        "covariance": False,
    }
    values["svm_train"] |= {
        "kernel": ["linear", "rbf"],
        "C": [0.1, 1, 10, 100],
        "gamma": [0.1, 1, 10],
    }
    changed = params.Params.model_validate(values)
    table = pd.DataFrame(columns=[f"stat_mfcc{i:02}_mean" for i in range(40)])
    grid = svm.candidates(changed.svm_train, table)
    assert {tuple(candidate["blocks"]) for candidate in grid} == {("stat",)}
    assert len(grid) == 4 + 4 * 3


def test_stage_refuses_unknown_blocks_in_one_line(project):
    text = (project.path / "params.yaml").read_text()
    (project.path / "params.yaml").write_text(
        text.replace("blocks: [{stat: 1", "blocks: [{stats: 1", 1)
    )
    one_line(project.stage("svm_train"), "svm_train.blocks", "stat")
