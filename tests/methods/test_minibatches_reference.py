"""PPO and PQN: passes over a rollout in minibatches, beside a float64 reference that knows the losses alone.

The reference learns from the very trajectory that the loop acted. It draws the minibatches from the actor's random
numbers as the loop should, which must be left alike, and its gradients are slopes of the loss by a complex step.
"""

import numpy as np
import oracles
import pytest
import references
import unrolled
from loops import Loop
from references import OPTIMISERS, assert_same, assert_same_gradient
from scripted import Scripted, rollouts, transitions

from nbrl import Dense
from nbrl.methods import driver
from nbrl.methods.ppo import mean_and_scale
from nbrl.methods.state import METRICS
from nbrl.nets.layers import Lstm

UPDATES = 6  # of rollouts
LAYERS = (Dense(5, "tanh"),)
REMEMBERS = (Dense(4, "tanh"), Lstm(3))
HARD = 1e-5  # nearer than this to where a loss bends, rounding may decide


def log_softmax(z):
    z = z - z.real.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def smaller(a, b):
    difference = abs((a - b).real)
    assert not ((difference > 1e-9) & (difference < 1e-7)).any()  # the same but for rounding, or not
    return np.where(a.real <= b.real + 1e-9, a, b)


def clip(x, low, high):
    assert (np.minimum(abs(x.real - low), abs(x.real - high)) > HARD).all()
    return np.where(x.real < low, low, np.where(x.real > high, high, x))


def log_pi_and_entropy(outputs, actions):
    """(T,) each, of a policy of either kind."""
    if "policy" in outputs:
        log_pi = log_softmax(outputs["policy"])
        return log_pi[np.arange(len(actions)), actions], -(np.exp(log_pi) * log_pi).sum(axis=-1)
    v = np.log(1 + np.exp(outputs["variance"])) + oracles.MIN_VARIANCE
    log_pi = -0.5 * ((actions - outputs["mean"]) ** 2 / v + np.log(2 * np.pi * v)).sum(axis=-1)
    return log_pi, 0.5 * np.log(2 * np.pi * np.e * v).sum(axis=-1)


class Passes(oracles.Reference):
    """What both methods share: the returns of a group's rollout, its parts, the update by each."""

    def __init__(self, layers, parameters, config):
        super().__init__(layers, parameters, config)
        size = 2 * sum(layer.units for layer in layers if isinstance(layer, Lstm))
        self.states = np.zeros((config.actors, size))
        self.losses = []  # of each minibatch

    def unroll(self, parameters, one, state):
        return unrolled.unroll(self.layers, parameters, one, state)

    def lambda_returns(self, one, values, next_values, weight):
        advantages = oracles.generalised_advantages(
            self.rewards(one), one["statuses"], self.config.discount, weight, values, next_values
        )
        return values + advantages

    def next_outputs_of(self, one, states):
        observations = one["next_observations"].astype(float)
        found = [
            unrolled.step(self.layers, self.parameters, x, state)[0]
            for x, state in zip(observations, states, strict=True)
        ]
        return {head: np.array([outputs[head] for outputs in found]) for head in found[0]}

    def learn(self, group, random):
        """Learn from one rollout of each actor of a group; the last gradient, before the clip."""
        config, length = self.config, self.config.rollout_length if self.states.shape[1] else 1
        for one in group:
            one["first_state"] = self.states[one["actor"]].copy()
            outputs, states = self.unroll(self.parameters, one, one["first_state"])
            one |= self.notes(one, outputs, self.next_outputs_of(one, states))
            self.states[one["actor"]] = states[-1]
        units = [(t, i) for t in range(config.rollout_length // length) for i in range(len(group))]
        size = -(-len(units) // config.minibatches)
        for epoch in range(config.epochs):
            order = list(range(len(units)))
            if epoch or size < len(units):
                for i in range(len(units) - 1, 0, -1):
                    j = int(random.uniform() * (i + 1))
                    order[i], order[j] = order[j], order[i]
            for begin in range(0, len(units), size):
                drawn = [units[place] for place in order[begin : begin + size]]
                parts = [
                    {name: value[t * length : (t + 1) * length] for name, value in group[i].items() if np.ndim(value)}
                    | {"first_state": group[i]["first_state"]}
                    for t, i in drawn
                ]
                batch = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

                def loss(parameters, parts=parts, batch=batch):
                    each = [self.unroll(parameters, part, part["first_state"])[0] for part in parts]
                    outputs = {head: np.concatenate([one[head] for one in each]) for head in each[0]}
                    return self.loss(outputs, batch)

                self.losses.append(loss(self.parameters).real)
                gradient = unrolled.gradient(loss, self.parameters)
                last = epoch == config.epochs - 1 and begin + size >= len(units)
                norm = self.apply(gradient, config.rollout_length * len(group) if last else 0)
        return gradient, norm


class PPOReference(Passes):
    def notes(self, one, outputs, next_outputs):
        values, next_values = outputs["value"][:, 0], next_outputs["value"][:, 0]
        old_log_pi, _ = log_pi_and_entropy(outputs, one["actions"])
        returns = self.lambda_returns(one, values, next_values, self.config.gae_lambda)
        return {"old_values": values, "old_log_pi": old_log_pi, "returns": returns}

    def loss(self, outputs, batch):
        config = self.config
        advantages = batch["returns"] - batch["old_values"]
        if config.normalise_advantages and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        log_pi, entropy = log_pi_and_entropy(outputs, batch["actions"])
        ratio = np.exp(log_pi - batch["old_log_pi"])
        bounds = 1 - config.clip_range, 1 + config.clip_range
        surrogate = smaller(ratio * advantages, clip(ratio, *bounds) * advantages)
        values, old = outputs["value"][:, 0], batch["old_values"]
        errors = (values - batch["returns"]) ** 2
        if config.value_clip is not None:
            clipped = old + clip(values - old, -config.value_clip, config.value_clip)
            errors = -smaller(-errors, -((clipped - batch["returns"]) ** 2))
        return (-surrogate - config.entropy_weight * entropy + config.value_weight * errors / 2).mean()


class PQNReference(Passes):
    def notes(self, one, outputs, next_outputs):
        best, following = outputs["q"].max(axis=1), next_outputs["q"].max(axis=1)
        return {"returns": self.lambda_returns(one, best, following, self.config.q_lambda)}

    def loss(self, outputs, batch):
        q = outputs["q"][np.arange(len(batch["actions"])), batch["actions"]]
        return ((batch["returns"] - q) ** 2).mean() / 2


def follow(config, make_reference, *, continuous=False):
    """The loop and a reference, compared after each rollout."""
    environment = Scripted(continuous=continuous)
    loop = Loop(config, environment)
    first = {name: values.astype(float) for name, values in loop.theta.items()}
    reference, worker = make_reference(config.network, first, config), loop.run.workers[0]
    randoms, k = [oracles.Xoshiro(row) for row in worker.actors.random], config.envs_per_batch
    draws = 4 if continuous else 1  # for an action: two of Box and Muller for each part
    for update in range(UPDATES):
        assert loop.rollout() == driver.PAUSED
        begin = update % (config.actors // k) * k
        group = []
        for actor in range(begin, begin + k):
            one = rollouts(transitions(environment.records(loop.instances[actor])), config.rollout_length)[-1]
            for begins in one["begins"]:
                for _ in range(begins + draws):
                    randoms[actor].next_uint64()
            one["actions"] = loop.run.policies[0].action[:, actor - begin].astype(float if continuous else int)
            one["actions"] = one["actions"] if continuous else one["actions"][:, 0]
            group.append(one | {"actor": actor})
        gradient, norm = reference.learn(group, randoms[begin])
        assert_same_gradient(loop.dtheta, gradient, norm, least=0.05)  # sums of advantages of mean 0 cancel
        assert loop.trainer.steps == reference.steps
        assert loop.run.shared.updates[0] == reference.updates
    assert [random.state for random in randoms] == worker.actors.random.tolist()
    assert_same(loop.theta, reference.parameters, first)
    return loop, reference


def settings(method, network=LAYERS, length=6, actors=2, envs_per_batch=2, seed=11, **others):
    own = {"ppo": {"value_weight": 0.3, "gae_lambda": 0.8}, "pqn": {"q_lambda": 0.6, "final_epsilon": 0.3}}[method]
    own |= {"epochs": 1, "minibatches": 1, "gradient_clip": 40.0, **OPTIMISERS["shared_rmsprop"]}
    return references.settings(
        network, length, actors, envs_per_batch, seed, method=method, **own | {"learning_rate": 0.03} | others
    ).replace(steps=UPDATES * length * envs_per_batch)


SHAPES = {
    "one pass": {},
    "one pass of one actor": {"actors": 1, "envs_per_batch": 1, "length": 9},
    "passes of one minibatch": {"epochs": 3},
    "minibatches": {"minibatches": 3},
    "passes of minibatches": {"epochs": 2, "minibatches": 2},
    "a last minibatch that is smaller": {"length": 5, "epochs": 2, "minibatches": 3},
    "more minibatches than samples": {"length": 2, "minibatches": 9},
    "two groups": {"actors": 4, "epochs": 2, "minibatches": 2},
    "adam": {"epochs": 2, "minibatches": 2, **OPTIMISERS["shared_adam"]},
    "radam": {"epochs": 2, "minibatches": 2, **OPTIMISERS["shared_radam"]},
    "clipped gradients": {"epochs": 2, "minibatches": 2, "gradient_clip": 0.05, "reward_clip": 0.7},
}
REFERENCES = {"ppo": PPOReference, "pqn": PQNReference}


@pytest.mark.parametrize("method", REFERENCES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_passes_equal_the_reference(method, shape):
    follow(settings(method, **shape), REFERENCES[method])


@pytest.mark.parametrize("method", REFERENCES)
@pytest.mark.parametrize(
    "shape",
    [{}, {"epochs": 2}, {"epochs": 2, "minibatches": 2}, {"actors": 3, "envs_per_batch": 3, "minibatches": 2}],
    ids=str,
)
def test_passes_of_networks_that_remember_equal_the_reference(method, shape):
    loop, reference = follow(settings(method, REMEMBERS, **shape), REFERENCES[method])
    assert loop.run.workers[0].actors.state == pytest.approx(reference.states, abs=1e-5)


PPO_CASES = {
    "advantages as they are": {"normalise_advantages": False},
    "a narrow clip": {"clip_range": 0.02, "learning_rate": 0.1},
    "a value clip": {"value_clip": 0.05, "learning_rate": 0.1},
    "the rollout's return": {"gae_lambda": 1.0},
    "one step": {"gae_lambda": 0.0},
    "much entropy": {"entropy_weight": 0.5},
    "adam": OPTIMISERS["shared_adam"],
}


@pytest.mark.parametrize("case", PPO_CASES.values(), ids=PPO_CASES)
@pytest.mark.parametrize("continuous", [False, True])
def test_ppo_equals_the_reference(continuous, case):
    more = {"epochs": 3, "minibatches": 2, "entropy_weight": 0.05} | case
    follow(settings("ppo", **more), PPOReference, continuous=continuous)


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("size", [1.0, 0.03, 0.01, 1e-5])
def test_advantages_that_are_noise_are_not_made_larger(normalised, size):
    loop = Loop(settings("ppo").replace(normalise_rewards=normalised), Scripted())
    loop.rollout(2)
    worker, method = loop.run.workers[0], loop.run.methods[0]
    samples = worker.rollout.reward.size
    method.batches.sample[:samples] = np.arange(samples)
    advantages = size * np.arange(samples).reshape(worker.rollout.reward.shape)
    worker.rollout.value[:], worker.rollout.R[:] = 2.0, 2.0 + advantages
    mean, scale = mean_and_scale(method, worker, worker.work, samples)
    count, _, m2 = worker.statistics.total[:, -1]
    least = 0.02 * min(np.sqrt(m2 / count), 1) if normalised else 0
    assert mean == pytest.approx(advantages.mean(), rel=1e-2)
    assert scale == pytest.approx(1 / max(advantages.std(), least), rel=1e-2)


def test_the_losses_reported_are_the_reference_s():
    config = settings("ppo", epochs=2, minibatches=2, entropy_weight=0.05, clip_range=0.03, learning_rate=0.1)
    loop, reference = follow(config, PPOReference)
    samples = UPDATES * config.rollout_length * config.envs_per_batch * config.epochs
    policy, value, entropy, kl, clipped = loop.run.sums()[METRICS:] / samples
    whole = policy + config.value_weight * value - config.entropy_weight * entropy
    assert whole == pytest.approx(np.mean(reference.losses), abs=1e-5)
    assert kl > 0
    assert 0 < clipped < 1


def test_pqn_of_one_pass_is_n_step_q_without_a_target_network():
    # Where the target network is copied after every rollout, and each rollout is its own minibatch: the mean of PQN's
    # loss is n-step Q's sum over so many samples, which a learning rate as much larger makes up for.
    shape = {"length": 4, "actors": 1, "envs_per_batch": 1, "optimiser": "momentum_sgd", "momentum": 0.0}
    pqn = settings("pqn", **shape, q_lambda=1.0, gradient_clip=1e6, learning_rate=0.04)
    n_step = pqn.replace(method="n_step_q", target_interval=1, learning_rate=0.01)
    found = []
    for config in (pqn, n_step):
        loop = Loop(config, Scripted())
        loop.rollout(UPDATES)
        found.append(loop.run.shared.theta.copy())
    assert found[0] == pytest.approx(found[1], abs=1e-6)
