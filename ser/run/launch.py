"""Several processes for one stage, if Accelerate's configuration file on this machine asks for
them."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from accelerate.commands.config import config_args

from ser.run.errors import UserError


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
            os.environ["ACCELERATE_USE_CPU"] = (
                "true"  # or Accelerate takes each process for the only one
            )
        limit(int(os.environ["WORLD_SIZE"]), most)
        return
    if not Path(config_args.default_config_file).exists():
        return
    try:
        config = config_args.load_config_from_file(None)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{config_args.default_config_file}: {error}; `accelerate config` writes a good one"
        ) from None
    if config.num_processes <= 1:
        return
    limit(config.num_processes, most)
    launcher = ["accelerate.commands.launch"]
    if config.use_cpu:  # for which Accelerate's own launcher wants MPI
        launcher = [
            "torch.distributed.run",
            f"--nproc-per-node={config.num_processes // config.num_machines}",
        ]
        if config.num_machines > 1:
            launcher += [
                f"--nnodes={config.num_machines}", f"--node-rank={config.machine_rank}",
                f"--master-addr={config.main_process_ip}", f"--master-port={config.main_process_port}",
            ]  # fmt: skip
        else:
            launcher += ["--standalone"]
    sys.exit(
        subprocess.run(
            [sys.executable, "-m", *launcher, "--module", stage, *arguments], check=False
        ).returncode
    )


def limit(processes: int, most: int) -> None:
    """Refuse processes that would have nothing to do.

    Raises:
        UserError: there are more than `most`.
    """
    if processes > most:
        raise UserError(
            f"{processes} processes for {most} micro-batches a step; batch_size is kept: lower micro_batch, or start fewer"
        )
