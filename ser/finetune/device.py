"""Device, precision and package versions of this machine.

The same inputs, params, package versions, kind of device and number of threads give the same bytes.
Anything else gives results that differ in the last digits, which training amplifies.
"""

import os
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

CARDS = Path("/dev")  # where Linux has a file nvidiaN for each of NVIDIA's
PACKAGES = ("accelerate", "librosa", "numpy", "soxr", "torch", "transformers")


def mixed_precision(precision: str) -> str:
    """Accelerate's name, `no` or `bf16`, for a precision (auto, fp32, bf16) on this machine."""
    if precision == "auto":
        if torch.cuda.is_available():
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            native = torch.cpu.get_capabilities().get("avx512_bf16")
        precision = "bf16" if native else "fp32"
    return {"fp32": "no", "bf16": "bf16"}[precision]


def make_accelerator(precision: str) -> Accelerator:
    """The device to train on, and the other processes, if there are any.

    Args:
        precision: of products in training, auto, fp32 or bf16. All else is float32.
    """
    AcceleratorState._reset_state()  # it would refuse another precision, which a search may try
    return Accelerator(mixed_precision=mixed_precision(precision))


def versions() -> dict[str, str]:
    """The packages whose code makes the numbers, and their versions."""
    return {package: version(package) for package in PACKAGES}


def unusable() -> str | None:
    """The reason why PyTorch cannot use this machine's GPU, such as an old driver; None if it can,
    there is none, or the CPU is asked for."""
    hidden = "ACCELERATE_USE_CPU" in os.environ or os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    if hidden or torch.cuda.is_available() or not any(CARDS.glob("nvidia[0-9]*")):
        return None
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        return str(error).splitlines()[0]
    return "no reason given"


def announce(accelerator: Accelerator, title: str) -> None:
    """Print the device and its precision; on stderr, why that is not the GPU that is there."""
    about = describe(accelerator)
    accelerator.print(f"{title}: on {about['device']}, {about['precision']}", flush=True)
    if accelerator.is_main_process and (reason := unusable()):
        print(f"{title}: not on the GPU, which torch cannot use: {reason}", file=sys.stderr)


def describe(accelerator: Accelerator) -> dict[str, object]:
    """Device, precision, processes, threads and versions, which a result depends on beside inputs,
    params and code."""
    device = accelerator.device.type
    if device == "cuda":
        model = torch.cuda.get_device_name()
    else:
        model = torch.backends.cpu.get_cpu_capability()
    return {
        "device": f"{device}, {model}",
        "precision": accelerator.mixed_precision.replace("no", "fp32"),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
