"""A policy in NumPy alone: the same outputs as the compiled one, and nothing imported but NumPy."""

import subprocess
import sys

import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import policy_for

from nbrl import Agent, CheckpointError, Conv, Dense, NumpyPolicy
from nbrl.agent import Preprocessing
from nbrl.checkpoint import write_tensors
from nbrl.nets.network import Network, enter, forward, outputs


def compiled_outputs(agent, observation):
    work = agent.workspace()
    enter(work, 0, np.ascontiguousarray(observation).reshape(-1).view(np.uint8))
    forward(work, 0, 1)
    return {head: outputs(work, agent.network.head(head), 0, 1)[0].copy() for head in agent.network.heads}


@given(shape=st.one_of(strategies.vector_shapes(), strategies.image_shapes()), data=st.data(), seed=strategies.seeds)
@settings(max_examples=80)
def test_its_outputs_are_the_compiled_ones(shape, data, seed):
    network = Network(data.draw(strategies.tables(Dense, Conv, shape)), shape, {"policy": 5, "value": 1})
    dtype = "uint8" if len(shape) in (2, 3) and data.draw(st.booleans()) else "float32"
    rng = np.random.default_rng(seed)
    observation = rng.integers(0, 256, shape).astype(np.uint8) if dtype == "uint8" else rng.random(shape, np.float32)
    agent = Agent(network, network.initial(seed), Preprocessing("x", shape, dtype))
    expected, found = compiled_outputs(agent, observation), agent.to_numpy().outputs(observation)
    assert list(found) == ["policy", "value"]
    for head, values in expected.items():
        np.testing.assert_allclose(found[head], values, rtol=0, atol=2e-5 * max(1.0, np.abs(values).max()))


@pytest.mark.parametrize("environment", ["CartPole-v1", "ALE/Pong-v5"])
def test_a_saved_policy_acts_the_same(environment, tmp_path):
    agent = policy_for(environment, seed=3)
    agent.save(tmp_path / "policy.safetensors")
    policies = [agent.to_numpy(), NumpyPolicy.load(tmp_path / "policy.safetensors")]
    rng, seen = np.random.default_rng(1), agent.preprocessing
    for _ in range(20):
        observation = rng.random(seen.observation_shape, np.float32)
        if seen.observation_dtype == "uint8":
            observation = (255 * observation).astype(np.uint8)
        expected = agent.act(observation, greedy=True)
        assert [policy.act(observation, greedy=True) for policy in policies] == [expected] * 2


def test_actions_have_the_policy_s_frequencies():
    policy, rng = policy_for("Catch-v0", logits=[0.0, np.log(2.0), np.log(5.0)]).to_numpy(), np.random.default_rng(0)
    counts = np.bincount([policy.act(np.zeros(50), rng=rng) for _ in range(8000)], minlength=3)
    np.testing.assert_allclose(counts / 8000, [1 / 8, 2 / 8, 5 / 8], atol=0.03)


def test_what_is_no_policy_is_refused(tmp_path):
    write_tensors(tmp_path / "other.safetensors", {"a": np.zeros(3)}, {"network": "[]"})
    with pytest.raises(CheckpointError, match="holds no policy that can be used: it lacks 'heads'"):
        NumpyPolicy.load(tmp_path / "other.safetensors")


def test_it_imports_nothing_but_numpy(tmp_path, environment_variables):
    policy_for("CartPole-v1").save(tmp_path / "policy.safetensors")
    program = (
        "import sys, nbrl\n"
        "action = nbrl.NumpyPolicy.load('policy.safetensors').act([0.0, 0.0, 0.1, 0.5], greedy=True)\n"
        "assert action in (0, 1)\n"
        "assert not {'numba', 'llvmlite', 'gymnasium'} & set(sys.modules), sorted(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment_variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
