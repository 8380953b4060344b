"""Methods with LSTM layers: what each actor remembers, from step to step and rollout to rollout, and what it learns.

The reference is float64 and knows no backward pass: its gradients are slopes, by a complex step. So it shows that the
gradient flows from step to step of a rollout, within an episode alone, and neither into the rollout before nor into the
value that a return begins with.
"""

import numpy as np
import oracles
import pytest
import references
import unrolled
from loops import Loop
from references import OPTIMISERS, UPDATES, follow
from scripted import Scripted, transitions

from nbrl import Dense
from nbrl.methods import driver
from nbrl.nets.layers import Lstm

LAYERS = (Dense(5, "tanh"), Lstm(4))


class Recurrent:
    """The part of a reference that knows the network. `states` has what each actor remembers."""

    def __init__(self, layers, parameters, config):
        super().__init__(layers, parameters, config)
        assert all(isinstance(layer, Lstm) or layer.activation == "tanh" for layer in layers)
        size = 2 * sum(layer.units for layer in layers if isinstance(layer, Lstm))
        self.states = np.zeros((config.actors, size))

    def unroll(self, parameters, rollout):
        return unrolled.unroll(self.layers, parameters, rollout, self.states[rollout["actor"]])

    def outputs(self, rollout):
        return self.unroll(self.parameters, rollout)[0], rollout

    def next_outputs(self, rollout, parameters):
        # The target network goes on from what the online network remembers.
        _, states = self.unroll(self.parameters, rollout)
        observations = rollout["next_observations"].astype(float)
        found = [
            unrolled.step(self.layers, parameters, x, state)[0] for x, state in zip(observations, states, strict=True)
        ]
        return {head: np.array([one[head] for one in found]) for head in found[0]}

    def backward(self, rollout, doutputs):
        def loss(parameters):
            outputs, _ = self.unroll(parameters, rollout)
            return sum((doutputs[head] * outputs[head]).sum() for head in doutputs)

        return unrolled.gradient(loss, self.parameters)

    def gradient(self, rollout):
        gradient, (_, states) = super().gradient(rollout), self.unroll(self.parameters, rollout)
        self.states[rollout["actor"]] = states[-1]
        return gradient


class RecurrentA3C(Recurrent, oracles.A3CReference):
    pass


class RecurrentValues(Recurrent, oracles.ValueReference):
    pass


CASES = {
    "one actor": {},
    "long rollouts": {"length": 20},
    "one step": {"length": 1, "seed": 5},
    "two pairs in lockstep": {"actors": 4, "envs_per_batch": 2},
    "an LSTM layer alone": {"network": (Lstm(7),)},
    "two LSTM layers": {"network": (Lstm(3), Dense(4, "tanh"), Lstm(5)), "actors": 2},
    "momentum of each of two groups": {"actors": 4, "envs_per_batch": 2, **OPTIMISERS["momentum_sgd"]},
}


@pytest.mark.parametrize("method", ["a3c", "one_step_q", "one_step_sarsa", "n_step_q"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_ten_updates_equal_the_reference(case, method):
    shape = case.get("length", 5) * case.get("envs_per_batch", 1)
    shorter = {"target_interval": 3 * shape, "epsilon_steps": 5 * shape}
    config = references.settings(**{"method": method, "network": LAYERS} | shorter | case)
    loop, reference = follow(config, RecurrentA3C if method == "a3c" else RecurrentValues)
    # What each actor remembers now, to the accuracy of ten updates and a hundred steps in float32.
    assert loop.run.workers[0].actors.state == pytest.approx(reference.states, abs=1e-5)


# The same by the policy in NumPy, where nothing is learnt


@pytest.mark.parametrize("method", ["a3c", "one_step_q", "one_step_sarsa", "n_step_q"])
def test_an_actor_remembers_its_episode_and_nothing_before(method):
    # The loop's own policy, fed with an episode from its beginning, ends up with what the actor remembers: whichever
    # rollouts and turns the episode spans. What is learnt meanwhile is far below float32's last place.
    config = references.settings(
        method=method, network=(Lstm(6), Dense(5, "relu"), Lstm(3)), actors=4, envs_per_batch=2, learning_rate=1e-20
    )
    environment = Scripted()
    loop = Loop(config, environment)
    policy, worker, longest, begun_in_between = loop.run.agent().to_numpy(), loop.run.workers[0], 0, 0
    for _ in range(UPDATES):
        assert loop.rollout() == driver.PAUSED
        for actor, instance in enumerate(loop.instances):
            records = environment.records(instance)
            if not len(records):
                continue  # its turn has not come
            steps = transitions(records)
            first = int(np.flatnonzero(steps["begins"])[-1])
            expected = policy.initial_state()
            for observation in steps["observations"][first:]:
                policy.outputs(observation, expected)
            # tanh and sigmoid in float32 are right to some last places, and cells sum up those of each step.
            assert worker.actors.state[actor] == pytest.approx(expected, abs=1e-5)
            assert abs(expected).min() > 1e-4
            longest = max(longest, len(steps["actions"]) - first)
            begun_in_between += first % config.rollout_length > 0
    assert longest > config.rollout_length
    assert begun_in_between > 10
