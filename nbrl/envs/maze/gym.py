"""The mazes as gymnasium environments: the same compiled functions, called one by one."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded

from nbrl.envs.interface import TRUNCATED, EnvStepper
from nbrl.envs.maze.environment import MOST_PIXELS, maze, state_of
from nbrl.envs.maze.pictures import both, eye, plan
from nbrl.envs.maze.world import ACTIONS, has_begun, world_at

VIEWS = ("eye", "plan", "both")
SEEDS = 2**63


class MazeEnv(gymnasium.Env):
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
        evaluation.

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
        self.render_mode = render_mode
        self._view, self._height, self._width = view, render_height, render_width
        environment = maze(**settings)
        self.observation_space = spaces.Box(0, 255, environment.observations.shape, np.uint8)
        self.action_space = spaces.Discrete(ACTIONS)
        self._player = EnvStepper(environment)
        self._state = state_of(self._player.instance)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self._player.reset(int(self.np_random.integers(SEEDS)) if seed is None else seed), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, reward, status = self._player.step(action)
        return observation, reward, False, bool(status & TRUNCATED), {}

    def render(self) -> np.ndarray | None:
        if self.render_mode is None:
            return None
        if not has_begun(world_at(self._state)):
            raise ResetNeeded("a maze can be drawn once it has been reset")
        if self._view == "plan":
            return plan(self._state, self._height)
        return (eye if self._view == "eye" else both)(self._state, self._height, self._width)

    def close(self) -> None:
        self._player.close()
