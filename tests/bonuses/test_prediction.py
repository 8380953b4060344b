"""Bonuses that are errors of prediction, beside float64 versions that see the same steps; and their runs."""

import ctypes
import json

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loops import Loop
from scripted import PARTS, Scripted, motions, rollouts, transitions
from told import told
from toys import TINY, tiny

import nbrl
from nbrl import Agent, Dense, Lstm, Trainer, configure
from nbrl.bonuses import prediction
from nbrl.bonuses.prediction import FEATURES, LEAST_SEEN, seen_by
from nbrl.checkpoint import CheckpointError, newest, read_tensors, write_tensors
from nbrl.methods.actor_critic import BONUS_DISCOUNT, BONUS_LAMBDA, bonus_returns
from nbrl.methods.state import BONUS, Rollout
from nbrl.spaces import Observations

LENGTH, K, ACTORS, STEPS = 12, 2, 4, 5  # of rollouts, groups, and chunks
RATE, WEIGHT = 0.01, 0.5
ENDED = oracles.TERMINATED | oracles.TRUNCATED


class Reference:
    """What rnd, novelty and icm share: moments of all that was seen, chunks, Adam."""

    def __init__(self, bonus, config, networks):
        self.config, self.networks = config, networks
        self.parameters, at = {}, 0
        for name, network in networks.items():
            views = network.layout.views(bonus.theta[at : at + network.layout.size].astype(float))
            self.parameters |= {f"{name}:{part}": view for part, view in views.items()}
            at += network.layout.size
        self.first = dict(self.parameters)
        self.m, self.v = ({name: np.zeros_like(p) for name, p in self.parameters.items()} for _ in range(2))
        self.updates, self.rows, self.sums, self.discounted = 0, [], [], np.zeros(ACTORS)

    def of(self, name):
        return {key.split(":")[1]: value for key, value in self.parameters.items() if key.startswith(f"{name}:")}

    def forward(self, name, x):
        outputs, tape = oracles.network_forward(self.networks[name].layers, self.of(name), x)
        return next(iter(outputs.values())), tape

    def backward(self, name, tape, doutput):
        head = next(iter(self.networks[name].heads))
        gradients = oracles.network_backward(self.networks[name].layers, tape, {head: doutput})
        return {f"{name}:{part}": gradient for part, gradient in gradients.items()}

    def rollout(self, first, steps):
        """(LENGTH, K): what each step is worth; `steps` has the arrays of each actor of the group."""
        given = np.zeros((LENGTH, K))
        for begin in range(0, LENGTH, STEPS):
            chunk = range(begin, min(begin + STEPS, LENGTH))
            before = [[one["observations"][t] for one in steps] for t in chunk]
            last = chunk[-1]
            after = [
                one["observations"][last + 1] if last + 1 < LENGTH else one["next_observations"][last] for one in steps
            ]
            rows = [row for each in (*before, after) for row in each]
            following = np.zeros((len(chunk), K), int)
            for j, t in enumerate(chunk):
                for i, one in enumerate(steps):
                    following[j, i] = (j + 1) * K + i
                    if one["statuses"][t] & ENDED:
                        following[j, i] = len(rows)
                        rows.append(one["next_observations"][t])
            self.rows += rows
            if len(self.rows) < LEAST_SEEN:
                continue
            seen = np.array(self.rows, float)
            x = np.clip((np.array(rows, float) - seen.mean(axis=0)) / np.sqrt(seen.var(axis=0) + 1e-8), -5, 5)
            error, gradient = self.predict(x, following.reshape(-1), begin, steps)
            for j in range(len(chunk)):
                for i in range(K):
                    self.discounted[first + i] = 0.99 * self.discounted[first + i] + error[j * K + i]
                    self.sums.append(self.discounted[first + i])
            deviation = np.sqrt(np.var(self.sums) + 1e-8)
            given[chunk.start : chunk.stop] = WEIGHT * error.reshape(-1, K) / deviation
            self.learn(gradient)
        return given

    def learn(self, gradient):
        self.updates += 1
        config = self.config
        for name, theta in self.parameters.items():
            self.parameters[name], self.m[name], self.v[name] = oracles.adam(
                theta, self.m[name], self.v[name], self.updates, gradient[name],
                learning_rate=RATE, beta1=config.adam_beta1, beta2=config.adam_beta2, epsilon=config.adam_epsilon,
            )  # fmt: skip


class RndReference(Reference):
    def __init__(self, bonus, config, networks):
        super().__init__(bonus, config, networks)
        self.layers = networks["predictor"].layers[:-1]
        random = prediction.encoder(config, Scripted())
        self.random = {name: view.astype(float) for name, view in random.layout.views(bonus.target_theta).items()}

    def errors(self, x, following):
        """Of each row, and the gradient."""
        wanted = oracles.network_forward(self.layers, self.random, x)[0]["features"]
        found, tape = self.forward("predictor", x)
        learnt = np.isin(np.arange(len(x)), following)[:, None]
        gradient = (found - wanted) * learnt / FEATURES / len(following)
        return ((found - wanted) ** 2).mean(axis=1) / 2, self.backward("predictor", tape, gradient)

    def predict(self, x, following, begin, steps):
        errors, gradient = self.errors(x, following)
        return errors[following], gradient


class NoveltyReference(RndReference):
    def predict(self, x, following, begin, steps):
        errors, gradient = self.errors(x, following)
        j = np.arange(len(following))
        new = np.maximum(errors[following] - 0.5 * errors[j], 0)
        # With one bin all is one place, which an episode's first step comes to.
        return new * [steps[n % K]["begins"][begin + n // K] for n in j], gradient


class IcmReference(Reference):
    def predict(self, x, following, begin, steps):
        n = len(following)
        chosen = np.array([steps[j % K]["actions"][begin + j // K] for j in range(n)])
        actions = np.eye(4)[chosen] if chosen.ndim == 1 else chosen
        features, tape = self.forward("phi", x)
        both = np.concatenate([features[:n], features[following]], axis=1)
        told, inverse_tape = self.forward("inverse", both)
        predicted, model_tape = self.forward("model", np.concatenate([features[:n], actions], axis=1))
        missed = predicted - features[following]
        dtold = (np.exp(oracles.log_softmax(told)) if chosen.ndim == 1 else told) - actions
        gradient = self.backward("model", model_tape, missed / FEATURES / n)
        gradient |= self.backward("inverse", inverse_tape, dtold / n)
        theta, hidden = self.of("inverse"), inverse_tape[1][0][4]
        dhidden = oracles.dense_backward(hidden, theta["actions/weights"], dtold / n)[0] * (hidden > 0)
        dboth = oracles.dense_backward(both, theta["dense1/weights"], dhidden)[0]
        dfeatures = np.zeros_like(features)
        np.add.at(dfeatures, np.arange(n), dboth[:, :FEATURES])
        np.add.at(dfeatures, following, dboth[:, FEATURES:])
        return (missed**2).mean(axis=1) / 2, gradient | self.backward("phi", tape, dfeatures)


@pytest.mark.parametrize(
    ("bonus", "reference", "method", "continuous"),
    [
        ("rnd", RndReference, "a3c", False),
        ("rnd", RndReference, "n_step_q", False),
        ("novelty", NoveltyReference, "a3c", False),
        ("icm", IcmReference, "a3c", False),
        ("icm", IcmReference, "a3c", True),
    ],
)
def test_bonuses_equal_their_references(bonus, reference, method, continuous, monkeypatch):
    monkeypatch.setattr(prediction, "CHUNK", STEPS * K)
    settings = TINY | {
        "method": method,
        "rollout_length": LENGTH,
        "envs_per_batch": K,
        "actors": ACTORS,
        "steps": 10**6,
    }
    weight = {f"{bonus}_weight": WEIGHT, "bonus_learning_rate": RATE, "adam_epsilon": 0.01, "bonus_bins": 1}
    plain = {"normalise_observations": False, "normalise_rewards": False, "network": (Dense(10, "tanh"),)}
    environment = Scripted(continuous=continuous)
    config = configure("Pendulum-v1" if continuous else "CartPole-v1", **settings | plain | weight, bonus=bonus)
    loop = Loop(config, environment)
    own, worker = loop.run.own_bonuses[0][bonus], loop.run.workers[0]
    version = reference(own, config, type(own).networks(config, loop.run.environment))
    total, updates = 0.0, 0
    for number in range(44):
        loop.rollout()
        first = number % (ACTORS // K) * K
        steps = []
        for i in range(K):
            records = environment.records(loop.instances[first + i])
            one = rollouts(transitions(records), LENGTH)[number // (ACTORS // K)]
            if continuous:
                one["actions"] = loop.run.policies[0].action[:, i].astype(float)
                assert motions(records).shape[1] == PARTS
            steps.append(one)
        expected = version.rollout(first, steps)
        rewards = np.stack([one["rewards"] for one in steps], axis=1)
        apart = bonus == "rnd" and method == "a3c"
        found = worker.rollout.bonus if apart else worker.rollout.reward - rewards
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-5)
        total, updates = total + expected.sum(), version.updates
    assert updates > 20
    assert (expected > 0).sum() >= (3 if bonus == "novelty" else LENGTH * K)
    assert worker.sums[BONUS] == pytest.approx(total, rel=1e-3)
    at = 0
    for name, network in version.networks.items():
        for part, view in network.layout.views(own.theta[at : at + network.layout.size]).items():
            moved = np.abs(version.parameters[f"{name}:{part}"] - version.first[f"{name}:{part}"]).max()
            assert moved > 1e-3
            np.testing.assert_allclose(view, version.parameters[f"{name}:{part}"], rtol=1e-3, atol=5e-3 * moved)
        at += network.layout.size
    np.testing.assert_allclose(own.discounted, version.discounted, rtol=1e-3)


# What is seen


def test_the_newest_frame_is_seen_whatever_the_layout():
    rng = np.random.default_rng(0)
    space = nbrl.envs.make("ALE/Pong-v5").observations
    for observations, channels in (
        (space, 1),
        (Observations(space.space | {"shape": [84, 84, 3]}, "HWC"), 3),
        (Observations(space.space | {"shape": [3, 30, 40]}, "CHW"), 3),
        (Observations(space.space | {"shape": [7, 7, 3]}, "HWC"), 3),
        (Observations(space.space | {"shape": [10, 10, 4]}, "HWC"), 4),  # signs, no stack of frames
        (Observations(space.space | {"shape": [30, 40]}, "HW"), 1),
    ):
        row = rng.integers(0, 256, observations.shape)
        seen, taken = seen_by(observations)
        frames = np.atleast_3d(row.transpose(1, 2, 0) if observations.layout == "CHW" else row)
        assert np.array_equal(row.reshape(-1)[taken], frames[:, :, -channels:].reshape(-1))
        assert seen.shape == (*frames.shape[:2], channels)
    seen, taken = seen_by(Observations.vector(5))
    assert (seen.shape, taken.tolist()) == ((5,), [0, 1, 2, 3, 4])


# The value of a bonus


@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_returns_of_a_bonus_go_on_over_ends(t_max, k, seed):
    rng, rollout = np.random.default_rng(seed), Rollout.make(t_max, k, 0)
    rollout.bonus[:] = rng.normal(size=(t_max, k))
    rollout.ended[:] = rng.random((t_max, k)) < 0.5
    v = rng.normal(size=((t_max + 1) * k, 1)).astype(np.float32)
    bonus_returns(rollout, v)
    values, following = v.reshape(t_max + 1, k).astype(float), v.reshape(t_max + 1, k)[-1].astype(float)
    for t in reversed(range(t_max)):  # the lambda-return of the rewards and values
        following = rollout.bonus[t] + BONUS_DISCOUNT * ((1 - BONUS_LAMBDA) * values[t + 1] + BONUS_LAMBDA * following)
        np.testing.assert_allclose(rollout.bonus_R[t], following, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(rollout.bonus_advantage[t], following - values[t], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["a3c", "ppo"])
def test_a_bonus_of_its_own_value_by_hand(method):
    """All values are 0, and an episode ends at step 1: rewards' returns end there, the bonus's do not."""
    more = {} if method == "a3c" else {"epochs": 1, "minibatches": 1, "normalise_advantages": False}
    loop = told([0, oracles.TERMINATED, 0], [1.0, 2.0, 4.0], method=method, bonus="rnd", rollout_length=3,
                gae_lambda=1.0, entropy_weight=0.0, envs_per_batch=1, **more)  # fmt: skip
    worker, shrink = loop.run.workers[0], BONUS_DISCOUNT * BONUS_LAMBDA
    bonus = np.array([3.0, 5.0, 7.0])
    worker.rollout.bonus[:, 0] = bonus  # nothing is written there while too little was seen
    loop.rollout()
    R = np.array([1 + 0.5 * 2, 2, 4])
    R_b = np.array([3 + shrink * (5 + shrink * 7), 5 + shrink * 7, 7])
    n, seen = (1 if method == "a3c" else 3), [0, 1, 3]  # observation 2 is what the episode ended with
    np.testing.assert_allclose(loop.dtheta["value/weights"][seen, 0], -0.5 * R / n, rtol=1e-5)
    np.testing.assert_allclose(loop.dtheta["bonus_value/weights"][seen, 0], -0.5 * R_b / n, rtol=1e-5)
    chosen = np.eye(2)[loop.run.policies[0].action[:, 0, 0]]
    np.testing.assert_allclose(loop.dtheta["policy/weights"][seen], (0.5 - chosen) * (R + R_b)[:, None] / n, rtol=1e-5)


# Runs


def test_a_policy_knows_nothing_of_a_bonus(tmp_path):
    config = tiny(bonus="rnd+icm+novelty", steps=4000, report_interval=0.02, method="ppo")
    trainer = Trainer(config, directory=tmp_path / "run")
    trainer.start(wait=True)
    plain = Trainer(config.replace(bonus=None))
    agent = Agent.load(tmp_path / "run" / "policy.safetensors")
    assert agent.network.shapes() == plain._run.learner.network.shapes()
    assert set(agent.network.heads) == {"policy", "value"}
    policy, _ = read_tensors(tmp_path / "run" / "policy.safetensors")
    assert not [name for name in policy if "bonus" in name]
    arrays, _ = read_tensors(newest(tmp_path / "run" / "checkpoints"))
    assert {"learner/bonus_value/weights", "bonus/rnd/theta", "bonus/icm/adam", "bonus/novelty/moments"} <= set(arrays)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["charts/bonus"] > 0
    assert len(nbrl.evaluate(agent, episodes=3).returns) == 3
    begun = Trainer(config, init=agent)._run.learner  # and another run begins with it
    assert np.array_equal(begun.shared.theta[: agent.parameters.size], agent.parameters)


@pytest.mark.parametrize("bonus", ["rnd", "icm", "novelty"])
@pytest.mark.parametrize(
    ("environment", "settings"),
    [
        ("Pendulum-v1", {"method": "dpg", "network": (Dense(8),), "learning_starts": 100, "updates_per_step": 0.1}),
        ("Cue-v0", {"network": (Lstm(8),)}),
        ("CartPole-v1", {"method": "one_step_sarsa"}),
        ("CartPole-v1", {"method": "pqn", "rollout_length": 16}),
        ("Bricks-v0", {"network": "small", "normalise_observations": True}),
    ],
    ids=["dpg", "lstm", "sarsa", "pqn", "pictures"],
)
def test_every_method_takes_every_bonus(bonus, environment, settings):
    trainer = Trainer(tiny(environment, **{"method": "a3c", "steps": 3000} | settings, bonus=bonus))
    trainer.start(wait=True)
    learner = trainer._run.learner
    assert learner.steps >= 3000
    assert learner.sums()[BONUS] > 0
    assert learner.bonus_arrays[bonus]["updates"][0] > 100
    assert np.isfinite(learner.shared.bonuses).all()


def test_steps_of_which_nothing_is_known_are_worth_nothing():
    """An episode's last observation that is not finite, and steps that only begin one (`void`)."""
    settings = TINY | {"method": "n_step_q", "rollout_length": LENGTH, "envs_per_batch": 1, "actors": 1, "steps": 10**6}
    plain = {"normalise_observations": False, "normalise_rewards": False, "network": (Dense(10, "tanh"),)}
    loop = Loop(configure("CartPole-v1", **settings | plain, bonus="rnd+icm+novelty"), Scripted())
    worker, own = loop.run.workers[0], loop.run.own_bonuses[0]
    loop.rollout(100)
    for bonus in own.values():
        assert bonus.updates[0] > 0
        worker.work.void[:] = False
        bonus.end[:] = prediction.NONE
        worker.work.void[3], bonus.end[5], bonus.ends[5] = True, prediction.BROKEN, np.nan
        worker.rollout.reward[:] = 0
        updates, discounted = int(bonus.updates[0]), float(bonus.discounted[0])
        call(bonus.learn, bonus.address)
        assert bonus.updates[0] == updates + 1
        assert bonus.discounted[0] != discounted
        assert worker.rollout.reward[[3, 5], 0].tolist() == [0, 0]
        assert (worker.rollout.reward[[0, 1, 2, 4], 0] > 0).sum() >= (4 if bonus is not own["novelty"] else 0)
        assert np.isfinite(bonus.theta).all()
    assert np.isfinite(worker.rollout.reward).all()


def call(address, bonus):
    """A bonus's part for a rollout, as the driver calls it, for the group that begins at actor 0."""
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * 5)(address)(bonus, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bonus/rnd/theta", np.nan),
        ("bonus/rnd/target_theta", np.inf),
        ("bonus/rnd/moments", -1.0),
        ("bonus/rnd/updates", -1),
        ("bonus/rnd/adam", np.nan),
        ("bonus/rnd/actors/discounted", np.nan),
        ("learner/bonus_value/weights", np.nan),
        ("bonus/novelty/actors/episode", -1),
    ],
)
def test_numbers_of_a_bonus_that_cannot_be_are_refused(name, value, tmp_path):
    config = tiny(bonus="rnd+novelty", method="ppo", steps=600, rollout_length=8)
    Trainer(config, directory=tmp_path / "run").start(wait=True)
    arrays, metadata = read_tensors(newest(tmp_path / "run" / "checkpoints"))
    Trainer(config, restore=newest(tmp_path / "run" / "checkpoints"))
    arrays[name].reshape(-1)[0] = value
    write_tensors(tmp_path / "bad.safetensors", arrays, metadata)
    with pytest.raises(CheckpointError, match=r"cannot resume from: (bonus/|learner/|a value that)"):
        Trainer(config, restore=tmp_path / "bad.safetensors")
