"""Doors, keys and rooms that are drawn anew in every episode: MiniGrid's tasks, in numba."""

from nbrl.envs.minigrid.environment import door_key, key_corridor, multi_room

__all__ = ["door_key", "key_corridor", "multi_room"]
