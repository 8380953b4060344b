"""Deterministic policy gradient: targets and gradients worked out by hand, slopes, noise, and what stops a loop.

By hand, observation number i is row i of the identity matrix, and the one layer of each part passes on what it gets:

    mu(i; theta)    0.5 for even i, -0.25 for odd ones        Q(i, a; theta)    10 (i + 1) + 4 a
    mu(i; theta^-)  0.5                                       Q(i, a; theta^-)  100 (i + 1) - 40 + 80 a

so Q(i, mu(i; theta^-); theta^-) is 100 (i + 1), and with theta's mu or Q it would be something else.
"""

import math

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import Loop
from oracles import CUT, TERMINATED, TRUNCATED
from policies import observed
from strategies import near_multiples, seeds
from told import FAIL, NOT_FINITE, OBSERVATIONS, REWARDS, Told

from nbrl import Dense, configure
from nbrl.envs.interface import EnvSpec
from nbrl.learner import Learner
from nbrl.methods import dpg, driver, state
from nbrl.methods.dpg import noise_scale
from nbrl.methods.replay import RETURN, START, WEIGHT, contents
from nbrl.nets.table import actions, observations, output_gradients

NUMBER = np.arange(OBSERVATIONS)
MU = np.where(NUMBER % 2, -0.25, 0.5)
MEMORY = {"buffer_size": 100, "learning_starts": 100, "batch_size": 4}


def told(ends, rewards=REWARDS, **settings):
    """A loop, not yet run, on steps with these ends; without a memory, unless `settings` says otherwise."""
    settings = {
        "buffer_size": 0, "optimiser": "shared_rmsprop", "learning_rate": 7e-4, "reward_clip": None, "discount": 0.5,
        "gradient_clip": 1e9, "seed": 3, "steps": 1000, "rollout_length": 5, "envs_per_batch": 1, "tau": None,
        "target_interval": 10**6, "network": (Dense(OBSERVATIONS + 1, "none"),), "actors": 1, "threads": 1,
    } | settings  # fmt: skip
    environment = Told(list(zip(rewards, ends, strict=True)), continuous=True)
    loop = Loop(configure(environment, method="dpg", **settings), environment)
    for values in (loop.theta, loop.target):
        for array in values.values():
            array[...] = 0
        np.fill_diagonal(values["dense1/weights"], 1)
        np.fill_diagonal(values["q_dense1/weights"], 1)
    loop.theta["action/weights"][:-1, 0] = np.arctanh(MU)
    loop.theta["q/weights"][:, 0] = [*10.0 * (NUMBER + 1), 4]
    loop.target["action/weights"][:-1, 0] = np.arctanh(0.5)
    loop.target["q/weights"][:, 0] = [*100.0 * (NUMBER + 1) - 40, 80]
    return loop


# Every end, told apart: the numbers of the observations with their y where nothing is remembered, which are those of
# n-step Q; and with (R, w, number of s') where it is, s' only where w is not 0.
ENDS = [
    # Nothing ends: R_4 = 16, R_3 = 8 + 16 / 2, R_2 = 4 + 16 / 2, and so on; y has 600 besides, whose weight halves with
    # each step.
    (
        [0, 0, 0, 0, 0],
        {0: 23.75, 1: 45.5, 2: 87, 3: 166, 4: 316},
        {0: (5, 1 / 32, 5), 1: (8, 1 / 16, 5), 2: (12, 1 / 8, 5), 3: (16, 1 / 4, 5), 4: (16, 1 / 2, 5)},
    ),
    # Terminated at step 1. Observation 2 is the episode's last and 3 the next one's first.
    (
        [0, TERMINATED, 0, 0, 0],
        {0: 2, 1: 2, 3: 99.5, 4: 191, 5: 366},
        {0: (2, 0, None), 1: (2, 0, None), 3: (12, 1 / 8, 6), 4: (16, 1 / 4, 6), 5: (16, 1 / 2, 6)},
    ),
    # Truncated at step 1: y_1 = 2 + 300 / 2 with the last observation, 2, and not with the next one's first, 3.
    (
        [0, TRUNCATED, 0, 0, 0],
        {0: 77, 1: 152, 3: 99.5, 4: 191, 5: 366},
        {0: (2, 1 / 4, 2), 1: (2, 1 / 2, 2), 3: (12, 1 / 8, 6), 4: (16, 1 / 4, 6), 5: (16, 1 / 2, 6)},
    ),
    # Both: terminated wins.
    (
        [0, TERMINATED | TRUNCATED, 0, 0, 0],
        {0: 2, 1: 2, 3: 99.5, 4: 191, 5: 366},
        {0: (2, 0, None), 1: (2, 0, None), 3: (12, 1 / 8, 6), 4: (16, 1 / 4, 6), 5: (16, 1 / 2, 6)},
    ),
    # Cut at step 1: the return ends, but the episode goes on, without a reset.
    (
        [0, CUT, 0, 0, 0],
        {0: 2, 1: 2, 2: 87, 3: 166, 4: 316},
        {0: (2, 0, None), 1: (2, 0, None), 2: (12, 1 / 8, 5), 3: (16, 1 / 4, 5), 4: (16, 1 / 2, 5)},
    ),
    # On the rollout's last step: no bootstrap, the last observation's value, no bootstrap.
    (
        [0, 0, 0, 0, TERMINATED],
        {0: 5, 1: 8, 2: 12, 3: 16, 4: 16},
        {0: (5, 0, None), 1: (8, 0, None), 2: (12, 0, None), 3: (16, 0, None), 4: (16, 0, None)},
    ),
    (
        [0, 0, 0, 0, TRUNCATED],
        {0: 23.75, 1: 45.5, 2: 87, 3: 166, 4: 316},
        {0: (5, 1 / 32, 5), 1: (8, 1 / 16, 5), 2: (12, 1 / 8, 5), 3: (16, 1 / 4, 5), 4: (16, 1 / 2, 5)},
    ),
    (
        [0, 0, 0, 0, CUT],
        {0: 5, 1: 8, 2: 12, 3: 16, 4: 16},
        {0: (5, 0, None), 1: (8, 0, None), 2: (12, 0, None), 3: (16, 0, None), 4: (16, 0, None)},
    ),
    # Every step ends an episode: observations 1, 3, 5, 7, 9 are the last ones, of values 200, 400 and so on.
    (
        [TRUNCATED] * 5,
        {0: 101, 2: 202, 4: 304, 6: 408, 8: 516},
        {0: (1, 1 / 2, 1), 2: (2, 1 / 2, 3), 4: (4, 1 / 2, 5), 6: (8, 1 / 2, 7), 8: (16, 1 / 2, 9)},
    ),
]


@pytest.mark.parametrize(("ends", "y", "_"), ENDS, ids=lambda value: str(value) if isinstance(value, list) else "")
def test_targets_of_a_rollout(ends, y, _):
    loop = told(ends)
    assert loop.rollout() == driver.PAUSED
    a = loop.run.policies[0].action[:, 0, 0]
    # Of (y - Q)^2 / 2, a mean over 5 steps: (Q - y) / 5 times what the head reads, the observation and then a.
    gradient, seen = loop.dtheta["q/weights"][:, 0], sorted(y)
    q = 10.0 * (np.array(seen) + 1) + 4 * a
    assert gradient[:-1].nonzero()[0].tolist() == seen
    assert q - 5 * gradient[seen] == pytest.approx(np.array([y[i] for i in seen]), rel=1e-5)
    assert gradient[-1] == pytest.approx(sum(gradient[seen] * a), rel=1e-4)


@pytest.mark.parametrize(("ends", "_", "rows"), ENDS, ids=lambda value: str(value) if isinstance(value, list) else "")
def test_what_is_remembered_of_a_rollout(ends, _, rows):
    loop = told(ends, **MEMORY)
    assert loop.rollout() == driver.PAUSED
    (method, policy, _, _), found = loop.run.arguments(0), {}
    for row, a in zip(contents(method.replay, 5), policy.action[:, 0, 0], strict=True):
        s, s_next = row[START : START + OBSERVATIONS], row[-OBSERVATIONS:]
        assert row[START + OBSERVATIONS] == a
        assert s.sum() == s_next.sum() == s.max() == s_next.max() == 1
        number = int(s_next.argmax()) if row[WEIGHT] else None
        found[int(s.argmax())] = (row[RETURN], row[WEIGHT], number)
    assert found == rows
    assert loop.run.shared.updates[0] == 0
    assert loop.trainer.steps == 5


def test_the_actor_s_gradient_by_hand():
    # -dQ/da is -4 whatever a is, dmu/d(action weights) is 1 - mu^2 for the number that was seen: means over 5 steps.
    loop = told([0, 0, TERMINATED, 0, 0])
    loop.rollout()
    seen = [0, 1, 2, 4, 5]
    slope = np.zeros(OBSERVATIONS)
    slope[seen] = -4 / 5 * (1 - MU[seen] ** 2)
    assert loop.dtheta["action/weights"][:-1, 0] == pytest.approx(slope, rel=1e-5)
    assert loop.dtheta["action/bias"][0] == pytest.approx(slope.sum(), rel=1e-5)
    below = np.outer(slope, np.append(np.arctanh(MU), 0))
    assert loop.dtheta["dense1/weights"] == pytest.approx(below, rel=1e-4, abs=1e-6)
    # And what is reported: the mean of -Q(s, mu(s)), of (y - Q)^2 / 2, and the number of samples.
    sums = loop.run.workers[0].sums
    assert sums[state.SAMPLES] == 5
    assert sums[dpg.POLICY_LOSS] == pytest.approx(-sum(10 * (i + 1) + 4 * MU[i] for i in seen), rel=1e-6)
    q = 10.0 * (np.array(seen) + 1) + 4 * loop.run.policies[0].action[:, 0, 0]
    # R_2 = 4, R_1 = 2 + 4 / 2, R_0 = 1 + 4 / 2; R_4 = 16 + 700 / 2, R_3 = 8 + 366 / 2
    assert sums[dpg.VALUE_LOSS] == pytest.approx(((q - [3, 4, 4, 191, 366]) ** 2).sum() / 2, rel=1e-5)


# Gradients against slopes


@st.composite
def learners(draw):
    """A learner without a memory, on vectors of any length, with a smooth network."""
    size, parts, samples = draw(near_multiples(20)), draw(st.integers(1, 5)), draw(near_multiples(20))
    table = draw(
        st.lists(st.builds(Dense, near_multiples(30), st.sampled_from(["tanh", "none"])), min_size=1, max_size=3)
    )
    environment = EnvSpec("any", observed((size,)), spaces.Box(-1.0, 1.0, (parts,), np.float32))
    config = configure(
        environment, method="dpg", network=table, buffer_size=0, actors=1, envs_per_batch=1, threads=1,
        rollout_length=samples, seed=draw(seeds), learning_rate=1e-12,
        initialisation=draw(st.sampled_from(["uniform", "orthogonal"])),
    )  # fmt: skip
    return Learner(config, environment)


@given(learner=learners(), seed=seeds)
@settings(max_examples=60)
def test_gradients_are_slopes(learner, seed):
    """The actor's is that of the mean Q(s, mu(s)) downhill, the critic's that of the mean squared error.

    Both along a random direction of unit length, by (f(+h) - f(-h)) / 2h of the network's own outputs. f is uncertain
    by about 1e-6 of its terms and bends by h^2 times its third derivative: at h = 0.02 both leave 1e-3.
    """
    (method, _, shared, worker), rng = learner.arguments(0), np.random.default_rng(seed)
    work, names = worker.work, learner.network.layout
    count, q_row = worker.rollout.reward.size, learner.network.head("q")
    theta = shared.theta.copy()
    both, y = observations(work, 0, count), rng.standard_normal(count).astype(np.float32)
    both[...] = rng.uniform(-1, 1, both.shape)
    a = actions(work, 0, count).copy()

    def mean_q():
        q = dpg._q_of_mu(work, 0, count).astype(float)
        return -q.mean(), np.abs(q).mean()

    def error():
        half = len(work.table) // 2
        actions(work, 0, count)[...] = a
        dpg.forward_part(work, half, 2 * half, 0, count)
        errors = (y - dpg.outputs(work, q_row, 0, count)[:, 0].astype(float)) ** 2 / 2
        return errors.mean(), errors.mean()

    work.theta[:] = theta
    output_gradients(work, q_row, 0, count)[:, 0] = y
    assert dpg._update(method, shared, worker, 0, count) == driver.GO_ON
    gradient = work.dtheta.astype(float)
    for part, function in (("actor", mean_q), ("critic", error)):
        direction = np.zeros_like(theta)
        for name, view in names.views(direction).items():
            if name.startswith("q") == (part == "critic"):
                view[...] = rng.standard_normal(view.shape)
        direction /= np.linalg.norm(direction)
        step, values = 0.02, []
        for side in (1, -1):
            work.theta[:] = theta + np.float32(side * step) * direction
            values.append(function())
        (above, magnitude), (below, _) = values
        own = np.linalg.norm(gradient[direction != 0])
        noise = 1e-6 * (magnitude + 1) / step
        assert gradient @ direction == pytest.approx((above - below) / (2 * step), abs=noise + 2e-3 * own), part


# Exploration


def test_actors_explore_by_falling_scales():
    scales = [noise_scale(0.4, actor, 5) for actor in range(5)]
    assert scales[0] == 0.4
    assert scales[-1] == pytest.approx(0.04)
    assert np.diff(np.log(scales)) == pytest.approx([math.log(0.1) / 4] * 4)
    assert noise_scale(0.4, 0, 1) == 0.4
    loop = told([0] * 5, actors=6, envs_per_batch=2, threads=2, noise_std=0.5)
    for method, actors in zip(loop.run.methods, loop.run.actors, strict=True):
        assert method.std.tolist() == [noise_scale(0.5, actor, 6) for actor in actors.tolist()]


def motions(loop, count):
    """All actions of the single actor in some rollouts, (steps,)."""
    found = []
    for _ in range(count):
        assert loop.rollout() == driver.PAUSED
        found.append(loop.run.policies[0].action[:, 0, 0].copy())
    return np.concatenate(found)


def test_each_actor_s_noise_is_its_own_scale():
    loop = told([0] * 5, actors=4, envs_per_batch=2, threads=1, noise_std=0.4, learning_rate=1e-12, steps=10**6)
    loop.run.shared.theta[:] = 0  # so is the policy's action
    actions = [[] for _ in range(4)]
    for number in range(400):
        loop.rollout()
        for i in range(2):
            actions[2 * (number % 2) + i] += loop.run.policies[0].action[:, i, 0].tolist()
    for actor, taken in enumerate(actions):
        scale = noise_scale(0.4, actor, 4)
        kept = np.clip(
            np.random.default_rng(actor).normal(scale=scale, size=100_000), -1, 1
        ).std()  # beyond 1 it is cut
        assert np.std(taken) == pytest.approx(kept, abs=5 * scale / math.sqrt(2 * len(taken)))  # five deviations


def test_actions_are_the_policy_s_and_noise_within_the_bounds():
    # With a learning rate near 0 mu stays what it is; observations come in turn, even and odd, without an end.
    loop = told([0] * 5, noise_std=0.2, learning_rate=1e-12, steps=10**6)
    noise = motions(loop, 800) - np.tile(MU, 125)
    assert abs(noise.mean()) < 5 * 0.2 / math.sqrt(noise.size)  # five standard deviations, and of a variance as well
    # Beyond 1, 2.5 standard deviations above 0.5, noise is cut: of odd observations only some 1e-10.
    assert noise[1::2].std() == pytest.approx(0.2, abs=5 * 0.2 / math.sqrt(noise.size))
    wide = motions(told([0] * 5, noise_std=3.0, learning_rate=1e-12, steps=10**6), 800)
    assert np.abs(wide).max() == 1
    cut = np.mean([math.erfc((1 - mu) / 3 / math.sqrt(2)) / 2 for mu in MU])
    assert (wide == 1).mean() == pytest.approx(cut, abs=5 * math.sqrt(cut * (1 - cut) / wide.size))
    none = motions(told([0] * 5, noise_std=0.0, learning_rate=1e-12, steps=10**6), 800)
    assert none == pytest.approx(np.tile(MU, 125), abs=1e-5)


def test_actions_are_any_while_a_memory_warms_up():
    settings = {"buffer_size": 3000, "learning_starts": 3000, "batch_size": 4, "noise_std": 0.0}
    loop = told([0] * 5, learning_rate=1e-12, steps=10**6, **settings)
    first = motions(loop, 599)
    assert loop.run.shared.updates[0] == 0
    first = np.concatenate([first, motions(loop, 1)])
    assert loop.run.shared.updates[0] == 5  # 3000 steps are there
    # Uniform in [-1, 1): a mean of 0, a mean square of 1/3, and all of eight bins the same; five standard deviations.
    assert abs(first.mean()) < 5 / math.sqrt(3 * 3000)
    assert (first**2).mean() == pytest.approx(1 / 3, abs=5 * math.sqrt(4 / 45 / 3000))
    counts = np.histogram(first, 8, (-1, 1))[0]
    assert np.abs(counts - 375).max() < 5 * math.sqrt(375 * 7 / 8)
    assert motions(loop, 2) == pytest.approx(MU[np.arange(3000, 3010) % 32], abs=1e-5)


# Updates


@pytest.mark.parametrize("rate", [1.0, 0.4, 2.5])
@pytest.mark.parametrize("length", [1, 3])
def test_updates_from_a_memory_keep_pace_with_steps(rate, length):
    settings = {
        "buffer_size": 64,
        "learning_starts": 6,
        "batch_size": 6,
        "updates_per_step": rate,
        "rollout_length": length,
    }
    loop = told([0] * 5, **settings)
    for number in range(1, 30):
        assert loop.rollout() == driver.PAUSED
        steps, before = number * length, 6 - length  # nothing is learnt until 6 steps are there
        expected = math.floor(steps * rate) - math.floor(before * rate) if steps >= 6 else 0
        assert int(loop.run.shared.updates[0]) == expected
        assert loop.run.workers[0].sums[state.SAMPLES] == 6 * expected
        assert loop.trainer.steps == steps


def test_the_target_networks_approach_the_others():
    loop = told([0] * 5, tau=0.25, learning_rate=0.1)
    before = {name: array.copy() for name, array in loop.target.items()}
    loop.rollout()
    for name, array in loop.target.items():
        assert array == pytest.approx(before[name] + 0.25 * (loop.theta[name] - before[name]), rel=1e-5, abs=1e-6)
    assert not np.array_equal(loop.target["q/weights"], before["q/weights"])


def test_the_target_networks_are_copied_by_the_interval():
    loop = told([0] * 5, target_interval=10, learning_rate=0.1)
    before = loop.run.shared.target.copy()
    loop.rollout()
    assert np.array_equal(loop.run.shared.target, before)
    loop.rollout()
    assert np.array_equal(loop.run.shared.target, loop.run.shared.theta)


# What stops a loop, and what is refused


@pytest.mark.parametrize("memory", [{}, MEMORY | {"learning_starts": 5}], ids=["rollouts", "memory"])
@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ([0, 0, FAIL, 0, 0], driver.FAILED_ENVIRONMENT),
        ([0, NOT_FINITE, 0, 0, 0], driver.BAD_OBSERVATION),
        ([0, TRUNCATED | NOT_FINITE, 0, 0, 0], driver.BAD_OBSERVATION),
        ([0, 0, 0, 0, NOT_FINITE], driver.BAD_OBSERVATION),
    ],
    ids=["fails", "observation", "last observation", "observation after the rollout"],
)
def test_what_cannot_be_used_never_reaches_arrays_that_stay(ends, code, memory):
    loop = told([0] * 5 + ends, rewards=REWARDS * 2, **memory)
    assert loop.rollout() == driver.PAUSED
    shared, replay = loop.run.shared, loop.run.methods[0].replay
    before = [shared.theta.copy(), shared.target.copy(), shared.updates.copy(), contents(replay, 5)]
    assert loop.rollout() == code
    after = [shared.theta, shared.target, shared.updates, contents(replay, 5)]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert len(after[-1]) == (5 if memory else 0)
    assert loop.trainer.steps == 5


@pytest.mark.parametrize("memory", [{}, MEMORY | {"learning_starts": 5}], ids=["rollouts", "memory"])
@pytest.mark.parametrize("network", ["theta", "target"])
def test_values_beyond_float32_never_reach_the_shared_arrays(memory, network):
    loop = told([0] * 5, **memory)
    getattr(loop, network)["q/weights"][:, 0] = 1e30
    shared = loop.run.shared
    before = shared.theta.copy(), shared.target.copy()
    assert loop.rollout() == driver.BAD_GRADIENT
    assert np.array_equal(shared.theta, before[0])
    assert np.array_equal(shared.target, before[1])
    assert not shared.optimiser.any()


def test_a_stop_ends_many_updates():
    loop = told([0] * 5, **MEMORY | {"learning_starts": 5, "updates_per_step": 100.0})
    loop.run.shared.control[0] = state.ABANDON  # as it stands while a rollout learns; the next one would not begin
    method, policy, shared, worker = loop.run.arguments(0)
    worker.rollout.ended[:] = True
    method.replay.written = 5
    assert driver.finish_rollout(method, policy, shared, worker, 0) == driver.ABANDONED
    assert shared.updates[0] == 1
    assert loop.trainer.steps == 0


def any_environment(observation, action, dtype=np.float32):
    return EnvSpec("host", observed(observation, np.dtype(dtype).name), action)


BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)


@pytest.mark.parametrize(
    ("environment", "settings", "sentence"),
    [
        (
            any_environment((3,), spaces.Discrete(2)),
            {},
            "host has discrete actions: dpg takes an environment with continuous ones",
        ),
        (any_environment((3, 20, 20), BOX, np.uint8), {}, "dpg takes vectors, and host gives images"),
        (
            any_environment((3,), BOX),
            {"network": [["dense", 8], ["lstm", 8]]},
            r"layer 2 of the network is Lstm\(units=8\): a deterministic policy takes dense layers alone",
        ),
        (
            any_environment((3,), BOX),
            {"batch_size": 2000},
            "batch_size is 2000: it must be at most learning_starts, the 1000 steps that are in the replay memory when "
            "learning begins",
        ),
        (
            any_environment((3,), BOX),
            {"buffer_size": 900},
            "learning_starts is 1000: it must be at most buffer_size, the 900 steps that the replay memory holds",
        ),
        (
            any_environment((3,), BOX),
            {"buffer_size": 10**12, "threads": 1},
            "a replay memory of 1,000,000,000,000 steps for each thread takes 40,000 GB, which cannot be had: lower "
            "buffer_size",
        ),
        (
            any_environment((3,), BOX),
            {"batch_size": 10**6, "learning_starts": 10**6, "network": [["dense", 2000]]},
            "1,000,000 samples at once are too many for this network: "
            "lower rollout_length or envs_per_batch, or batch_size",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_dpg_cannot_take_is_refused_in_a_sentence(environment, settings, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        Learner(configure(environment, method="dpg", **settings), environment)
