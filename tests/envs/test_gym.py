"""Gymnasium environments: spaces flattened as gymnasium does, actions, ends, errors and refusals."""

import re

import gymnasium
import numpy as np
import pytest
import strategies
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from nbrl import envs
from nbrl.envs.gym import GymEnvironment
from nbrl.envs.interface import STEPPED, TERMINATED, TRUNCATED, EnvStepper
from nbrl.spaces import Observations

FLAT = spaces.Box(-1.0, 1.0, (3,), np.float32)
TWO = spaces.Discrete(2)


class Scripted(gymnasium.Env):
    """Plays back (observation, reward, terminated, truncated), or raises what stands there; keeps seeds and actions."""

    def __init__(self, script, observation_space=FLAT, action_space=TWO):
        self.observation_space, self.action_space = observation_space, action_space
        self.script, self.seeds, self.actions, self.closed = list(script), [], [], 0

    def next(self):
        entry = self.script.pop(0)
        if isinstance(entry, BaseException):
            raise entry
        return entry

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        return self.next(), {}

    def step(self, action):
        self.actions.append(action)
        return *self.next(), {}

    def close(self):
        self.closed += 1


def scripted(script=(), **settings):
    """A player, and the environment that it plays."""
    made = []

    def build():
        made.append(Scripted(script, **settings))
        return made[-1]

    player = EnvStepper(GymEnvironment(build))
    assert made[0].closed == 1, "the first one, built to read its spaces, must be closed"
    return player, made[1]


def flattened(space, value):
    """As gymnasium does, but for bytes inside others, which become fractions of their largest."""
    if isinstance(space, spaces.Tuple | spaces.Dict):
        parts = enumerate(space.spaces) if isinstance(space, spaces.Tuple) else space.spaces.items()
        return np.concatenate([scaled(part, flattened(part, value[key])) for key, part in parts])
    return spaces.flatten(space, value)


def scaled(space, vector):
    return vector / max(int(space.high.max()), 1) if space.dtype == np.uint8 else vector


@settings(deadline=None)
@given(space=strategies.observation_spaces, seed=st.integers(0, 2**31 - 1))
def test_observations_are_flattened_as_by_gymnasium(space, seed):
    observations = Observations(space, "vector")
    array = np.full(observations.shape, 77, observations.dtype)
    space.seed(seed)
    for _ in range(3):
        value = space.sample()
        observations.write(value, array)
        np.testing.assert_allclose(array.ravel(), flattened(space, value).astype(observations.dtype), rtol=1e-6)


@pytest.mark.parametrize(
    ("space", "shape", "dtype", "kind"),
    [
        (spaces.Box(0, 255, (84, 84), np.uint8), (84, 84), np.uint8, "image"),
        (spaces.Box(0, 255, (3, 64, 64), np.uint8), (3, 64, 64), np.uint8, "image"),
        (spaces.Box(0, 255, (128,), np.uint8), (128,), np.float32, "vector"),
        (spaces.Box(-1, 1, (2, 3), np.float64), (2, 3), np.float32, "vector"),
        (spaces.Box(-1, 1, (), np.float32), (1,), np.float32, "vector"),
        (spaces.Discrete(4), (4,), np.float32, "vector"),
        (spaces.Tuple([spaces.Discrete(4), spaces.Box(0, 255, (2, 3), np.uint8)]), (10,), np.float32, "vector"),
    ],
)
def test_shapes_and_kinds(space, shape, dtype, kind):
    environment = GymEnvironment(lambda: Scripted([], observation_space=space))
    assert (environment.observations.shape, environment.observations.dtype) == (shape, dtype)
    assert environment.observations.image == (kind == "image")


def test_one_hot_starts_where_the_space_does():
    player, _ = scripted([-1, (1, 0.0, False, False)], observation_space=spaces.Discrete(4, start=-1))
    assert player.reset(0).tolist() == [1, 0, 0, 0]
    assert player.step(0)[0].tolist() == [0, 0, 1, 0]
    space = spaces.MultiDiscrete([2, 3], start=[5, 7])
    player, _ = scripted([np.array([6, 7])], observation_space=space)
    assert player.reset(0).tolist() == [0, 1, 1, 0, 0]


def test_seeds_fit_gymnasium():
    player, environment = scripted([np.zeros(3)] * 2)
    player.reset(7)
    player.reset(2**64 - 1)
    assert environment.seeds == [7, 2**31 - 1]
    assert all(type(seed) is int for seed in environment.seeds)


@pytest.mark.parametrize(
    ("terminated", "truncated", "status"),
    [
        (False, False, STEPPED),
        (True, False, STEPPED | TERMINATED),
        (False, np.True_, STEPPED | TRUNCATED),
        (True, True, STEPPED | TERMINATED | TRUNCATED),
    ],
)
def test_ends_stay_apart(terminated, truncated, status):
    player, _ = scripted([np.zeros(3), (np.arange(3), -2.5, terminated, truncated)])
    player.reset(0)
    observation, reward, got = player.step(0)
    assert observation.tolist() == [0, 1, 2]
    assert (reward, got) == (-2.5, status)


def test_discrete_actions_start_where_the_space_does():
    player, environment = scripted(
        [np.zeros(3)] + [(np.zeros(3), 0, False, False)] * 3, action_space=spaces.Discrete(3, start=-1)
    )
    player.reset(0)
    for action in range(3):
        player.step(action)
    assert environment.actions == [-1, 0, 1]
    assert all(type(action) is int for action in environment.actions)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_continuous_actions_are_clipped_to_their_bounds(dtype):
    low, high = np.array([[[-1, 0], [-np.inf, -2]], [[1, np.inf], [np.inf, 2]]], dtype)
    space = spaces.Box(low, high, dtype=dtype)
    player, environment = scripted([np.zeros(3)] + [(np.zeros(3), 0, False, False)] * 2, action_space=space)
    player.reset(0)
    player.step([[5, -5], [-50, 0.5]])
    player.step([[-0.5, 50], [50, -9]])
    np.testing.assert_array_equal(environment.actions, [[[1, 0], [-50, 0.5]], [[-0.5, 50], [50, -2]]])
    assert all(space.contains(action) for action in environment.actions)


def test_a_scalar_continuous_action_keeps_its_shape():
    space = spaces.Box(-1.0, 1.0, (), np.float32)
    player, environment = scripted([np.zeros(3), (np.zeros(3), 0, False, False)], action_space=space)
    player.reset(0)
    player.step(0.25)
    assert space.contains(environment.actions[0])


@pytest.mark.parametrize("exception", [ZeroDivisionError("in the game"), KeyboardInterrupt(), SystemExit(1)])
def test_exceptions_are_kept(exception):
    player, _ = scripted([exception, np.zeros(3), exception])
    with pytest.raises(type(exception)) as raised:
        player.reset(0)
    assert raised.value is player.instance.error is exception
    player.reset(0)
    with pytest.raises(type(exception)):
        player.step(0)


@pytest.mark.parametrize(
    ("space", "observation", "exception", "sentence"),
    [
        (FLAT, np.zeros(1), ValueError, r"has shape \(1,\), but its space says \(3,\)"),
        (spaces.Discrete(3), 3, ValueError, "the observation 3 is outside its space Discrete"),
        (spaces.Discrete(3), -1, ValueError, "the observation -1 is outside its space Discrete"),
        (spaces.MultiDiscrete([2, 2]), [0], ValueError, r"has shape \(1,\), but its space says \(2,\)"),
        (
            spaces.Box(0, 255, (2, 2), np.uint8),
            np.zeros((2, 2)),
            ValueError,
            "is of float64, but its space says uint8, 0 to 255",
        ),
        (spaces.Dict(a=TWO), {"b": 0}, ValueError, "has no part 'a', which its space has"),
    ],
)
def test_observations_outside_their_space_fail(space, observation, exception, sentence):
    player, _ = scripted([observation], observation_space=space)
    with pytest.raises(exception, match=sentence):
        player.reset(0)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"observation_space": spaces.Dict(a=TWO, b=spaces.Text(5))}, "the observation space Text cannot be used"),
        ({"observation_space": spaces.Tuple([spaces.Sequence(TWO)])}, "the observation space Sequence cannot be used"),
        ({"action_space": spaces.Text(3)}, r"build: the action space Text.* cannot be used"),
        (
            {"action_space": spaces.Dict(a=TWO)},
            "the action space Dict.* must be Discrete, MultiDiscrete, MultiBinary or a Box of floats",
        ),
        (
            {"action_space": spaces.Box(0, 5, (2,), np.int32)},
            "must be Discrete, MultiDiscrete, MultiBinary or a Box of floats",
        ),
    ],
)
def test_spaces_refused_by_name(settings, sentence):
    made = []

    def build():
        made.append(Scripted([], **settings))
        return made[-1]

    with pytest.raises(ValueError, match=sentence):
        GymEnvironment(build)
    assert made[0].closed == 1


def test_a_function_that_returns_something_else():
    with pytest.raises(ValueError, match="must return a gymnasium environment, not int"):
        GymEnvironment(lambda: 3)


def test_close():
    player, environment = scripted([])
    player.close()
    player.close()
    assert environment.closed == 1


@pytest.mark.parametrize("name", ["CartPole-v1", "MountainCarContinuous-v0", "FrozenLake-v1", "Blackjack-v1"])
def test_real_environments_play_as_by_themselves(name):
    environment = GymEnvironment(name)
    player, reference = EnvStepper(environment), gymnasium.make(name)
    rng = np.random.default_rng(1)
    for seed in range(3):
        value, _ = reference.reset(seed=seed)
        observation = player.reset(seed)
        ended = False
        while not ended:
            expected = spaces.flatten(reference.observation_space, value).astype(np.float32)
            np.testing.assert_array_equal(observation, expected)
            if environment.actions.discrete:
                action = reference_action = int(rng.integers(environment.actions.outputs))
            else:
                action = reference_action = rng.uniform(-1, 1, 1).astype(np.float32)
            value, expected_reward, terminated, truncated, _ = reference.step(reference_action)
            observation, reward, status = player.step(action)
            assert reward == np.float32(expected_reward)
            assert status == STEPPED | (TERMINATED if terminated else 0) | (TRUNCATED if truncated else 0)
            ended = terminated or truncated


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("CartPol-v1", 'unknown environment "CartPol-v1"; did you mean CartPole-v1 or'),
        ("MountainCar-v7", 'unknown environment "MountainCar-v7"; did you mean MountainCar-v0'),
        ("nowhere/Thing-v0", 'unknown environment "nowhere/Thing-v0"; `nbrl envs` lists the known ones'),
        ("absent_package:Thing-v0", "absent_package:Thing-v0 needs a package that is not installed: No module named"),
        ("not an id!", "not an id! cannot be made: Malformed environment ID"),
    ],
)
def test_ids_that_are_none(name, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        envs.make(name)


def test_a_module_that_is_no_python(tmp_path, monkeypatch):
    (tmp_path / "halfwritten.py").write_text("import gymnasium\n\nclass Thing(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    sentence = r"^halfwritten:Thing is in a module that is no Python: invalid syntax \(.*halfwritten.py, line 3\)$"
    with pytest.raises(ValueError, match=sentence):
        envs.make("halfwritten:Thing")


def needs_mujoco(**settings):
    raise gymnasium.error.DependencyNotInstalled("MuJoCo is not installed,\nrun `pip install`")


def test_an_absent_dependency(monkeypatch):
    specification = gymnasium.envs.registration.EnvSpec("Walking-v0", entry_point=needs_mujoco)
    monkeypatch.setitem(gymnasium.registry, "Walking-v0", specification)
    with pytest.raises(ValueError, match=r'run `pip install` \(for MuJoCo: pip install "nbrl\[mujoco\]"\)$'):
        envs.make("Walking-v0")


def test_an_old_id_of_a_game_names_the_new_one():
    pytest.importorskip("ale_py", reason="ale-py is not installed")
    with pytest.raises(ValueError, match=r'^unknown environment "Pong-v9"; did you mean ALE/Pong-v5\?$'):
        envs.make("Pong-v9")
