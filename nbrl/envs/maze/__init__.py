"""Random mazes in 3D, seen by the agent's own eyes: nbrl/Maze-v0 and its variants."""
