"""Fine-tuning: exact, repeatable, blind to the held-out clips."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import soundfile
import transformers
import workplace

from ser import audio
from ser.corpus import EMOTIONS, TITLES
from ser.finetune.clips import Clips


def test_predictions_are_what_transformers_says(trained):
    table = pd.read_csv(trained / "data/w2v/fold_0/predictions.csv")
    folds = pd.read_csv(trained / "data/folds.csv")
    assert list(table["clip"]) == sorted(folds.loc[folds["fold"] == 0, "clip"])
    assert table[list(EMOTIONS)].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-9)
    assert (table[list(EMOTIONS)].idxmax(axis=1) == table["predicted"]).all()
    classify = transformers.pipeline(
        "audio-classification", str(trained / "data/models/w2v/fold_0"), top_k=8
    )
    card = (trained / "data/models/w2v/fold_0/README.md").read_text()
    assert f"accuracy {100 * (table['predicted'] == table['actual']).mean():.1f} % [" in card
    assert TITLES["ravdess"] in card and "it pads" not in card
    for row in table.to_dict("records"):
        samples = audio.read(trained / f"data/audio/{row['clip']}.wav")
        found = classify({"raw": samples, "sampling_rate": 16000})
        assert {answer["label"]: answer["score"] for answer in found} == pytest.approx(
            {e: row[e] for e in EMOTIONS}, abs=1e-5
        )


def encode(
    path: Path, samples: np.ndarray, rate: int, codec: str, layout: str, video: bool = False
) -> None:
    """Write int16 samples, shape (n,), on every channel of a file that FFmpeg encodes."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=10) if video else None
        stream = container.add_stream(codec, rate=rate)
        stream.layout = layout
        if video:
            picture.width = picture.height = 64
            picture.pix_fmt = "yuv420p"
            for _ in range(5):
                container.mux(
                    picture.encode(
                        av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
                    )
                )
            container.mux(picture.encode())
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = 16000
        fifo = av.AudioFifo()
        for resampled in av.AudioResampler(
            format=stream.codec_context.format, layout=layout, rate=rate
        ).resample(frame):
            fifo.write(resampled)
        while piece := fifo.read(stream.codec_context.frame_size or 1024, partial=True):
            container.mux(stream.encode(piece))
        container.mux(stream.encode())


@pytest.mark.slow
def test_predict_any_file(trained, tmp_path, capsys):
    """An mp3, a stereo 44.1 kHz WAV and a video get the probabilities of the clip they were made
    of; the rest get a line each."""
    row = pd.read_csv(trained / "data/w2v/fold_0/predictions.csv").iloc[0]
    clip = str(trained / f"data/audio/{row['clip']}.wav")
    samples, _ = soundfile.read(clip, dtype="int16")
    encode(tmp_path / "a.mp3", samples, 44100, "libmp3lame", "mono")
    encode(tmp_path / "b.wav", samples, 44100, "pcm_s16le", "stereo")
    encode(tmp_path / "c.mp4", samples, 44100, "aac", "stereo", video=True)
    soundfile.write(tmp_path / "long.wav", np.zeros(61 * 8000, np.int16), 8000)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.txt").write_text("no sound\n")
    names = ["a.mp3", "b.wav", "c.mp4", "empty.wav", "text.txt", "long.wav", "absent.wav"]
    model = str(trained / "data/models/w2v/fold_0")
    with pytest.raises(SystemExit) as end:
        workplace.run(
            trained,
            " ".join(
                [
                    "commands.predict --json --model",
                    model,
                    clip,
                    *(str(tmp_path / name) for name in names),
                ]
            ),
        )
    assert end.value.code == 1
    out, err = capsys.readouterr()
    answers = {
        Path(answer["clip"]).name: answer["probabilities"]
        for answer in map(json.loads, out.splitlines())
    }
    expected = {emotion: row[emotion] for emotion in EMOTIONS}
    assert answers.pop(Path(clip).name) == pytest.approx(expected, abs=1e-5)
    assert set(answers) == {"a.mp3", "b.wav", "c.mp4"}
    for name, found in answers.items():
        assert found == pytest.approx(expected, abs=0.1), name
    lines = err.splitlines()
    assert len(lines) == 4
    assert all(name in line for name, line in zip(names[3:], lines, strict=True))

    with pytest.raises(SystemExit):
        workplace.run(trained, f"commands.predict --model {model} {clip}")
    table = capsys.readouterr().out.splitlines()
    assert (
        table[0].split() == ["clip", "predicted", *EMOTIONS]
        and table[1].split()[1] == row["predicted"]
    )
    command = [sys.executable, "-m", "commands.predict", "--json", "--model", model, "-"]
    piped = subprocess.run(
        command,
        input=Path(clip).read_bytes(),
        cwd=trained,
        env=workplace.environment(),
        capture_output=True,
        check=True,
    )
    assert json.loads(piped.stdout)["probabilities"] == pytest.approx(expected, abs=1e-5)


def test_predict_trims_as_training_did(tmp_path, capsys):
    folder = workplace.make(tmp_path / "trim", weights=False, trim_db=20.0, epochs=1)
    for path in (folder / "data/audio").iterdir():
        samples, _ = soundfile.read(path, dtype="int16")
        audio.write(path, np.pad(samples, 8000))
    workplace.run(folder, "checkpoint", "w2v_features", "w2v_finetune 0")
    model = folder / "data/models/w2v/fold_0"
    assert "top_db=20)" in (model / "README.md").read_text()
    row = pd.read_csv(folder / "data/w2v/fold_0/predictions.csv").iloc[0]
    clip = folder / f"data/audio/{row['clip']}.wav"
    lengths = Clips(folder / "data/features/clips.arrow").lengths
    assert (
        lengths.max() < 9000 + 8000
    )  # a second of silence is gone, but for the frames at its edges
    capsys.readouterr()
    with pytest.raises(SystemExit):
        workplace.run(folder, f"commands.predict --json --model {model} {clip}")
    found = json.loads(capsys.readouterr().out)["probabilities"]
    assert found == pytest.approx({emotion: row[emotion] for emotion in EMOTIONS}, abs=1e-5)


def test_same_seed_same_bytes(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "again", ignore=shutil.ignore_patterns("w2v", "features"))
    workplace.run(tmp_path / "again", "w2v_features", "w2v_finetune 0")
    assert workplace.digest(tmp_path / "again/data") == workplace.digest(trained / "data")


def test_held_out_clips_change_nothing(trained, tmp_path):
    """Other audio and other labels of fold 0 leave the weights of fold 0 as they are."""
    shutil.copytree(trained, tmp_path / "other", ignore=shutil.ignore_patterns("w2v", "features"))
    folder = tmp_path / "other"
    folds = pd.read_csv(folder / "data/folds.csv")
    held_out = folds["fold"] == 0
    for clip in folds.loc[held_out, "clip"]:
        samples = audio.read(folder / f"data/audio/{clip}.wav")
        audio.write(
            folder / f"data/audio/{clip}.wav", np.rint(samples[::-1] * 2**14).astype(np.int16)
        )
    folds.loc[held_out, "emotion"] = "calm"
    folds.to_csv(folder / "data/folds.csv", index=False)
    workplace.run(folder, "w2v_features", "w2v_finetune 0")
    for file in (
        "data/models/w2v/fold_0/model.safetensors",
        "data/w2v/fold_0/curve.csv",
        "data/w2v/fold_0/epochs.csv",
    ):
        assert (folder / file).read_bytes() == (trained / file).read_bytes(), file
    before, after = (
        pd.read_csv(home / "data/w2v/fold_0/predictions.csv") for home in (trained, folder)
    )
    assert not np.allclose(before[list(EMOTIONS)], after[list(EMOTIONS)])


def test_spans_wider_than_the_channels_are_one_line(tmp_path):
    masks = {"mask_feature_prob": 0.5, "mask_feature_length": 10}
    folder = workplace.make(tmp_path / "wide", weights=False, whisper=True, **masks)
    with pytest.raises(SystemExit) as end:
        workplace.run(folder, "checkpoint", "w2v_features", "w2v_finetune 0")
    assert end.value.code == ("w2v_finetune: mask_feature_length = 10: tiny has 8 channels to hide")
