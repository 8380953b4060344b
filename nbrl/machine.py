"""What a run was made with: the versions of what it stands on, and the machine."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from nbrl import __version__
from nbrl.config import available_cores
from nbrl.kernels.gemm import HOST_WIDTH

PACKAGES = ("numpy", "numba", "gymnasium", "ale-py", "mujoco")
CPU_INFO = Path("/proc/cpuinfo")


def describe() -> dict[str, Any]:
    """Versions by package, those that are not installed left out, and the machine, as JSON can hold them."""
    return {
        "nbrl": __version__,
        "python": platform.python_version(),
        **versions(PACKAGES),
        "system": platform.platform(),
        "processor": _processor(),
        "vector_bits": 32 * HOST_WIDTH,
        "cores": available_cores(),
        "cores_of_machine": os.cpu_count(),
    }


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def summary() -> str:
    """One line of what matters to who reports a fault."""
    from nbrl.kernels.gemm import HOST_WIDTH

    packages = ", ".join(f"{name} {version}" for name, version in versions(PACKAGES).items())
    return f"nbrl {__version__} (Python {platform.python_version()}, {packages}; vectors of {32 * HOST_WIDTH} bits)"


def _processor() -> str:
    """The processor's name."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
