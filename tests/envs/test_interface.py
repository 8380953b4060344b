"""The environment interface: native environments, Python ones behind callbacks, and what both refuse."""

import ctypes
import gc
import weakref

import numpy as np
import pytest
import toys
from gymnasium import spaces
from numba import njit

from nbrl.envs.interface import (
    KEPT_VIEWS,
    STEPPED,
    TERMINATED,
    TRUNCATED,
    CloseFunction,
    EnvSpec,
    EnvStepper,
    NativeEnvironment,
    PythonEnvironment,
    ResetFunction,
    SaveFunction,
    StepFunction,
    Views,
    python_instance,
    suggestion,
)
from nbrl.kernels.native import call_reset, call_step

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
TWO = spaces.Discrete(2)


@ResetFunction
def count_reset(state, seed, observation, mask, alive):
    """A state of two int64: what was added up, and the seed."""
    ctypes.c_int64.from_address(state).value = 0
    ctypes.c_uint64.from_address(state + 8).value = seed
    return STEPPED


@StepFunction
def count_step(state, action, observation, reward, mask, alive):
    total = ctypes.c_int64.from_address(state)
    total.value += ctypes.c_int32.from_address(action).value
    ctypes.c_float.from_address(reward).value = total.value
    return STEPPED


def counter(**settings):
    defaults = {"state_size": 16, "observation_space": BOX, "action_space": TWO}
    return NativeEnvironment(count_reset, count_step, **{**defaults, **settings})


def test_every_instance_has_a_zeroed_aligned_state_of_its_own():
    environment = counter(state_size=100)
    instances = [environment.make() for _ in range(3)]
    assert len({instance.state_address for instance in instances}) == 3
    for instance in instances:
        assert instance.state_address % 64 == 0
        assert ctypes.string_at(instance.state_address, 100) == bytes(100)
        assert instance.error is None


def test_a_state_may_begin_with_settings():
    environment = counter(state_size=100, begins_with=np.array([[7, 8]], np.int64))
    for instance in (environment.make(), environment.make()):
        assert ctypes.string_at(instance.state_address, 100) == np.array([7, 8], np.int64).tobytes() + bytes(84)
        assert instance.error is None


def test_seed_arrives_as_64_bits():
    player = EnvStepper(counter())
    player.reset(2**64 - 3)
    assert np.frombuffer(player.instance.save(), np.uint64)[1] == 2**64 - 3


def test_state_without_save_and_load_is_copied():
    player = EnvStepper(counter())
    player.reset(5)
    player.step(1)
    saved = player.instance.save()
    assert len(saved) == player.instance.saved_size == 16
    assert [player.step(1)[1] for _ in range(3)] == [2.0, 3.0, 4.0]
    player.instance.load(saved)
    assert player.step(1)[1] == 2.0
    with pytest.raises(ValueError, match="16 bytes is needed, not of 3"):
        player.instance.load(b"abc")


def test_own_save_and_load_are_called():
    @SaveFunction
    def save(state, buffer):
        ctypes.c_int64.from_address(buffer).value = ctypes.c_int64.from_address(state).value + 100
        return STEPPED

    @SaveFunction
    def load(state, buffer):
        ctypes.c_int64.from_address(state).value = ctypes.c_int64.from_address(buffer).value - 100
        return STEPPED

    player = EnvStepper(counter(save=save, load=load, saved_size=8))
    player.reset(0)
    player.step(1)
    saved = player.instance.save()
    assert np.frombuffer(saved, np.int64) == [101]
    player.step(1)
    player.instance.load(saved)
    assert player.step(1)[1] == 2.0


NATIVE_BOX = "cannot be used: it must be a Box of float32, or of uint8 for images"


@pytest.mark.parametrize("how", ["asked", "asked twice", "forgotten"])
def test_close_is_called_once(how):
    closed = []
    environment = counter(close=CloseFunction(closed.append))
    instance = environment.make()
    address = instance.state_address
    if how != "forgotten":
        instance.close()
    if how == "asked twice":
        instance.close()
    del instance
    gc.collect()
    assert closed == [address]


def test_an_instance_keeps_its_functions_and_state_alive():
    environment = NativeEnvironment(
        ResetFunction(lambda *_: STEPPED),
        StepFunction(lambda *_: STEPPED | TRUNCATED),
        state_size=0,
        observation_space=BOX,
        action_space=TWO,
    )
    player = EnvStepper(environment)
    del environment
    gc.collect()
    player.reset(0)
    assert player.step(0)[2] == STEPPED | TRUNCATED


def test_failure_of_a_native_environment():
    failing = StepFunction(lambda *_: TERMINATED)
    player = EnvStepper(NativeEnvironment(count_reset, failing, state_size=16, observation_space=BOX, action_space=TWO))
    player.reset(0)
    with pytest.raises(RuntimeError, match="failed with status 2"):
        player.step(0)
    player.close()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"state_size": -1}, "state_size must be a number of bytes, not -1"),
        ({"state_size": 8.0}, "state_size must be a number of bytes, not 8.0"),
        ({"begins_with": np.zeros(3, np.int64)}, "begins_with has 24 bytes, and the state 16"),
        ({"save": 1}, "save, load and saved_size .* belong together"),
        ({"saved_size": 8}, "save, load and saved_size .* belong together"),
        ({"close": print}, "close must be an address, a numba @cfunc or a ctypes function, not <built-in"),
        ({"observation_space": TWO}, r"the observation space Discrete\(2\) cannot be used: it must be a Box"),
        ({"observation_space": spaces.Box(0, 255, (9,), np.uint8)}, NATIVE_BOX),
        (
            {"observation_space": spaces.Box(0, 1, (9,), np.float64)},
            NATIVE_BOX,
        ),
        ({"observation_space": spaces.Box(0, 1, (0,), np.float32)}, "is empty"),
        ({"action_space": spaces.Text(3)}, r"the action space Text\(.*\) cannot be used: it must be Disc"),
        (
            {"action_space": spaces.Box(0, 3, (2,), np.int64)},
            "it must be Discrete, MultiDiscrete, MultiBinary or a Box of floats",
        ),
    ],
)
def test_refusals_of_native_environments(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        counter(name="mine", **settings)


@pytest.mark.parametrize("function", [None, 0, True, "reset", lambda: None, ResetFunction(0)])
def test_what_is_no_c_function(function):
    with pytest.raises(ValueError, match="native: reset must be an address"):
        NativeEnvironment(function, count_step, state_size=8, observation_space=BOX, action_space=TWO)


def test_kinds_and_shapes():
    image = counter(observation_space=spaces.Box(0, 255, (7, 9, 3), np.uint8))
    assert image.observations.format == {"shape": [7, 9, 3], "dtype": "uint8", "layout": "HWC", "high": 255}
    assert (image.actions.outputs, image.actions.shape, image.frames_per_step) == (2, (), 1)
    arm = counter(action_space=spaces.Box(np.array([-1, -np.inf]), np.array([2, np.inf]), dtype=np.float64))
    assert (arm.observations.layout, arm.actions.counts, arm.actions.shape) == ("vector", (), (2,))
    np.testing.assert_array_equal(arm.actions.bounds[2:], [[-1, -np.inf], [2, np.inf]])
    assert arm.actions.bounds.dtype == np.float32
    assert repr(counter(name="mine")) == "NativeEnvironment('mine')"
    with pytest.raises(NotImplementedError):
        EnvSpec("bare", BOX, TWO).make()


@pytest.fixture(scope="module")
def corridor(tmp_path_factory):
    return toys.corridor(tmp_path_factory.mktemp("corridor"))


def test_c_environment(corridor):
    player = EnvStepper(corridor)
    assert player.reset(4).tolist() == [0, 0, 0, 0, 1, 0, 0, 0]
    assert [player.step(1)[1:] for _ in range(3)] == [(np.float32(-0.1), STEPPED)] * 2 + [(1.0, STEPPED | TERMINATED)]
    player.reset(0)
    statuses = [player.step(0)[2] for _ in range(50)]
    assert statuses == [STEPPED] * 49 + [STEPPED | TRUNCATED]


@njit
def walk_right(reset, step, state, seed, action, observation, reward):
    call_reset(reset, state, seed, observation.ctypes.data, 0, 0)
    for steps in range(1, 100):
        status = call_step(step, state, action.ctypes.data, observation.ctypes.data, reward.ctypes.data, 0, 0)
        if status & TERMINATED:
            return steps
    return 0


def test_c_environment_from_jitted_code(corridor):
    instance = corridor.make()
    buffers = np.ones(1, np.int32), np.zeros(8, np.float32), np.zeros(1, np.float32)
    for seed in range(7):
        addresses = instance.reset_address, instance.step_address, instance.state_address
        assert walk_right(*addresses, np.uint64(seed), *buffers) == 7 - seed


class Faulty(PythonEnvironment):
    """Raises what it is told to, in the call that it is told."""

    def __init__(self, where, exception):
        self.faults = {where: exception}
        self.closed = 0

    def reset(self, seed, observation):
        if "reset" in self.faults:
            raise self.faults["reset"]

    def step(self, action, observation, reward):
        if "step" in self.faults:
            raise self.faults["step"]
        return STEPPED

    def close(self):
        self.closed += 1


@pytest.mark.parametrize("exception", [ValueError("bad"), KeyboardInterrupt(), SystemExit(3), MemoryError()])
@pytest.mark.parametrize("where", ["reset", "step"])
def test_an_exception_is_kept_and_the_call_fails(where, exception, capfd):
    environment = Faulty(where, exception)
    instance = python_instance(environment)
    functions = {"reset": ResetFunction(instance.reset_address), "step": StepFunction(instance.step_address)}
    arguments = {"reset": (0, 1, 0, 0, 0), "step": (0, 0, 0, 0, 0, 0)}
    assert functions[where](*arguments[where]) == 0
    assert instance.error is exception
    assert exception.__traceback__ is not None
    environment.faults.clear()
    assert functions[where](*arguments[where]) == STEPPED
    assert capfd.readouterr() == ("", "")


def test_python_environment_is_closed_and_let_go():
    environment = Faulty("nothing", None)
    instance = python_instance(environment)
    instance.close()
    instance.close()
    assert environment.closed == 1
    another = python_instance(environment)
    seen = weakref.ref(another)
    del another
    assert seen() is None, "an instance must not be part of a cycle"
    assert environment.closed == 2
    seen = weakref.ref(environment)
    del environment, instance
    assert seen() is None


def test_views_write_through_and_stay_few():
    memory = np.zeros((KEPT_VIEWS + 10, 3), np.float32)
    views = Views((3,), np.float32)
    for row in memory:
        views[row.ctypes.data][...] = 7.0
    assert np.all(memory == 7.0)
    assert len(views) <= KEPT_VIEWS
    address = memory[-1].ctypes.data
    assert views[address] is views[address]


def test_a_picture_of_the_state():
    def picture(state):
        assert (state.shape, state.dtype) == ((16,), np.uint8)
        return np.full((2, 2, 3), state[0])

    players = [EnvStepper(counter(state_picture=picture)) for _ in range(2)]
    for player in players:
        player.reset(5)
    for steps in (1, 2, 3):
        observation, *_ = players[0].step(1)
        assert (players[0].instance.picture(observation) == steps).all()
    assert (players[1].instance.picture(observation) == 0).all()


def test_suggestions():
    known = ["CartPole-v1", "Catch-v0", "ALE/Pong-v5"]
    assert suggestion("cartpol-v1", known) == "; did you mean CartPole-v1?"
    assert suggestion("something else", known) == ""
