"""MuJoCo tasks without the interpreter: gymnasium's, with physics through MuJoCo's C library.

A step of gymnasium's environments holds the interpreter's lock. Here threads step side by side.
"""

import functools
import importlib.metadata
import importlib.util
import logging
import platform
import sys

import gymnasium

from nbrl.envs.interface import EnvSpec

logger = logging.getLogger(__name__)

# Where the physics was compared with gymnasium's environments to the bit; platforms are sys.platform and machine.
MUJOCO_VERSIONS = {"4.0.0"}
GYMNASIUM_VERSIONS = {"1.0.0", "1.1.1", "1.2.3", "1.3.0", "1.4.0"}
PLATFORMS = {("linux", "x86_64")}


@functools.cache
def works() -> bool:
    """Whether the tasks can be run this way: MuJoCo is installed, and its and gymnasium's versions are known ones."""
    if importlib.util.find_spec("mujoco") is None:
        return False
    try:
        version = importlib.metadata.version("mujoco")
    except importlib.metadata.PackageNotFoundError:  # something else of that name, or built by hand
        version = "of no version"
    system = (sys.platform, platform.machine())
    known = version in MUJOCO_VERSIONS and gymnasium.__version__ in GYMNASIUM_VERSIONS and system in PLATFORMS
    if not known:
        logger.info(
            "mujoco %s with gymnasium %s on %s %s is not known: MuJoCo's tasks run through gymnasium, which is slower",
            version,
            gymnasium.__version__,
            *system,
        )
    return known


def make(name: str) -> EnvSpec:
    """Describe one of the tasks in `nbrl.registration.MUJOCO`; `works` must be true."""
    from nbrl.envs.mujoco.environment import MujocoEnvironment  # compiles

    return MujocoEnvironment(name)
