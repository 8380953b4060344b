"""A policy in NumPy alone: the same outputs as the compiled one, and nothing imported but NumPy."""

import subprocess
import sys

import numpy as np
import pytest
import strategies
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import gaussian_variance
from policies import compiled_outputs, observed
from toys import continuous_policy, policy_for

from nbrl import Agent, CheckpointError, Conv, Dense, Gru, LayerNorm, Lstm, NumpyPolicy
from nbrl.checkpoint import write_tensors
from nbrl.nets.network import Network
from nbrl.spaces import Actions


@given(
    shape=st.one_of(strategies.vector_shapes(), strategies.image_shapes()),
    heads=st.sampled_from([{"policy": 5, "value": 1}, {"q": 4}, {"mean": 2, "variance": 2, "value": 1}]),
    data=st.data(),
    seed=strategies.seeds,
)
@settings(max_examples=80)
def test_its_outputs_are_the_compiled_ones(shape, heads, data, seed):
    # Step by step, each with the state that its own step before left.
    dtype = "uint8" if len(shape) in (2, 3) and data.draw(st.booleans()) else "float32"
    network = Network(
        data.draw(strategies.tables(Dense, Conv, shape, recurrent=(Lstm, Gru), norm=LayerNorm)),
        observed(shape, dtype),
        heads,
        separate="value" in heads and data.draw(st.booleans()),
        constant=("variance",) if "variance" in heads and data.draw(st.booleans()) else (),
    )
    rng = np.random.default_rng(seed)
    scales = 1 if network.observations.image else network.observations.size
    normal = network.normal(data.draw(st.sampled_from([0, scales])))
    normal[:] = rng.uniform(0.5, 1.5, normal.shape)
    continuous = spaces.Box(np.array([-1, -np.inf]), np.array([2, np.inf]), dtype=np.float64)
    actions = Actions(continuous if "mean" in heads else spaces.Discrete(next(iter(heads.values()))))
    agent = Agent(network, network.initial(seed), actions, normal=normal)
    policy = agent.to_numpy()
    states = [agent.initial_state(), policy.initial_state()]
    assert states[0].dtype == states[1].dtype
    assert np.array_equal(*states)
    for _ in range(4):
        observation = (
            rng.integers(0, 256, shape).astype(np.uint8) if dtype == "uint8" else rng.random(shape, np.float32)
        )
        expected, found = compiled_outputs(agent, observation, states[0]), policy.outputs(observation, states[1])
        assert list(found) == list(heads)
        for head, values in expected.items():
            np.testing.assert_allclose(found[head], values, rtol=0, atol=2e-5 * max(1.0, np.abs(values).max()))
        np.testing.assert_allclose(states[1], states[0], rtol=0, atol=2e-5)
        if network.state_size == 0:
            assert policy.outputs(observation)[head].tobytes() == found[head].tobytes()


@pytest.mark.parametrize("values", [False, True])
@pytest.mark.parametrize(
    "layers", [(Dense(8, "tanh"),), (Dense(8, "tanh"), Lstm(6), Lstm(4))], ids=["plain", "recurrent"]
)
@pytest.mark.parametrize("environment", ["CartPole-v1", "ALE/Pong-v5"])
def test_a_saved_policy_acts_the_same(environment, layers, values, tmp_path):
    agent = policy_for(environment, seed=3, layers=layers, values=values)
    agent.save(tmp_path / "policy.safetensors")
    policies = [agent, agent.to_numpy(), NumpyPolicy.load(tmp_path / "policy.safetensors")]
    states = [policy.initial_state() for policy in policies]
    rng, seen = np.random.default_rng(1), agent.network.observations
    for turn in range(20):
        observation = rng.random(seen.shape, np.float32)
        if seen.dtype == np.uint8:
            observation = (255 * observation).astype(np.uint8)
        for greedy in (True, False):
            actions = [
                policy.act(observation, state, greedy=greedy, rng=np.random.default_rng(turn))
                for policy, state in zip(policies, states, strict=True)
            ]
            assert actions == actions[:1] * 3
        assert np.array_equal(states[1], states[2])
        np.testing.assert_allclose(states[1], states[0], rtol=0, atol=2e-5)


def test_actions_have_the_policy_s_frequencies():
    policy, rng = policy_for("Catch-v0", logits=[0.0, np.log(2.0), np.log(5.0)]).to_numpy(), np.random.default_rng(0)
    counts = np.bincount([policy.act(np.zeros(50), rng=rng) for _ in range(8000)], minlength=3)
    np.testing.assert_allclose(counts / 8000, [1 / 8, 2 / 8, 5 / 8], atol=0.03)


@pytest.mark.parametrize(
    "options",
    [{}, {"separate": True, "constant": ("variance",)}, {"separate": True, "layers": (Dense(8, "tanh"), Lstm(6))}],
    ids=str,
)
def test_a_saved_continuous_policy_acts_the_same(options, tmp_path):
    agent = continuous_policy(seed=3, **options)
    agent.save(tmp_path / "policy.safetensors")
    policies = [agent, agent.to_numpy(), NumpyPolicy.load(tmp_path / "policy.safetensors")]
    states, rng = [policy.initial_state() for policy in policies], np.random.default_rng(1)
    for turn in range(20):
        observation = rng.uniform(-2, 2, 3)
        for greedy in (True, False):
            actions = [
                policy.act(observation, state, greedy=greedy, rng=np.random.default_rng(turn))
                for policy, state in zip(policies, states, strict=True)
            ]
            for action in actions:
                assert (action.shape, action.dtype) == ((1,), np.float32)
                np.testing.assert_allclose(action, actions[0], rtol=0, atol=2e-5)
            assert np.array_equal(actions[1], actions[2])


def test_continuous_actions_have_the_policy_s_mean_and_variance():
    policy, rng, count = continuous_policy().to_numpy(), np.random.default_rng(0), 8000
    policy.actions.bounds[:] = [[3], [2], [-np.inf], [np.inf]]  # twice an action, and 3
    policy.actions.decode = lambda parts: parts  # whatever the space
    outputs = policy.outputs(np.zeros(3))
    actions = np.array([policy.act(np.zeros(3), rng=rng)[0] for _ in range(count)])
    variance = 4 * gaussian_variance(outputs["variance"])[0]
    assert actions.mean() == pytest.approx(3 + 2 * outputs["mean"][0], abs=5 * np.sqrt(variance / count))
    assert actions.var() == pytest.approx(variance, abs=5 * variance * np.sqrt(2 / count))


def test_what_is_no_policy_is_refused(tmp_path):
    write_tensors(tmp_path / "other.safetensors", {"a": np.zeros(3)}, {"network": "[]"})
    with pytest.raises(CheckpointError, match="holds no policy that can be used: it lacks 'format'"):
        NumpyPolicy.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda arrays, metadata: metadata.pop("actions"), "it lacks 'actions'"),
        (lambda arrays, metadata: metadata.update(actions="5"), "5 describes no space"),
        (lambda arrays, metadata: metadata.update(format="nbrl policy 1"), "its format is 'nbrl policy 1', not 'nbrl"),
        (lambda arrays, metadata: arrays.pop("mean/weights"), "it lacks 'mean/weights'"),
        (lambda arrays, metadata: arrays.pop("value_dense1/bias"), "it lacks 'value_dense1/bias'"),
        (lambda arrays, metadata: metadata.update(constant="5"), "holds no policy"),
    ],
)
def test_what_is_no_continuous_policy_is_refused(damage, sentence, tmp_path):
    agent = continuous_policy(separate=True)
    arrays, metadata = agent.arrays(), agent.metadata()
    damage(arrays, metadata)
    write_tensors(tmp_path / "policy.safetensors", arrays, metadata)
    with pytest.raises(CheckpointError, match=sentence):
        NumpyPolicy.load(tmp_path / "policy.safetensors")


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
