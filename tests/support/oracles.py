"""Slow, obvious float64 NumPy (and Python int) versions of what the package computes fast: the tests' second opinion.

Nothing here imports the package. Shapes: T steps of a rollout, B rows of a batch, A actions, P parameters. Parameters
and gradients are dicts of float64 arrays by the layout's names ("conv1/weights", "policy/bias", ...). A layer is
anything with the attributes of `nbrl.Dense` (units, activation), `nbrl.Conv` (filters, kernel, stride, activation) or
`nbrl.Lstm` (units).
"""

import math

import numpy as np

STEPPED, TERMINATED, TRUNCATED, CUT = 1, 2, 4, 8


# --- kernels ---------------------------------------------------------------------------------------------------------


def gemm(x, row, tap, b, c=None):
    """C[i, j] = (c[i, j] if given, else 0) + sum over k of x[row[i] + tap[k]] * b[k, j], in float64.

    x is flat; row (m,), tap (k,) are integer offsets; b is (k, n); the result is a new (m, n) array.
    """
    x = np.asarray(x, np.float64).ravel()
    result = np.zeros((len(row), b.shape[1])) if c is None else np.array(c, np.float64)
    for i, at in enumerate(row):
        for k, offset in enumerate(tap):
            result[i] += x[int(at) + int(offset)] * b[k].astype(np.float64)
    return result


MASK = 2**64 - 1


def splitmix64(state):
    """One step of splitmix64 (Steele, Lea, Flood 2014): (the next state, an output)."""
    state = (state + 0x9E3779B97F4A7C15) & MASK
    z = state
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return state, z ^ (z >> 31)


def rotate_left(value, count):
    """A 64-bit word rotated to the left."""
    return ((value << count) | (value >> (64 - count))) & MASK


class Xoshiro:
    """xoshiro256++ 1.0 (Blackman, Vigna 2019) over a list of four Python ints."""

    def __init__(self, state):
        self.state = [int(word) for word in state]

    def next_uint64(self):
        """The next 64 random bits as an int."""
        s = self.state
        result = (rotate_left((s[0] + s[3]) & MASK, 23) + s[0]) & MASK
        shifted = (s[1] << 17) & MASK
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= shifted
        s[3] = rotate_left(s[3], 45)
        return result

    def uniform(self):
        """The top 53 bits as a float in [0, 1)."""
        return (self.next_uint64() >> 11) * 2.0**-53


# --- layers ----------------------------------------------------------------------------------------------------------


def activation_forward(z, activation):
    """The activation ("none", "relu" or "tanh") of every element of z."""
    return {"none": lambda: z, "relu": lambda: np.maximum(z, 0.0), "tanh": lambda: np.tanh(z)}[activation]()


def activation_backward(y, dy, activation):
    """dL/dz from the activation's output y and dL/dy."""
    return {"none": lambda: dy, "relu": lambda: dy * (y > 0), "tanh": lambda: dy * (1 - y * y)}[activation]()


def dense_forward(x, weights, bias):
    """(B, inputs) @ (inputs, outputs) + (outputs,)."""
    return x @ weights + bias


def dense_backward(x, weights, dy):
    """(dx, dweights, dbias) of `dense_forward`."""
    return dy @ weights.T, x.T @ dy, dy.sum(axis=0)


def sigmoid(z):
    """1 / (1 + e^-z)."""
    return 1 / (1 + np.exp(-z))


def lstm_forward(x, states, weights, recurrent, bias, k, continues):
    """(h (B, units), what `lstm_backward` needs) of an LSTM whose sample s is the step after sample s - k.

    Where continues[s], sample s begins with the h and c that sample s - k left, elsewhere with those of states[s],
    (2 * units,). `weights` (inputs, 4 * units), `recurrent` (units, 4 * units) and `bias` hold the gates i, f, g, o.
    """
    units = len(recurrent)
    steps = []
    for s in range(len(x)):
        follows = s >= k and bool(continues[s])
        h, c = (steps[s - k]["h"], steps[s - k]["c"]) if follows else (states[s, :units], states[s, units:])
        z = x[s] @ weights + h @ recurrent + bias
        i, f, o = sigmoid(z[:units]), sigmoid(z[units : 2 * units] + 1), sigmoid(z[3 * units :])
        g = np.tanh(z[2 * units : 3 * units])
        step = {"follows": follows, "old h": h, "old c": c, "i": i, "f": f, "g": g, "o": o, "c": f * c + i * g}
        steps.append(step | {"h": o * np.tanh(f * c + i * g)})
    return np.array([step["h"] for step in steps]), steps


def lstm_backward(x, steps, weights, recurrent, dy, k):
    """(dx, dweights, drecurrent, dbias) of `lstm_forward`: from the last sample back to the first."""
    dx, dweights, drecurrent = np.zeros_like(x), np.zeros_like(weights), np.zeros_like(recurrent)
    dbias = np.zeros(weights.shape[1])
    dh, dc = np.array(dy, np.float64), np.zeros_like(dy, np.float64)
    for s in reversed(range(len(x))):
        step = steps[s]
        i, f, g, o, tanh_c = step["i"], step["f"], step["g"], step["o"], np.tanh(step["c"])
        dc[s] += dh[s] * o * (1 - tanh_c**2)
        di, df, dg, do = dc[s] * g, dc[s] * step["old c"], dc[s] * i, dh[s] * tanh_c
        dz = np.concatenate([di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)])
        dx[s] = weights @ dz
        dweights += np.outer(x[s], dz)
        drecurrent += np.outer(step["old h"], dz)
        dbias += dz
        if step["follows"]:
            dh[s - k] += recurrent @ dz
            dc[s - k] += dc[s] * f
    return dx, dweights, drecurrent, dbias


def gru_forward(x, states, weights, recurrent, bias, k, continues):
    """(h (B, units), what `gru_backward` needs) of gated recurrent units, as `lstm_forward`; the gates are r, z, n."""
    units, steps = len(recurrent), []
    for s in range(len(x)):
        follows = s >= k and bool(continues[s])
        h = steps[s - k]["h"] if follows else states[s]
        xw, hu = (x[s] @ weights + bias).reshape(3, units), (h @ recurrent).reshape(3, units)
        r, z = sigmoid(xw[0] + hu[0]), sigmoid(xw[1] + hu[1])
        n = np.tanh(xw[2] + r * hu[2])
        steps.append({"follows": follows, "old h": h, "r": r, "z": z, "n": n, "m": hu[2], "h": (1 - z) * n + z * h})
    return np.array([step["h"] for step in steps]), steps


def gru_backward(x, steps, weights, recurrent, dy, k):
    """(dx, dweights, drecurrent, dbias) of `gru_forward`: from the last sample back to the first."""
    dx, dweights, drecurrent = np.zeros_like(x), np.zeros_like(weights), np.zeros_like(recurrent)
    dbias, dh = np.zeros(weights.shape[1]), np.array(dy, np.float64)
    for s in reversed(range(len(x))):
        step = steps[s]
        r, z, n = step["r"], step["z"], step["n"]
        dn = dh[s] * (1 - z) * (1 - n**2)
        dr, dz = dn * step["m"] * r * (1 - r), dh[s] * (step["old h"] - n) * z * (1 - z)
        from_x, from_h = np.concatenate([dr, dz, dn]), np.concatenate([dr, dz, dn * r])
        dx[s] = weights @ from_x
        dweights += np.outer(x[s], from_x)
        drecurrent += np.outer(step["old h"], from_h)
        dbias += from_x
        if step["follows"]:
            dh[s - k] += recurrent @ from_h + dh[s] * z
    return dx, dweights, drecurrent, dbias


def layer_norm_forward(x, units, scale, bias):
    """((B, ...), what `layer_norm_backward` needs): every row of `units` numbers normalised, then scaled and moved."""
    rows = x.reshape(-1, units)
    std = np.sqrt(rows.var(axis=1, keepdims=True) + 1e-5)
    z = (rows - rows.mean(axis=1, keepdims=True)) / std
    return (scale * z + bias).reshape(x.shape), (z, std)


def layer_norm_backward(kept, scale, dy):
    """(dx, dscale, dbias) of `layer_norm_forward`, by the Jacobian of each row written out."""
    (z, std), units = kept, len(scale)
    dy_rows, dx = dy.reshape(-1, units), np.zeros_like(z)
    for row in range(len(z)):
        jacobian = (np.eye(units) - 1 / units - np.outer(z[row], z[row]) / units) / std[row]
        dx[row] = jacobian @ (dy_rows[row] * scale)
    return dx.reshape(dy.shape), (dy_rows * z).sum(axis=0), dy_rows.sum(axis=0)


def channels_first(observation_shape):
    """Whether an observation has its channels in front; what a convolution gives never has."""
    return len(observation_shape) == 3 and observation_shape[0] < observation_shape[2]


def image_sizes(shape, in_front):
    """(channels, height, width) of an image of 2 or 3 dimensions, its channels `in_front` or last."""
    if len(shape) == 2:
        return 1, *shape
    return shape if in_front else (shape[2], shape[0], shape[1])


def patches(shape, in_front, kernel, stride):
    """Index arrays into one flat image, one for each pixel of the output in rows, of (taps,) in the order of memory."""
    index = np.arange(math.prod(shape)).reshape(shape)
    _, height, width = image_sizes(shape, in_front)
    result = []
    for y in range(0, height - kernel + 1, stride):
        for x in range(0, width - kernel + 1, stride):
            window = (slice(y, y + kernel), slice(x, x + kernel))
            result.append(index[:, *window].ravel() if in_front else index[window].ravel())
    return result


def conv_forward(x, places, weights, bias):
    """A convolution without padding of flat (B, inputs) images at `patches`; (B, pixels * filters), channels last."""
    output = [[image[at] @ weights + bias for at in places] for image in x]
    return np.array(output).reshape(len(x), -1)


def conv_backward(x, places, weights, dy):
    """(dx, dweights, dbias) of `conv_forward`."""
    dx, dweights, dbias = np.zeros_like(x), np.zeros_like(weights), np.zeros(weights.shape[1])
    for n, image in enumerate(x):
        for at, dpixel in zip(places, dy[n].reshape(-1, weights.shape[1]), strict=True):
            dx[n, at] += weights @ dpixel
            dweights += np.outer(image[at], dpixel)
            dbias += dpixel
    return dx, dweights, dbias


def conv_shape(shape, in_front, filters, kernel, stride):
    """The (height, width, filters) of a convolution's output."""
    _, height, width = image_sizes(shape, in_front)
    return (height - kernel) // stride + 1, (width - kernel) // stride + 1, filters


# --- networks --------------------------------------------------------------------------------------------------------


GATES = {"lstm": 4, "gru": 3}  # of layers that remember
STATES = {"lstm": ("h", "c"), "gru": ("h",)}


def kind(layer):
    """The word for a layer in the names of parameters."""
    kinds = {"Conv": "conv", "Dense": "dense", "Lstm": "lstm", "Gru": "gru", "LayerNorm": "layer_norm"}
    return kinds[type(layer).__name__]


def parameter_shapes(layers, observation_shape, heads, *, separate=False, constant=()):
    """{name: shape} of every parameter, in the order of the network; heads is {"policy": A, "value": 1}.

    Where `separate`, the value has layers of its own, alike; heads that are `constant` have a bias alone.
    """
    shapes, shape = _layer_shapes(layers, observation_shape, "")
    if separate:
        shapes |= _layer_shapes(layers, observation_shape, "value_")[0]
    for name, outputs in heads.items():
        weights = {} if name in constant else {f"{name}/weights": (math.prod(shape), outputs)}
        shapes |= weights | {f"{name}/bias": (outputs,)}
    return shapes


def _layer_shapes(layers, observation_shape, prefix):
    """({name: shape} of the layers' parameters, the shape of what leaves them)."""
    shapes, shape, in_front = {}, tuple(observation_shape), channels_first(observation_shape)
    for number, layer in enumerate(layers, 1):
        name, inputs = f"{prefix}{kind(layer)}{number}", math.prod(shape)
        if kind(layer) == "conv":
            outputs, inputs = layer.filters, image_sizes(shape, in_front)[0] * layer.kernel**2
            shape, in_front = conv_shape(shape, in_front, layer.filters, layer.kernel, layer.stride), False
        elif kind(layer) == "layer_norm":
            shapes |= {f"{name}/scale": shape[-1:], f"{name}/bias": shape[-1:]}
            continue
        else:
            outputs, shape = layer.units, (layer.units,)
        if kind(layer) in GATES:
            columns = GATES[kind(layer)] * outputs
            shapes |= {f"{name}/weights": (inputs, columns), f"{name}/recurrent": (outputs, columns)}
            shapes |= {f"{name}/bias": (columns,)}
        else:
            shapes |= {f"{name}/weights": (inputs, outputs), f"{name}/bias": (outputs,)}
    return shapes, shape


def state_size(layers):
    """How many numbers a network remembers: h and c of each LSTM layer, h of each GRU layer."""
    return sum(len(STATES[kind(layer)]) * layer.units for layer in layers if kind(layer) in STATES)


def network_forward(layers, parameters, observations, k=1, continues=None, states=None):
    """({head: (B, outputs)}, tape) for a (B, *observation_shape) batch; the tape is for `network_backward`.

    For a table with LSTM layers sample t * k + i is step t of actor i. Where continues[s], sample s follows on sample
    s - k, elsewhere it begins with states[s] (state_size,), zeros by default: all samples are then first steps.

    The names of the parameters tell whether the value has layers of its own, and which heads are a bias alone.
    """
    parameters = {name: np.asarray(value, np.float64) for name, value in parameters.items()}
    observations = np.asarray(observations)
    shape, x = observations.shape[1:], observations.reshape(len(observations), -1).astype(np.float64)
    if observations.dtype == np.uint8:
        x = x / 255
    continues = np.zeros(len(x), bool) if continues is None else continues
    prefixes = ("", "value_") if any(name.startswith("value_") for name in parameters) else ("",)
    remembers = state_size(layers)
    states = np.zeros((len(x), len(prefixes) * remembers)) if states is None else np.asarray(states, np.float64)
    tape, hidden = [], {}
    for place, prefix in enumerate(prefixes):
        own = states[:, place * remembers : (place + 1) * remembers]
        more, hidden[prefix] = _layers_forward(layers, parameters, prefix, x, shape, k, continues, own)
        tape += more
    outputs = {}
    for name in [name.removesuffix("/bias") for name in parameters if name.endswith("/bias")]:
        if name.startswith(("conv", "dense", "lstm", "gru", "layer_norm", "value_")):
            continue
        weights = parameters.get(f"{name}/weights", np.zeros((hidden[""].shape[1], len(parameters[f"{name}/bias"]))))
        outputs[name] = dense_forward(_below(name, hidden), weights, parameters[f"{name}/bias"])
    return outputs, (parameters, tape, hidden, k)


def _below(head, hidden):
    """What a head reads, of the last layers' outputs by the prefix of their names."""
    return hidden["value_"] if head == "value" and "value_" in hidden else hidden[""]


def _layers_forward(layers, parameters, prefix, x, shape, k, continues, states):
    """(tape, the last layer's output) of the layers whose names have a prefix."""
    tape, in_front, remembered = [], channels_first(shape), 0
    for number, layer in enumerate(layers, 1):
        name = f"{prefix}{kind(layer)}{number}"
        weights, bias = parameters.get(f"{name}/weights"), parameters[f"{name}/bias"]
        if kind(layer) in STATES:
            size = len(STATES[kind(layer)]) * layer.units
            own, step = (
                states[:, remembered : remembered + size],
                {"lstm": lstm_forward, "gru": gru_forward}[kind(layer)],
            )
            y, kept = step(x, own, weights, parameters[f"{name}/recurrent"], bias, k, continues)
            z, shape, remembered = y, (layer.units,), remembered + size
        elif kind(layer) == "layer_norm":
            z, kept = layer_norm_forward(x, len(bias), parameters[f"{name}/scale"], bias)
            y = activation_forward(z, layer.activation)
        elif kind(layer) == "conv":
            kept = patches(shape, in_front, layer.kernel, layer.stride)
            z = conv_forward(x, kept, weights, bias)
            shape, in_front = conv_shape(shape, in_front, layer.filters, layer.kernel, layer.stride), False
            y = activation_forward(z, layer.activation)
        else:
            kept, z, shape = None, dense_forward(x, weights, bias), (layer.units,)
            y = activation_forward(z, layer.activation)
        tape.append((name, x, kept, z, y))
        x = y
    return tape, x


def left_states(tape):
    """(B, state_size): what each sample of `network_forward` left, h and c of each LSTM layer in turn, h of a GRU."""
    _, layer_tape, hidden, _ = tape
    remembering = [(word, kept) for name, _, kept, _, _ in layer_tape for word in STATES if word in name]
    parts = [np.array([step[part] for step in steps]) for word, steps in remembering for part in STATES[word]]
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(hidden[""]), 0))


def network_backward(layers, tape, doutputs):
    """{name: gradient} from {head: dL/doutput (B, outputs)}."""
    parameters, layer_tape, hidden, k = tape
    gradients, below = {}, {prefix: np.zeros_like(x) for prefix, x in hidden.items()}
    for name, doutput in doutputs.items():
        gradients[f"{name}/bias"] = doutput.sum(axis=0)
        if f"{name}/weights" in parameters:
            dx, gradients[f"{name}/weights"], _ = dense_backward(
                _below(name, hidden), parameters[f"{name}/weights"], doutput
            )
            below["value_" if name == "value" and "value_" in hidden else ""] += dx
    for place, dy in enumerate(below.values()):
        own = layer_tape[place * len(layers) : (place + 1) * len(layers)]
        gradients |= _layers_backward(layers, parameters, own, dy, k)
    return gradients


def _layers_backward(layers, parameters, layer_tape, dy, k):
    """{name: gradient} of some layers from the gradient of the last one's output."""
    gradients = {}
    for layer, (name, x, kept, _, y) in zip(reversed(layers), reversed(layer_tape), strict=True):
        if kind(layer) == "layer_norm":
            dz, scale = activation_backward(y, dy, layer.activation), parameters[f"{name}/scale"]
            dy, gradients[f"{name}/scale"], gradients[f"{name}/bias"] = layer_norm_backward(kept, scale, dz)
            continue
        weights = parameters[f"{name}/weights"]
        if kind(layer) in STATES:
            recurrent, back = parameters[f"{name}/recurrent"], {"lstm": lstm_backward, "gru": gru_backward}[kind(layer)]
            dy, dweights, gradients[f"{name}/recurrent"], dbias = back(x, kept, weights, recurrent, dy, k)
        elif kind(layer) == "conv":
            dy, dweights, dbias = conv_backward(x, kept, weights, activation_backward(y, dy, layer.activation))
        else:
            dy, dweights, dbias = dense_backward(x, weights, activation_backward(y, dy, layer.activation))
        gradients[f"{name}/weights"], gradients[f"{name}/bias"] = dweights, dbias
    return gradients


def policy_forward(layers, parameters, observations):
    """(mu (B, parts), tape) of a deterministic policy: dense layers, and the head "action" with its tanh."""
    return _dense_forward(layers, parameters, "", "action", np.asarray(observations, np.float64), np.tanh)


def critic_forward(layers, parameters, observations, actions):
    """(Q (B,), tape) of observations with their actions: layers named "q_dense1" and so on, and the head "q"."""
    both = np.concatenate([observations, actions], axis=1).astype(np.float64)
    q, tape = _dense_forward(layers, parameters, "q_", "q", both, lambda z: z)
    return q[:, 0], tape


def _dense_forward(layers, parameters, prefix, head, x, squash):
    parameters = {name: np.asarray(value, np.float64) for name, value in parameters.items()}
    tape, hidden = _layers_forward(layers, parameters, prefix, x, x.shape[1:], 1, None, None)
    output = squash(dense_forward(hidden, parameters[f"{head}/weights"], parameters[f"{head}/bias"]))
    return output, (parameters, tape, hidden, output)


def policy_backward(layers, tape, dmu):
    """{name: gradient} from dL/dmu (B, parts)."""
    return _dense_backward(layers, tape, "action", dmu * (1 - tape[-1] ** 2))[0]


def critic_backward(layers, tape, dq, parts):
    """({name: gradient}, dL/da (B, parts)) from dL/dQ (B,)."""
    gradients, dx = _dense_backward(layers, tape, "q", dq[:, None])
    return gradients, dx[:, -parts:]


def _dense_backward(layers, tape, head, dz):
    """({name: gradient}, the gradient of what the layers were given)."""
    parameters, layer_tape, hidden, _ = tape
    dy, dweights, dbias = dense_backward(hidden, parameters[f"{head}/weights"], dz)
    gradients = {f"{head}/weights": dweights, f"{head}/bias": dbias}
    for layer, (name, x, _, _, y) in zip(reversed(layers), reversed(layer_tape), strict=True):
        dz = activation_backward(y, dy, layer.activation)
        dy, dweights, dbias = dense_backward(x, parameters[f"{name}/weights"], dz)
        gradients |= {f"{name}/weights": dweights, f"{name}/bias": dbias}
    return gradients, dy


# --- heads and the loss ----------------------------------------------------------------------------------------------


def log_softmax(logits):
    """log pi for each row of (B, A) logits."""
    shifted = np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def entropy(logits):
    """H(pi) = -sum pi log pi for each row of (B, A) logits."""
    log_pi = log_softmax(logits)
    return -(np.exp(log_pi) * log_pi).sum(axis=-1)


def a3c_loss(logits, values, actions, returns, *, entropy_weight, value_weight, advantages=None):
    """The scalar loss, summed over (T,) rows. `advantages`, if given, are the constants that the policy term uses."""
    advantages = returns - values if advantages is None else advantages
    log_pi = log_softmax(logits)[np.arange(len(actions)), actions]
    policy = -(log_pi * advantages).sum()
    return policy - entropy_weight * entropy(logits).sum() + value_weight * ((returns - values) ** 2).sum() / 2


def a3c_gradient(logits, values, actions, returns, *, entropy_weight, value_weight):
    """(dL/dlogits (T, A), dL/dvalues (T,)) of `a3c_loss` with the advantage held constant."""
    log_pi = log_softmax(logits)
    pi = np.exp(log_pi)
    chosen = np.eye(logits.shape[1])[actions]
    dlogits = (pi - chosen) * (returns - values)[:, None]
    dlogits += entropy_weight * pi * (log_pi + entropy(logits)[:, None])
    return dlogits, -value_weight * (returns - values)


MIN_VARIANCE = 1e-4


def gaussian_variance(s):
    """softplus(s), and a little."""
    return np.logaddexp(0.0, np.asarray(s, np.float64)) + MIN_VARIANCE


def gaussian_log_pi(mean, s, actions):
    """(T,) log densities of (T, parts) actions, each part independent of the others."""
    v = gaussian_variance(s)
    return -0.5 * ((actions - mean) ** 2 / v + np.log(2 * np.pi * v)).sum(axis=-1)


def gaussian_entropy(s):
    """(T,) differential entropies."""
    return 0.5 * np.log(2 * np.pi * np.e * gaussian_variance(s)).sum(axis=-1)


def gaussian_gradient(mean, s, actions, advantages, entropy_weight):
    """(dmean, ds), (T, parts), of the sum of ``-log pi(action) * advantage - entropy_weight * H(pi)``."""
    v, advantages = gaussian_variance(s), np.asarray(advantages, np.float64)[:, None]
    slope = np.exp(s - np.logaddexp(0.0, np.asarray(s, np.float64)))  # of softplus
    dv = -advantages * ((actions - mean) ** 2 / (2 * v**2) - 1 / (2 * v)) - entropy_weight / (2 * v)
    return -advantages * (actions - mean) / v, dv * slope


def discounted_returns(rewards, statuses, discount, last_values, bootstrap):
    """(T,) returns, each summed forward from its own step.

    A sum ends at the first terminated or cut step, which adds nothing after its reward; or at the first truncated step,
    which adds the discounted value of the episode's last observation, last_values[t]; or at the end of the rollout,
    which adds the discounted `bootstrap`. Terminated or cut wins over truncated.
    """
    returns = np.zeros(len(rewards))
    for t in range(len(rewards)):
        weight = 1.0
        for s in range(t, len(rewards)):
            returns[t] += weight * rewards[s]
            weight *= discount
            if statuses[s] & (TERMINATED | CUT):
                break
            if statuses[s] & TRUNCATED:
                returns[t] += weight * last_values[s]
                break
        else:
            returns[t] += weight * bootstrap
    return returns


def generalised_advantages(rewards, statuses, discount, gae_lambda, values, next_values):
    """(T,) advantages, each summed forward from its own step: (discount gae_lambda)^l times the error of step t + l.

    The sum ends after the first step that ends the episode or cuts the return. An error is the reward plus the
    discounted value of what the step led to (0 if terminated or cut) minus the value before it.
    """
    ends = np.asarray(statuses) & (TERMINATED | CUT) != 0
    errors = rewards + discount * np.where(ends, 0.0, next_values) - values
    advantages = np.zeros(len(rewards))
    for t in range(len(rewards)):
        for s in range(t, len(rewards)):
            advantages[t] += (discount * gae_lambda) ** (s - t) * errors[s]
            if statuses[s] & (TERMINATED | CUT | TRUNCATED):
                break
    return advantages


def one_step_targets(rewards, statuses, discount, next_values):
    """(T,) targets: the reward, plus the discounted value of what the step led to unless terminated or cut there."""
    ends = np.asarray(statuses) & (TERMINATED | CUT) != 0
    return np.where(ends, rewards, rewards + discount * next_values)


def exploration(final, steps, all_steps):
    """The probability of an action at random: 1 at first, `final` from step `all_steps` on, on a line in between."""
    return final if steps >= all_steps else 1 + (final - 1) * (steps / all_steps)


# --- optimisers ------------------------------------------------------------------------------------------------------


def clip_norm(gradient, limit):
    """(the flat gradient scaled down to norm `limit` if it is longer, its norm before)."""
    norm = math.sqrt(sum(float(d) ** 2 for d in gradient))
    return gradient * (limit / norm) if norm > limit else gradient, norm


def momentum_sgd(theta, m, gradient, *, learning_rate, momentum):
    """(theta, m) after one update: m is a running mean of the gradients."""
    m = momentum * m + (1 - momentum) * gradient
    return theta - learning_rate * m, m


def rmsprop(theta, g, gradient, *, learning_rate, decay, epsilon):
    """(theta, g) after one update, epsilon inside the root."""
    g = decay * g + (1 - decay) * gradient**2
    return theta - learning_rate * gradient / np.sqrt(g + epsilon), g


def adam(theta, m, v, count, gradient, *, learning_rate, beta1, beta2, epsilon):
    """(theta, m, v) after update `count` (the first is 1), with bias correction (Kingma, Ba 2015, algorithm 1)."""
    m = beta1 * m + (1 - beta1) * gradient
    v = beta2 * v + (1 - beta2) * gradient**2
    corrected_m, corrected_v = m / (1 - beta1**count), v / (1 - beta2**count)
    return theta - learning_rate * corrected_m / (np.sqrt(corrected_v) + epsilon), m, v


def radam(theta, m, v, count, gradient, *, learning_rate, beta1, beta2, epsilon):
    """(theta, m, v) after update `count` (Liu et al. 2020, algorithm 2)."""
    m = beta1 * m + (1 - beta1) * gradient
    v = beta2 * v + (1 - beta2) * gradient**2
    corrected_m = m / (1 - beta1**count)
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * count * beta2**count / (1 - beta2**count)
    if length <= 4:
        return theta - learning_rate * corrected_m, m, v
    r = math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
    return theta - learning_rate * r * corrected_m / (np.sqrt(v / (1 - beta2**count)) + epsilon), m, v


# --- the loop --------------------------------------------------------------------------------------------------------


class Reference:
    """What the methods' float64 versions share: parameters, networks, the update. They learn from recorded rollouts.

    `parameters` is {name: array}, the starting point; `config` anything with the fields of the package's Config that
    are read. A rollout is a dict of (T, ...) arrays: observations (what each action saw), actions, rewards (raw),
    statuses, and next_observations (what each step gave; after an end, the episode's last).
    """

    def __init__(self, layers, parameters, config):
        self.layers, self.config, self.steps, self.updates = layers, config, 0, 0
        self.parameters = {name: np.array(value, np.float64) for name, value in parameters.items()}
        self.target = self.parameters
        self.statistics = {}

    def outputs(self, rollout):
        """({head: (T, outputs)} of the observations by the present parameters, tape)."""
        return network_forward(self.layers, self.parameters, rollout["observations"])

    def next_outputs(self, rollout, parameters):
        """{head: (T, outputs)} of the next observations."""
        return network_forward(self.layers, parameters, rollout["next_observations"])[0]

    def backward(self, tape, doutputs):
        """{name: gradient} from the gradient of the outputs."""
        return network_backward(self.layers, tape, doutputs)

    def rewards(self, rollout):
        """(T,) rewards as learning sees them."""
        rewards, clip = np.asarray(rollout["rewards"], np.float64), self.config.reward_clip
        return rewards if clip is None else np.clip(rewards, -clip, clip)

    def gradient(self, rollout):
        """{name: gradient} of the summed loss over one rollout."""
        raise NotImplementedError

    def update(self, rollout):
        """One update from one rollout; returns the gradient's norm before clipping."""
        return self.apply(self.gradient(rollout), len(rollout["rewards"]))

    def apply(self, gradient, steps, group=0):
        """Clip and apply a gradient that `steps` steps of a group of actors gave; returns its norm before."""
        config = self.config
        norm = math.sqrt(sum(float((d**2).sum()) for d in gradient.values()))
        scale = config.gradient_clip / norm if norm > config.gradient_clip else 1.0
        learning_rate = config.learning_rate * max(0.0, 1 - self.steps / config.steps)
        self.updates += 1
        owner = "all" if config.optimiser.startswith("shared_") else group
        self.parameters = {
            name: self.moved(name, theta, gradient[name] * scale, learning_rate, owner)
            for name, theta in self.parameters.items()
        }
        before, self.steps = self.steps, self.steps + steps
        if config.tau is not None:
            rate = config.tau
            self.target = {name: rate * self.parameters[name] + (1 - rate) * old for name, old in self.target.items()}
        elif self.steps // config.target_interval > before // config.target_interval:
            self.target = self.parameters
        return norm

    def moved(self, name, theta, d, learning_rate, owner):
        """One array after its update, with the statistics of their owner."""
        config = self.config
        old = self.statistics.get((owner, name), (np.zeros_like(theta), np.zeros_like(theta)))
        if config.optimiser == "momentum_sgd":
            theta, *new = momentum_sgd(theta, old[0], d, learning_rate=learning_rate, momentum=config.momentum)
        elif config.optimiser in ("rmsprop", "shared_rmsprop"):
            theta, *new = rmsprop(
                theta,
                old[0],
                d,
                learning_rate=learning_rate,
                decay=config.rmsprop_decay,
                epsilon=config.rmsprop_epsilon,
            )
        else:
            rule = {"shared_adam": adam, "shared_radam": radam}[config.optimiser]
            theta, *new = rule(
                theta,
                *old,
                self.updates,
                d,
                learning_rate=learning_rate,
                beta1=config.adam_beta1,
                beta2=config.adam_beta2,
                epsilon=config.adam_epsilon,
            )
        self.statistics[owner, name] = new
        return theta


class A3CReference(Reference):
    """A3C: algorithm S3 with the entropy term."""

    def gradient(self, rollout):
        config, rewards, statuses = self.config, self.rewards(rollout), rollout["statuses"]
        next_values = self.next_outputs(rollout, self.parameters)["value"][:, 0]
        returns = discounted_returns(rewards, statuses, config.discount, next_values, next_values[-1])
        outputs, tape = self.outputs(rollout)
        values = outputs["value"][:, 0]
        if config.gae_lambda < 1:
            returns = values + generalised_advantages(
                rewards, statuses, config.discount, config.gae_lambda, values, next_values
            )
        if "mean" in outputs:  # the actions are in the policy's units
            dmean, ds = gaussian_gradient(
                outputs["mean"], outputs["variance"], rollout["actions"], returns - values, config.entropy_weight
            )
            dvalues = -config.value_weight * (returns - values)
            return self.backward(tape, {"mean": dmean, "variance": ds, "value": dvalues[:, None]})
        dlogits, dvalues = a3c_gradient(
            outputs["policy"],
            values,
            rollout["actions"],
            returns,
            entropy_weight=config.entropy_weight,
            value_weight=config.value_weight,
        )
        return self.backward(tape, {"policy": dlogits, "value": dvalues[:, None]})


class ValueReference(Reference):
    """One-step Q (algorithm 1), its Sarsa and n-step Q (algorithm S2), by `config.method`.

    For Sarsa a rollout has next_actions as well: those for the next observations.
    """

    def gradient(self, rollout):
        config, rewards, statuses = self.config, self.rewards(rollout), rollout["statuses"]
        next_q = self.next_outputs(rollout, self.target)["q"]
        best = next_q.max(axis=1)
        if config.method == "n_step_q":
            targets = discounted_returns(rewards, statuses, config.discount, best, best[-1])
        elif config.method == "one_step_q":
            targets = one_step_targets(rewards, statuses, config.discount, best)
        else:
            taken = next_q[np.arange(len(rewards)), rollout["next_actions"]]
            targets = one_step_targets(rewards, statuses, config.discount, taken)
        outputs, tape = self.outputs(rollout)
        chosen = np.eye(next_q.shape[1])[rollout["actions"]]
        return self.backward(tape, {"q": -chosen * (targets[:, None] - outputs["q"])})


class DpgReference(Reference):
    """Deterministic policy gradient. Actions are in the policy's units."""

    def gradient(self, rollout):
        config, rewards, statuses = self.config, self.rewards(rollout), rollout["statuses"]
        values = self.target_values(rollout["next_observations"])
        y = discounted_returns(rewards, statuses, config.discount, values, values[-1])
        return self.gradient_of(
            rollout["observations"], rollout["actions"], y, config.rollout_length * config.envs_per_batch
        )

    def target_values(self, observations):
        """(B,) Q(s, mu(s)) by the target networks."""
        mu, _ = policy_forward(self.layers, self.target, observations)
        return critic_forward(self.layers, self.target, observations, mu)[0]

    def gradient_of(self, observations, actions, y, count):
        """{name: gradient} of the sums of (y - Q(s, a))^2 / 2, for Q, and -Q(s, mu(s)), for mu, over `count`."""
        parts = actions.shape[1]
        q, tape = critic_forward(self.layers, self.parameters, observations, actions)
        gradient, _ = critic_backward(self.layers, tape, (q - y) / count, parts)
        mu, mu_tape = policy_forward(self.layers, self.parameters, observations)
        _, tape = critic_forward(self.layers, self.parameters, observations, mu)
        _, da = critic_backward(self.layers, tape, np.full(len(y), -1 / count), parts)
        return gradient | policy_backward(self.layers, mu_tape, da)


class EpsilonGreedyActor:
    """What an actor of a value method draws, told again from its row of random numbers, float64 values and its record.

    `replay` asserts that the actions are those on record, and returns those for the next observations.
    """

    MARGIN = 1e-5  # between the best values and around epsilon: nearer than this, rounding may decide

    def __init__(self, row, final, config):
        self.random, self.final, self.config = Xoshiro(row), final, config
        self.begun, self.kept = False, None

    def choose(self, q, steps):
        """An action after so many steps of all actors."""
        u, epsilon = self.random.uniform(), exploration(self.final, steps, self.config.epsilon_steps)
        assert abs(u - epsilon) > self.MARGIN
        if u < epsilon:
            assert abs(u / epsilon * len(q) - round(u / epsilon * len(q))) > self.MARGIN
            return int(u / epsilon * len(q))
        second, best = np.sort(q)[-2:]
        assert best - second > self.MARGIN
        return int(np.argmax(q))

    def replay(self, rollout, q, next_q, steps):
        """(T,) actions for the next observations, where there are any that matter; q, next_q (T, A) by theta'."""
        sarsa, actions = self.config.method == "one_step_sarsa", rollout["actions"]
        next_actions = np.append(actions[1:], 0)
        for t, status in enumerate(rollout["statuses"]):
            if not self.begun:
                self.random.next_uint64()  # the environment's seed
            taken = self.choose(q[t], steps) if self.kept is None else self.kept
            assert taken == actions[t]
            self.begun, self.kept = not status & (TERMINATED | TRUNCATED), None
            truncated = status & TRUNCATED and not status & TERMINATED
            if sarsa and (truncated or (self.begun and t == len(actions) - 1)):
                next_actions[t] = self.choose(next_q[t], steps)
                self.kept = int(next_actions[t]) if self.begun else None
        return next_actions
