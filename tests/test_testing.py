"""nbrl.testing: bugs that were planted are found, what is sound passes, and draws are quick."""

import statistics
import subprocess
import sys
import time
import types

import gymnasium
import hypothesis
import numba
import numpy as np
import pytest
import strategies
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numba import carray

import nbrl.testing as testing
from nbrl import Agent, Dense, Gru, NativeEnvironment, envs, snapshot, train
from nbrl.config import configure
from nbrl.envs.interface import STEPPED, TERMINATED, TRUNCATED
from nbrl.learner import Learner
from nbrl.nets.layers import layers_from_list, layers_to_list
from nbrl.nets.network import Network
from nbrl.spaces import Observations
from nbrl.testing import CheckError

BOX = spaces.Box(-10, 10, (3,), np.float32)


class Sound(gymnasium.Env):
    """A walk of random length and places; the classes below have one bug each."""

    observation_space, action_space = BOX, spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.length = 0, int(self.np_random.integers(3, 9))
        self.place = self.np_random.standard_normal(3).clip(-1, 1).astype(np.float32)
        return self.place.copy(), {}

    def step(self, action):
        self.t += 1
        self.place = (self.place + (0.1 if action else -0.1)).clip(-10, 10).astype(np.float32)
        return self.place.copy(), float(action), self.t == self.length, False, {}


class Terminates(Sound):
    """Says terminated at its time limit."""

    def step(self, action):
        seen, reward, *_ = super().step(action)
        return seen, reward, self.t == 5, False, {}


class OneBuffer(Sound):
    def step(self, action):
        seen, *rest = super().step(action)
        self.buffer = getattr(self, "buffer", np.zeros(3, np.float32))
        self.buffer[:] = seen
        return self.buffer, *rest


class Remembers(Sound):
    """Begins where the last episode ended."""

    def reset(self, *, seed=None, options=None):
        before = getattr(self, "place", None)
        _, info = super().reset(seed=seed)
        if before is not None:
            self.place = before
        return self.place.copy(), info


class NoSeed(Sound):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None)


class SharedAmongAll(Sound):
    """What all of them walk on is one and the same."""

    count = 0

    def step(self, action):
        type(self).count += 1
        seen, _, *rest = super().step(action)
        return seen, float(type(self).count % 7), *rest


class Outside(Sound):
    def step(self, action):
        seen, *rest = super().step(action)
        return seen + 100, *rest


class OtherDtype(Sound):
    def reset(self, *, seed=None, options=None):
        seen, info = super().reset(seed=seed)
        return seen.astype(np.float64), info


class NoNumber(Sound):
    def step(self, action):
        seen, _, *rest = super().step(action)
        return seen, float("nan"), *rest


class Flags(Sound):
    def step(self, action):
        seen, reward, _, _, info = super().step(action)
        return seen, reward, 0, False, info


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (OneBuffer, "OneBuffer.step returned the buffer of the observation before it"),
        (Remembers, r"Remembers.reset with the same seed, in the same environment, gave another course .* at once"),
        (NoSeed, "NoSeed.reset with the same seed, in the same environment, gave another course of episode 1"),
        (SharedAmongAll, "gave another course"),
        (Outside, r"Outside.step gave an observation of shape \(3,\) that its space .* does not contain"),
        (OtherDtype, "OtherDtype.reset gave an observation of float64: its space has float32"),
        (NoNumber, "NoNumber.step gave the reward nan: it must be a finite number"),
        (Flags, "Flags.step gave terminated as 0: it must be true or false"),
    ],
)
def test_faults_of_environments_are_found(environment, words):
    with pytest.raises(CheckError, match=words) as found:
        testing.check_environment(environment)
    assert "\n" not in str(found.value)


def test_a_truncation_that_is_told_as_a_termination():
    with pytest.raises(CheckError, match="says terminated at the time limit of 5 steps: an episode that a limit ends"):
        testing.check_environment(Terminates, time_limit=5)
    testing.check_environment(lambda: gymnasium.make("CartPole-v1", max_episode_steps=20))
    with pytest.raises(CheckError, match=r"had an episode of .* steps: its time limit is 2"):
        testing.check_environment(Sound, time_limit=2)


@pytest.mark.parametrize(
    "environment",
    [
        Sound, "Acrobot-v1", "FrozenLake-v1", "CartPole-v1", "Catch-v0", "Pendulum-v1", "Rooms-v0", "nbrl/Maze-v0",
        lambda: SyncVectorEnv([Sound] * 3), lambda: gymnasium.wrappers.FlattenObservation(Sound()),
    ],
)  # fmt: skip
def test_sound_environments_pass(environment):
    testing.check_environment(environment, steps=100)


def test_an_object_that_is_a_vector_environment():
    testing.check_environment(SyncVectorEnv([Sound] * 2), steps=30)


@numba.cfunc("int32(CPointer(int64), uint64, CPointer(float32))")
def native_reset(state, seed, observation):
    state[0], state[1] = seed % np.uint64(5), 0
    observation[0] = state[0]
    observation[1] = 0
    return STEPPED


def native(step, reset=native_reset, state_size=16, **more):
    space = spaces.Box(-100, 100, (2,), np.float32)
    return NativeEnvironment(
        reset,
        step,
        state_size=state_size,
        observation_space=space,
        action_space=spaces.Discrete(2),
        name="mine",
        **more,
    )


SIGNATURE = "int32(CPointer(int64), CPointer(int32), CPointer(float32), CPointer(float32))"


@numba.cfunc(SIGNATURE)
def sound_step(state, action, observation, reward):
    state[1] += 1
    observation[0], observation[1] = state[0], state[1]
    reward[0] = action[0]
    return STEPPED | (TRUNCATED if state[1] == 10 else 0)


@numba.cfunc(SIGNATURE)
def past_the_row(state, action, observation, reward):
    state[1] += 1
    observation[0], observation[1], observation[2] = state[0], state[1], 1
    reward[0] = 0
    return STEPPED


@numba.cfunc(SIGNATURE)
def past_the_reward(state, action, observation, reward):
    observation[0], observation[1] = 0, 0
    reward[0] = reward[1] = 0
    return STEPPED


@numba.cfunc(SIGNATURE)
def to_the_action(state, action, observation, reward):
    action[0] = 1 - action[0]
    observation[0], observation[1], reward[0] = 0, 0, 0
    return STEPPED


@numba.cfunc(SIGNATURE)
def half_a_row(state, action, observation, reward):
    observation[0], reward[0] = 0, 0
    return STEPPED


@numba.cfunc(SIGNATURE)
def no_reward(state, action, observation, reward):
    observation[0], observation[1] = 0, 0
    return STEPPED


@numba.cfunc(SIGNATURE)
def only_terminated(state, action, observation, reward):
    observation[0], observation[1], reward[0] = 0, 0, 0
    return TERMINATED


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (native(past_the_row), "mine: step wrote beyond its row of the observation, of 8 bytes"),
        (native(past_the_reward), "mine: step wrote beyond its row of the reward, of 4 bytes"),
        (native(sound_step, state_size=8), "mine: reset wrote beyond its state: state_size must be larger"),
        (native(to_the_action), "mine: step wrote to its action, which it may only read"),
        (native(half_a_row), "mine: step left number 1 of the observation unwritten"),
        (native(no_reward), "mine: step left number 0 of the reward unwritten"),
        (native(only_terminated), "mine: step returned the status 2: bit 0, which is 1, must be set on every success"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_faults_of_native_environments_are_found(environment, words):
    with pytest.raises(CheckError, match=words):
        testing.check_environment(environment)


def test_a_sound_native_environment_passes():
    testing.check_environment(native(sound_step))


def test_a_state_that_is_saved_in_part():
    @numba.cfunc("int32(CPointer(int64), CPointer(int64))")
    def save_a_half(state, buffer):
        buffer[0] = state[0]
        return STEPPED

    @numba.cfunc("int32(CPointer(int64), CPointer(int64))")
    def load_a_half(state, buffer):
        state[0], state[1] = buffer[0], 0
        return STEPPED

    with pytest.raises(CheckError, match="a state that was saved and loaded, gave another course"):
        testing.check_environment(native(sound_step, save=save_a_half, load=load_a_half, saved_size=8))


def test_a_write_beyond_the_state_ends_a_run():
    with pytest.raises(RuntimeError, match=r"mine wrote beyond its state in actor 0 .*: its state_size must be larger"):
        train(native(sound_step, state_size=8), steps=10**9, actors=1, threads=1)


# Agents


WIDE = (Dense(64), Dense(64))


class Counts(Agent):
    """Answers with one action more than there are, now and then."""

    def act(self, *what, **more):
        return super().act(*what, **more) + 2


class OneScratch(Agent):
    """All threads use one scratch."""

    def __init__(self, *what, **more):
        super().__init__(*what, **more)
        self._local = types.SimpleNamespace()


class OtherTwin(Agent):
    def to_numpy(self):
        twin = super().to_numpy()
        return twin._replace(arrays={name: 1.01 * array for name, array in twin.arrays.items()})


def as_class(kind, layers=WIDE, environment="CartPole-v1"):
    agent = train(environment, network=layers, steps=100, seed=3, threads=1, actors=1)
    return kind(agent.network, agent.parameters, agent.actions, environment=agent.environment, normal=agent.normal)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Counts, r"which is not of Discrete\(2\)"),
        (OneScratch, "threads that share the policy get other actions than one alone: they share scratch"),
        (OtherTwin, "NumpyPolicy's outputs of the head policy for .* are"),
    ],
)
def test_faults_of_agents_are_found(kind, words):
    def check():
        for seed in range(20):  # threads meet by chance
            testing.check_agent(as_class(kind), seed=seed)

    with pytest.raises(CheckError, match=words):
        check()


@pytest.mark.parametrize("environment", ["CartPole-v1", "Pendulum-v1", "Taxi-v4"])
@pytest.mark.parametrize("layers", [(Dense(5),), (Gru(4), Dense(3))], ids=["dense", "gru"])
def test_sound_agents_pass(environment, layers):
    testing.check_agent(as_class(Agent, layers, environment))


# Runs


def test_a_checkpoint_that_forgets_is_found(monkeypatch):
    take = snapshot.take

    def forget(learner, **more):
        arrays, metadata = take(learner, **more)
        arrays["actors/random"][:] += np.uint64(1)
        return arrays, metadata

    testing.check_resume("CartPole-v1")
    monkeypatch.setattr(snapshot, "take", forget)
    with pytest.raises(CheckError, match=r"a run that was cut after .* of 12 rollouts has another .* at its end"):
        testing.check_resume("CartPole-v1")


@pytest.mark.parametrize(
    ("environment", "more"),
    [
        ("Catch-v0", {"network": [["lstm", 4]]}), ("Rooms-v0", {"method": "n_step_q"}),
        ("Pendulum-v1", {"method": "dpg", "learning_starts": 20, "batch_size": 8, "buffer_size": 64}),
        ("nbrl/Maze-v0", {"network": [["conv", 4, 8, 4], ["dense", 8]]}),
    ],
)  # fmt: skip
def test_runs_that_are_cut_go_on(environment, more):
    testing.check_resume(environment, **more)


def test_an_environment_that_cannot_be_saved():
    with pytest.raises(CheckError, match="Sound cannot be saved: a run that goes on begins its episodes anew"):
        testing.check_resume(Sound)


def test_a_task_that_is_learnt():
    """Wrong with a probability of a thousandth by the test itself, if it learns nine seeds of ten."""
    testing.check_learns("Catch-v0", 0.6, steps=60_000)


def test_a_task_that_is_not_learnt():
    with pytest.raises(CheckError, match=r"Catch-v0 is not learnt: 0.9 was required, the seeds ended at"):
        testing.check_learns("Catch-v0", 0.9, steps=300)


# Mathematics


def cubes(x):
    return float((x**3).sum()), 3 * x**2


def test_a_wrong_gradient_is_found():
    at = np.random.default_rng(1).standard_normal(50)
    testing.check_gradients(cubes, at)
    with pytest.raises(CheckError, match=r"the gradient says .* for a step in a random direction"):
        testing.check_gradients(lambda x: (cubes(x)[0], 3 * x**2 * (np.arange(x.size) > 7)), at)
    with pytest.raises(CheckError, match=r"the gradient has shape \(49,\): its argument has \(50,\)"):
        testing.check_gradients(lambda x: (cubes(x)[0], 3 * x[1:] ** 2), at)


@given(data=st.data())
@settings(max_examples=40)
def test_gradients_of_networks(data):
    space = data.draw(st.sampled_from([BOX, spaces.Box(0, 255, (9, 8, 2), np.uint8)]))
    table = data.draw(testing.layer_tables(space, recurrent=False))
    smooth = layers_from_list([["tanh" if part == "relu" else part for part in row] for row in layers_to_list(table)])
    network = Network(smooth, Observations(space), {"policy": 3, "value": 1})
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    seen = rng.standard_normal(network.observations.size)
    weights = {"policy": rng.standard_normal(3), "value": rng.standard_normal(1)}
    loss = testing.network_loss(network, seen, weights)
    testing.check_gradients(loss, network.initial(1, "orthogonal") + 0.05)
    outputs = testing.outputs(network, network.initial(1), seen)
    total = sum(float(outputs[name] @ weights[name].astype(np.float32)) for name in weights)
    assert loss(network.initial(1))[0] == pytest.approx(total, rel=1e-3, abs=1e-4)


def lambda_off_by_one(rewards, discounts, values, last_value, *, ended, end_values, gae_lambda):
    """V of the step itself instead of the next one."""
    R, found = last_value, np.zeros(len(rewards))
    for t in range(len(rewards) - 1, -1, -1):
        if ended[t]:
            R = end_values[t]
        R = rewards[t] + discounts[t] * ((1 - gae_lambda) * values[t] + gae_lambda * R)
        found[t] = R
    return found


@given(case=testing.returns_cases())
def test_returns_are_by_their_definition(case):
    testing.check_returns(testing.returns, case)


def test_a_lambda_that_is_off_by_one_is_found():
    @given(case=testing.returns_cases())
    @settings(database=None)
    def check(case):
        testing.check_returns(lambda_off_by_one, case)

    with pytest.raises(CheckError, match=r"the return of step 0 is .*: by its definition it is"):
        check()


@given(
    logits=st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=6), advantage=st.floats(-5, 5, width=32),
    weight=st.floats(0, 1, width=32), data=st.data(),
)  # fmt: skip
def test_losses_have_the_gradients_that_they_say(logits, advantage, weight, data):
    action = data.draw(st.integers(0, len(logits) - 1))

    def categorical(x):
        return testing.categorical_loss(x, action, advantage, weight)

    def gaussian(x):
        mean, s = np.split(x, 2)
        loss, dmean, ds = testing.gaussian_loss(mean, s, np.full(mean.shape, 0.3), advantage, weight)
        return loss, np.concatenate([dmean, ds])

    def q(x):
        return testing.q_loss(x, action, advantage)

    at = np.array(logits, np.float32)
    for function, x in ((categorical, at), (q, at), (gaussian, np.concatenate([at, at / 5 + 0.5]))):
        testing.check_gradients(function, x, step=0.1, tolerance=0.1)
    loss, gradient = testing.value_loss(2.0, 5.0, 0.5)
    assert (loss, gradient) == (0.5 * 9 / 2, -0.5 * 3)


# Strategies


@given(data=st.data())
def test_what_is_drawn_is_of_its_space(data):
    space = data.draw(strategies.observation_spaces)
    assert space.contains(data.draw(testing.observations(space)))
    actions = data.draw(strategies.action_spaces)
    action = data.draw(testing.actions(actions))
    assert actions.contains(action) or actions.dtype == np.float16


@pytest.mark.parametrize("environment", ["CartPole-v1", "Pendulum-v1", "Bricks-v0", Sound], ids=str)
def test_settings_that_are_drawn_can_be_run(environment):
    @given(config=testing.configurations(environment))
    @settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
    def check(config):
        learner = Learner(config, None if isinstance(environment, str) else environment)
        learner.attach(0)
        try:
            assert learner.loop(0, 2) >= 0
            assert np.isfinite(learner.shared.theta).all()
        finally:
            for instance in learner.instances[0]:
                instance.close()

    check()


@pytest.mark.parametrize("environment", ["Catch-v0", Sound, "Taxi-v4"], ids=str)
def test_episodes_that_are_drawn(environment):
    space = envs.make(environment)

    @given(course=testing.episodes(environment))
    @settings(max_examples=20)
    def check(course):
        assert course[0].action is None
        assert not any(step.terminated or step.truncated for step in course[:-1])
        assert all(step.observation.shape == space.observations.shape for step in course)

    check()


def test_what_fails_shrinks_to_little():
    @given(case=testing.returns_cases())
    @settings(database=None)
    def check(case):
        assert not case.ended.any()

    with pytest.raises(AssertionError) as found:
        check()
    assert "rewards=array([0.], dtype=float32)" in str(found.value.__notes__)


def test_one_example_takes_little_time():
    """The median of each strategy, after the first, is told; the contract's 20 ms are not for a busy machine."""
    layout = Network((Dense(64),), Observations(BOX), {"policy": 3, "value": 1}).layout
    drawn = {
        "layer_tables": testing.layer_tables(BOX), "observations": testing.observations(BOX),
        "actions": testing.actions(spaces.Discrete(3)), "configurations": testing.configurations("CartPole-v1"),
        "episodes": testing.episodes("CartPole-v1"), "returns_cases": testing.returns_cases(),
        "parameters": testing.parameters(layout),
    }  # fmt: skip
    times = {}
    for name, strategy in drawn.items():
        seconds = []

        @given(strategy)
        @settings(max_examples=30, database=None, suppress_health_check=list(HealthCheck))
        def draw(value):
            seconds.append(time.perf_counter())  # noqa: B023 - called within this turn

        draw()
        times[name] = statistics.median(np.diff(seconds))
    print({name: f"{1000 * median:.1f} ms" for name, median in times.items()})
    assert len(times) == 7


# Machines


TestTrainer = testing.trainer_machine("Catch-v0").TestCase
TestTrainer.settings = settings(max_examples=6, stateful_step_count=12, deadline=None)
TestLearner = testing.online_learner_machine("CartPole-v1", network=[["dense", 4]]).TestCase
TestLearner.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
TestContinuousLearner = testing.online_learner_machine("Pendulum-v1", network=[["lstm", 4]]).TestCase
TestContinuousLearner.settings = settings(max_examples=8, stateful_step_count=25, deadline=None)


def test_the_profile():
    before = hypothesis.settings.default
    testing.load_profile(["a3c"])
    try:
        assert hypothesis.settings.default.deadline.total_seconds() == 0.5
    finally:
        hypothesis.settings.register_profile("before", before)
        hypothesis.settings.load_profile("before")


def test_importing_nbrl_does_not_import_it():
    program = (
        "import sys, nbrl, nbrl.trainer; assert 'nbrl.testing' not in sys.modules and 'hypothesis' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_masks_are_read():
    @numba.cfunc("int32(CPointer(int64), uint64, CPointer(float32), CPointer(uint8), int64)")
    def reset(state, seed, observation, mask, alive):
        row = carray(mask, 2)
        row[0], row[1] = 0, 0
        observation[0], observation[1] = 0, 0
        return STEPPED

    environment = native(sound_step, reset=reset, action_mask=True)
    with pytest.raises(CheckError, match="mine: reset gave a mask that allows no action"):
        testing.check_environment(environment)
    assert configure(environment).environment == "<mine>"
