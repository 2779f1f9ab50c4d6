"""`python` and `dvc` for tests: programs that start within a moment, since a process that has all
libraries loaded forks for each of them.

    python tests/warm.py FOLDER OWNER

In a fresh process the imports of a stage take two to ten seconds, over and over in a pipeline. What
is the project's own is imported anew each time, from the current folder. A signal to such a program
does not reach what runs for it: where signals matter, tests start Python itself.

Writes: FOLDER/bin/python, FOLDER/bin/dvc, FOLDER/socket; ends when the process OWNER has ended
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import socket
import sys
import traceback
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
OURS = ("ser", "stages", "commands")

LAZY = (  # what libraries and stages import only where they need it
    "dvc.cli", "dvc.commands.experiments", "dvc.repo.plots", "librosa.decompose", "librosa.effects",
    "librosa.feature", "librosa.segment", "matplotlib.backends.backend_agg", "matplotlib.pyplot",
    "sklearn.metrics", "sklearn.model_selection", "sklearn.svm", "torch.profiler",
    "transformers.models.wav2vec2.modeling_wav2vec2",
    "transformers.models.wav2vec2.feature_extraction_wav2vec2",
)  # fmt: skip

CLIENT = """#!{python} -IS
import json, os, socket, sys

name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
if name != "python":
    arguments = ["-m", name, *arguments]
if arguments[:1] != ["-m"]:
    os.execv({python!r}, [{python!r}, *arguments])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"."], [0, 1, 2])
    server.sendall(json.dumps([arguments[1:], os.getcwd(), dict(os.environ)]).encode())
    server.shutdown(socket.SHUT_WR)
    code = server.recv(1)
sys.exit(code[0] if code else "no answer of tests/warm.py")
"""


def write_programs(folder: Path) -> None:
    """Write the two programs, which hand on what they are asked for."""
    (folder / "bin").mkdir()
    for name in ("python", "dvc"):
        text = CLIENT.format(python=sys.executable, address=str(folder / "socket"))
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)


def load_libraries() -> None:
    """Import all that stages import, and forget what is the project's own."""
    sys.path[0] = str(ROOT)
    for file in sorted((ROOT / "stages").glob("*.py")):
        importlib.import_module(f"stages.{file.stem}")
    for name in ("commands.results", "commands.search", *LAZY):
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    gc.freeze()  # a collection would copy all pages


def next_client(server: socket.socket, owner: int) -> socket.socket:
    """Wait for a client, in this process; returned in a child of its own."""
    while psutil.pid_exists(owner):
        if not select.select([server], [], [], 1)[0]:
            continue
        client, _ = server.accept()
        if not os.fork():
            server.close()
            return client
        client.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    sys.exit()


def answer(client: socket.socket, programs: Path) -> None:
    """Run what the client asks for, in its folder and environment, on its files, and tell the exit
    code; this process ends with it."""
    for number, file in enumerate(socket.recv_fds(client, 1, 3)[1]):
        os.dup2(file, number)
        os.close(file)
    arguments, folder, environment = json.load(client.makefile())
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:1] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv, sys.executable, code = arguments, str(programs / "python"), 0
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code or 0
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        code = 1
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    client.send(bytes([code % 256]))
    os._exit(0)  # Python's own way would look at every object of every library


if __name__ == "__main__":
    home = Path(sys.argv[1])
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(home / "socket"))
        listening.listen(100)
        write_programs(home)
        load_libraries()
        asking = next_client(listening, int(sys.argv[2]))
    answer(asking, home / "bin")
