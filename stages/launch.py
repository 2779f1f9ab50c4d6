"""Several processes for one stage, if Accelerate's configuration file on this machine asks for them."""

import os
import subprocess
import sys
from pathlib import Path

from accelerate.commands.config import config_args

from stages.errors import UserError


def processes(stage: str, *arguments: str) -> None:
    """Return at once if this is a process of a launched group, or if one process is all that is configured.

    Otherwise start the stage again as `accelerate config` says (how many GPUs and machines, and where), wait for it and exit. So a
    cluster's shape is known to its machines only: neither `cmd` in dvc.yaml nor params.yaml names it.
    """
    if "LOCAL_RANK" in os.environ or not Path(config_args.default_config_file).exists():
        return
    try:
        config = config_args.load_config_from_file(None)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{config_args.default_config_file}: {error}; `accelerate config` writes a good one") from None
    if config.num_processes <= 1:
        return
    launcher = ["accelerate.commands.launch"]
    if config.use_cpu:  # where Accelerate's own launcher wants MPI
        launcher = ["torch.distributed.run", f"--nproc-per-node={config.num_processes // config.num_machines}"]
        if config.num_machines > 1:
            launcher += [
                f"--nnodes={config.num_machines}", f"--node-rank={config.machine_rank}",
                f"--master-addr={config.main_process_ip}", f"--master-port={config.main_process_port}",
            ]  # fmt: skip
        else:
            launcher += ["--standalone"]
    sys.exit(subprocess.run([sys.executable, "-m", *launcher, "--module", stage, *arguments], check=False).returncode)
