"""For tests of whole runs: small environments (faults on order, a picture, one in C), and waiting with an end."""

import ctypes
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from nbrl import Agent, Dense, Lstm, configure, envs
from nbrl.envs import NativeEnvironment
from nbrl.nets.network import Network

LONG = 10**12  # steps: a run that does not end by itself
PATIENCE = 30.0  # seconds that nothing here takes, unless it waits for ever
SIDE = 10  # of the picture
TINY = {
    "method": "a3c",
    "network": (Dense(8, "tanh"),), "optimiser": "shared_rmsprop", "rollout_length": 5, "learning_rate": 1e-3,
    "reward_clip": None, "seed": 1, "threads": 1,
}  # fmt: skip


def tiny(environment="Catch-v0", **settings):
    """The settings of a small run."""
    return configure(environment, **(TINY | {"actors": settings.get("threads", 1)} | settings))


def policy_for(environment, name=None, seed=0, logits=None, layers=TINY["network"], values=False):
    """A policy of random weights, or of fixed logits; or one of Q values."""
    spec = envs.make(environment)
    heads = {"q": spec.actions.outputs} if values else {"policy": spec.actions.outputs, "value": 1}
    network = Network(layers, spec.observations, heads)
    parameters = network.initial(seed)
    if logits is not None:
        network.layout.view(parameters, "policy/weights")[...] = 0
        network.layout.view(parameters, "policy/bias")[...] = logits
    return Agent(network, parameters, spec.actions, environment=name or spec.name)


def continuous_policy(environment="Pendulum-v1", seed=0, layers=TINY["network"], constant=(), **options):
    """A Gaussian policy of random weights. Its observations are normalised."""
    spec = envs.make(environment)
    parts, rng = spec.actions.parts, np.random.default_rng(seed)
    heads = {"mean": parts, "variance": parts, "value": 1}
    network = Network(layers, spec.observations, heads, constant=constant, **options)
    normal = network.normal(1 if spec.observations.image else spec.observations.size)
    normal[:] = rng.uniform(0.5, 1.5, normal.shape)
    return Agent(network, network.initial(seed), spec.actions, environment=spec.name, normal=normal)


def deterministic_policy(environment="Pendulum-v1", seed=0, layers=TINY["network"]):
    """A deterministic policy of random weights, whose observations are normalised."""
    spec = envs.make(environment)
    heads, rng = {"action": spec.actions.parts, "q": 1}, np.random.default_rng(seed)
    network = Network(layers, spec.observations, heads)
    normal = network.normal(spec.observations.size)
    normal[:] = rng.uniform(0.5, 1.5, normal.shape)
    return Agent(network, network.initial(seed), spec.actions, environment=spec.name, normal=normal)


RECURRENT = (Dense(8, "tanh"), Lstm(6), Lstm(4))


def cue_policy(values=False):
    """A policy of one cell for Cue-v0, which earns 1 in every episode that it begins with an empty memory.

    While it sees a cue it adds 1 to the cell if that says right, or else -1; then it keeps the cell, and goes by its
    sign. With what an earlier episode left there, two different cues make 0.
    """
    agent = policy_for("Cue-v0", layers=(Lstm(1),), values=values)
    parameters, head = np.zeros(agent.network.layout.size, np.float32), "q" if values else "policy"
    named = agent.network.layout.views(parameters)
    # Gates i, f, g, o; of the observation the first two numbers are the cues, left and right. s(10) is almost 1.
    named["lstm1/weights"][:2] = [[20, 0, -10, 0], [20, 0, 10, 0]]
    named["lstm1/bias"][...] = [-10, 10, 0, 10]
    named[f"{head}/weights"][...] = [[-20, 20]]
    return Agent(agent.network, parameters, agent.actions, environment=agent.environment)


def our_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("nbrl")]


def in_time(function, *arguments):
    """Call a function in a thread of its own, and raise what it raises; fail if it does not come back."""
    results, errors = [], []

    def call():
        try:
            results.append(function(*arguments))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), f"{function} does not return"
    if errors:
        raise errors[0]
    return results[0]


def wait_until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


class Broken(Exception):
    """What a faulty environment raises."""

    def __bool__(self):
        return False


class Walk(gymnasium.Env):
    """Observations count the steps; an episode has ten. `faults` maps ("reset" or "step", number) to what is done.

    `number` counts the calls of this environment from 0. What is done is called with the environment: it may raise, or
    return a dict of what the call is to give instead: observation, reward, terminated or truncated.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, faults=None, pause=0.0, on_close=None):
        self.faults, self.pause, self.on_close = faults or {}, pause, on_close
        self.calls = {"reset": 0, "step": 0}
        self.place = 0

    def result(self, call):
        number = self.calls[call]
        self.calls[call] += 1
        time.sleep(self.pause)
        values = {"observation": [self.place, 1.0, 0.0], "reward": 1.0, "terminated": self.place >= 10}
        values |= {"truncated": False} | (self.faults.get((call, number), lambda walk: {})(self) or {})
        values["observation"] = np.array(values["observation"], np.float32)
        return values

    def reset(self, *, seed=None, options=None):
        self.place = 0
        return self.result("reset")["observation"], {}

    def step(self, action):
        self.place += 1
        values = self.result("step")
        return values["observation"], values["reward"], values["terminated"], values["truncated"], {}

    def close(self):
        if self.on_close:
            self.on_close(self)


def actor_at_hand(otherwise):
    """The number of the actor whose environment is being made, since threads make theirs side by side."""
    frame = sys._getframe()
    while frame is not None and frame.f_code.co_name != "attach":
        frame = frame.f_back
    return otherwise if frame is None else frame.f_locals["actor"]


class Walks:
    """Makes walks; `arguments` maps an actor's number, or without an actor how many there were, to those of its walk.

    The first two are those whose spaces `configure` and `Trainer` read.
    """

    __name__ = "Walks"

    def __init__(self, arguments=None, **every):
        self.arguments, self.every = arguments or {}, every
        self.made, self.closed, self.probes, self.lock = [], [], 2, threading.Lock()

    def __call__(self):
        with self.lock:
            if self.probes:
                self.probes -= 1
                return Walk()
            arguments = {
                "on_close": self.closed.append,
                **self.every,
                **self.arguments.get(actor_at_hand(len(self.made)), {}),
            }
            self.made.append(Walk(**arguments))
            return self.made[-1]


def explode(walk):
    raise Broken("out of the walk")


class Picture(gymnasium.Env):
    """A bright bar stands on the left or on the right: action 0 or 1 is right. Ten pictures make an episode."""

    observation_space = spaces.Box(0, 255, (SIDE, SIDE), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 10
        return self.look(), {}

    def look(self):
        self.side = int(self.np_random.integers(2))
        picture = self.np_random.integers(0, 60, (SIDE, SIDE), np.uint8)
        picture[:, [int(self.np_random.integers(3)) + 7 * self.side]] = 255
        return picture

    def step(self, action):
        reward = float(action == self.side)
        self.left -= 1
        return self.look(), reward, self.left == 0, False, {}


def corridor(folder):
    """The C environment of envs/corridor.c as a user would build it; skips where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    library = Path(folder) / "corridor.so"
    source = Path(__file__).with_name("corridor.c")
    subprocess.run([compiler, "-Wall", "-Werror", "-O2", "-shared", "-fPIC", source, "-o", library], check=True)
    functions = ctypes.CDLL(str(library))
    return NativeEnvironment(
        functions.corridor_reset,
        functions.corridor_step,
        state_size=8,
        observation_space=spaces.Box(0.0, 1.0, (8,), np.float32),
        action_space=spaces.Discrete(2),
        name="corridor",
    )
