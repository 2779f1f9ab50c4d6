"""A training that was killed ends as if it had not been."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import workplace
from conftest import small_files

from ser import params
from ser.finetune import finetuning, loop, state
from ser.run import errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_head_is_fitted_is_not_put_off(trained, tmp_path, monkeypatch, number):
    """For a large encoder that takes minutes. Once fitted, it is part of what is saved."""
    with contextlib.chdir(trained):
        settings = params.load().model_copy(update={"head": "layers", "epochs": 1})
        runs = [finetuning.prepare(settings, 0, inner=False)[0] for _ in range(2)]
    store = state.Store("test")
    monkeypatch.setattr(store, "path", tmp_path / "state.pt")
    rest = ("title", tmp_path / "log", lambda seconds: "")
    # As every stage has it; in the background shells let SIGINT be ignored.
    handler = {signal.SIGTERM: errors.terminated, signal.SIGINT: signal.default_int_handler}[number]
    before = signal.signal(number, handler)
    try:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            head = runs[0].encoder.head
            patch.setattr(head, "fit", lambda *arguments: os.kill(os.getpid(), number))
            loop.run(runs[0], store, *rest)
    finally:
        signal.signal(number, before)
    assert runs[0].done == 0 and not store.path.exists()

    loop.run(runs[0], store, *rest)
    store.save(runs[0].state())
    monkeypatch.delattr(type(runs[1].encoder.head), "fit")
    loop.run(runs[1], store, *rest)
    assert runs[1].done == len(runs[1].steps)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_full_disk_for_tensorboard_is_raised_once(tmp_path, capsys):
    """And not printed by TensorBoard's thread, too."""
    with pytest.raises(OSError) as error, loop.events(tmp_path) as writer, small_files(600):
        for step in range(100):
            writer.add_scalar("loss", 1.0, step)
        writer.flush()
    assert error.value.errno == errno.EFBIG
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(trained, tmp_path):
    folder = tmp_path / "killed"
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("w2v", "runs"))
    # As `dvc exp run --temp` does: a work tree that is lost after a failure.
    work = folder / ".dvc/tmp/exps/standalone/x"
    states = folder / ".checkpoints"
    for kill in (signal.SIGKILL, signal.SIGINT, None):
        work.mkdir(parents=True)
        for name in ("data", "params.yaml", "tiny"):
            (work / name).symlink_to(folder / name)
        command = [sys.executable, "-m", "stages.w2v_finetune", "0"]
        env = workplace.environment(RAVDESS_SAVE_SECONDS="0")
        process = subprocess.Popen(
            command, cwd=work, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
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
            assert "stopped after step" in err
        shutil.rmtree(work.parents[0])
    assert "goes on after step" in out
    for made in ("data/w2v/fold_0", "data/models/w2v/fold_0"):
        assert workplace.digest(folder / made) == workplace.digest(trained / made)
    assert not list(states.iterdir())
