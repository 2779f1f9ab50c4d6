"""Several processes for one stage, where `accelerate config` has asked for them on this machine.

torch's own launcher starts them and watches over them. What is ours is what a user sees: one line.
"""

import itertools
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import torch
from accelerate.commands.config import config_args
from accelerate.commands.config.config_args import ClusterConfig
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ser.run.errors import Stopped, UserError

GRACE = 120  # seconds in which a group that is told to stop has to finish its step and save
GROUP = (
    "RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)  # what torch asks LOCAL_RANK's group for
SHELLS = {"sh", "dash", "bash", "zsh", "ksh", "fish"}  # DVC runs `cmd` in one, which may stay


def waiting() -> list[psutil.Process]:
    """The process that waits for this one, and the shells between them."""
    parents = psutil.Process().parents()
    shells = list(itertools.takewhile(lambda parent: parent.name() in SHELLS, parents))
    return parents[: len(shells) + 1]


WAITING = waiting()


def orphaned() -> bool:
    """Tell whether the launcher of this process, or DVC as that of a stage, has been killed: nobody
    waits for the result, and a second run may start."""
    watched = "LOCAL_RANK" in os.environ or "DVC_STAGE" in os.environ
    return watched and any(map(ended, WAITING))


def ended(process: psutil.Process) -> bool:
    """Tell whether a process has ended, even if its parent has not yet taken notice."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def configured() -> ClusterConfig | None:
    """Accelerate's configuration of this machine; None if it asks for a single process.

    Raises:
        UserError: a broken configuration file.
    """
    file = config_args.default_config_file
    if not Path(file).exists():
        return None
    try:
        config = config_args.load_config_from_file(file)
        if config.num_machines < 1 or config.num_processes % config.num_machines:
            raise ValueError(
                f"num_processes = {config.num_processes} on num_machines = {config.num_machines}: "
                "expected as many on each of one or more machines"
            )
        return config if config.num_processes > 1 else None
    except Exception as error:  # whatever Accelerate makes of a broken file
        raise UserError(f"{file}: {error}; `accelerate config` writes a good one") from None


def launch(module: str, *arguments: str, most: int) -> int | None:
    """Run `python -m module arguments` in as many processes as `accelerate config` asks for.

    Neither `cmd` in dvc.yaml nor params.yaml names GPUs or machines, so their number leaves a
    stage's identity alone.

    Args:
        most: number of processes that have something to do.

    Returns:
        None in a process that shall do the work itself: the only one, or one of the group; else the
        group's exit code.

    Raises:
        UserError: more than `most` processes, a broken configuration file, half the variables of a
            group, machines that do not meet, or the first mistake of one of the processes.
        Stopped: by a signal; the processes have ended.
    """
    if "LOCAL_RANK" in os.environ:
        if missing := [name for name in GROUP if name not in os.environ]:
            raise UserError(
                f"LOCAL_RANK is set, {', '.join(missing)} not: unset it, or have a launcher such "
                "as torchrun set all"
            )
        if not torch.cuda.is_available():
            # or Accelerate takes each process for the only one
            os.environ["ACCELERATE_USE_CPU"] = "true"
        return None
    config = configured()
    if config is None:
        return None
    count = config.num_processes
    if count > most:
        raise UserError(
            f"{count} processes for the {most} clips of a step; batch_size is kept: start fewer"
        )
    here = count // config.num_machines
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // here)))
    if config.use_cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif config.gpu_ids not in (None, "all"):
        os.environ["CUDA_VISIBLE_DEVICES"] = config.gpu_ids
    alone = config.num_machines == 1
    first = f"{config.main_process_ip}:{config.main_process_port or 29500}"
    if not alone:
        # torch waits for the other machines where no handler of Python's would be called.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
    threading.Thread(target=stop_if_orphaned, daemon=True).start()
    logging.disable()  # torch's pages on what ends in one line here, too
    with tempfile.TemporaryDirectory() as folder:
        group = LaunchConfig(
            min_nodes=config.num_machines,
            max_nodes=config.num_machines,
            nproc_per_node=here,
            run_id=module,  # the same on all machines
            rdzv_backend="c10d" if alone else "static",
            rdzv_endpoint="localhost:0" if alone else first,
            rdzv_configs={"rank": config.machine_rank},
            local_addr="127.0.0.1" if alone else None,
            max_restarts=0,
            shutdown_timeout=GRACE,
            # Standard error is the first process's, the others write to a file each.
            logs_specs=DefaultLogsSpecs(folder, dict.fromkeys(range(1, here), Std.ERR)),
        )
        try:
            elastic_launch(group, sys.executable)("-m", module, *arguments)
        except SignalException as stop:
            report = next(Path(folder).rglob("error.json"), None)
            message = json.loads(report.read_text())["message"] if report else "interrupted"
            raise Stopped(message, stop.sigval) from None
        except ChildFailedError as error:
            # The first; a process that was killed before those which that takes down at once.
            rank, failure = min(
                error.failures.items(),
                key=lambda item: (item[1].timestamp, item[1].exitcode != -signal.SIGKILL),
            )
            if Path(failure.error_file).exists():  # what `errors.one_line` reports
                raise UserError(failure.message) from None
            if failure.exitcode < 0:
                raise UserError(f"process {rank} of {count}: {failure.message}") from None
            for log in Path(folder).rglob(f"{failure.local_rank}/stderr.log"):
                sys.stderr.write(log.read_text())  # the traceback of a bug
            return failure.exitcode
        except torch.distributed.DistError as error:
            raise UserError(f"the machines of `accelerate config` do not meet: {error}") from None
    return 0


def stop_if_orphaned() -> None:
    """Wait until DVC has been killed, then stop this process and so its group."""
    while not orphaned():
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
