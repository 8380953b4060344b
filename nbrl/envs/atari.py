"""Atari 2600 games through ale-py's AtariVectorEnv: one environment and one emulator thread an instance.

Observations are the last four grey 84x84 screens, oldest first; each is the maximum of the last two of the four frames
that an action is held for. An episode begins with 0 to 30 no-ops, drawn uniformly, and without FIRE; it is truncated
after 108,000 frames. Rewards are raw.
"""

import csv
import functools
import importlib.resources
import re
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from nbrl.envs.interface import (
    CUT,
    STEPPED,
    TERMINATED,
    TRUNCATED,
    Env,
    EnvSpec,
    PythonEnvironment,
    Views,
    python_instance,
    suggestion,
)

PREFIX = "ALE/"
OBSERVATION_SHAPE = (4, 84, 84)
RAM_SIZE = 128  # bytes
FRAMES_PER_STEP = 4
MAX_NOOPS = 30
MAX_FRAMES = 108_000
LARGEST_SEED = 2**31 - 1


def _ale() -> Any:
    try:
        import ale_py
    except ImportError:
        raise ValueError('Atari needs ale-py: pip install "nbrl[atari]"') from None
    return ale_py


def names() -> list[str]:
    """The ids of all games, like "ALE/Pong-v5"; ValueError when ale-py is absent."""
    _ale()  # importing it registers its games
    return sorted(name for name in gymnasium.registry if is_game(name))


def is_game(name: str) -> bool:
    """Whether an id means one of ale-py's games, known or not; it does not where somebody else registered it."""
    theirs = gymnasium.registry.get(name)
    return name.startswith(PREFIX) and (theirs is None or str(theirs.entry_point).startswith("ale_py"))


OLD_NAME = re.compile(r"(?:ale_py:)?(?:ALE/)?([A-Za-z]+?)(-ram|-?Ramv?)?(NoFrameskip|Deterministic)?(-v\d+)?")


def today_s_name(name: str) -> str | None:
    """The id of the game that an older id, or a game's bare name, means; None where it means none."""
    old = OLD_NAME.fullmatch(name)
    try:
        known = {game.lower(): game for game in names()} if old else {}
    except ValueError:  # without ale-py
        known = {}
    return known.get(f"{PREFIX}{old[1]}-v5".lower()) if old else None


def _vector_environment(game: str, sticky_actions: float, full_action_space: bool) -> Any:
    return _ale().AtariVectorEnv(
        game,
        1,
        num_threads=1,
        max_num_frames_per_episode=MAX_FRAMES,
        repeat_action_probability=sticky_actions,
        full_action_space=full_action_space,
        img_height=OBSERVATION_SHAPE[1],
        img_width=OBSERVATION_SHAPE[2],
        grayscale=True,
        stack_num=OBSERVATION_SHAPE[0],
        frameskip=FRAMES_PER_STEP,
        maxpool=True,
        noop_max=MAX_NOOPS + 1,  # ale-py draws from 0 to noop_max - 1
        episodic_life=False,  # else a lost life would begin a new game
        life_loss_info=False,
        reward_clipping=False,
        use_fire_reset=False,
    )


def newest_screen(observation: np.ndarray) -> np.ndarray:
    """Of a stack of screens the last, uint8 (height, width, 3)."""
    return np.repeat(observation[-1][:, :, None], 3, axis=2)


@functools.cache
def _action_count(game: str, full_action_space: bool) -> int:
    return int(_vector_environment(game, 0.0, full_action_space).single_action_space.n)


ARGUMENTS = {"obs_type": ("grayscale", "ram"), "full_action_space": (False, True)}


def checked_arguments(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of a game, ale-py's own; ValueError for others."""
    for key, value in arguments.items():
        if key not in ARGUMENTS or type(value) is not type(ARGUMENTS[key][0]) or value not in ARGUMENTS[key]:
            takes = "; ".join(f"{known} ({' or '.join(map(repr, values))})" for known, values in ARGUMENTS.items())
            raise ValueError(
                f"environment_arguments has {key}={value!r}, but {name} takes {takes} here; sticky_actions, "
                "cut_on_life_loss and max_episode_steps are settings"
            )
    return dict(arguments)


class AtariEnvironment(EnvSpec):
    """A game of the Arcade Learning Environment.

    Parameters
    ----------
    name : str
        Like "ALE/Pong-v5".
    obs_type : str, optional
        "grayscale" for the screens, "ram" for the 128 bytes of the console's memory.
    full_action_space : bool, optional
        All 18 actions, instead of those that the game uses.
    sticky_actions : float, optional
        Probability that a frame repeats the action before: 0 (the A3C paper) or 0.25 (Machado et al., 2018).
    cut_on_life_loss : bool, optional
        Whether a lost life sets the bit CUT while the game goes on.
    seed_every_reset : bool, optional
        To seed the emulator it must load the cartridge again: 80 ms, where a new game costs 4. So by default only an
        instance's first reset is seeded, and later ones go on with its random numbers: an episode then depends on the
        first seed and on how many went before. True makes every episode depend on its own seed alone.

    Raises
    ------
    ValueError
        For an unknown game or probability, or when ale-py is absent.
    """

    clips_rewards = True

    def __init__(
        self,
        name: str,
        *,
        obs_type: str = "grayscale",
        full_action_space: bool = False,
        sticky_actions: float = 0.0,
        cut_on_life_loss: bool = False,
        seed_every_reset: bool = False,
    ) -> None:
        known = names()
        if name not in known:
            raise ValueError(f'unknown Atari game "{name}"{suggestion(name, known)}')
        if not 0.0 <= sticky_actions < 1.0:
            raise ValueError(f"sticky_actions must be a probability, at least 0 and under 1, not {sticky_actions}")
        self._game = gymnasium.registry[name].kwargs["game"]
        self.sticky_actions = float(sticky_actions)
        self.cut_on_life_loss = bool(cut_on_life_loss)
        self.seed_every_reset = bool(seed_every_reset)
        self._ram, self._full_action_space = obs_type == "ram", full_action_space
        seen = spaces.Box(0, 255, (RAM_SIZE,) if self._ram else OBSERVATION_SHAPE, np.uint8)
        actions = spaces.Discrete(_action_count(self._game, full_action_space))
        super().__init__(name, seen, actions, frames_per_step=FRAMES_PER_STEP)

    checks_states = True

    def check_state(self, saved: bytes) -> None:
        from nbrl.envs.ale_direct import SEED_BYTES

        actions = np.frombuffer(saved[SEED_BYTES:], np.uint8)
        steps = MAX_FRAMES // FRAMES_PER_STEP
        if len(saved) < SEED_BYTES or actions.size >= steps or (actions >= self.actions.outputs).any():
            raise ValueError(f"an episode of {self.name} is saved as a seed and fewer than {steps:,} of its actions")

    def make(self) -> Env:
        from nbrl.envs import ale_direct  # compiles

        if self._ram:
            emulator = functools.partial(ale_direct.emulator, self._game)
            return python_instance(
                _Memory(emulator, self.sticky_actions, self.cut_on_life_loss, self._full_action_space)
            )
        if ale_direct.works(self._game):
            return ale_direct.instance(
                self._game,
                sticky_actions=self.sticky_actions,
                cut_on_life_loss=self.cut_on_life_loss,
                full_action_space=self._full_action_space,
                max_noops=MAX_NOOPS,
                max_frames=MAX_FRAMES,
            )
        build = functools.partial(_vector_environment, self._game, self.sticky_actions, self._full_action_space)
        return python_instance(_Game(build, self.cut_on_life_loss, self.seed_every_reset))


class _Game(PythonEnvironment):
    """One emulator behind the callbacks. It is built in the first reset, so that many need no time before training."""

    def __init__(self, build: Callable[[], Any], cut_on_life_loss: bool, seed_every_reset: bool) -> None:
        self._build = build
        self._cut_on_life_loss = cut_on_life_loss
        self._seed_every_reset = seed_every_reset
        self._environment: Any = None
        self._closed = False
        self._lives = 0
        self._strength = (1.0,)
        self._observations = Views((1, *OBSERVATION_SHAPE), np.uint8)
        self._actions, self._rewards = Views((1,), np.int32), Views((1,), np.float32)

    def reset(self, seed: int, observation: int) -> None:
        if self._closed:
            raise RuntimeError("this game is closed")
        first = self._environment is None
        if first:
            self._environment = self._build()
        seeded = first or self._seed_every_reset
        screens, info = self._environment.reset(seed=1 + seed % LARGEST_SEED if seeded else None)
        self._lives = info["lives"][0]
        self._observations[observation][...] = screens

    def step(self, action: int, observation: int, reward: int) -> int:
        # AtariVectorEnv.step is these two calls, after a check and an allocation. Tuples cross faster than arrays.
        ale = self._environment.ale
        ale.send((self._actions[action].item(),), self._strength)
        screens, rewards, terminated, truncated, info = ale.recv()
        self._observations[observation][...] = screens
        self._rewards[reward][...] = rewards
        status = STEPPED
        if terminated[0]:
            status |= TERMINATED
        if truncated[0]:
            status |= TRUNCATED
        if self._cut_on_life_loss:
            lives = info["lives"][0]
            if lives < self._lives and status == STEPPED:
                status |= CUT
            self._lives = lives
        return status

    def picture(self, observation: np.ndarray) -> np.ndarray:
        return newest_screen(observation)

    def close(self) -> None:
        self._closed, self._environment = True, None


class _Memory(PythonEnvironment):
    """A game of which the console's memory is seen. An episode depends on its own seed alone."""

    def __init__(
        self, emulator: Callable[[], Any], sticky_actions: float, cut_on_life_loss: bool, full_action_space: bool
    ) -> None:
        self._emulator, self._sticky_actions = emulator, sticky_actions
        self._cut_on_life_loss, self._full_action_space = cut_on_life_loss, full_action_space
        self._ale: Any = None
        self._observations = Views((RAM_SIZE,), np.float32)  # as bytes of vectors are learnt from
        self._actions, self._rewards = Views((1,), np.int32), Views((1,), np.float32)

    def reset(self, seed: int, observation: int) -> None:
        if self._ale is None:
            self._ale = self._emulator()
            self._first = self._ale.cloneState(include_rng=True)
            full = self._full_action_space
            self._set = self._ale.getLegalActionSet() if full else self._ale.getMinimalActionSet()
        self._rng = np.random.default_rng(seed)
        self._ale.restoreState(self._first)  # some games draw from the emulator's own numbers, which would go on
        self._ale.reset_game()
        for _ in range(self._rng.integers(MAX_NOOPS + 1)):
            self._ale.act(0)
            if self._ale.game_over():
                self._ale.reset_game()
        self._lives, self._frames, self._last = self._ale.lives(), 0, self._set[0]
        self._observations[observation][...] = self._ale.getRAM()

    def step(self, action: int, observation: int, reward: int) -> int:
        total, kept = 0, self._rng.random(FRAMES_PER_STEP) < self._sticky_actions
        for sticks in kept.tolist():
            self._last = self._last if sticks else self._set[self._actions[action].item()]
            total += self._ale.act(self._last)
        self._frames += FRAMES_PER_STEP
        self._rewards[reward][0] = total
        self._observations[observation][...] = self._ale.getRAM()
        if self._ale.game_over():
            return STEPPED | TERMINATED
        if self._frames >= MAX_FRAMES:
            return STEPPED | TRUNCATED
        lost, self._lives = self._ale.lives() < self._lives, self._ale.lives()
        return STEPPED | (CUT if lost and self._cut_on_life_loss else 0)

    def picture(self, observation: np.ndarray) -> np.ndarray:
        return np.asarray(self._ale.getScreenRGB())

    def close(self) -> None:
        self._ale = None


@functools.cache
def _reference_scores() -> dict[str, tuple[float, float]]:
    table = importlib.resources.files("nbrl.envs").joinpath("atari_scores.csv").read_text()
    rows = csv.DictReader(table.splitlines())
    return {row["env_id"]: (float(row["random_noop"]), float(row["human_noop"])) for row in rows}


def human_normalised(environment_id: str, mean_return: float) -> float | None:
    """A mean return in percent, where 0 is random play and 100 a human tester, both from no-op starts.

    Parameters
    ----------
    environment_id : str
        Like "ALE/Pong-v5".
    mean_return : float

    Returns
    -------
    float or None
        None for an environment without a published score.
    """
    if environment_id not in _reference_scores():
        return None
    random, human = _reference_scores()[environment_id]
    return 100.0 * (mean_return - random) / (human - random)
