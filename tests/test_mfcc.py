"""The MFCC table against plain librosa, its names, and clips at the edge of what can be
described."""

import numpy as np
import pandas as pd
import pytest
import scipy
from conftest import ROOT, one_line
from voices import clip

from benchmarks.mfcc import plain
from ser import audio, params
from ser import mfcc as features

DEFAULT = params.load(ROOT / "params.yaml").mfcc


def settings(**changes) -> params.Mfcc:
    return params.Mfcc.model_validate(DEFAULT.model_dump() | changes)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return [
        clip(folder / f"{number}.wav", seconds=0.6 + 0.2 * number, seed=number)
        for number in range(4)
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"warps": [1.0]},
        {"trim_db": None, "deltas": 0},
        {"n_fft": 1024, "hop": 256, "n_mels": 64, "n_mfcc": 13, "deltas": 1, "segments": [1, 4]},
        {
            "warps": [1.0],
            "deltas": 0,
            "statistics": ["mean"],
            "dct_terms": 0,
            "segments": [],
            "covariance": False,
        },
        {"statistics": [], "covariance": False},
    ],
)
def test_values_are_those_of_plain_librosa(clips, changes):
    chosen = settings(**changes)
    for path in clips:
        values, names = features.describe(audio.read(path), chosen), features.names(chosen)
        assert len(values) == len(names) == len(set(names))
        # float32 decibels, some of them differences
        np.testing.assert_allclose(values, plain(path, chosen), rtol=2e-3, atol=2e-3)


def test_table_names_what_it_holds(clips):
    chosen = settings(statistics=["mean", "p90"])
    table = features.table(clips, chosen)
    assert table.attrs == chosen.model_dump()  # all that it takes to describe another clip so
    assert list(table["clip"]) == ["0", "1", "2", "3"]
    assert set(table.dtypes.drop("clip")) == {np.dtype("float32")}
    assert {name.split("_")[0] for name in table.columns[1:]} == {"stat", "dct", "seg", "cov"}

    import librosa

    samples, _ = librosa.effects.trim(
        audio.read(clips[1]), top_db=25, frame_length=512, hop_length=160
    )
    coefficients = features.coefficients(audio.read(clips[1]), DEFAULT)
    row = table.iloc[1]
    assert row["stat_mfcc03_delta_p90"] == pytest.approx(
        np.percentile(librosa.feature.delta(coefficients)[3], 90), abs=1e-3
    )
    assert row["seg_2of3_mfcc07_std"] == pytest.approx(
        np.array_split(coefficients[7], 3)[1].std(), abs=1e-3
    )
    assert row["dct_mfcc05_0"] == pytest.approx(
        coefficients[5].mean(), abs=1e-3
    )  # the first term is the mean
    assert row["dct_log_frames"] == pytest.approx(np.log(1 + len(samples) // 160), abs=1e-6)


def test_a_longer_vocal_tract_moves_the_features_less_than_without_warps(tmp_path):
    """What `warps` is for: the same clip with its spectrum shifted by a tenth."""
    samples = audio.read(clip(tmp_path / "a.wav"))
    longer = np.interp(
        np.arange(0, len(samples) - 1, 0.9), np.arange(len(samples)), samples
    ).astype(np.float32)

    def moved(chosen):
        one, other = (
            features.coefficients(sound, chosen).mean(axis=1)[1:] for sound in (samples, longer)
        )
        return np.linalg.norm(one - other) / np.linalg.norm(one)

    assert moved(DEFAULT) < moved(settings(warps=[1.0]))


def test_log_covariance_is_the_matrix_logarithm():
    tracks = np.random.default_rng(0).normal(size=(6, 6)) @ np.random.default_rng(1).normal(
        size=(6, 500)
    )
    ridge = features.RIDGE * np.cov(tracks).trace() / 6 * np.eye(6)
    expected = scipy.linalg.logm(np.cov(tracks) + ridge)[np.triu_indices(6)]
    np.testing.assert_allclose(features.log_covariance(tracks), expected, atol=1e-9)


ODD = {
    "silence": np.zeros(16_000), "constant": np.full(16_000, 8_000), "short": np.full(600, 100),
    "click": np.r_[np.zeros(8_000), 20_000, np.zeros(8_000)],
}  # fmt: skip


@pytest.mark.parametrize("samples", ODD.values(), ids=ODD)
def test_silence_clicks_and_snippets_have_finite_features(tmp_path, samples):
    audio.write(tmp_path / "odd.wav", np.asarray(samples, np.int16))
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        values = features.describe(audio.read(tmp_path / "odd.wav"), DEFAULT)
    assert np.isfinite(values.astype(np.float32)).all()


@pytest.mark.slow
def test_stage_is_repeatable_and_names_the_file_that_it_cannot_read(project, clips):
    folder, output = project.path / "data" / "audio", project.path / "data" / "mfcc.parquet"
    folder.mkdir(parents=True)
    paths = [folder / f"03-01-01-01-01-01-0{number}.wav" for number in range(1, 5)]
    for path, source in zip(paths, clips, strict=True):
        path.write_bytes(source.read_bytes())
    done = project.stage("mfcc")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert list(pd.read_parquet(output)["clip"]) == [path.stem for path in paths]
    made = output.read_bytes()
    stored, expected = pd.read_parquet(output), features.table(paths, DEFAULT)
    pd.testing.assert_frame_equal(stored, expected, check_exact=True)
    assert stored.attrs == expected.attrs
    assert project.stage("mfcc").returncode == 0 and output.read_bytes() == made

    paths[2].write_text("no sound")
    one_line(project.stage("mfcc"), paths[2].name, "not a WAV file")
    assert output.read_bytes() == made
