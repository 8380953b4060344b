"""Vector environments, gymnasium's or EnvPool's: one object that steps a group of actors in lockstep.

What such an object does after an episode's end differs, and says so in ``metadata["autoreset_mode"]``:

    SameStep    the step that ends an episode gives the first observation of the next one; the last one is in its info
    NextStep    the step after it ignores the action and gives the first observation: a void step
    Disabled    it is reset by a mask of those that ended

EnvPool, and whatever does not say, is NextStep.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

from nbrl.envs.gym import SEEDS, called, check_values
from nbrl.envs.interface import (
    STEPPED,
    TERMINATED,
    TRUNCATED,
    VOID,
    Env,
    EnvSpec,
    PythonEnvironment,
    Views,
    python_instance,
    read_number,
)

SAME_STEP, NEXT_STEP, DISABLED = "SameStep", "NextStep", "Disabled"


class VectorEnvironment(EnvSpec):
    """A vector environment, or a function that returns a new one at each call.

    Parameters
    ----------
    environment : gymnasium.vector.VectorEnv or callable
        An object serves one group of actors and is left open at the end; a function serves any number of groups.
    probe : VectorEnv, optional
        What the function returned at a first call, to read its spaces from; it is closed.
    observation_layout : str, optional
        As in `nbrl.spaces.Observations`, of the spaces of a single environment.

    Raises
    ------
    ValueError
        It is no vector environment, or its spaces are of another kind.
    """

    converts = True
    vector = True

    def __init__(
        self,
        environment: VectorEnv | Callable[[], VectorEnv],
        probe: VectorEnv | None = None,
        *,
        observation_layout: str = "auto",
    ) -> None:
        self.groups = None
        self._build: Any = environment
        if isinstance(environment, VectorEnv):
            self.groups, self._build = 1, lambda: environment
        probe = self._build() if probe is None else probe
        try:
            name = type(probe.unwrapped).__name__ if self.groups else called(self._build)
            super().__init__(
                name,
                probe.single_observation_space,
                probe.single_action_space,
                action_mask=not isinstance(probe.single_action_space, spaces.Box),
                observation_layout=observation_layout,
            )
            self.group = int(probe.num_envs)
        finally:
            if self.groups is None:
                probe.close()

    def stepper(self) -> "Stepper":
        """A new running one."""
        return Stepper(self, self._build(), closes=self.groups is None)

    def make_group(self) -> list[Env]:
        vector = self.stepper()
        return [python_instance(_Slot(vector, i)) for i in range(self.group)]

    def make(self) -> Env:
        raise ValueError(
            f"{self.name} steps {self.group} environments at once: here one is needed, so give its id, or a function "
            "that makes it"
        )


class Stepper:
    """One vector environment, its values checked and taken apart.

    Attributes
    ----------
    observations : list
        What each environment showed last, as values of the single space.
    masks : list of numpy.ndarray or None
        What is legal in each.
    infos : list of dict
        What each told with an episode's end.
    """

    def __init__(self, spec: VectorEnvironment, environment: VectorEnv, *, closes: bool) -> None:
        self.spec, self._environment, self._closes = spec, environment, closes
        self._class = type(environment.unwrapped).__name__
        mode = environment.metadata.get("autoreset_mode", NEXT_STEP)
        self._mode = getattr(mode, "value", mode)
        if self._mode not in (SAME_STEP, NEXT_STEP, DISABLED):
            raise ValueError(f"{self._class} resets in the mode {mode!r}: it must be one of gymnasium's AutoresetMode")
        self._space = environment.single_observation_space
        self._batch = batch_space(self._space, spec.group)
        self._actions: Any = create_empty_array(environment.single_action_space, spec.group)
        self._begun = False
        self._over = np.zeros(spec.group, np.bool_)  # those whose episode has ended, until they are reset
        self._due = np.zeros(spec.group, np.bool_)  # those whose next step is void
        self._fresh = np.zeros(spec.group, np.bool_)  # those whose observation begins an episode
        self.masks: list[np.ndarray | None] = [None] * spec.group
        self.infos: list[dict[str, Any]] = [{} for _ in range(spec.group)]
        self._gives_masks = False

    def _take(self, call: str, value: Any) -> None:
        """Keep what a call showed of each environment."""
        if isinstance(self._space, spaces.Dict | spaces.Tuple):
            found = list(iterate(self._batch, value))
        else:
            found = list(value) if isinstance(value, np.ndarray) else []
        if len(found) != self.spec.group:
            raise ValueError(
                f"{self._class}.{call} gave observations of {len(found)} environments: they must be of its "
                f"{self.spec.group}"
            )
        self.observations = found

    def _read_masks(self, infos: dict[str, Any], those: np.ndarray) -> None:
        self._gives_masks = self._gives_masks or "action_mask" in infos
        if self._gives_masks and "action_mask" not in infos:
            raise ValueError(f"{self._class} gave no action_mask in its info, as it did before")
        for i in np.flatnonzero(those).tolist() if self._gives_masks else ():
            ended = bool(self._over[i]) and self._mode != SAME_STEP
            self.masks[i] = self.spec.actions.mask(_of(infos["action_mask"], i), ended=ended)

    def reset(self, i: int, seed: int) -> None:
        """Begin an episode of one environment. The first call begins all, by its seed and those that follow it."""
        if not self._begun:
            self._begun = True
            self._read_reset(self._environment.reset(seed=seed % SEEDS), np.ones_like(self._fresh))
        elif not self._fresh[i] and self._mode == DISABLED:
            those = np.arange(self.spec.group) == i
            self._read_reset(self._environment.reset(options={"reset_mask": those.copy()}), those)
        elif not self._fresh[i] and not self._over[i]:
            raise ValueError(
                f"{self._class} cannot end one environment's episode early: leave max_episode_steps out, and limit "
                "episodes where it is made"
            )
        elif not self._fresh[i]:
            self._due[i] = True
            self.masks[i] = np.ones(self.spec.mask_size, np.uint8) if self._gives_masks else None
        self._fresh[i] = False

    def _read_reset(self, given: Any, those: np.ndarray) -> None:
        check_values(f"{self._class}.reset", given, 2, "observations and a dict")
        self._take("reset", given[0])
        self._over[those] = False
        self._fresh[those] = True
        self._read_masks(given[1], those)

    def step(self, actions: list[Any]) -> None:
        """Step all environments, each by an action of the single space."""
        batch = concatenate(self._environment.single_action_space, actions, self._actions)
        given = self._environment.step(batch)
        wanted = "five values, observations, rewards, terminated, truncated and a dict"
        check_values(f"{self._class}.step", given, 5, wanted)
        value, self.rewards, self.terminated, self.truncated, infos = given
        for name, values in (("rewards", self.rewards), ("terminated", self.terminated), ("truncated", self.truncated)):
            if np.shape(values) != (self.spec.group,):
                raise ValueError(
                    f"{self._class}.step gave {name} of shape {np.shape(values)}: it must be ({self.spec.group},)"
                )
        self._over = np.logical_or(self.terminated, self.truncated)
        self._fresh = self._over & (self._mode == SAME_STEP)
        self._take("step", value)
        self._read_masks(infos, np.ones_like(self._over))
        # Where SAME_STEP has the next episode's first ones.
        self.last, self.last_masks = list(self.observations), list(self.masks)
        for i in np.flatnonzero(self._over).tolist():
            self.infos[i] = infos
            if self._mode == SAME_STEP:
                key = "final_obs" if "final_obs" in infos else "final_observation"
                if key not in infos:
                    raise ValueError(f"{self._class}.step gave no final_obs in its info, though an episode ended")
                self.last[i] = _of(infos[key], i)
                final = infos.get("final_info")
                if isinstance(final, dict):
                    self.infos[i] = {name: part for name, part in infos.items() if "final_" not in name} | final
                    if self._gives_masks and "action_mask" in final:
                        self.last_masks[i] = self.spec.actions.mask(_of(final["action_mask"], i), ended=True)

    def result(self, i: int) -> tuple[Any, float, int]:
        """What the last step gave in one environment: observation, reward, status."""
        if self._due[i]:
            self._due[i] = False
            return self.last[i], 0.0, STEPPED | VOID
        status = STEPPED | (TERMINATED if self.terminated[i] else 0) | (TRUNCATED if self.truncated[i] else 0)
        return self.last[i], read_number(f"a reward that {self._class}.step gave", self.rewards[i]), status

    def info(self, i: int) -> dict[str, Any]:
        """What one environment told with the end of its last episode."""
        return _of(self.infos[i], i)

    def close(self) -> None:
        """Close it, if it was made here."""
        if self._closes:
            self._environment.close()


def _of(value: Any, i: int) -> Any:
    """One environment's share of what an info holds for all."""
    if isinstance(value, dict):
        told = {
            key: value.get(f"_{key}") for key, part in value.items() if not key.startswith("_") and part is not None
        }
        return {key: _of(value[key], i) for key, which in told.items() if which is None or which[i]}
    return value[i] if np.ndim(value) or isinstance(value, list | tuple) else value


class _Slot(PythonEnvironment):
    """One environment of a vector environment, behind the callbacks. The first of a group steps them all."""

    def __init__(self, vector: Stepper, i: int) -> None:
        observations, actions = vector.spec.observations, vector.spec.actions
        self._vector, self._i, self._write = vector, i, observations.write
        self._observations, self._rewards = Views(observations.shape, observations.dtype), Views((1,), np.float32)
        self._actions = Views((vector.spec.group, actions.parts), np.int32 if actions.discrete else np.float32)

    def reset(self, seed: int, observation: int) -> None:
        self._vector.reset(self._i, seed)
        self._write(self._vector.observations[self._i], self._observations[observation])
        self.mask = self._vector.masks[self._i]

    def step(self, action: int, observation: int, reward: int) -> int:
        if self._i == 0:
            decode = self._vector.spec.actions.decode
            self._vector.step([decode(row) for row in self._actions[action]])
        seen, self._rewards[reward][0], status = self._vector.result(self._i)
        if status & (TERMINATED | TRUNCATED) and self.infos is not None:
            self.keep_info(self._vector.info(self._i))
        self._write(seen, self._observations[observation])
        self.mask = self._vector.last_masks[self._i]
        return status

    def picture(self, observation: np.ndarray) -> None:
        return None

    def close(self) -> None:
        if self._i == 0:
            self._vector.close()
