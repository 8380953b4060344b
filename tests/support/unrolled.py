"""Networks of dense and LSTM layers in float64, or complex128: gradients by a complex step, without a backward pass."""

import numpy as np

from nbrl.nets.layers import Lstm

STEP = 1e-20  # of the complex step: the slope's error is its square


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(x, state, weights, recurrent, bias):
    """(h, new state) of one step: the state is h and c of the step before."""
    h, c = np.split(state, 2)
    i, f, g, o = np.split(x @ weights + h @ recurrent + bias, 4)
    c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return h, np.concatenate((h, c))


def step(layers, parameters, x, state):
    """({head: outputs}, new state) for one observation."""
    left = [np.zeros(0)]
    for place, layer in enumerate(layers, start=1):
        if isinstance(layer, Lstm):
            before, state = state[: 2 * layer.units], state[2 * layer.units :]
            x, after = lstm(
                x, before, *(parameters[f"lstm{place}/{name}"] for name in ("weights", "recurrent", "bias"))
            )
            left.append(after)
        else:
            x = np.tanh(x @ parameters[f"dense{place}/weights"] + parameters[f"dense{place}/bias"])
    heads = {
        head: x @ parameters[f"{head}/weights"] + parameters[f"{head}/bias"]
        for head in ("policy", "mean", "variance", "value", "q")
        if f"{head}/bias" in parameters
    }
    return heads, np.concatenate(left)


def unroll(layers, parameters, rollout, state):
    """({head: (T, outputs)}, states after each step) of a rollout that begins with a state."""
    outputs, states = [], []
    for x, begins in zip(rollout["observations"].astype(float), rollout["begins"], strict=True):
        one, state = step(layers, parameters, x, np.zeros_like(state) if begins else state)
        outputs.append(one)
        states.append(state)
    return {head: np.array([one[head] for one in outputs]) for head in outputs[0]}, states


def gradient(loss, parameters):
    """{name: gradient} of a function of parameters."""
    gradients = {name: np.zeros_like(theta) for name, theta in parameters.items()}
    for name, slopes in gradients.items():
        for place in np.ndindex(slopes.shape):
            moved = parameters[name].astype(complex)
            moved[place] += 1j * STEP
            slopes[place] = loss(parameters | {name: moved}).imag / STEP
    return gradients
