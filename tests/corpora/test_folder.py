"""A corpus of one's own: what metadata.csv may hold, what is refused, and how it is split."""

import gc
import shutil
import sys
import types
from pathlib import Path

import av
import datasets
import numpy as np
import pandas as pd
import pytest
import soundfile
import workplace
from conftest import ROOT, one_line
from ruamel.yaml import YAML

from ser import corpus, tables
from ser.classifier import crossval
from ser.corpora import folder, known
from ser.run.errors import UserError
from stages import split

COLUMNS = ["file_name", "label", "speaker"]


def recordings(home: Path, rows: list[tuple[str, ...]], columns: list[str] = COLUMNS) -> Path:
    """A folder with a tone for each row of metadata.csv, of a pitch for each label."""
    home.mkdir(parents=True, exist_ok=True)
    labels = list(dict.fromkeys(label for _, label, *_ in rows))
    rng = np.random.default_rng(0)
    for name, label, *_ in rows:
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            time = np.arange(int(rng.uniform(0.4, 0.6) * 22_050)) / 22_050
            wave = 0.2 * np.sin(2 * np.pi * 150 * (2 + labels.index(label)) * time) + rng.normal(
                0, 0.02, len(time)
            )
            if path.suffix == ".m4a":
                write_m4a(path, wave)
            else:
                soundfile.write(path, wave, 22_050)
    pd.DataFrame(rows, columns=columns).to_csv(home / folder.METADATA, index=False)
    return home


def write_m4a(path: Path, wave: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=22_050, layout="mono")
        frame = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), "fltp", "mono")
        frame.rate = 22_050
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def small(home: Path, speakers: int = 4, labels: tuple[str, ...] = ("yes", "no")) -> Path:
    """Two clips of each speaker and label, in a folder per speaker, of several formats."""
    endings = (".wav", ".mp3", ".m4a", ".flac")
    rows = [
        (f"Sprecher {who}/über {number}{take}{endings[(who + take) % 4]}", label, f"s{who}")
        for who in range(speakers)
        for number, label in enumerate(labels)
        for take in range(2)
    ]
    return recordings(home, rows)


def run(home: Path, place: Path, *stages: str, **changes: object) -> Path:
    """Run stages on the corpus in `home`, in a folder of their own."""
    place.mkdir(exist_ok=True)
    values = YAML().load(ROOT / "params.yaml")
    values.update({"corpus": str(home), "folds": [0, 1], **changes})
    values["split"]["scheme"] = 2
    values["mfcc"]["warps"] = [1.0]
    values["svm_train"].update({"kernel": ["rbf"], "C": [1], "gamma": [0.5], "inner_folds": 2})
    YAML().dump(values, place / "params.yaml")
    workplace.run(place, *stages)
    return place


def test_any_labels_and_formats_go_from_a_folder_to_figures(tmp_path):
    """Labels that look like numbers, or like nothing, or hold a comma; file names with spaces and
    umlauts; formats mixed."""
    labels = ("1", "NA", "yes, please")
    place = run(
        small(tmp_path / "corpus", labels=labels), tmp_path / "work",
        "download", "resample", "split", "mfcc", "svm_train", "evaluate svm",
    )  # fmt: skip
    clips = tables.clips(place / "data/clips.csv")
    assert corpus.labels(clips) == list(labels)
    assert set(clips["speaker"]) == {"s0", "s1", "s2", "s3"}
    predictions = tables.read_predictions(place / "data/predictions/svm/predictions.csv")
    assert tables.labels(predictions) == list(labels)
    assert len(predictions) == len(clips) == 24
    assert (place / "metrics/svm.json").exists()
    assert list(tables.read(place / "metrics/svm/labels.csv")["label"]) == list(labels)


@pytest.mark.parametrize("kernel", ["linear", "logistic", "rbf", "rbf_mean"])
def test_two_labels_are_told_apart(kernel):
    """Of which scikit-learn's machines have the signs the other way round, or one margin."""
    rng = np.random.default_rng(0)
    clips = pd.DataFrame({
        "clip": [f"c{number:02}" for number in range(48)], "file": "-",
        "speaker": np.repeat(np.arange(12), 4), "label": ["yes", "yes", "no", "yes"] * 12,
        "fold": np.repeat([0, 1, 2], 16),
    })  # fmt: skip
    values = rng.normal(0, 0.3, (48, 6)) + (clips["label"] == "yes").to_numpy()[:, None]
    table = pd.DataFrame(values, columns=[f"stat_{number}" for number in range(6)])
    candidates = [{"blocks": {"stat": 1.0}, "kernel": kernel, "C": 10.0, "gamma": 0.5}]
    data = crossval.Data(clips, table, {"mfcc": {}})
    _, rows, shares = crossval.fit_fold((clips["fold"] != 0).to_numpy(), data, candidates, 3)
    assert rows[0]["accuracy"] > 0.9
    assert (shares.idxmax(axis=1) == clips["label"][:16]).mean() > 0.9
    assert list(shares.columns) == ["yes", "no"]
    assert shares.max(axis=1).mean() > 0.8


@pytest.mark.filterwarnings(
    "ignore:unclosed file", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_huggingface_reads_the_same_folder(tmp_path, monkeypatch):
    # Asked for by datasets where nothing is encoded, too; it needs a system's FFmpeg.
    monkeypatch.setitem(sys.modules, "torchcodec", types.ModuleType("torchcodec"))
    encoders = types.SimpleNamespace(AudioEncoder=None)
    monkeypatch.setitem(sys.modules, "torchcodec.encoders", encoders)
    home = small(tmp_path / "corpus")
    read = datasets.load_dataset("audiofolder", data_dir=str(home), split="train")
    gc.collect()  # of files that datasets leaves open
    audio = read.cast_column("audio", datasets.Audio(decode=False))["audio"]
    ours = folder.read(home)
    assert [Path(row["path"]) for row in audio] == [home / file for file in ours["file"]]
    assert list(read["label"]) == list(ours["label"])
    assert list(read["speaker"]) == list(ours["speaker"])


ROWS = [(f"{who}{label}.wav", label, who) for who in "abc" for label in ("x", "y")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*ROWS, ("lost.wav", "x", "a")], "metadata.csv, line 8: lost.wav: no such file"),
        ([*ROWS, ("../params.yaml", "x", "a")], "metadata.csv, line 8: ../params.yaml: no such"),
        ([*ROWS, ROWS[0]], "metadata.csv, line 8: ax.wav is listed twice"),
        ([*ROWS, ("./ax.wav", "x", "a")], "metadata.csv, line 8: ax.wav is listed twice"),
        ([*ROWS[:-1], ("cy.wav", "y", "c ")], "line 7: the speaker 'c ', elsewhere 'c': "),
        ([*ROWS[:-1], ("cy.wav", "Y", "c")], "line 7: the label 'Y', elsewhere 'y': "),
        (
            [(file, label, str(int(file < "b"))) for file, label, _ in ROWS[:-1]]
            + [("cy.wav", "y", "01")],
            "line 7: the speaker '01', elsewhere '1': ",
        ),
        ([*ROWS[:-1], ("cy.wav", "y", "")], "metadata.csv, line 7: no speaker"),
        ([(file, "x", who) for file, _, who in ROWS], "1 labels ('x'); expected 2 to 50"),
        (
            [*ROWS[:-1], ("cy.wav", "z", "c")],
            "line 7: the label 'z' is in one speaker's clips only",
        ),
    ],
)
def test_a_mistake_in_metadata_is_one_line(tmp_path, rows, message):
    home = recordings(tmp_path / "corpus", ROWS)
    pd.DataFrame(rows, columns=COLUMNS).to_csv(home / folder.METADATA, index=False)
    with pytest.raises(UserError) as caught:
        folder.read(home)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_audio_is_named_with_its_row(tmp_path):
    home = recordings(tmp_path / "corpus", ROWS)
    (home / ROWS[2][0]).write_text("no audio")
    with pytest.raises(SystemExit) as caught:
        run(home, tmp_path / "work", "download")
    assert f"metadata.csv, line 4: {home / ROWS[2][0]}: not an audio file" in str(caught.value)


def test_files_are_found_by_names_of_other_systems(tmp_path):
    """Windows has other strokes between folders, macOS two characters for an umlaut."""
    composed, apart = (
        "b\N{LATIN SMALL LETTER U WITH DIAERESIS}.wav",
        "bu\N{COMBINING DIAERESIS}.wav",
    )
    rows = [
        ("a/x.wav", "x", "a"),
        (f"a/{apart}", "y", "a"),
        ("x.wav", "x", "b"),
        ("y.wav", "y", "b"),
    ]
    home = recordings(tmp_path / "corpus", rows)
    other = [("a\\x.wav", *rows[0][1:]), (f"./a\\{composed}", *rows[1][1:]), *rows[2:]]
    pd.DataFrame(other, columns=COLUMNS).to_csv(home / folder.METADATA, index=False)
    assert list(folder.read(home)["file"]) == [file for file, *_ in rows]


def test_a_column_may_have_the_name_of_one_of_ours(tmp_path):
    columns = ["seconds", "rate", "actual", "predicted", "model", "fold", "confidence"]
    rows = [(*row, *(f"{row[1]}{number}" for number in range(7))) for row in ROWS]
    home = recordings(tmp_path / "corpus", rows, [*COLUMNS, *columns])
    place = run(home, tmp_path / "work", "download", "split")
    assert set(columns) < {*tables.folds(place / "data/folds.csv").columns}


def test_without_speakers_nothing_is_done(tmp_path):
    home = recordings(tmp_path / "corpus", ROWS)
    pd.read_csv(home / folder.METADATA).drop(columns="speaker").to_csv(
        home / folder.METADATA, index=False
    )
    with pytest.raises(UserError, match="voices would be on both sides.*repeat the file's name"):
        folder.read(home)
    (home / folder.METADATA).write_text("file_name;label;speaker\nax.wav;x;a\n")
    with pytest.raises(UserError, match="no column .*; it has 'file_name;label;speaker'$"):
        folder.read(home)
    (home / folder.METADATA).unlink()
    with pytest.raises(UserError, match=r"no such file; expected a folder with recordings and"):
        folder.read(home)


def test_unlisted_recordings_are_a_warning(tmp_path, capsys):
    home = recordings(tmp_path / "corpus", ROWS)
    shutil.copy(home / "ax.wav", home / "other.wav")
    assert len(folder.read(home)) == 6
    assert "1 recordings in the folder are not listed" in capsys.readouterr().err


def test_a_recording_that_is_none_is_named_with_its_row(tmp_path):
    home = recordings(tmp_path / "corpus", ROWS)
    place = run(home, tmp_path / "work", "download")
    soundfile.write(place / "data/raw/bx.wav", np.zeros(16_000), 16_000)
    one_line(workplace.outcome(place, "stages.resample"), "clips.csv, line 4", "bx.wav")
    (home / "by.wav").write_text("no sound")
    one_line(workplace.outcome(place, "stages.download"), "by.wav")


def test_a_balanced_split_keeps_speakers_whole_and_is_the_same_every_time():
    rows = [
        {"clip": f"{who}{label}{take}", "speaker": who, "label": label, "gender": "mf"[who % 2]}
        for who in range(12)
        for label in "xyz"
        for take in range(1 + (label == "x"))
    ]
    clips = pd.DataFrame(rows)
    folds = split.fold_numbers(clips, 3, 0)
    assert (folds == split.fold_numbers(clips, 3, 0)).all()
    assert (clips.groupby("speaker")["clip"].nunique() == 4).all()
    assert (folds.groupby(clips["speaker"]).nunique() == 1).all()
    assert (clips.groupby(folds)["gender"].value_counts().unstack() == 8).all(axis=None)
    assert split.fold_numbers(clips, "speakers", 0).nunique() == 12


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        (5, "split.scheme = 5: the corpus has 3 speakers"),
        ("fold", "metadata.csv has no column fold"),
        ("random", "a label has 3 clips; expected 6"),
        ([["a"], ["b"]], r"split.scheme: speakers \['c'\] are in no fold"),
        (
            [["a"], ["b", "c", "d"]],
            "split.scheme: speaker 'd' is not in the corpus, which has 'a', 'b', 'c'; each",
        ),
    ],
)
def test_a_split_that_is_impossible_says_what_is_possible(scheme, message):
    clips = pd.DataFrame(ROWS, columns=["clip", "label", "speaker"])
    with pytest.raises(UserError, match=message):
        split.fold_numbers(clips, scheme, 0)


def test_speakers_that_are_numbers_are_written_so():
    clips = pd.DataFrame(ROWS, columns=["clip", "label", "speaker"])
    clips["speaker"] = clips["speaker"].map({"a": 1, "b": 2, "c": 3})
    with pytest.raises(UserError, match="speaker '1' is not in the corpus, which has 1, 2, 3;"):
        split.fold_numbers(clips, [["1"], [2, 3]], 0)


def test_a_published_split_is_a_column():
    clips = pd.DataFrame(ROWS, columns=["clip", "label", "speaker"])
    published = clips.assign(fold=clips["speaker"].map({"a": "test", "b": "dev", "c": "train"}))
    assert list(split.fold_numbers(published, "fold", 0)) == [1, 1, 0, 0, 2, 2]
    with pytest.raises(UserError, match="speaker a is in two folds"):
        split.fold_numbers(clips.assign(fold=[0, 1, 1, 1, 1, 1]), "fold", 0)


@pytest.mark.parametrize(
    ("name", "file", "facts"),
    [
        ("emodb", "03a01Fa.wav", {"label": "happiness", "speaker": "03", "gender": "male"}),
        ("emodb", "wav/16b10Lb.flac", {"label": "boredom", "speaker": "16", "gender": "female"}),
        ("crema-d", "1001_DFA_ANG_XX.wav", {"label": "anger", "speaker": "1001"}),
        ("crema-d", "1040_ITH_SAD_X.mp3", {"label": "sadness", "intensity": "unspecified"}),
        ("tess", "OAF_angry/OAF_back_angry.wav", {"label": "anger", "speaker": "OAF"}),
        ("tess", "YAF_dog_ps.wav", {"label": "surprise", "speaker": "YAF", "gender": "female"}),
        ("savee", "DC_su07.wav", {"label": "surprise", "speaker": "DC"}),
        ("savee", "AudioData/KL/n30.wav", {"label": "neutral", "speaker": "KL"}),
        ("ravdess", "Actor_12/03-01-05-02-01-01-12.wav", {"label": "angry", "speaker": 12}),
    ],
)
def test_names_of_known_corpora(tmp_path, name, file, facts):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    for other in (file, "readme.txt", "03a99.wav"):
        (tmp_path / other).touch()
    table = known.table(known.CORPORA[name], tmp_path)
    assert list(table["file_name"]) == [file]
    assert table.iloc[0][list(facts)].to_dict() == facts


def test_describe_counts_and_keeps_what_is_there(tmp_path):
    home = recordings(tmp_path / "emodb", [("03a01Fa.wav", "F", "03"), ("08a01Na.wav", "N", "08")])
    refused = workplace.outcome(tmp_path, "commands.describe", "emodb", home)
    one_line(refused, "metadata.csv: is there already")
    (home / folder.METADATA).unlink()
    done = workplace.outcome(tmp_path, "commands.describe", "emodb", home)
    assert "2 recordings, 2 speakers" in done.stdout
    assert "2 of the 535 published recordings" in done.stderr
    assert list(tables.read(home / folder.METADATA)["speaker"]) == ["03", "08"]
