"""What agents say to each other as a plain float64 forward pass, layer by layer and agent by agent."""

from typing import Any, NamedTuple

import numpy as np

from nbrl.nets.layers import Channel, Communicate, Dense, Gru, Lstm, kind_of

INPUTS = 4


class Talk(NamedTuple):
    """What agents see over some steps: axes steps, environments, agents, then numbers."""

    x: np.ndarray
    continues: np.ndarray  # bool: whether its state is what the step before left
    states: np.ndarray  # where it does not
    speaks: np.ndarray  # bool
    hears: np.ndarray  # bool
    noise: np.ndarray
    there: np.ndarray  # bool: whether it is alive, where a value sees what all observe


def draw_talk(rng, network, steps, environments, agents, bits):
    shape = (steps, environments, agents)
    continues = rng.random(shape) < 0.7
    continues[0] = False
    return Talk(
        rng.standard_normal((*shape, INPUTS)).astype(np.float32),
        continues,
        # What was said is 0 where nobody spoke, as layers leave it; here it may be anything.
        rng.standard_normal((*shape, network.state_size)).astype(np.float32),
        rng.random(shape) < 0.7,
        rng.random(shape) < 0.7,
        rng.standard_normal((*shape, bits)).astype(np.float32),
        np.ones(shape, bool),
    )


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def mean_of_others(said, spoke, hears):
    """Of agents (agents, numbers) what each hears."""
    heard = np.zeros_like(said)
    for a in range(len(said)):
        others = [b for b in range(len(said)) if b != a and spoke[b]]
        if hears[a] and others:
            heard[a] = sum(said[b] for b in others) / len(others)
    return heard


def plain_step(layer, p, x, state, noise, speaks, hears, learns):
    """One step of the agents of one environment, float64: outputs, and the state that it leaves."""
    squash = {"tanh": np.tanh, "none": lambda z: z, "relu": lambda z: np.maximum(z, 0)}
    if isinstance(layer, Dense):
        return squash[layer.activation](x @ p["weights"] + p["bias"]), state
    if isinstance(layer, Communicate):
        c = mean_of_others(x, speaks, hears)
        return squash[layer.activation](x @ p["weights"] + c @ p["messages"] + p["bias"]), state
    u = layer.units
    if isinstance(layer, Lstm):
        z = x @ p["weights"] + state[:, :u] @ p["recurrent"] + p["bias"]
        c = sigmoid(z[:, u : 2 * u] + 1) * state[:, u:] + sigmoid(z[:, :u]) * np.tanh(z[:, 2 * u : 3 * u])
        h = sigmoid(z[:, 3 * u :]) * np.tanh(c)
        return h, np.concatenate([h, c], axis=1)
    h = state[:, :u]
    enters, before = x @ p["weights"] + p["bias"], h @ p["recurrent"]
    if isinstance(layer, Channel):
        said, spoke = state[:, u : u + layer.bits], state[:, -1] > 0
        # A message counts where it was said; a state that was drawn may have one elsewhere too.
        enters = enters + mean_of_anything(said, spoke, hears) @ p["heard"]
    r, z = sigmoid(enters[:, :u] + before[:, :u]), sigmoid(enters[:, u : 2 * u] + before[:, u : 2 * u])
    n = np.tanh(enters[:, 2 * u :] + r * before[:, 2 * u :])
    h = (1 - z) * n + z * h
    if isinstance(layer, Gru):
        return h, h
    m = h @ p["speak"] + p["speak_bias"]
    m = np.tanh((m + 2 * noise) / 2) if learns else np.where(m > 0, 1.0, -1.0)
    return h, np.concatenate([h, m * speaks[:, None], 1.0 * speaks[:, None]], axis=1)


def mean_of_anything(said, spoke, hears):
    return mean_of_others(said * spoke[:, None], spoke, hears)


def plain_forward(network, parameters, talk, learns=True):
    """The heads' outputs (steps, environments, agents, units) by name, and the states that are left, float64."""
    named: dict[str, dict[str, Any]] = {}
    for name in network.layout.names:
        layer, part = name.split("/")
        named.setdefault(layer, {})[part] = network.layout.view(parameters, name)
    sizes = {plan.name: plan.state for plan in network.plans}
    steps, environments, agents = talk.continues.shape
    left = np.zeros((steps, environments, agents, network.state_size))
    found = {head: np.zeros((steps, environments, agents, units)) for head, units in network.heads.items()}
    for t in range(steps):
        for e in range(environments):
            before = talk.states[t, e].astype(np.float64)
            if t:
                before = np.where(talk.continues[t, e][:, None], left[t - 1, e], before)
            x, at = talk.x[t, e].astype(np.float64), 0
            enters = {"": x}
            if network.everyone:
                x = x * talk.there[t, e][:, None]
                enters["value_"] = np.array([np.roll(x, -a, axis=0).reshape(-1) for a in range(agents)])
            tops = {}
            for prefix, y in enters.items():
                for place, layer in enumerate(network.layers, start=1):
                    name = f"{prefix}{kind_of(layer)}{place}"
                    state = before[:, at : at + sizes[name]]
                    y, after = plain_step(
                        layer, named[name], y, state, talk.noise[t, e], talk.speaks[t, e], talk.hears[t, e], learns
                    )
                    left[t, e, :, at : at + state.shape[1]] = after
                    at += state.shape[1]
                tops[prefix] = y
            for head in network.heads:
                y = tops.get("value_" if head == "value" else "", tops[""])
                found[head][t, e] = y @ named[head]["weights"] + named[head]["bias"]
    return found, left


def silence(network, talk):
    """The talk with states as layers leave them: nothing said where nobody spoke."""
    states, at = talk.states.copy(), 0
    for plan, layer in zip(network.plans, network.layers, strict=False):
        if isinstance(layer, Channel):
            spoke = states[..., at + plan.state - 1] > 0
            states[..., at + plan.state - 1] = spoke
            states[..., at + layer.units : at + plan.state - 1] *= spoke[..., None]
        at += plan.state
    return talk._replace(states=states)
