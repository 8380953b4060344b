"""Ten updates of the real loop against an independent float64 run of deterministic policy gradient.

Without a memory it learns from the very trajectory that the loop acted, with one from the rows that the loop drew.
"""

import dataclasses

import numpy as np
import oracles
import pytest
import references
from loops import Loop
from references import OPTIMISERS, UPDATES, assert_same, assert_same_gradient, follow, in_the_space_s_units
from scripted import PARTS, SIZE, Scripted, motions, rollouts, transitions

from nbrl import Dense
from nbrl.methods import driver
from nbrl.methods.replay import RETURN, START, WEIGHT, contents

ADAM = OPTIMISERS["shared_adam"]


def settings(**others):
    own = {"method": "dpg", "buffer_size": 0, "network": (Dense(20, "tanh"),), "tau": 0.3, "noise_std": 0.4}
    return references.settings(**own | others)


CASES = {
    "plain": settings(seed=4),
    "adam": settings(seed=4, **ADAM),
    "clips active": settings(gradient_clip=0.05, reward_clip=0.5),
    "the target by an interval": settings(tau=None, target_interval=12),
    "long rollouts": settings(length=20),
    "one step": settings(length=1, seed=5),
    "two layers": settings(network=(Dense(20, "tanh"), Dense(17, "tanh"))),
    "relu": settings(network=(Dense(40, "relu"), Dense(30, "relu"))),
    "orthogonal": settings(initialisation="orthogonal", **ADAM),
    "three actors in turn": settings(actors=3),
    "two pairs in lockstep": settings(actors=4, envs_per_batch=2),
    "three in lockstep, of each group momentum": settings(actors=6, envs_per_batch=3, **OPTIMISERS["momentum_sgd"]),
}


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_ten_updates_equal_the_reference(config):
    follow(config, oracles.DpgReference, continuous=True)


# With a memory

REMEMBERS = {"buffer_size": 12, "learning_starts": 6, "batch_size": 6}
MEMORIES = {
    "as published": settings(length=1, **REMEMBERS, **ADAM),
    "three steps": settings(length=3, **REMEMBERS),
    "pairs in lockstep": settings(length=2, actors=4, envs_per_batch=2, **REMEMBERS),
    "the target by an interval": settings(length=1, tau=None, target_interval=4, **REMEMBERS),
    "normalised": settings(length=2, normalise_observations=True, **REMEMBERS),
}


@pytest.mark.parametrize("config", MEMORIES.values(), ids=MEMORIES)
def test_ten_updates_from_a_memory_equal_the_reference(config):
    # One update for each rollout, with what it drew; the steps and the learning rate go on all the same.
    size = config.rollout_length * config.envs_per_batch
    config = dataclasses.replace(config, updates_per_step=1 / size, steps=10**6)
    environment = Scripted(continuous=True)
    loop = Loop(config, environment)
    worker, replay = loop.run.workers[0], loop.run.methods[0].replay
    while loop.run.shared.updates[0] == 0:
        before = {name: values.astype(float) for name, values in loop.theta.items()}
        steps = loop.trainer.steps
        assert loop.rollout() == driver.PAUSED
    reference = oracles.DpgReference(config.network, before, config)
    reference.steps, first, kinds = steps, before, set()
    for _ in range(UPDATES):
        rows = replay.rows[replay.drawn].astype(float)
        s, a, s_next = rows[:, START : START + SIZE], rows[:, START + SIZE : -SIZE], rows[:, -SIZE:]
        if config.normalise_observations:
            mean, scale = worker.work.normal.astype(float)
            s, s_next = (np.clip((x - mean) * scale, -10, 10) for x in (s, s_next))
        y = rows[:, RETURN] + rows[:, WEIGHT] * reference.target_values(s_next)
        gradient = reference.gradient_of(s, a, y, len(rows))
        norm = reference.apply(gradient, size)
        assert_same_gradient(loop.dtheta, gradient, norm)
        kinds |= set((rows[:, WEIGHT] > 0).tolist())
        assert loop.trainer.steps == reference.steps
        after = {name: values.copy() for name, values in loop.theta.items()}
        before = loop.run.shared.updates[0]
        loop.rollout()
        assert loop.run.shared.updates[0] == before + 1
    assert kinds == {True, False}
    assert_same(after, reference.parameters, first)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize(("actors", "lockstep", "length"), [(1, 1, 1), (1, 1, 4), (3, 1, 2), (4, 2, 3)])
def test_the_memory_holds_the_last_steps_that_were_taken(actors, lockstep, length, normalised):
    # Each step as it was acted, with its n-step return; observations as they were given, whatever they are scaled by.
    config = settings(
        length=length, actors=actors, envs_per_batch=lockstep, buffer_size=25, learning_starts=25, batch_size=3,
        normalise_observations=normalised, reward_clip=2.0,
    )  # fmt: skip
    config = dataclasses.replace(config, steps=10**6)
    environment = Scripted(continuous=True)
    loop = Loop(config, environment)
    (method, policy, _, _), expected, taken = loop.run.arguments(0), [], [0] * actors
    for turn in range(40):
        assert loop.rollout() == driver.PAUSED
        group = turn % (actors // lockstep)
        steps = np.zeros((length, lockstep), object)
        for i in range(lockstep):
            actor = group * lockstep + i
            records = environment.records(loop.instances[actor])
            one = rollouts(transitions(records), length)[taken[actor]]
            sent = motions(records)[taken[actor] * length :]
            taken[actor] += 1
            for t, row in enumerate(rows_of(one, config)):
                steps[t, i] = (*row, policy.action[t, i].copy(), sent[t])
        expected = [*expected, *steps.reshape(-1)][-25:]
        found = contents(method.replay, length * lockstep)
        assert len(found) == len(expected) == min(25, (turn + 1) * length * lockstep)
        for row, (R, weight, s, s_next, a, in_units) in zip(found, expected, strict=True):
            assert row[RETURN] == pytest.approx(R, rel=1e-5, abs=1e-6)
            assert row[WEIGHT] == pytest.approx(weight, rel=1e-6)
            assert row[START : START + SIZE].tolist() == s.tolist()
            assert row[START + SIZE : -SIZE].tolist() == a.tolist()
            assert weight == 0 or row[-SIZE:].tolist() == s_next.tolist()
            assert np.isfinite(row).all()
            np.testing.assert_allclose(in_units, in_the_space_s_units(a.astype(float)), rtol=1e-5, atol=1e-5)
    assert a.shape == (PARTS,)


def rows_of(one, config):
    """(R, weight, s, s') of each step of a rollout, summed forward from its own step."""
    for t in range(len(one["rewards"])):
        R, weight = 0.0, 1.0
        for n in range(t, len(one["rewards"])):
            R += weight * min(max(one["rewards"][n], -config.reward_clip), config.reward_clip)
            weight *= config.discount
            status = int(one["statuses"][n])
            if status & (oracles.TERMINATED | oracles.CUT):
                weight = 0.0
            if weight == 0 or status & oracles.TRUNCATED:
                break
        yield R, weight, one["observations"][t], one["next_observations"][n]
