"""What is compiled here as a gymnasium environment: the same functions, called one by one."""

from typing import Any

import gymnasium
import numpy as np

from nbrl import envs
from nbrl.envs.interface import TERMINATED, TRUNCATED, EnvSpec, EnvStepper
from nbrl.space_descriptions import gymnasium_space

SEEDS = 2**63


class NativeEnv(gymnasium.Env):
    """Any environment of the interface. A seed gives the episode that it gives natively, byte for byte.

    Parameters
    ----------
    environment : str or EnvSpec
        An id, or an environment of one's own.
    render_mode : str, optional
        None or "rgb_array".
    **settings
        Keywords that the environment is made with.

    Raises
    ------
    ValueError
        There is no such environment, or it does not take the settings.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 - as gymnasium has it

    def __init__(self, environment: str | EnvSpec, *, render_mode: str | None = None, **settings: Any) -> None:
        spec = envs.make(environment, arguments=settings)
        self.render_mode = render_mode
        self._name, self._actions = spec.name, spec.actions
        self.observation_space = gymnasium_space(spec.observations.space)
        self.action_space = gymnasium_space(spec.actions.space)
        self.player = EnvStepper(spec)
        self._seen: np.ndarray | None = None

    def _info(self) -> dict[str, Any]:
        return {"action_mask": self._actions.as_sample_mask(self.player.mask)} if self.player.mask.size else {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._seen = self.player.reset(int(self.np_random.integers(SEEDS)) if seed is None else seed)
        return self._seen, self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._seen, reward, status = self.player.step(self._actions.encode(action))
        return self._seen, reward, bool(status & TERMINATED), bool(status & TRUNCATED), self._info()

    def render(self) -> np.ndarray | None:
        if self.render_mode is None:
            return None
        if self._seen is None:
            raise gymnasium.error.ResetNeeded("an environment can be drawn once it has been reset")
        picture = self.player.instance.picture(self._seen)
        if picture is None:
            raise gymnasium.error.Error(f"{self._name} has no picture: make it without a render_mode")
        return picture

    def close(self) -> None:
        self.player.close()
