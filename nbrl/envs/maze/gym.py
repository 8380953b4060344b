"""The mazes as gymnasium environments, with several views to be drawn."""

from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded

from nbrl.envs.maze.environment import MOST_PIXELS, maze, state_of
from nbrl.envs.maze.pictures import both, eye, plan
from nbrl.envs.maze.world import has_begun, world_at
from nbrl.envs.native_env import NativeEnv

VIEWS = ("eye", "plan", "both")


class MazeEnv(NativeEnv):
    """A random maze in 3D. A seed gives the episode that it gives natively, byte for byte.

    Parameters
    ----------
    render_mode : str, optional
        None or "rgb_array".
    view : str, optional
        What is rendered: "eye", what the agent sees; "plan", the maze from above with the agent's path, a square;
        "both", beside each other.
    render_height, render_width : int, optional
        Pixels of "eye"; the height is that of "plan" too.
    **settings
        As in `nbrl.envs.maze.environment.Settings`: size, smallest, apples, portal, openness, height, width, fixed,
        distance, evaluation.

    Raises
    ------
    ValueError
        A setting that cannot be, in one sentence.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012 - as gymnasium has it

    def __init__(
        self,
        *,
        render_mode: str | None = None,
        view: str = "eye",
        render_height: int = 420,
        render_width: int = 420,
        **settings: Any,
    ) -> None:
        if view not in VIEWS:
            raise ValueError(f"view is {view!r}: it must be one of {', '.join(VIEWS)}")
        for name, pixels in (("render_height", render_height), ("render_width", render_width)):
            if not isinstance(pixels, int) or not 8 <= pixels <= 8 * MOST_PIXELS:
                raise ValueError(f"{name} is {pixels!r}: it must be a whole number from 8 to {8 * MOST_PIXELS}")
        super().__init__(maze(**settings), render_mode=render_mode)
        self._view, self._height, self._width = view, render_height, render_width
        self._state = state_of(self.player.instance)

    def render(self) -> np.ndarray | None:
        if self.render_mode is None:
            return None
        if not has_begun(world_at(self._state)):
            raise ResetNeeded("a maze can be drawn once it has been reset")
        if self._view == "plan":
            return plan(self._state, self._height)
        return (eye if self._view == "eye" else both)(self._state, self._height, self._width)
