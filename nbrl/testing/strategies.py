"""Hypothesis strategies: what draws is small at first and shrinks; nothing is compiled anew for another draw."""

import math
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from hypothesis import strategies as st

from nbrl import envs
from nbrl.config import Config, configure
from nbrl.envs.interface import TERMINATED, TRUNCATED, EnvStepper
from nbrl.methods import METHODS, method_class
from nbrl.methods.optimisers import OPTIMISERS
from nbrl.nets.layers import Conv, Dense, Gru, LayerNorm, Lstm
from nbrl.nets.layout import Layout
from nbrl.space_descriptions import describe
from nbrl.spaces import Observations as Format

activations = st.sampled_from(["none", "relu", "tanh"])


@st.composite
def layer_tables(
    draw: Any,
    observation: Any,
    *,
    recurrent: bool = True,
    norm: bool = True,
    most_convolutions: int = 2,
    most_dense: int = 2,
) -> tuple[Any, ...]:
    """Tables of layers that fit an observation: convolutions, then dense layers and those that remember, in any order.

    Parameters
    ----------
    observation : gymnasium.Space or Observations
    recurrent, norm : bool, optional
        Whether LSTM and GRU layers, and normalising ones, may be among them.
    most_convolutions, most_dense : int, optional
    """
    seen = observation if isinstance(observation, Format) else Format(observation)

    def normalised(layer: Any, units: int) -> list[Any]:
        # Between a layer's sums, of at least four units so that they seldom are almost alike, and its activation.
        if not norm or units < 4 or not draw(st.booleans()):
            return [layer]
        return [layer._replace(activation="none"), LayerNorm(layer.activation)]

    layers: list[Any] = []
    if seen.image:
        height, width = seen.height, seen.width
        for _ in range(draw(st.integers(0, most_convolutions))):
            kernel = draw(st.integers(1, min(height, width, 5)))
            stride = draw(st.integers(1, kernel + 1))
            layer = Conv(draw(st.integers(1, 20)), kernel, stride, draw(activations))
            layers += normalised(layer, layer.filters)
            height, width = ((side - kernel) // stride + 1 for side in (height, width))
    for _ in range(draw(st.integers(0 if layers or not most_dense else 1, most_dense))):
        if recurrent and draw(st.booleans()):
            layers.append(draw(st.sampled_from((Lstm, Gru)))(draw(st.integers(1, 20))))
        else:
            dense = Dense(draw(st.integers(1, 40)), draw(activations))
            layers += normalised(dense, dense.units)
    return tuple(layers) or (Dense(1),)


@st.composite
def parameters(draw: Any, layout: Layout, size: float = 1.0) -> np.ndarray:
    """Parameters of a network's layout, float32 (layout.size,), normal of deviation `size` by one drawn seed."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return (size * rng.standard_normal(layout.size)).astype(np.float32)


def observations(space: spaces.Space) -> st.SearchStrategy[Any]:
    """Values of a space, of any kind that can be trained on."""
    if isinstance(space, spaces.Dict):
        return st.fixed_dictionaries({name: observations(part) for name, part in space.spaces.items()})
    if isinstance(space, spaces.Tuple):
        return st.tuples(*map(observations, space.spaces))
    if isinstance(space, spaces.Discrete):
        return st.integers(int(space.start), int(space.start + space.n - 1)).map(space.dtype.type)
    if isinstance(space, spaces.MultiDiscrete):
        return _arrays(space.start, space.start + space.nvec - 1, space.shape, space.dtype)
    if isinstance(space, spaces.MultiBinary):
        return _arrays(0, 1, space.shape, space.dtype)
    if isinstance(space, spaces.Box):
        return _arrays(space.low, space.high, space.shape, space.dtype)
    describe(space)  # which says what is wrong with any other
    raise ValueError(f"{space} cannot be drawn from")


def _arrays(low: Any, high: Any, shape: tuple[int, ...], dtype: Any) -> st.SearchStrategy[np.ndarray]:
    """Arrays between two bounds: each number one of a few shares of its range, by a seed for large ones."""
    low, high = (np.broadcast_to(np.asarray(bound, np.float64), shape) for bound in (low, high))
    # Where there is no bound, numbers of a usual size.
    low, high = (np.where(np.isfinite(bound), bound, side * 10.0) for bound, side in ((low, -1), (high, 1)))
    low, high = np.minimum(low, high), np.maximum(low, high)

    def between(shares: np.ndarray) -> np.ndarray:
        values = np.asarray(low + shares * (high - low))
        if np.issubdtype(dtype, np.floating):
            return np.asarray(np.clip(values, low, high), dtype)
        return np.asarray(np.rint(values), dtype)

    size = math.prod(shape)
    if size <= 16:
        shares = st.lists(st.integers(0, 64).map(lambda k: k / 64), min_size=size, max_size=size)
        return shares.map(lambda drawn: between(np.array(drawn, np.float64).reshape(shape)))
    constant = st.sampled_from([0.0, 1.0, 0.5]).map(lambda share: between(np.full(shape, share)))
    seeds = st.integers(0, 2**32 - 1)
    return constant | seeds.map(lambda seed: between(np.random.default_rng(seed).random(shape)))


def actions(space: spaces.Space) -> st.SearchStrategy[Any]:
    """Actions of a space: Discrete, MultiDiscrete, MultiBinary or Box."""
    return observations(space)


class Returns(NamedTuple):
    """One actor's steps as `nbrl.testing.returns` takes them."""

    rewards: np.ndarray
    discounts: np.ndarray
    values: np.ndarray
    last_value: float
    ended: np.ndarray
    end_values: np.ndarray
    gae_lambda: float


@st.composite
def returns_cases(draw: Any, most_steps: int = 12) -> Returns:
    """Rewards, ends of every kind (terminated, truncated, cut by a lost life), discount and lambda."""
    numbers = st.integers(-8, 8).map(float)
    discount = draw(st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]))
    kind = st.sampled_from(["on", "on", "terminated", "truncated", "cut"])
    steps = draw(st.lists(st.tuples(numbers, numbers, kind, numbers), min_size=1, max_size=most_steps))
    rewards, values, kinds, ends = zip(*steps, strict=True)
    end_values = [end if kind == "truncated" else 0 for kind, end in zip(kinds, ends, strict=True)]
    return Returns(
        rewards=np.array(rewards, np.float32),
        discounts=np.array([0 if kind in ("terminated", "cut") else discount for kind in kinds], np.float32),
        values=np.array(values, np.float32),
        last_value=draw(numbers),
        ended=np.array([kind in ("terminated", "truncated") for kind in kinds]),
        end_values=np.array(end_values, np.float32),
        gae_lambda=draw(st.sampled_from([0.0, 0.5, 0.95, 1.0])),
    )


class Step(NamedTuple):
    """One step of an episode, as rows of numbers; the first has no action. Of several agents the action is a list."""

    observation: np.ndarray
    action: Any
    reward: float
    terminated: bool
    truncated: bool


@st.composite
def episodes(draw: Any, environment: Any, most_steps: int = 30) -> list[Step]:
    """Courses of an environment from a reset on, by drawn actions, until it ends or has had so many steps.

    Parameters
    ----------
    environment : str, callable or EnvSpec
    most_steps : int, optional
    """
    spec = envs.make(environment)
    player = EnvStepper(spec)
    try:
        course = [Step(player.reset(draw(st.integers(0, 2**31 - 1))), None, 0.0, False, False)]
        length = draw(st.integers(0, most_steps))
        while len(course) <= length and not (course[-1].terminated or course[-1].truncated):
            masks = player.mask.reshape(spec.agents, -1)
            parts = [draw(_parts(spec, mask)) for mask in masks]
            observation, reward, status = player.step(parts)
            ends = bool(status & TERMINATED), bool(status & TRUNCATED)
            actions = [spec.actions.decode(own) for own in parts]
            course.append(Step(observation, actions[0] if spec.agents == 1 else actions, reward, *ends))
    finally:
        player.close()
    return course


def _parts(spec: Any, mask: np.ndarray) -> st.SearchStrategy[np.ndarray]:
    """Legal actions as their parts."""
    if not spec.actions.discrete:
        low, high = spec.actions.bounds[2:]
        return _arrays(low, high, (spec.actions.parts,), np.float32)
    rows = np.split(mask if mask.size else np.ones(spec.actions.outputs), np.cumsum(spec.actions.counts)[:-1])
    legal = [st.sampled_from(np.flatnonzero(row).tolist()) for row in rows]
    return st.tuples(*legal).map(lambda parts: np.array(parts, np.int32))


@st.composite
def configurations(draw: Any, environment: Any, **fixed: Any) -> Config:
    """Settings of short runs that fit an environment: method, network, actors, rollouts, optimiser and so on.

    Parameters
    ----------
    environment : str, callable or EnvSpec
    **fixed
        Settings that are not drawn.
    """
    spec = envs.make(environment)
    fits = [name for name in METHODS if any(kind.takes(spec.actions) for kind in method_class(name).policies)]
    bounded = not spec.actions.discrete and np.isfinite(spec.actions.bounds).all()
    fits = [name for name in fits if name != "dpg" or (bounded and not spec.observations.image and spec.agents == 1)]
    method = fixed.get("method") or draw(st.sampled_from(fits))
    actors = draw(st.integers(1, 4))
    batch = draw(st.sampled_from([k for k in range(1, actors + 1) if actors % k == 0]))
    length = draw(st.integers(1, 6))
    network = (
        (Dense(draw(st.integers(1, 16)), "tanh"),)
        if method == "dpg"
        else draw(layer_tables(spec.observations, most_dense=1, most_convolutions=1))
    )
    drawn: dict[str, Any] = {
        "method": method,
        "network": network,
        "actors": actors,
        "envs_per_batch": batch,
        "threads": draw(st.integers(1, min(2, actors // batch))),
        "rollout_length": length,
        "steps": actors * length * draw(st.integers(1, 4)),
        "seed": draw(st.integers(0, 2**31 - 1)),
        "optimiser": draw(st.sampled_from(sorted(OPTIMISERS))),
        "discount": draw(st.sampled_from([0.0, 0.9, 0.99, 1.0])),
        "normalise_rewards": draw(st.booleans()),
        "normalise_observations": draw(st.booleans()),
        "learning_rate_schedule": draw(st.sampled_from(["linear", "constant", "cosine"])),
    }
    if "epochs" in method_class(method).settings:
        drawn |= {"epochs": draw(st.integers(1, 3)), "minibatches": draw(st.integers(1, 3))}
    if method == "dpg":
        buffer_size = draw(st.sampled_from([0, 64]))
        drawn |= {"buffer_size": buffer_size, "batch_size": 4, "learning_starts": 8}
    return configure(spec, **drawn | fixed).replace(environment=envs.description(environment, spec.name))
