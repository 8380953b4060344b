"""Whole runs through the public entry: what is learnt, and that one thread and a seed give the same bits again."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

import nbrl
from nbrl import envs
from nbrl.envs import Player
from nbrl.envs.interface import TERMINATED, TRUNCATED

CATCH = {
    "optimiser": "shared_rmsprop", "learning_rate": 3e-3, "rmsprop_epsilon": 0.01, "rollout_length": 5, "steps": 80_000,
    "reward_clip": None,
}  # fmt: skip
CART_POLE = {
    "optimiser": "shared_adam", "learning_rate": 1e-3, "rollout_length": 16, "discount": 0.98, "gradient_clip": 1e3,
    "steps": 300_000, "actors": 16, "reward_clip": None,
}  # fmt: skip


def returns(agent, environment, episodes):
    """Raw returns of the agent's sampled actions, on seeds that no training run draws."""
    player, rng, found = Player(envs.make(environment)), np.random.default_rng(0), []
    for episode in range(episodes):
        observation, total, status = player.reset(10**6 + episode), 0.0, 0
        while not status & (TERMINATED | TRUNCATED):
            observation, reward, status = player.step(agent.act(observation, rng=rng))
            total += reward
        found.append(total)
    return np.array(found)


def digest(agent):
    return hashlib.sha256(agent.parameters.tobytes()).hexdigest()


def test_catch_is_learnt_with_one_thread():
    # Acting at random catches about one ball in five: a mean of -0.6.
    untrained = nbrl.Trainer(nbrl.configure("Catch-v0", threads=1, seed=1)).snapshot()
    assert returns(untrained, "Catch-v0", 200).mean() < -0.2
    agent = nbrl.train("Catch-v0", threads=1, actors=4, seed=1, **CATCH)
    assert returns(agent, "Catch-v0", 200).mean() > 0.9


def test_catch_is_learnt_by_16_threads_without_locks():
    reports = []
    agent = nbrl.train("Catch-v0", threads=16, actors=16, seed=1, on_report=reports.append, **CATCH)
    assert returns(agent, "Catch-v0", 200).mean() > 0.9
    # The step count is a sum over threads, each of which may be in its last rollout at the end.
    assert CATCH["steps"] <= reports[-1].steps <= CATCH["steps"] + 16 * 5


def test_cart_pole_is_learnt_with_one_thread():
    agent = nbrl.train("CartPole-v1", threads=1, seed=1, **CART_POLE)
    assert returns(agent, "CartPole-v1", 20).mean() > 450


SHORT = {"threads": 1, "actors": 3, "steps": 6000}


def test_a_seed_and_one_thread_give_the_same_bits(tmp_path):
    first = digest(nbrl.train("Catch-v0", seed=5, **SHORT))
    # Neither reports nor checkpoints, which stop the loop between two rollouts, change anything.
    often = {"report_interval": 0.01, "checkpoint_interval": 0.01}
    assert digest(nbrl.train("Catch-v0", seed=5, directory=tmp_path / "run", **often, **SHORT)) == first
    assert digest(nbrl.train("Catch-v0", seed=6, **SHORT)) != first


@pytest.mark.parametrize("settings", [{"lockstep": 3}, {"optimiser": "shared_adam"}, {"rollout_length": 1}], ids=str)
def test_every_kind_of_run_is_the_same_again(settings):
    settings = SHORT | settings
    assert digest(nbrl.train("CartPole-v1", seed=7, **settings)) == digest(
        nbrl.train("CartPole-v1", seed=7, **settings)
    )


def test_another_process_gives_the_same_bits(environment_variables):
    program = (
        "import hashlib, nbrl\n"
        f"agent = nbrl.train('CartPole-v1', seed=8, **{SHORT})\n"
        "print(hashlib.sha256(agent.parameters.tobytes()).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment_variables, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == digest(nbrl.train("CartPole-v1", seed=8, **SHORT))


def test_several_threads_and_a_seed_are_said_not_to_be_reproducible(caplog):
    with caplog.at_level("INFO", logger="nbrl"):
        nbrl.train("Catch-v0", seed=1, threads=1, steps=100)
        nbrl.train("Catch-v0", threads=2, actors=2, steps=100)
        assert "reproducible" not in caplog.text
        nbrl.train("Catch-v0", seed=1, threads=2, actors=2, steps=100)
    assert caplog.text.count("not reproducible") == 1


def test_a_run_without_a_seed_draws_one_of_its_own():
    configs = [nbrl.Trainer(nbrl.configure("Catch-v0", threads=1)).config for _ in range(2)]
    assert configs[0].seed != configs[1].seed
    assert None not in {config.seed for config in configs}
