"""Fine-tuning: exact, repeatable, blind to the held-out clips, and not undone by a kill."""

import contextlib
import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import transformers
from accelerate.commands.config import config_args
from conftest import ROOT
from ruamel.yaml import YAML
from tiny_models import write_checkpoint

from ser import audio, params
from ser.corpus import EMOTIONS, describe
from ser.encoder import finetuning, schedule, training
from ser.encoder.clips import Clips
from ser.encoder.layers import Dropout

torch.set_num_threads(1)  # models this small only wait for a second thread


def workplace(folder: Path, weights: bool, **changes) -> Path:
    """A folder to run stages in: 24 clips of 12 actors, params of a short training, a tiny
    checkpoint with or without weights."""
    (folder / "data/audio").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for actor in range(1, 13):
        for emotion in (1 + actor % 8, 1 + (actor + 3) % 8):
            clip = f"03-01-{emotion:02}-01-01-01-{actor:02}"
            time_ = np.arange(rng.integers(4000, 9000)) / 16000
            tone = np.sin(2 * np.pi * (150 + 90 * emotion) * time_) * 4000 + rng.normal(
                0, 200, len(time_)
            )
            audio.write(folder / f"data/audio/{clip}.wav", tone.astype(np.int16))
            rows.append({**describe(clip), "fold": (actor - 1) // 2})
    pd.DataFrame(rows).sort_values("clip").to_csv(folder / "data/folds.csv", index=False)
    write_checkpoint(folder / "tiny")
    if weights:
        torch.manual_seed(0)
        config = transformers.AutoConfig.from_pretrained(folder / "tiny")
        transformers.Wav2Vec2ForPreTraining(config).save_pretrained(folder / "tiny")
    values = YAML().load(ROOT / "params.yaml")
    values.update({
        "checkpoint": "tiny", "freeze_cnn": weights, "lr": 2e-3, "head_lr": 2e-3, "epochs": 3, "batch_size": 8, "micro_batch": 3,
        "precision": "fp32", "mask_time_length": 2, **changes,
    })  # fmt: skip
    YAML().dump(values, folder / "params.yaml")
    return folder


def environment(**extra: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HOME": "/nowhere",
        **extra,
    }


def run(folder: Path, *stages: str) -> None:
    """Run stages like `w2v_finetune 0` in `folder`, in this process: starting Python anew would
    take most of the time."""
    for stage in stages:
        name, *arguments = stage.split()
        with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
            patch.setattr(sys, "argv", [name, *arguments])
            patch.setattr(config_args, "default_config_file", "/nowhere")
            importlib.import_module(f"stages.{name}").main()


def digest(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*")) if file.is_file()
    }  # fmt: skip


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A frozen CNN under a transformer with dropout and SpecAugment, fold 0."""
    folder = workplace(tmp_path_factory.mktemp("trained"), weights=True)
    run(folder, "checkpoint", "w2v_features", "w2v_finetune 0")
    return folder


@pytest.mark.parametrize("freeze_cnn", [True, False])
def test_the_optimizer_has_all_that_is_trained(tmp_path, freeze_cnn):
    """Once the CNN from scratch was not in it: it stayed as drawn, and its gradients, never
    cleared, doubled between processes."""
    changes = {"freeze_cnn": freeze_cnn, "lr": 1e-4, "head_lr": 5e-4, "weight_decay": 0.1}
    settings = params.load(ROOT / "params.yaml").model_copy(update=changes)
    classifier = finetuning.for_training(write_checkpoint(tmp_path / "c"), settings)
    optimizer = training.make_optimizer(classifier, settings)
    groups = {
        id(parameter): group for group in optimizer.param_groups for parameter in group["params"]
    }
    for name, parameter in classifier.named_parameters():
        assert parameter.requires_grad == (not freeze_cnn or not name.startswith("cnn.")), name
        assert (id(parameter) in groups) == parameter.requires_grad, name
        if parameter.requires_grad:
            group = groups[id(parameter)]
            assert group["lr"] == (
                5e-4 if name.startswith(("model.projector", "model.classifier")) else 1e-4
            ), name
            assert group["weight_decay"] == (0.1 if parameter.squeeze().ndim > 1 else 0), name


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_dropout_drops_its_share_and_keeps_the_mean(share):
    dropout, values = Dropout(share), torch.ones(2, 300, 500, requires_grad=True)
    np.random.seed(0)
    dropped = dropout(values)
    assert (dropped == 0).float().mean().item() == pytest.approx(share, abs=1 / 256)
    assert dropped.mean().item() == pytest.approx(1, abs=0.1)
    dropped.sum().backward()
    assert torch.equal(values.grad, dropped)
    assert torch.equal(dropout.eval()(values), values)


@pytest.mark.parametrize("growth", [1.0, 3.5])
def test_every_clip_comes_once_an_epoch(growth):
    steps = schedule.batches(50, 4, 8, growth, 0.7, seed=0)
    order = np.concatenate(steps)
    for epoch in range(4):
        assert sorted(order[50 * epoch : 50 * (epoch + 1)]) == list(range(50))
    sizes = [len(step) for step in steps]
    assert all(size == 8 for size in sizes[: int(0.6 * len(sizes))])
    assert min(sizes) >= 4
    assert (sizes[-2] >= 16) == (growth > 1)


def course(name: str, steps: list[np.ndarray], decay_start: float = 0.7) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = schedule.learning_rate(optimizer, name, steps, 0.1, decay_start)
    rates = []
    for _ in steps:
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


def test_schedules():
    steps = schedule.batches(100, 10, 10, 1, 0.7, seed=0)
    wsd, constant, linear, cosine = (
        course(name, steps) for name in ("wsd", "constant", "linear", "cosine")
    )
    for rates in (wsd, constant, linear, cosine):
        assert rates[:11] == pytest.approx(np.arange(11) / 10)
    assert wsd[10:70] == pytest.approx(np.ones(60))
    assert wsd[70:] == pytest.approx(1 - np.arange(30) / 30)
    assert constant[10:] == [1] * 90
    assert linear[10:] == pytest.approx(1 - np.arange(90) / 90)
    assert cosine[55] == pytest.approx(0.5)
    assert course("wsd", steps, 1.0)[10:] == [1] * 90


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
    assert f"accuracy {(table['predicted'] == table['actual']).mean():.1%}" in card
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
        run(
            trained,
            " ".join(
                ["predict --json --model", model, clip, *(str(tmp_path / name) for name in names)]
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
        run(trained, f"predict --model {model} {clip}")
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
        env=environment(),
        capture_output=True,
        check=True,
    )
    assert json.loads(piped.stdout)["probabilities"] == pytest.approx(expected, abs=1e-5)


def test_predict_trims_as_training_did(tmp_path, capsys):
    folder = workplace(tmp_path / "trim", weights=False, trim_db=20.0, epochs=1)
    for path in (folder / "data/audio").iterdir():
        samples, _ = soundfile.read(path, dtype="int16")
        audio.write(path, np.pad(samples, 8000))
    run(folder, "checkpoint", "w2v_features", "w2v_finetune 0")
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
        run(folder, f"predict --json --model {model} {clip}")
    found = json.loads(capsys.readouterr().out)["probabilities"]
    assert found == pytest.approx({emotion: row[emotion] for emotion in EMOTIONS}, abs=1e-5)


def test_same_seed_same_bytes(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "again", ignore=shutil.ignore_patterns("w2v", "features"))
    run(tmp_path / "again", "w2v_features", "w2v_finetune 0")
    assert digest(tmp_path / "again/data") == digest(trained / "data")


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
    run(folder, "w2v_features", "w2v_finetune 0")
    for file in ("model/model.safetensors", "curve.csv", "epochs.csv"):
        assert (folder / "data/w2v/fold_0" / file).read_bytes() == (
            trained / "data/w2v/fold_0" / file
        ).read_bytes(), file
    before, after = (
        pd.read_csv(home / "data/w2v/fold_0/predictions.csv") for home in (trained, folder)
    )
    assert not np.allclose(before[list(EMOTIONS)], after[list(EMOTIONS)])


def test_two_processes_equal_one(trained, tmp_path):
    """Accelerate's configuration file alone makes the same command start two processes; dropout and
    SpecAugment stay the same."""
    folder = tmp_path / "two"
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("w2v", "runs"))
    (folder / "hf/accelerate").mkdir(parents=True)
    config = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_CPU",
        "use_cpu": True,
    }
    home = environment(HF_HOME=str(folder / "hf"))
    command = [sys.executable, "-m", "stages.w2v_finetune", "0"]
    for processes, code in ((9, 1), (2, 0)):
        YAML().dump(
            {**config, "num_processes": processes}, folder / "hf/accelerate/default_config.yaml"
        )
        done = subprocess.run(
            command, cwd=folder, env=home, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        if code:
            assert (
                done.stderr.startswith("w2v_finetune: 9 processes for 3 micro-batches")
                and len(done.stderr.splitlines()) == 1
            )
    assert done.stdout.count("fold 0:") == 1  # one process speaks
    one, two = trained / "data/w2v/fold_0", folder / "data/w2v/fold_0"
    pd.testing.assert_frame_equal(
        pd.read_csv(one / "curve.csv"), pd.read_csv(two / "curve.csv"), rtol=1e-4
    )
    pd.testing.assert_frame_equal(
        pd.read_csv(one / "predictions.csv"), pd.read_csv(two / "predictions.csv"), rtol=1e-4
    )


def test_killed_and_resumed_equals_uninterrupted(trained, tmp_path):
    folder = tmp_path / "killed"
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("w2v", "runs"))
    for name in ("stages", "ser"):
        shutil.copytree(ROOT / name, folder / name)
    work = (
        folder / ".dvc/tmp/exps/standalone/x"
    )  # as `dvc exp run --temp` does: a work tree that is lost after a failure
    states = folder / ".checkpoints"
    for kill in (signal.SIGKILL, signal.SIGINT, None):
        work.mkdir(parents=True)
        for name in ("data", "params.yaml", "tiny"):
            (work / name).symlink_to(folder / name)
        slow = environment(RAVDESS_SAVE_SECONDS="0", PYTHONPATH=f"{tmp_path}/slow:{ROOT}")
        command = [sys.executable, "-m", "stages.w2v_finetune", "0"]
        process = subprocess.Popen(
            command, cwd=work, env=slow, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        if kill:
            before = {file.stat().st_mtime_ns for file in states.glob("*.pt")}
            while {
                file.stat().st_mtime_ns for file in states.glob("*.pt")
            } <= before and process.poll() is None:
                time.sleep(0.001)
            process.send_signal(kill)
        out, err = process.communicate()
        assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130, None: 0}[kill], err
        if kill is signal.SIGINT:
            assert [line for line in out.splitlines() if "stopped after step" in line]
        shutil.rmtree(work.parents[0])
    assert "goes on after step" in out
    assert digest(folder / "data/w2v/fold_0") == digest(trained / "data/w2v/fold_0")
    assert not list(states.iterdir())
