"""What a user sees of a stage that is stopped."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import ROOT


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_libraries_are_loaded_is_one_line(tmp_path, number):
    stage = subprocess.Popen(
        [sys.executable, "-m", "stages.embed"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # `&` has it ignored
    )
    while sum(psutil.Process(stage.pid).cpu_times()[:2]) < 0.5:
        time.sleep(0.01)
    stage.send_signal(number)
    assert stage.communicate()[1] == "embed: interrupted\n"
    assert stage.returncode == 128 + number
