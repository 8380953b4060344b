"""Policies of continuous actions alone, Gaussian and deterministic: what they do with observations."""

import math

import numpy as np
import pytest
from oracles import gaussian_variance, network_forward, policy_forward
from policies import GAUSSIANS, HIGH, LOW, SHAPE, agent_of, continuous_agent
from toys import deterministic_policy

from nbrl import Agent, NumpyPolicy


def gaussian(agent, observation):
    """Mean and variance in the policy's units, (6,), by the float64 oracle."""
    mean, scale = agent.normal if agent.normal.size else (0, 1)
    seen = np.clip((np.asarray(observation, np.float64) - mean) * scale, -10, 10)
    outputs, _ = network_forward(agent.network.layers, agent.network.layout.views(agent.parameters), seen[None])
    return outputs["mean"][0], gaussian_variance(outputs["variance"][0])


def in_units(actions):
    """Actions (..., 6) in their space's units, by hand: where both bounds are finite, -1 and 1 are the bounds."""
    low, high = LOW.reshape(-1).astype(float), HIGH.reshape(-1).astype(float)
    return np.clip(actions * [1, 5, 1, 1, 0.1, 0.5] + [0, 5, 0, 0, 0, 5.5], low, high).reshape(-1, *SHAPE)


@pytest.mark.parametrize("options", GAUSSIANS, ids=str)
def test_a_continuous_action_is_the_mean_or_drawn_around_it(options):
    agent, rng = continuous_agent(**options), np.random.default_rng(0)
    assert not agent.actions.discrete
    for seed in range(20):
        observation = rng.uniform(-3, 3, 4)
        mean, variance = gaussian(agent, observation)
        greedy = agent.act(observation, greedy=True)
        assert (greedy.shape, greedy.dtype) == (SHAPE, np.float32)
        np.testing.assert_allclose(greedy, in_units(mean)[0], rtol=0, atol=1e-4)
        noise = np.random.default_rng(seed).standard_normal(6)
        for policy in (agent, agent.to_numpy()):
            sampled = policy.act(observation, rng=np.random.default_rng(seed))
            np.testing.assert_allclose(sampled, in_units(mean + np.sqrt(variance) * noise)[0], rtol=0, atol=1e-4)
        np.testing.assert_array_equal(np.clip(sampled, LOW, HIGH), sampled)


def test_continuous_actions_have_the_policy_s_moments():
    agent, rng, count, observation = continuous_agent(), np.random.default_rng(1), 8000, np.ones(4)
    mean, variance = gaussian(agent, observation)
    actions = np.array([agent.act(observation, rng=rng) for _ in range(count)])
    assert (actions >= LOW).all()
    assert (actions <= HIGH).all()
    free = actions[:, 0, 2]  # the part without bounds is as it was drawn
    assert free.mean() == pytest.approx(mean[2], abs=5 * math.sqrt(variance[2] / count))
    assert free.var() == pytest.approx(variance[2], abs=5 * variance[2] * math.sqrt(2 / count))


def test_an_action_goes_where_it_should():
    agent, out = continuous_agent(), np.full((3, *SHAPE), np.nan, np.float32)
    expected = agent.act(np.ones(4), rng=np.random.default_rng(3))
    assert agent.act(np.ones(4), rng=np.random.default_rng(3), out=out[1]) is not None
    assert out[1].tobytes() == expected.tobytes()
    assert np.isnan(out[[0, 2]]).all()
    gaps = np.zeros((2, 6), np.float32)[:, ::2]
    assert agent.act(np.ones(4), rng=np.random.default_rng(3), out=gaps) is gaps
    np.testing.assert_array_equal(gaps, expected)
    agent.act(np.ones(4))
    np.testing.assert_array_equal(gaps, expected)  # nothing is written there again


def frozen():
    array = np.zeros(SHAPE, np.float32)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "out",
    [np.zeros(6, np.float32), np.zeros((3, 2), np.float32), np.zeros(SHAPE), [[0.0] * 3] * 2, 5, frozen()],
    ids=["flat", "turned", "float64", "list", "number", "read-only"],
)
def test_no_other_place_is_taken_for_an_action(out):
    agent, rng = continuous_agent(), np.random.default_rng(2)
    with pytest.raises(
        ValueError, match=r"^out must be a writable float32 array of shape \(2, 3\), as the actions are$"
    ):
        agent.act(np.ones(4), out=out, rng=rng)
    assert out == 5 if isinstance(out, int) else not np.any(out)
    assert rng.random() == np.random.default_rng(2).random(), "no chance was drawn"
    with pytest.raises(ValueError, match=r"^out is given, but this policy's actions are discrete: leave it out$"):
        agent_of().act(np.ones(4), out=out)


# Deterministic policies


def test_a_deterministic_policy_takes_its_action(tmp_path):
    agent, rng = deterministic_policy("InvertedPendulum-v5", seed=3), np.random.default_rng(0)
    agent.save(tmp_path / "policy.safetensors")
    loaded = Agent.load(tmp_path / "policy.safetensors")
    assert not agent.actions.discrete
    assert not agent.recurrent
    named = agent.network.layout.views(agent.parameters)
    mean, scale = agent.normal
    for _ in range(20):
        observation = rng.uniform(-2, 2, agent.network.observations.shape)
        mu, _ = policy_forward(agent.network.layers, named, np.clip((observation - mean) * scale, -10, 10)[None])
        action = agent.act(observation)
        np.testing.assert_allclose(action, 3 * mu[0], rtol=0, atol=1e-5)  # whose bounds are -3 and 3
        # Greedy or not, whatever the generator, it is the same.
        for policy in (agent, loaded):
            assert policy.act(observation, greedy=True, rng=rng).tobytes() == action.tobytes()
        for policy in (agent.to_numpy(), NumpyPolicy.load(tmp_path / "policy.safetensors")):
            found = policy.act(observation, rng=rng)
            assert (found.shape, found.dtype) == (action.shape, np.float32)
            np.testing.assert_allclose(found, action, rtol=0, atol=1e-5)
            assert policy.act(observation, greedy=True).tobytes() == found.tobytes()


def test_a_policy_for_numpy_has_no_critic():
    policy = deterministic_policy().to_numpy()
    assert policy.heads == ["action"]
    assert not [name for name in policy.arrays if name.startswith("q")]
    assert policy.outputs(np.ones(3)).keys() == {"action"}
