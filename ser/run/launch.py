"""Several processes for one stage, if Accelerate's configuration file on this machine asks for
them.

Why not leave that to a launcher in dvc.yaml: `accelerate launch` wants MPI for processes on CPUs,
and both it and `torchrun` answer a user's mistake with a page of traceback.
"""

import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from accelerate.commands.config import config_args
from accelerate.commands.config.config_args import ClusterConfig

from ser.run.errors import Stopped, UserError

STOPPING = 120  # seconds that a group has to finish its step and save, once told to stop
FAILING = 5  # seconds that the others have to fail for the same reason, once one has failed
SHELLS = {"sh", "dash", "bash", "zsh", "ksh", "fish", "cmd.exe"}  # DVC runs `cmd` in one of them


def processes(stage: str, *arguments: str, most: int) -> None:
    """Return at once in a process of a launched group, or if one process is all that is configured.

    Otherwise start the stage again as `accelerate config` says (how many GPUs and machines, and
    where), wait for it and exit. So a cluster's shape is known to its machines only: neither `cmd`
    in dvc.yaml nor params.yaml names it.

    Raises:
        UserError: more than `most` processes, or a broken configuration file.
    """
    if "LOCAL_RANK" in os.environ:
        if not torch.cuda.is_available():
            # or Accelerate takes each process for the only one
            os.environ["ACCELERATE_USE_CPU"] = "true"
        limit(int(os.environ["WORLD_SIZE"]), most)
        return
    config = configured()
    if config is None:
        return
    limit(config.num_processes, most)
    sys.exit(run([sys.executable, "-m", stage, *arguments], places(config)))


def configured() -> ClusterConfig | None:
    """What `accelerate config` has written on this machine; None if one process is all that is
    asked for.

    Raises:
        UserError: a broken configuration file.
    """
    if not Path(config_args.default_config_file).exists():
        return None
    try:
        config = config_args.load_config_from_file(None)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{config_args.default_config_file}: {error}; `accelerate config` writes a good one"
        ) from None
    return config if config.num_processes > 1 else None


def limit(processes: int, most: int) -> None:
    """Refuse processes that would have nothing to do.

    Raises:
        UserError: there are more than `most`.
    """
    if processes > most:
        raise UserError(
            f"{processes} processes for the {most} clips of a step; batch_size is kept: start fewer"
        )


def places(config: ClusterConfig) -> list[dict[str, str]]:
    """The environment of each process of the group on this machine: its number, and where they
    meet. The names are torch's."""
    here = config.num_processes // config.num_machines
    first = here * (config.machine_rank or 0)
    port = config.main_process_port or 29500
    if config.num_machines == 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(config.num_processes),
        "LOCAL_WORLD_SIZE": str(here),
        "MASTER_ADDR": config.main_process_ip or "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": os.environ.get(
            "OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // here))
        ),
    }
    if config.use_cpu:
        shared["CUDA_VISIBLE_DEVICES"] = ""
    elif config.gpu_ids not in (None, "all"):
        shared["CUDA_VISIBLE_DEVICES"] = config.gpu_ids
    return [
        {**shared, "RANK": str(first + number), "LOCAL_RANK": str(number)} for number in range(here)
    ]


def run(command: list[str], environments: list[dict[str, str]]) -> int:
    """Run `command` once in each environment, all at the same time, until all have ended.

    SIGTERM and SIGINT to this process become a SIGTERM to each. They have `STOPPING` seconds to
    stop, or until a second signal, and are killed then. So they are when one of them fails, since
    the others would wait for it. On standard error only the first speaks.

    Returns:
        128 + the signal's number after a signal, 1 or more if the first process failed, 0 if none
        did.

    Raises:
        Stopped: after a signal, if the first process has not said so itself.
        UserError: one failed, but not the first.
    """
    signals: list[int] = []
    workers: list[subprocess.Popen] = []

    def stop(number: int, _: object = None) -> None:
        for worker in workers:
            worker.kill() if signals else worker.terminate()
        signals.append(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with tempfile.TemporaryFile() as others:  # what all but the first say on standard error
        try:
            signal.signal(signal.SIGTERM, stop)
            # Ctrl-C in a terminal reaches all processes: those of the group leave it to this one.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for number, environment in enumerate(environments):
                error = others if number else None
                environment = {**os.environ, **environment}
                workers.append(subprocess.Popen(command, env=environment, stderr=error))
            signal.signal(signal.SIGINT, stop)
            first = wait(workers, signals, stop)
        finally:
            for worker in workers:
                worker.kill()
            for number, handler in before.items():
                signal.signal(number, handler)
        code = workers[first].returncode if first is not None else 0
        if signals and code:
            if workers[0].returncode <= 0:
                raise Stopped("interrupted", signals[0])
            return 128 + signals[0]
        if first is not None and workers[0].returncode <= 0:
            others.seek(0)
            sys.stderr.write(others.read().decode(errors="replace"))
            how = f"ended with exit code {code}" if code > 0 else f"was killed by signal {-code}"
            raise UserError(f"process {first} of {len(workers)} {how}")
    return code


def wait(workers: list[subprocess.Popen], signals: list[int], stop: Callable) -> int | None:
    """Wait until all workers have ended, and kill them when `run` says so; return the number of the
    first that failed, the lowest of several, None if none did."""
    first, end = None, None
    while None in [worker.poll() for worker in workers]:
        if orphaned() and not signals:
            stop(signal.SIGTERM)
        if first is None:
            first = next((n for n, worker in enumerate(workers) if worker.returncode), None)
        if end is None and (signals or first is not None):
            end = time.monotonic() + (STOPPING if signals else FAILING)
        if end is not None and time.monotonic() > end:
            for worker in workers:
                worker.kill()
        time.sleep(0.05)
    if first is None:
        first = next((n for n, worker in enumerate(workers) if worker.returncode), None)
    return first


def waiting() -> list[psutil.Process]:
    """The process that waits for this one, and the shells between them: some shells stay until
    their command ends, others hand over to it."""
    parents = psutil.Process().parents()
    shells = list(itertools.takewhile(lambda parent: parent.name() in SHELLS, parents))
    return parents[: len(shells) + 1]


WAITING = waiting()


def orphaned() -> bool:
    """Whether this process is one of a group, or a stage of DVC's, and whoever started it has been
    killed: nobody waits for its result, and a second run may start."""
    watched = "LOCAL_RANK" in os.environ or "DVC_STAGE" in os.environ
    return watched and any(map(ended, WAITING))


def ended(process: psutil.Process) -> bool:
    """Whether a process has ended, even if its parent has not yet taken notice."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
