"""Random mazes in 3D, seen with the agent's own eyes: nbrl/Maze-v0 and its variants.

Textures are painted (textures.py), mazes made (making.py) and lived in (world.py), looked at from inside (view.py) and
from above (plan.py). environment.py and gym.py are the two ways to use them.
"""

from nbrl.envs.maze.environment import Settings, maze

__all__ = ["Settings", "maze"]
