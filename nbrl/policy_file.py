"""What the file of a policy says, read and checked in NumPy alone, before any memory is taken for what it claims."""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from nbrl.checkpoint import CheckpointError
from nbrl.numpy_layers import LAYERS, check_row
from nbrl.spaces import Actions, Observations

FORMAT = "nbrl policy 2"
MAX_SAMPLE = 1 << 24  # numbers that a network has for one observation
MOST_AGENTS = 10_000
POLICIES = (("policy",), ("q",), ("mean", "variance"), ("action",))  # heads that actions are chosen by
CRITICS = {"policy": ("value",), "q": (), "mean": ("value",), "action": ("q",)}  # the heads after those


class PolicyFile(NamedTuple):
    """A policy's file."""

    layers: list[list[Any]]  # from the observation up, each a kind and its numbers
    heads: dict[str, int]  # units by name
    separate: bool  # whether the value has layers of its own
    constant: list[str]  # heads that are the same for every observation
    observations: Observations
    actions: Actions
    environment: str
    sticky_actions: float
    environment_arguments: dict[str, Any]
    agents: int
    indexed: bool  # whether the network is told which of them an observation is of
    shapes: dict[str, tuple[int, ...]]  # of the parameters by name
    normal: np.ndarray  # float32 (2, 0 or more): what observations are normalised by


def read_policy(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> PolicyFile:
    """Check what a file's arrays and metadata say.

    Raises
    ------
    CheckpointError
        It holds no policy that can be used, with one sentence.
    """
    try:
        return _read(arrays, metadata)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        missing = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"the file holds no policy that can be used: {missing}") from error


def _read(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> PolicyFile:
    if metadata["format"] != FORMAT:
        raise ValueError(f"its format is {metadata['format']!r:.60}, not {FORMAT!r}")
    fields = ("network", "heads", "separate", "constant", "observations", "actions", "sticky_actions")
    parts = {name: json.loads(metadata[name]) for name in fields}
    layers, heads, separate, constant = (parts[name] for name in fields[:4])
    if not isinstance(layers, list) or not layers:
        raise ValueError("its network has no layer")
    for row in layers:
        check_row(row)
    _check_heads(heads)
    deterministic = "action" in heads
    if type(separate) is not bool or constant not in ([], ["variance"]) or (separate and "value" not in heads):
        raise ValueError("its network is of no known kind")
    if (constant and "variance" not in heads) or (deterministic and any(row[0] != "dense" for row in layers)):
        raise ValueError("its network is of no known kind")
    observations, actions = Observations.from_json(parts["observations"]), Actions.from_json(parts["actions"])
    policy = next(names for names in POLICIES if names[0] == next(iter(heads)))
    if any(heads[name] != actions.outputs for name in policy) or actions.discrete != (policy[0] in ("policy", "q")):
        raise ValueError(f"its heads {heads!r:.60} cannot choose among {actions}")
    if policy[0] == "q" and len(actions.counts) != 1:
        raise ValueError(f"values cannot choose among {actions}")
    if deterministic and not np.isfinite(actions.bounds).all():
        raise ValueError("a deterministic policy needs actions with two bounds")
    sticky = parts["sticky_actions"]
    if type(sticky) not in (int, float) or not 0 <= sticky < 1:
        raise ValueError("its sticky_actions is no probability below 1")
    arguments = json.loads(metadata.get("environment_arguments", "{}"))
    if not isinstance(arguments, dict):
        raise ValueError("its environment_arguments are no keywords")
    agents = json.loads(metadata.get("agents", "1"))
    if type(agents) is not int or not 1 <= agents <= MOST_AGENTS:
        raise ValueError(f"its agents are {agents!r:.60}, no whole number from 1 to {MOST_AGENTS:,}")
    indexed = json.loads(metadata.get("indexed", "false"))
    if type(indexed) is not bool or (indexed and (agents == 1 or observations.image)):
        raise ValueError("its agents cannot be told apart")
    shapes = _shapes(layers, heads, separate, constant, observations, actions, agents, indexed)
    for name, expected in shapes.items():
        if arrays[name].shape != expected or arrays[name].dtype != np.float32:
            raise ValueError(f"{name} has shape {arrays[name].shape!s:.60} of {arrays[name].dtype}, not {expected}")
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"a parameter of {name} is not finite")
    normal = arrays.get("observations/normal", np.zeros((2, 0), np.float32))
    _check_normal(normal, observations)
    environment = metadata["environment"]
    return PolicyFile(
        layers, heads, separate, constant, observations, actions, environment, float(sticky), arguments, agents,
        indexed, shapes, normal,
    )  # fmt: skip


def _check_heads(heads: Any) -> None:
    if not isinstance(heads, dict) or not all(type(units) is int and units > 0 for units in heads.values()):
        raise ValueError("its heads are no names with numbers of units")
    names = tuple(heads)
    for policy in POLICIES:
        critic = CRITICS[policy[0]]
        if names in (policy, policy + critic):
            if any(heads[name] != 1 for name in critic if name in heads) or (policy == ("action",) and len(names) == 1):
                raise ValueError("its heads do not fit one another")
            return
    raise ValueError(f"no kind of policy has the heads {names!r:.60}")


def _shapes(
    layers: list[list[Any]],
    heads: dict[str, int],
    separate: bool,
    constant: list[str],
    observations: Observations,
    actions: Actions,
    agents: int,
    indexed: bool,
) -> dict[str, tuple[int, ...]]:
    """The shape of every array of parameters by name, in the network's order; ValueError where layers do not fit."""
    seen = observations
    image = (seen.height, seen.width, seen.channels) if seen.image else tuple(seen.shape)
    if indexed:
        image = (seen.size + agents,)
    found: dict[str, tuple[int, ...]] = {}
    numbers = math.prod(image)

    def walk(prefix: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        nonlocal numbers
        for place, (kind, *row) in enumerate(layers, start=1):
            if place == 1 and kind == "layer_norm" and seen.image and seen.layout == "CHW":
                raise ValueError("its first layer normalises images with channels first")
            own, shape = LAYERS[kind].shapes(row, shape)
            found.update({f"{prefix}{kind}{place}/{name}": size for name, size in own.items()})
            numbers += math.prod(shape) + LAYERS[kind].state(row)
            if numbers * agents > MAX_SAMPLE:
                raise ValueError(f"its network has more than {MAX_SAMPLE:,} numbers for what is observed at once")
        return shape

    def head(name: str, shape: tuple[int, ...]) -> None:
        if name not in constant:
            found[f"{name}/weights"] = (math.prod(shape), heads[name])
        found[f"{name}/bias"] = (heads[name],)

    if "action" in heads:
        head("action", walk("", (seen.size,)))
        head("q", walk("q_", (seen.size + heads["action"],)))
        return found
    shape = walk("", image)
    own = walk("value_", image) if separate else shape
    for name in heads:
        head(name, own if name == "value" else shape)
    return found


def _check_normal(normal: np.ndarray, observations: Observations) -> None:
    size = 1 if observations.image else observations.size
    if normal.shape not in ((2, 0), (2, size)) or normal.dtype != np.float32 or not np.isfinite(normal).all():
        raise ValueError(f"observations/normal is no array of (2, {size}) finite float32")
    if (normal[1] <= 0).any():
        raise ValueError("observations/normal has a scale that is not above 0")
