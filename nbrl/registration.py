"""The ids under which gymnasium knows the mazes. It imports nothing, so that `import nbrl` stays quick.

gymnasium keeps no list of packages to ask: an id is known once somebody has registered it. `import nbrl` does so if
gymnasium is there already, `import nbrl.envs` always; ``gymnasium.make("nbrl.envs:nbrl/Maze-v0")`` needs neither.
"""

from typing import Any

# Id and settings of `nbrl.envs.maze.maze`.
MAZES: dict[str, dict[str, Any]] = {
    "nbrl/Maze-v0": {},
    "nbrl/MazeApples-v0": {"portal": False},
    "nbrl/MazePortal-v0": {"apples": 0},
    "nbrl/MazeFixed-v0": {"fixed": True},
}


def register() -> None:
    """Tell gymnasium, once."""
    import gymnasium

    for name, settings in MAZES.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, "nbrl.envs.maze.gym:MazeEnv", kwargs=settings)
