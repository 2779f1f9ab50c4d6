"""A training that was killed ends as if it had not been."""

import shutil
import signal
import subprocess
import sys
import time

import pytest
import workplace


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
