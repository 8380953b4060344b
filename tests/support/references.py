"""Runs the real loop beside a float64 reference, which learns from the very trajectory that the loop acted.

Tolerances: a gradient in float32 is right to about 1e-6 of its largest element, and an update moves a parameter by a
smooth function of it (the optimisers' epsilons are large here), so after ten updates a parameter is right to some 1e-5
of the largest move, and to ten times its own last place.
"""

import numpy as np
import oracles
from loops import Loop
from scripted import HIGH, LOW, Scripted, motions, rollouts, transitions

from nbrl import configure
from nbrl.methods import driver

UPDATES = 10
COMMON = {
    "method": "a3c",
    "threads": 1, "learning_rate": 0.01, "discount": 0.9, "entropy_weight": 0.02, "normalise_rewards": False,
}  # fmt: skip
OPTIMISERS = {
    "momentum_sgd": {"optimiser": "momentum_sgd", "momentum": 0.6},
    "rmsprop": {"optimiser": "rmsprop", "rmsprop_decay": 0.9},
    "shared_rmsprop": {"optimiser": "shared_rmsprop"},
    "shared_adam": {"optimiser": "shared_adam", "adam_epsilon": 0.1, "adam_beta1": 0.8, "adam_beta2": 0.9},
    "shared_radam": {"optimiser": "shared_radam", "adam_epsilon": 0.1, "adam_beta1": 0.8, "adam_beta2": 0.9},
}


def settings(network, length=5, actors=1, envs_per_batch=1, seed=11, **others):
    """Those of a run of ten updates."""
    shape = {"rollout_length": length, "actors": actors, "envs_per_batch": envs_per_batch, "network": network}
    return configure("CartPole-v1", **COMMON | shape | others, steps=UPDATES * length * envs_per_batch, seed=seed)


def assert_same(arrays, expected, first):
    """Whether every float32 array is the expected one, within the tolerance argued above, and something moved."""
    moves = {name: np.abs(expected[name] - first[name]).max() for name in first}
    assert min(moves.values()) > 1e-4  # every array has learnt something
    for name, values in arrays.items():
        tolerance = 1e-5 * max(moves.values()) + UPDATES * 2.0**-23 * np.abs(expected[name])
        assert (np.abs(values - expected[name]) <= tolerance).all(), name


def assert_same_gradient(dtheta, gradient, norm, least=1e-3):
    """Whether every float32 array of a gradient is the reference's; of its norm, `least` counts as none of it."""
    for name, values in dtheta.items():
        scale = max(np.abs(gradient[name]).max(), least * norm)
        assert np.abs(values - gradient[name]).max() <= 3e-5 * scale, name


def in_the_space_s_units(motion):
    """Continuous actions of `Scripted`: the first part has two bounds, which are -1 and 1 of the policy; both clip."""
    middle, half = (np.array(LOW) + HIGH) / 2, (np.array(HIGH) - LOW) / 2
    return np.clip(motion * half + middle, LOW, HIGH)


def follow(config, make_reference, *, continuous=False):
    """Ten updates of the loop and of a reference, compared after each: (loop, reference).

    `make_reference` takes layers, parameters and settings. Of a value method the actions are compared as well, with
    those that its actors' random numbers give. Continuous actions are learnt from in the policy's units, and those that
    the environment got are compared.
    """
    environment = Scripted(continuous=continuous)
    loop = Loop(config, environment)
    first = {name: values.astype(float) for name, values in loop.theta.items()}
    reference, worker = make_reference(config.network, first, config), loop.run.workers[0]
    greedy = []
    if "q" in loop.run.network.heads and not continuous:
        finals = loop.run.methods[0].final_epsilons.tolist()
        greedy = [
            oracles.EpsilonGreedyActor(row, final, config)
            for row, final in zip(worker.actors.random, finals, strict=True)
        ]
    seen, kinds = [0] * config.actors, set()
    for update in range(UPDATES):
        assert loop.rollout() == driver.PAUSED
        # Whose turn it was: groups of `envs_per_batch` actors, one rollout each.
        group = update % (config.actors // config.envs_per_batch)
        gradients = []
        for actor in range(group * config.envs_per_batch, (group + 1) * config.envs_per_batch):
            acted = rollouts(transitions(environment.records(loop.instances[actor])), config.rollout_length)
            assert len(acted) == seen[actor] + 1
            one = acted[seen[actor]] | {"actor": actor}
            if continuous:
                one["actions"] = loop.run.policies[0].action[:, actor % config.envs_per_batch].astype(float)
                sent = motions(environment.records(loop.instances[actor]))[-config.rollout_length :]
                np.testing.assert_allclose(sent, in_the_space_s_units(one["actions"]), rtol=1e-6, atol=1e-6)
            if greedy:
                q, next_q = reference.outputs(one)[0]["q"], reference.next_outputs(one, reference.parameters)["q"]
                one["next_actions"] = greedy[actor].replay(one, q, next_q, reference.steps)
            gradients.append(reference.gradient(one))
            seen[actor] += 1
            kinds |= set(one["statuses"].tolist())
        gradient = {name: sum(one[name] for one in gradients) for name in first}
        norm = reference.apply(gradient, config.rollout_length * config.envs_per_batch, group)
        assert_same_gradient(loop.dtheta, gradient, norm)
        assert loop.trainer.steps == reference.steps
    assert_same(loop.theta, reference.parameters, first)
    if loop.run.shared.target.size:
        assert_same(loop.target, reference.target, first)
    if config.rollout_length >= 5:  # else too few steps to see all
        assert kinds >= {1, 3, 5, 9}  # going on, terminated, truncated, cut
    return loop, reference
