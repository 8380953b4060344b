"""Policies of networks given layer by layer, without an environment. Those that suit one are in `toys`."""

import numpy as np
import oracles
from gymnasium import spaces

from nbrl import Agent, Conv, Dense, Lstm
from nbrl.nets.network import Network
from nbrl.nets.table import forward, load_observation, load_state, outputs, store_state
from nbrl.spaces import Actions, Observations

ACTIONS = 3
SMALL = (Dense(8, "tanh"),)


def observed(shape, dtype="float32"):
    """Observations of a shape: an image where it has two or three sizes, as `oracles.channels_first` says."""
    layout = "vector" if len(shape) not in (2, 3) else "HW" if len(shape) == 2 else "HWC"
    layout = "CHW" if oracles.channels_first(shape) else layout
    bounds = (0, 255) if dtype == "uint8" else (-np.inf, np.inf)
    return Observations(spaces.Box(*bounds, shape, dtype=np.dtype(dtype).type), layout)


def agent_of(layers=SMALL, shape=(4,), dtype="float32", seed=0, heads=None, **bias):
    network = Network(layers, observed(shape, dtype), heads or {"policy": ACTIONS, "value": 1})
    parameters = network.initial(seed)
    for name, values in bias.items():
        network.layout.view(parameters, f"{name}/weights")[...] = 0
        network.layout.view(parameters, f"{name}/bias")[...] = values
    actions = Actions(spaces.Discrete(next(iter(network.heads.values()))))
    return Agent(network, parameters, actions, environment="CartPole-v1", sticky_actions=0.25)


PICTURES = {"layers": (Conv(4, 3, 2, "relu"), Dense(8, "relu")), "shape": (2, 9, 9), "dtype": "uint8"}
RECURRENT = {"layers": (Dense(6, "tanh"), Lstm(5), Lstm(3))}
VALUES = {"heads": {"q": ACTIONS}}

SHAPE = (2, 3)
LOW = np.array([[-1, 0, -np.inf], [-2, -0.1, 5]], np.float32)
HIGH = np.array([[1, 10, np.inf], [np.inf, 0.1, 6]], np.float32)


def continuous_agent(layers=SMALL, normalised=True, seed=0, **options):
    """A Gaussian policy whose actions have the shape (2, 3), and parts with two bounds, with one and with none."""
    network = Network(layers, observed((4,)), {"mean": 6, "variance": 6, "value": 1}, **options)
    normal = network.normal(4 if normalised else 0)
    normal[:] = np.random.default_rng(seed).uniform(0.5, 1.5, normal.shape)
    actions = Actions(spaces.Box(LOW, HIGH))
    return Agent(network, network.initial(seed), actions, environment="Six", normal=normal)


GAUSSIANS = [{}, {"normalised": False}, {"separate": True}, {"separate": True, "constant": ("variance",)}]


def compiled_outputs(agent, observation, state):
    """The heads' outputs for one row; the state is brought up to date."""
    work = agent.actor()[1].work
    load_observation(work, 0, np.ascontiguousarray(observation).reshape(-1).view(np.uint8))
    load_state(work, 0, state)
    forward(work, 0, 1)
    store_state(work, 0, state)
    return {head: outputs(work, agent.network.head(head), 0, 1)[0].copy() for head in agent.network.heads}
