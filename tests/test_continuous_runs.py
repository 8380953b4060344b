"""Runs with continuous actions: physics that diverges in the middle, and action spaces of every shape."""

import math
import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from nbrl import Agent, OnlineLearner, Trainer, configure, train

# A position of one actor's simulation becomes no number, after the first checkpoint.
DIVERGES = """
import os, time
import numpy as np
from nbrl import Agent, Trainer, configure
from nbrl.envs.mujoco.physics import SAVED

config = configure("HalfCheetah-v5", steps=10**9, threads=2, actors=16, checkpoint_interval=0.1)
trainer = Trainer(config, directory="run")
trainer.start(wait=False)
while trainer.steps < 10_000:  # all actors are within an episode, and the first checkpoint was there before
    time.sleep(0.05)
trainer.pause()
learner = trainer._run.learner
simulation = learner.instances[1][2]
row = np.frombuffer(simulation.save(), np.float64).copy()
row[SAVED + 1] = np.nan
simulation.load(row.tobytes())
trainer.resume()
try:
    trainer.join()
except RuntimeError as error:
    expected = f"in actor {learner.actors[1][2]} of worker thread 1"
    assert str(error) == f"the environment HalfCheetah-v5 reported a failure {expected}", error
    print("failed")
for name in os.listdir("run/checkpoints"):
    assert Agent.load(f"run/checkpoints/{name}").act(np.zeros(17)).shape == (6,)
print(sorted(os.listdir(".")))
"""


def test_physics_that_diverges_ends_the_run_and_nothing_else(tmp_path, environment_variables):
    process = subprocess.run(
        [sys.executable, "-c", DIVERGES], cwd=tmp_path, env=environment_variables, capture_output=True, text=True
    )
    errors = [line for line in process.stderr.splitlines() if "compiling, which takes" not in line]
    assert (process.stdout, errors, process.returncode) == ("failed\n['run']\n", [], 0)


class Valve(gymnasium.Env):
    """Reward is high where an action is near 1 in every part; actions outside of the space are an error."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, low, high, shape):
        self.action_space = spaces.Box(low, high, shape, np.float32)
        self.taken = []

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.taken.append(action.copy())
        return np.zeros(2, np.float32), -float(np.abs(action - 1).sum()), False, len(self.taken) % 10 == 0, {}


@pytest.mark.parametrize("shape", [(1,), (2, 3)])
@pytest.mark.parametrize(
    ("low", "high"), [(-math.inf, math.inf), (0, math.inf), (-math.inf, 4), (-3, 5), (0.5, 0.5)], ids=str
)
def test_action_spaces_without_bounds_or_with_one(low, high, shape):
    made = []

    def environment():
        made.append(Valve(low, high, shape))
        return made[-1]

    agent = train(environment, method="a3c", steps=60_000, threads=1, actors=4, seed=1, learning_rate=3e-3)
    assert sum(len(one.taken) for one in made) >= 60_000
    best = np.clip(1.0, low, high)
    np.testing.assert_allclose(agent.act(np.zeros(2), greedy=True), np.full(shape, best), atol=0.1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_host_that_sends_what_is_no_number_loses_nothing(value):
    learner = OnlineLearner({"seed": 1}, spaces.Box(-1, 1, (2,), np.float32), spaces.Box(-1, 1, (3,), np.float32))
    before = learner.snapshot().parameters
    learner.step(np.zeros(2))
    with pytest.raises(FloatingPointError, match="an observation has a number that is not finite"):
        learner.step(np.full(2, value), reward=1.0)
    learner.step(np.zeros(2))
    with pytest.raises(FloatingPointError, match="a reward is not finite"):
        learner.step(np.zeros(2), reward=value)
    np.testing.assert_array_equal(learner.snapshot().parameters, before)
    assert learner.step(np.zeros(2)).shape == (3,)


def test_a_model_that_cannot_be_read(tmp_path):
    bad = tmp_path / "bad.xml"
    bad.write_text("<mujoco><worldbody><body></worldbody></mujoco>")

    def environment():
        return gymnasium.make("Ant-v5", xml_file=str(bad))

    with pytest.raises(ValueError, match="XML parse error"):
        Trainer(configure(environment, steps=1000), environment)
    with pytest.raises(OSError, match=r"nothing\.xml does not exist"):  # gymnasium's own
        configure(lambda: gymnasium.make("Ant-v5", xml_file=str(tmp_path / "nothing.xml")), steps=1000)
    assert os.listdir(tmp_path) == ["bad.xml"]


def test_a_policy_of_motor_control_refuses_other_actions_and_observations():
    agent: Agent = Trainer(configure("Reacher-v5", steps=1000, threads=1)).snapshot()
    with pytest.raises(ValueError, match=r"the observation has shape \(11,\), but its space says \(10,\)"):
        agent.act(np.zeros(11))
    with pytest.raises(ValueError, match="a number that is not finite"):
        agent.act(np.full(10, np.nan))
    with pytest.raises(ValueError, match=r"out must be a writable float32 array of shape \(2,\)"):
        agent.act(np.zeros(10), out=np.zeros(3, np.float32))
