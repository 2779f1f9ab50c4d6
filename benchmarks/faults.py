"""Break the pipeline on purpose; whatever happened, the next `dvc repro` gives the same bytes.

    python -m benchmarks.faults [FAULT...] [--stage STAGE...] [--seed N]

In a clone of the last commit, on the demo corpus shrunk to seconds, the whole pipeline runs once:
the reference. Then each fault hits each stage, and the pipeline runs again, without DVC's run
cache. What is compared with the reference: every file of data/, metrics/ and report/, dvc.lock, and
that git's tree is as it was.

FAULT is one of these; all by default. The first three come at a random moment of the stage's work:

  kill, terminate, interrupt  SIGKILL, SIGTERM or Ctrl-C to DVC and the stage
  full        no file may grow beyond half of the stage's largest
  read-only   the stage sees the whole project read-only (Linux, as root)
  power       the machine stops between setting the old folder aside and renaming the new one
  corrupted, missing   a file of the stage's outputs in DVC's cache; the checked out one is gone
  twice       two `dvc repro` of the stage at once
  clock       Python's clock goes back two hours half-way
  source      no server, no hub and no folder that `download` and `checkpoint` could take from
  experiments two `dvc exp run --temp` at once
  odd         a path with spaces and other letters, LC_ALL=C, umask 077, no HOME
  ascii       the same in a plain path, with Python kept to ASCII: in another, DVC itself fails

Prints: a line of a Markdown table for each: fault, stage, what was said, state after the next run.
The exit code is 1 if any state is not the reference's.
"""

import argparse
import contextlib
import functools
import hashlib
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from dvc.utils.hydra import apply_overrides

from benchmarks.checkout import Checkout, cloned
from ser.run import errors

# The demo, shrunk: one short clip per voice and emotion, two folds, one epoch.
SHRUNK = (
    "corpus=demo", "demo.takes=1", "demo.seconds=0.6", "folds=[0,1]", "checkpoint=configs/demo",
    "freeze_cnn=false", "epochs=1", "lr=1e-3", "svm_train.C=[1,10]",
)  # fmt: skip
SIGNALS = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "interrupt": signal.SIGINT}
SAME = "same bytes"

# Ends the process when it renames for the second time: the old output is aside by then.
POWER = """
import os, runpy, sys
renames = []
def at(event, arguments):
    if event == "os.rename" and not str(arguments[1]).endswith((".json", ".csv")):
        renames.append(arguments)
        if len(renames) == 2:
            os._exit(9)
sys.addaudithook(at)
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
# Python's clock goes back two hours once the process has worked for so many seconds.
BACK = """
import os, runpy, sys, time
half = float(os.environ["HALF"])
for name, hours in (("time", 2 * 3600), ("time_ns", 2 * 3600 * 10**9)):
    def faked(true=getattr(time, name), hours=hours):
        return true() - hours * (time.process_time() > half)
    setattr(time, name, faked)
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
CLOCK = 'exec {python} -c "$SCRIPT" "$@"\n'
READ_ONLY = """
exec unshare --mount sh -c 'mount --bind . . && mount -o remount,bind,ro . && cd "$PWD" &&
exec "$@"' sh {python} "$@"
"""


def shrunk(home: Path, name: str = "project") -> Checkout:
    """A clone of the last commit in a new folder `name` of `home`, its parameters shrunk."""
    made = cloned(home, name)
    apply_overrides(made.path / "params.yaml", list(SHRUNK))
    made.run("git", "commit", "--quiet", "--all", "--message", "Shrunk")
    return made


def module(stage: str) -> list[str]:
    """What follows `python -m` in the command of a stage."""
    name, _, item = stage.partition("@")
    return [f"stages.{name}", *([item] if item else [])]


def worker(dvc: subprocess.Popen, stage: str) -> psutil.Process | None:
    """The process of the stage below a running DVC; None before it starts and after it ends."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(dvc.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                words = child.cmdline()
                if module(stage)[0] in words and Path(words[0]).name.startswith("python"):
                    return child
    return None


def at_work(dvc: subprocess.Popen, stage: str, seconds: float) -> bool:
    """Wait until the stage has taken so many seconds of a processor; False if it ended before."""
    while dvc.poll() is None:
        with contextlib.suppress(psutil.Error, AttributeError):
            if sum(worker(dvc, stage).cpu_times()[:2]) >= seconds:
                return True
        time.sleep(0.02)
    return False


@functools.cache
def cost(checkout: Checkout, stage: str) -> float:
    """Seconds of a processor that the stage takes when nothing happens."""
    before = sum(os.times()[2:4])
    checkout.run(sys.executable, "-m", *module(stage))
    return sum(os.times()[2:4]) - before


@contextlib.contextmanager
def instead(checkout: Checkout, script: str) -> Iterator[dict[str, str]]:
    """An environment in which a stage's `python` is this shell script; `{python}` in it is the
    true one."""
    with tempfile.TemporaryDirectory() as folder:
        shim = Path(folder, "python")
        shim.write_text("#!/bin/sh\n" + script.format(python=sys.executable))
        shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
        yield {"PATH": f"{folder}{os.pathsep}{checkout.env['PATH']}"}


ALONE = ("--force", "--single-item")


def strike(checkout: Checkout, fault: str, stage: str, moments: random.Random) -> str | None:
    """Let a fault hit a stage; return what was printed, None where there is nothing to hit."""
    outs = checkout.stages()[stage]
    if fault in SIGNALS:
        seconds = cost(checkout, stage) * moments.random()
        dvc = checkout.start("dvc", "repro", "--no-run-cache", *ALONE, stage)
        struck = at_work(dvc, stage, seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(dvc.pid, SIGNALS[fault])
        printed = checkout.wait(dvc)
        return printed if struck else f"(had ended) {printed}"
    if fault == "full":
        inside = [file for out in outs for file in ([out] if out.is_file() else out.rglob("*"))]
        half = max(file.stat().st_size for file in inside) // 2
        with instead(checkout, f'ulimit -f {max(1, half // 512)}; exec {{python}} "$@"') as env:
            return checkout.repro(*ALONE, stage, **env)[1]
    if fault == "read-only":
        if sys.platform != "linux" or os.getuid():
            return None
        with instead(checkout, READ_ONLY) as env:
            return checkout.repro(*ALONE, stage, **env)[1]
    if fault == "power":
        if not any(out.is_dir() for out in outs):
            return None
        code, printed = checkout.run(sys.executable, "-c", POWER, *module(stage))
        return printed if code == 9 else f"(had ended) {printed}"
    if fault in ("corrupted", "missing"):
        return spoil(checkout, outs, stage, fault)
    if fault == "twice":
        pair = [checkout.start("dvc", "repro", "--no-run-cache", *ALONE, stage) for _ in range(2)]
        return "\n".join(checkout.wait(process) for process in pair)
    assert fault == "clock"
    with instead(checkout, CLOCK) as env:
        half = str(cost(checkout, stage) / 2)
        return checkout.repro(*ALONE, stage, HALF=half, SCRIPT=BACK, **env)[1]


def spoil(checkout: Checkout, outs: list[Path], stage: str, fault: str) -> str | None:
    """Damage, or remove, a cached file of a stage's outputs, and remove the outputs."""
    cached = {
        hashlib.md5(file.read_bytes()).hexdigest(): file
        for out in outs
        for file in ([out] if out.is_file() else sorted(out.rglob("*")))
        if file.is_file()
    }
    for md5 in cached:
        kept = checkout.cache / "files" / "md5" / md5[:2] / md5[2:]
        if not kept.exists():  # in git instead
            continue
        if fault == "missing":
            kept.unlink()
        else:
            mode, content = kept.stat().st_mode, bytearray(kept.read_bytes())
            kept.chmod(0o644)
            content[len(content) // 2] ^= 0xFF
            kept.write_bytes(content)
            kept.chmod(mode)
        for out in outs:
            if out.is_dir():
                shutil.rmtree(out)
            else:
                out.unlink()
        return checkout.run("dvc", "checkout")[1]
    return None


def said(printed: str, stage: str) -> str:
    """The line in which the stage, or else DVC, says what is wrong."""
    if "Traceback" in printed:
        return "TRACEBACK"
    lines = [line.strip() for line in re.split(r"[\r\n]+", printed) if "%|" not in line]
    name = stage.partition("@")[0]
    told = [line for line in lines if line.startswith(f"{name}: ")]
    told = told or [line for line in lines if line.startswith("ERROR")] or ["(nothing)"]
    had_ended = "(had ended) " if printed.startswith("(had ended)") else ""
    return had_ended + re.sub(r"/\S*/", "…/", told[0])[:90].replace("|", "\\|")


def compare(checkout: Checkout, reference: dict[str, str]) -> str:
    """Run the pipeline again, and say how what is there then differs from the reference."""
    code, printed = checkout.repro(*checkout.targets)
    left = [path for path in checkout.path.rglob(".*.partial") if ".dvc" not in path.parts]
    for folder in left:
        shutil.rmtree(folder)
    now = checkout.state()
    wrong = [name for name in {*now, *reference} if now.get(name) != reference.get(name)]
    if not (code or wrong):
        return f"{SAME}; a work folder stays until the stage runs" if left else SAME
    checkout.restore()
    lines = [line for line in printed.splitlines() if line.startswith("ERROR")]
    what = lines or [f"{name} differs" for name in sorted(wrong)]
    return f"**differs**: {what[0][:90]}"


def look_again(checkout: Checkout, reference: dict[str, str]) -> str:
    """Make DVC hash its cache anew: files that cannot be written to it believes unseen."""
    for file in (checkout.cache / "files").rglob("*"):
        file.chmod(file.stat().st_mode | stat.S_IWUSR)
    shutil.rmtree(checkout.path / "data")
    return compare(checkout, reference)


def without_source(checkout: Checkout) -> Iterator[tuple[str, str]]:
    """No corpus, no checkpoint: `download` and `checkpoint` fail, git's tree stays."""
    nowhere = {"RAVDESS_URL": "http://127.0.0.1:9/a.zip", "HF_ENDPOINT": "http://127.0.0.1:9",
               "HF_HOME": str(checkout.cache / "hub"), "NO_PROXY": "*"}  # fmt: skip
    changes = {"download": "corpus=ravdess", "checkpoint": "checkpoint=nobody/nothing"}
    for stage, change in changes.items():
        apply_overrides(checkout.path / "params.yaml", [change])
        changed = checkout.run("git", "status", "--porcelain")[1]
        printed = checkout.repro(*ALONE, stage, **nowhere)[1]
        if checkout.run("git", "status", "--porcelain")[1] != changed:
            printed = f"{stage}: git's tree has changed"
        checkout.run("git", "checkout", "--quiet", "params.yaml")
        yield stage, printed


def at_once(checkout: Checkout) -> str:
    """Two experiments with the same change at the same time, and once more alone: all three have
    the same dvc.lock."""
    change = ("--temp", "--set-param", "lr=2e-3")
    pair = [checkout.start("dvc", "exp", "run", "-n", name, *change) for name in ("one", "two")]
    printed = "\n".join(checkout.wait(process) for process in pair)
    printed += checkout.run("dvc", "exp", "run", "-n", "three", *change)[1]
    locks = {
        checkout.run("git", "show", f"refs/exps/{ref}:dvc.lock")[1]
        for ref in checkout.run("git", "for-each-ref", "--format=%(refname:lstrip=2)", "refs/exps")[
            1
        ].split()
        if ref.endswith(("/one", "/two", "/three"))
    }
    return printed if len(locks) == 1 else f"ERROR: {len(locks)} different results\n{printed}"


def elsewhere(
    home: Path, name: str, targets: list[str], reference: dict[str, str], **env: str
) -> str:
    """The whole pipeline in another folder, umask 077, without HOME, LC_ALL=C."""
    before = os.umask(0o077)
    try:
        (home / name).parent.mkdir(exist_ok=True)
        checkout = shrunk((home / name).parent, (home / name).name)
        for variable in ("HOME", "LANG", "LC_CTYPE"):
            checkout.env.pop(variable, None)
        checkout.env |= {"LC_ALL": "C", **env}
        code, printed = checkout.repro(*targets)
    finally:
        os.umask(before)
    now = checkout.state()
    differing = {*now, *reference} - {"git"}
    wrong = sorted(name for name in differing if now.get(name) != reference.get(name))
    if code or wrong:
        lines = [line for line in printed.splitlines() if re.match(r"ERROR|\w+: ", line)]
        return f"**differs**: {(lines or wrong or ['?'])[0][:90]}"
    return SAME


BY_STAGE = (*SIGNALS, "full", "read-only", "power", "corrupted", "missing", "twice", "clock")
FAULTS = (*BY_STAGE, "source", "experiments", "odd", "ascii")


@errors.one_line
def main() -> None:
    """Make the reference, strike, compare, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=", ".join(FAULTS))
    parser.add_argument("--stage", nargs="+", help="stages to hit, the others are left out; all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    if strange := set(options.faults) - set(FAULTS):
        raise errors.UserError(f"{min(strange)}: no such fault; expected {', '.join(FAULTS)}")
    faults, states = options.faults or FAULTS, []
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        checkout = shrunk(home)
        checkout.targets = options.stage or []
        code, printed = checkout.repro(*checkout.targets)
        if code:
            raise errors.UserError(f"the pipeline does not run undisturbed:\n{printed}")
        checkout.run("git", "add", "--all")
        checkout.run("git", "commit", "--quiet", "--message", "Reference")
        reference = checkout.state()
        moments = random.Random(options.seed)

        def line(fault: str, stage: str, printed: str, state: str) -> None:
            states.append(state)
            print(f"| {fault} | {stage} | {said(printed, stage)} | {state} |", flush=True)

        print(
            "| fault | stage | what was said | after the next run |\n|---|---|---|---|", flush=True
        )
        for fault in (fault for fault in BY_STAGE if fault in faults):
            for stage in options.stage or checkout.stages():
                printed = strike(checkout, fault, stage, moments)
                if printed is None:
                    continue
                state = compare(checkout, reference)
                if fault == "corrupted" and not state.startswith(SAME):
                    state = f"{look_again(checkout, reference)}, after `chmod` (docs/faults.md)"
                line(fault, stage, printed, state)
        if "source" in faults:
            for stage, printed in without_source(checkout):
                line("source", stage, printed, compare(checkout, reference))
        if "experiments" in faults:
            line("experiments", "all", at_once(checkout), compare(checkout, reference))
        where = checkout.targets, reference
        if "odd" in faults:
            line("odd", "all", "", elsewhere(home, "Maße & 1/Stimmen ü", *where))
        if "ascii" in faults:
            no_utf8 = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
            line("ascii", "all", "", elsewhere(home, "a/plain", *where, **no_utf8))
    sys.exit(any(not state.startswith(SAME) for state in states))


if __name__ == "__main__":
    main()
