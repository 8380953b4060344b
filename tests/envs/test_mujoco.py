"""MuJoCo tasks in compiled code against gymnasium's environments."""

import gc
import importlib.metadata
import logging
import os
import subprocess
import sys
import threading

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbrl import envs, train
from nbrl.envs import mujoco
from nbrl.envs.gym import GymEnvironment
from nbrl.envs.interface import STEPPED, TERMINATED, TRUNCATED, EnvStepper
from nbrl.registration import MUJOCO

engine = pytest.importorskip("mujoco")
if not mujoco.works():
    pytest.skip("MuJoCo is not of a known version", allow_module_level=True)

from nbrl.envs.mujoco.environment import MujocoEnvironment  # noqa: E402
from nbrl.envs.mujoco.physics import SAVED  # noqa: E402
from nbrl.envs.mujoco.tasks import TASKS  # noqa: E402

SEEDS = st.integers(0, 2**64 - 1)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo's log of gymnasium's environments goes here


def reference_of(name):
    return gymnasium.make(name, disable_env_checker=True)


def physics_of(player, model):
    """Positions and velocities."""
    row = np.frombuffer(player.instance.save(), np.float64)[SAVED:].copy()
    data = engine.MjData(model)
    engine.mj_setState(model, data, row, engine.mjtState.mjSTATE_INTEGRATION)
    return data.qpos.copy(), data.qvel.copy()


def start_alike(player, reference, seed):
    """Reset both, the reference to the player's start; the first observation."""
    observation = player.reset(seed)
    reference.reset(seed=0)
    inner = reference.unwrapped
    positions, velocities = physics_of(player, inner.model)
    engine.mj_resetData(inner.model, inner.data)
    inner.set_state(positions, velocities)
    np.testing.assert_array_equal(observation, inner._get_obs().astype(np.float32))
    return observation


def compare(name, steps, seed):
    """Both from equal starts under equal actions, many episodes; how episodes ended."""
    player, reference = EnvStepper(envs.make(name)), reference_of(name)
    inner, space = reference.unwrapped, reference.action_space
    rng = np.random.default_rng(seed)
    ends = []
    while steps > 0:
        start_alike(player, reference, int(rng.integers(2**63)))
        scale = rng.choice([0.0, 0.1, 0.5, 1.4])  # beyond the bounds too; a robot that does little stands longer
        status = 0
        while not status & (TERMINATED | TRUNCATED) and steps > 0:
            steps -= 1
            action = (scale * rng.uniform(space.low, space.high)).astype(np.float32)
            observation, reward, status = player.step(action)
            expected, expected_reward, terminated, truncated, _ = reference.step(np.clip(action, space.low, space.high))
            positions, velocities = physics_of(player, inner.model)
            np.testing.assert_array_equal(positions, inner.data.qpos)
            np.testing.assert_array_equal(velocities, inner.data.qvel)
            np.testing.assert_allclose(observation, expected.astype(np.float32), rtol=1e-6, atol=1e-7)
            assert reward == pytest.approx(float(expected_reward), rel=1e-6, abs=1e-6)
            assert status == STEPPED | (TERMINATED if terminated else 0) | (TRUNCATED if truncated else 0)
        ends.append(status)
    return ends


@pytest.mark.parametrize("name", MUJOCO)
def test_steps_are_gymnasiums(name):
    compare(name, 600, 0)


@pytest.mark.parametrize("name", ["InvertedPendulum-v5", "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"])
def test_a_policy_that_was_trained_here_plays_the_same_episode_in_gymnasium(name):
    agent = train(name, steps=20_000, threads=1, seed=1)
    player, reference = EnvStepper(envs.make(name)), reference_of(name)
    seen = there = start_alike(player, reference, 5)
    total = total_there = 0.0
    status = 0
    while not status & (TERMINATED | TRUNCATED):
        action = agent.act(seen, greedy=True)
        np.testing.assert_array_equal(action, agent.act(there, greedy=True))
        seen, reward, status = player.step(action)
        there, reward_there, terminated, truncated, _ = reference.step(action)
        total, total_there = total + reward, total_there + float(reward_there)
        assert bool(status & (TERMINATED | TRUNCATED)) == (terminated or truncated)
    assert total == pytest.approx(total_there, rel=1e-5, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", MUJOCO)
def test_thousands_of_steps_are_gymnasiums(name):
    ends = compare(name, 6000, 1)
    falls = name not in ("Reacher-v5", "Pusher-v5", "Swimmer-v5", "HalfCheetah-v5", "HumanoidStandup-v5")
    assert any(status & TERMINATED for status in ends) == falls
    assert falls or any(status & TRUNCATED for status in ends)


@pytest.mark.parametrize("name", MUJOCO)
def test_the_description_is_gymnasiums(name):
    ours, reference = envs.make(name), reference_of(name)
    assert isinstance(ours, MujocoEnvironment)
    assert (ours.name, ours.observations.layout) == (name, "vector")
    assert ours.observations.shape == reference.observation_space.shape
    np.testing.assert_array_equal(ours.actions.bounds[2], reference.action_space.low)
    np.testing.assert_array_equal(ours.actions.bounds[3], reference.action_space.high)
    assert TASKS[name].time_limit == reference.spec.max_episode_steps


@pytest.mark.parametrize("name", MUJOCO)
def test_the_time_limit_truncates_and_outlives_a_restored_state(name):
    player = EnvStepper(envs.make(name))
    limit = TASKS[name].time_limit
    player.reset(3)
    saved = np.frombuffer(player.instance.save(), np.int64).copy()
    saved[1] = limit - 2  # the steps so far
    player.instance.load(saved.tobytes())
    nothing = np.zeros_like(player._action)
    assert not player.step(nothing)[2] & TRUNCATED
    assert player.step(nothing)[2] & TRUNCATED


@pytest.mark.parametrize("name", MUJOCO)
def test_resets_have_gymnasiums_distribution(name):
    player, reference = EnvStepper(envs.make(name)), reference_of(name)
    inner, count = reference.unwrapped, 1000
    ours, theirs = [], []
    for seed in range(count):
        player.reset(seed)
        ours.append(np.concatenate(physics_of(player, inner.model)))
        reference.reset(seed=seed)
        theirs.append(inner.state_vector())
    ours, theirs = np.array(ours), np.array(theirs)
    for mine, other in zip(ours.T, theirs.T, strict=True):
        values = np.sort(np.concatenate([mine, other]))
        shares = [np.searchsorted(np.sort(sample), values, side="right") / count for sample in (mine, other)]
        # Kolmogorov and Smirnov: once in 50,000 for equal distributions.
        assert np.abs(shares[0] - shares[1]).max() < 2.4 * np.sqrt(2 / count)
        assert len(np.unique(mine)) in (1, count)
    positions = ours[:, : inner.model.nq]
    if name == "Reacher-v5":
        assert np.linalg.norm(positions[:, -2:], axis=1).max() < 0.2
    elif name == "Pusher-v5":
        assert np.linalg.norm(positions[:, -4:-2], axis=1).min() > 0.17
    else:
        assert np.abs(positions - inner.init_qpos).max() <= TASKS[name].noise


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Pusher-v5"])
def test_seeds_decide_everything(name):
    environment = envs.make(name)
    first, second = EnvStepper(environment), EnvStepper(environment)
    actions = np.random.default_rng(0).uniform(-1, 1, (20, *environment.actions.shape))

    def episode(player, seed):
        return np.array([player.reset(seed), *(player.step(action)[0] for action in actions)])

    once = episode(first, 5)
    episode(second, 6)
    np.testing.assert_array_equal(episode(second, 5), once)
    assert not np.array_equal(episode(first, 6), once)


@settings(max_examples=12)
@given(seed=SEEDS, at=st.integers(0, 40), elsewhere=st.sampled_from(["same", "other", "new"]))
@pytest.mark.parametrize("name", ["InvertedDoublePendulum-v5", "HalfCheetah-v5", "Ant-v5", "Humanoid-v5"])
def test_a_restored_state_goes_on_to_the_bit(name, seed, at, elsewhere):
    environment = envs.make(name)
    player, other = EnvStepper(environment), EnvStepper(environment)
    low, high = environment.actions.bounds[2:]
    actions = np.random.default_rng(0).uniform(low, high, (at + 15, *low.shape))
    player.reset(seed)
    for action in actions[:at]:
        player.step(action)
    saved = player.instance.save()
    once = [player.step(action) for action in actions[at:]]
    if elsewhere == "same":
        other = player
    elif elsewhere == "other":
        other.reset(0)
        other.step(actions[0])
    other.instance.load(saved)
    assert other.instance.save() == saved
    for (observation, *rest), action in zip(once, actions[at:], strict=True):
        again, *others = other.step(action)
        np.testing.assert_array_equal(again, observation)
        assert others == rest


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Ant-v5"])
def test_threads_side_by_side_change_nothing(name):
    environment = envs.make(name)
    actions = np.random.default_rng(0).uniform(-1, 1, (300, *environment.actions.shape))

    def episode(seed, results):
        player = EnvStepper(environment)
        results[seed] = np.array([player.reset(seed), *(player.step(action)[0] for action in actions)])

    alone, together = {}, {}
    for seed in range(2):
        episode(seed, alone)
    threads = [threading.Thread(target=episode, args=(seed, together)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(2):
        np.testing.assert_array_equal(alone[seed], together[seed])


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_closing_frees_everything():
    environment = envs.make("HalfCheetah-v5")

    def use(times):
        for _ in range(times):
            player = EnvStepper(environment)
            player.reset(0)
            player.step(np.zeros(6))
            player.close()
        gc.collect()

    use(100)
    before = resident_bytes()
    use(1000)  # each has half a megabyte of model alone
    assert resident_bytes() - before < 20e6


def test_nothing_works_before_a_reset_or_after_closing():
    player = EnvStepper(envs.make("Hopper-v5"))
    with pytest.raises(RuntimeError, match="status 0"):
        player.step(np.zeros(3))
    player.reset(0)
    player.close()
    for use in (lambda: player.reset(0), lambda: player.step(np.zeros(3))):
        with pytest.raises(RuntimeError, match="status 0"):
            use()
    with pytest.raises(RuntimeError, match="could not save"):
        player.instance.save()
    with pytest.raises(RuntimeError, match="could not load"):
        player.instance.load(bytes(player.instance.saved_size))
    player.close()


def test_an_action_that_is_no_number_fails_and_changes_nothing():
    player = EnvStepper(envs.make("Walker2d-v5"))
    player.reset(0)
    player.step(np.ones(6))
    saved = player.instance.save()
    with pytest.raises(RuntimeError, match="status 0"):
        player.step([0, 0, np.nan, 0, 0, 0])
    assert player.instance.save() == saved
    observation, reward, _ = player.step(np.full(6, np.inf))
    player.instance.load(saved)
    again, reward_again, _ = player.step(np.ones(6))
    np.testing.assert_array_equal(again, observation)
    assert reward_again == reward


BAD_PHYSICS = """
import os, sys
import numpy as np
from nbrl import envs, registration, train
from nbrl.envs.interface import EnvStepper
from nbrl.envs.mujoco.physics import SAVED

def fails(call, *arguments):
    try:
        call(*arguments)
    except RuntimeError as error:
        assert "status 0" in str(error)
        return True
    return False

for name in registration.MUJOCO:
    environment = envs.make(name)
    player, nothing = EnvStepper(environment), np.zeros(environment.actions.shape)
    model = environment._model.model
    player.reset(0)
    fine = player.instance.save()
    for place in (1, 1 + model.nq):  # after the time, of positions and of velocities
        for bad in (np.nan, np.inf, 1e12):
            row = np.frombuffer(fine, np.float64).copy()
            row[SAVED + place] = bad
            player.instance.load(row.tobytes())
            assert fails(player.step, nothing), (name, place, bad)
            assert fails(player.step, nothing)
    player.instance.load(fine)
    player.step(nothing)
    player.reset(1)
    player.step(nothing)

environment = envs.make("HalfCheetah-v5")
environment._model.model.opt.integrator = 99  # the engine raises an error that would end the process
player = EnvStepper(environment)
player.reset(0)
assert fails(player.step, np.zeros(6))
assert fails(player.step, np.zeros(6))
player.reset(0)
assert os.listdir(".") == []
print("alive")
"""


def test_bad_physics_fails_without_a_word_and_without_an_end(tmp_path, environment_variables):
    process = subprocess.run(
        [sys.executable, "-c", BAD_PHYSICS], cwd=tmp_path, env=environment_variables, capture_output=True, text=True
    )
    assert (process.stdout, process.stderr, process.returncode) == ("alive\n", "", 0)
    assert os.listdir(tmp_path) == []


def test_gymnasium_runs_what_is_not_known_or_is_to_be_drawn(monkeypatch, caplog):
    assert isinstance(envs.make("HalfCheetah-v5", pictures=True), GymEnvironment)
    with pytest.warns(DeprecationWarning, match="out of date"):
        assert isinstance(envs.make("HalfCheetah-v4"), GymEnvironment)
    assert isinstance(envs.make(lambda: reference_of("Hopper-v5")), GymEnvironment)
    mujoco.works.cache_clear()
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "3.9.9")
    try:
        with caplog.at_level(logging.INFO, logger="nbrl"):
            assert isinstance(envs.make("Hopper-v5"), GymEnvironment)
            assert isinstance(envs.make("Swimmer-v5"), GymEnvironment)
            assert "Hopper-v5" in envs.names()["gymnasium"]
    finally:
        mujoco.works.cache_clear()
    (record,) = caplog.records
    assert "mujoco 3.9.9 with gymnasium" in record.message


def test_without_mujoco_gymnasium_says_what_is_missing(monkeypatch):
    mujoco.works.cache_clear()
    monkeypatch.setitem(sys.modules, "mujoco", None)
    try:
        assert not mujoco.works()
        assert not set(envs.names()["native"]) & set(MUJOCO)
    finally:
        mujoco.works.cache_clear()


def test_names_are_the_tasks():
    assert sorted(TASKS) == list(MUJOCO)
    assert set(MUJOCO) <= set(envs.names()["native"])
    assert not set(MUJOCO) & set(envs.names()["gymnasium"])
