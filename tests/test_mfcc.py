"""The MFCC table against plain librosa, its names, and clips at the edge of what can be
described."""

import shutil
from pathlib import Path

import librosa
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from voices import clip

from benchmarks.mfcc import plain
from ser import audio, mfcc, params
from stages import mfcc as stage

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


PLAINEST = {"warps": [1.0], "deltas": 0, "statistics": ["mean"], "dct_terms": 0, "segments": [],
            "covariance": False}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"trim_db": None, "n_fft": 1024, "hop": 256, "n_mels": 64, "n_mfcc": 13, "deltas": 1},
        {"warps": [1.0], "statistics": [], "segments": [1, 4]},
        PLAINEST,
    ],
)
def test_values_are_those_of_plain_librosa(clips, changes):
    chosen = settings(**changes)
    for path in clips[:2]:
        values, names = mfcc.describe(audio.read(path), chosen), mfcc.feature_names(chosen)
        assert len(values) == len(names) == len(set(names))
        # float32 decibels, some of them differences
        np.testing.assert_allclose(values, plain(path, chosen), rtol=2e-3, atol=2e-3)


def test_table_names_what_it_holds(clips):
    chosen = settings(statistics=["mean", "p90"])
    table = mfcc.table(clips, chosen, desc=None)
    assert table.attrs == chosen.model_dump()  # all that it takes to describe another clip so
    assert list(table["clip"]) == ["0", "1", "2", "3"]
    assert set(table.dtypes.drop("clip")) == {np.dtype("float32")}
    assert {name.split("_")[0] for name in table.columns[1:]} == {"stat", "dct", "seg", "cov"}
    coefficients, row = mfcc.coefficients(audio.read(clips[1]), DEFAULT), table.iloc[1]
    expected = {
        "stat_mfcc03_delta_p90": np.percentile(librosa.feature.delta(coefficients)[3], 90),
        "seg_2of3_mfcc07_std": np.array_split(coefficients[7], 3)[1].std(),
        "dct_mfcc05_0": coefficients[5].mean(),  # the first term is the mean
        "dct_log_frames": np.log(coefficients.shape[1]),
    }
    assert dict(row[list(expected)]) == pytest.approx(expected, abs=1e-3)


ODD = {
    "silence": np.zeros(16_000), "constant": np.full(16_000, 8_000), "short": np.full(600, 100),
    "click": np.r_[np.zeros(8_000), 20_000, np.zeros(8_000)],
}  # fmt: skip


@pytest.mark.parametrize("samples", ODD.values(), ids=ODD)
def test_silence_clicks_and_snippets_have_finite_features(tmp_path, samples):
    audio.write(tmp_path / "odd.wav", np.asarray(samples, np.int16))
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        values = mfcc.describe(audio.read(tmp_path / "odd.wav"), DEFAULT)
    assert np.isfinite(values.astype(np.float32)).all()


def test_stage_writes_the_same_table_and_names_the_file_that_it_cannot_read(
    tmp_path, monkeypatch, clips
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    paths = [Path(f"data/audio/03-01-01-01-01-01-0{number}.wav") for number in range(1, 5)]
    paths[0].parent.mkdir(parents=True)
    for path, source in zip(paths, clips, strict=True):
        shutil.copy(source, path)
    stage.main()
    output = Path("data/mfcc.parquet")
    stored, expected = pd.read_parquet(output), mfcc.table(paths, DEFAULT, desc=None)
    pd.testing.assert_frame_equal(stored, expected, check_exact=True)
    assert stored.attrs == expected.attrs

    before = output.read_bytes()
    paths[2].write_text("no sound")
    with pytest.raises(SystemExit, match=f"mfcc: {paths[2]}: not a WAV file"):
        stage.main()
    assert output.read_bytes() == before
