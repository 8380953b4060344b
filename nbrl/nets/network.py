"""A network is a table of layers over one flat parameter array: names, first weights, and the table itself.

The table is a plain int64 array, so one compiled function serves every network: see table.py, which walks it.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from nbrl.kernels.compile import jit
from nbrl.kernels.gemm import gemm_addresses
from nbrl.kernels.random import seed_row, uniform
from nbrl.nets import table as columns
from nbrl.nets.dense import Dense, constant_plan, dense_plan
from nbrl.nets.everyone import everyone_plan
from nbrl.nets.layers import Layer, kind_of
from nbrl.nets.layout import Layout, aligned_zeros
from nbrl.nets.table import SCALE, Plan, Workspace
from nbrl.spaces import Observations

VALUES = ("value", "bonus_value")  # heads of an actor-critic: of rewards, and of a bonus where that has its own


class Network:
    """A table of layers over one flat parameter array.

    Parameters
    ----------
    layers : sequence of Dense, Conv or Lstm
        From the observation up. Convolutions come before other layers.
    observations : Observations
        What block 0 is given.
    heads : mapping of str to int
        Dense layers without activation on top of the last layer: name and units. Of "action" and "q" the first is a
        deterministic policy, tanh of the last layer; the second values an action, with layers of its own, alike, that
        read the observation and the action after it (block 0, see table.py). Such a network has dense layers alone:
        first the actor's and "action", then the critic's, named ``q_dense1`` and so on, and "q".
    separate : bool, optional
        The heads "value" and "bonus_value" have layers of their own, alike.
    constant : collection of str, optional
        Heads that are the same for every observation.
    indexed : int, optional
        Of so many agents the network is told which one an observation, a vector, is of: one-hot, after it. 0 for none.
    everyone : int, optional
        Of so many agents the values, which then have layers of their own, see what each observes. 0 for none.

    Attributes
    ----------
    plans : list of Plan
        Its layers, heads included.
    layout : Layout
        Names such as ``conv1/weights`` (taps, filters), ``dense3/bias`` (units,), ``policy/weights``.
    heads : dict of str to int
    state_size : int
        Numbers that it remembers from step to step; 0 without an LSTM layer.
    passes_together : bool
        Whether the agents of an environment must: they communicate, or are told which they are.

    Raises
    ------
    ValueError
        A layer that cannot follow the one before it, named by its place in the table.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        observations: Observations,
        heads: Mapping[str, int],
        *,
        separate: bool = False,
        constant: Collection[str] = (),
        indexed: int = 0,
        everyone: int = 0,
    ) -> None:
        self.layers, self.observations, self.heads = tuple(layers), observations, dict(heads)
        self.separate, self.constant, self.indexed, self.everyone = separate, tuple(constant), indexed, everyone
        self.plans: list[Plan] = []
        if "action" in self.heads:
            self._add_actor_and_critic()
        else:
            self._add_layers_and_heads()
        self.layout = Layout((f"{plan.name}/{part}", shape) for plan in self.plans for part, shape in plan.parameters)
        self.state_size = sum(plan.state for plan in self.plans)
        self.passes_together = indexed > 0 or any(plan.communicates for plan in self.plans)

    def _add_layers_and_heads(self) -> None:
        seen = self.observations
        image: tuple[int, ...] = (seen.height, seen.width, seen.channels) if seen.image else seen.shape
        if self.indexed:
            image = (seen.size + self.indexed,)
        shape, block = self._add_layers("", image, seen.strides)
        heads = list(self.heads)
        if self.everyone:
            # What the policy has comes first, since it acts without the rest: see `nbrl.learner.Learner`.
            self._add_heads([name for name in heads if name not in VALUES], shape, block, shape, block)
            heads = [name for name in heads if name in VALUES]
            everyone = everyone_plan("value_everyone", math.prod(image), self.everyone)
            own_shape, own_block = self._add_layers("value_", everyone.shape, None, self._add(everyone, 0))
        elif self.separate:
            own_shape, own_block = self._add_layers("value_", image, seen.strides)
        else:
            own_shape, own_block = shape, block
        self._add_heads(heads, shape, block, own_shape, own_block)

    def _add_heads(
        self, names: Iterable[str], shape: tuple[int, ...], block: int, own_shape: tuple[int, ...], own_block: int
    ) -> None:
        """Add heads above a block of this shape; values have one of their own."""
        for name in names:
            units = self.heads[name]
            inputs, read = (math.prod(own_shape), own_block) if name in VALUES else (math.prod(shape), block)
            if name in self.constant:
                self._add(constant_plan(name, units, inputs), read)
            else:
                self._add(dense_plan(name, units, "none", inputs), read)

    def _add(self, plan: Plan, block: int) -> int:
        """Add a layer that reads a block, and is a head where it has the name of one: the block that it fills."""
        if plan.name in self.heads:
            plan = plan._replace(gain=0.01 if plan.name in ("policy", "mean", "action") else 1.0)
        self.plans.append(plan._replace(block=block))
        return len(self.plans)

    def _add_actor_and_critic(self) -> None:
        for place, layer in enumerate(self.layers, start=1):
            if not isinstance(layer, Dense):
                raise ValueError(
                    f"layer {place} of the network is {layer!r}: a deterministic policy takes dense layers alone"
                )
        size = self.observations.size
        both = size + self.heads["action"]
        shape: tuple[int, ...]
        for prefix, head, activation, shape in (("", "action", "tanh", (size,)), ("q_", "q", "none", (both,))):
            shape, block = self._add_layers(prefix, shape, None)
            self._add(dense_plan(head, self.heads[head], activation, math.prod(shape)), block)
        self.plans[0] = self.plans[0]._replace(inputs=both)  # of which the actor reads the observation

    def _add_layers(
        self, prefix: str, shape: tuple[int, ...], strides: tuple[int, int, int] | None, block: int = 0
    ) -> tuple[tuple[int, ...], int]:
        """Add the layers, from what a block has up; the shape of the last one's output, and its block."""
        for place, layer in enumerate(self.layers, start=1):
            plan = layer.plan(f"{prefix}{kind_of(layer)}{place}", place, shape, strides)
            shape, strides, block = plan.shape, plan.strides, self._add(plan, block)
        return shape, block

    def initial(self, seed: int, initialisation: str = "uniform") -> np.ndarray:
        """The first parameters, float32 (layout.size,).

        "uniform" draws weights and biases from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), Torch's default of the paper's time.
        "orthogonal" (Saxe et al., 2014) makes each layer's weights sqrt(2) times orthonormal, so that a signal keeps
        its size through ReLUs, the heads' once and a policy's 0.01 times, so that it begins almost even; biases are 0,
        and so are constant heads.
        """
        parameters, row = np.zeros(self.layout.size, np.float32), np.zeros(4, np.uint64)
        rng = np.random.default_rng(seed)
        seed_row(row, np.uint64(seed), np.uint64(0))
        for plan in self.plans:
            for part, shape in plan.parameters:
                view = self.layout.view(parameters, f"{plan.name}/{part}")
                if part in dict(plan.first):
                    view[...] = dict(plan.first)[part]
                elif initialisation == "orthogonal":
                    view[...] = 0 if len(shape) == 1 else plan.gain * _orthogonal(shape, rng)
                else:
                    _fill_uniform(view.reshape(-1), 1 / math.sqrt(plan.fan_in), row)
        return parameters

    def workspace(self, capacity: int, *, scales: int = 0, learns: bool = True, agents: int = 1) -> Workspace:
        """Arrays for up to `capacity` samples at once; ValueError where that is more than int32 offsets reach.

        `scales` is the size of `Workspace.normal`: 0, a vector's, or 1 for an image. Where it never `learns`, what
        `backward` needs is not compiled, and it must not be called. Of several `agents`, those of one step of an
        environment pass together.
        """
        table = np.zeros((len(self.plans), columns.COLUMNS), np.int64)
        sizes = [self.plans[0].inputs] + [plan.rows * plan.filters for plan in self.plans]
        for plan in self.plans:
            sizes += [plan.state, plan.state, *plan.kept] if plan.state or plan.kept else []
            sizes += [plan.noise] if plan.noise else []
        blocks = np.cumsum([0] + [-(-size * capacity // 16) * 16 for size in sizes])
        if blocks[-1] > np.iinfo(np.int32).max:
            raise ValueError(
                f"{capacity:,} samples at once are too many for this network: "
                "lower rollout_length or envs_per_batch, or batch_size"
            )
        further = blocks[1 + len(self.plans) : -1].tolist()  # of what layers keep
        longest = max(capacity, *(max(plan.taps, plan.filters) for plan in self.plans))
        indices = [np.arange(longest)]
        used = longest
        for line, plan, output in zip(table, self.plans, blocks[1:], strict=False):
            line[columns.FORWARD] = plan.forward.address
            line[columns.BACKWARD] = plan.backward.address if learns else 0
            line[columns.INPUTS], line[columns.TAPS] = plan.inputs, plan.taps
            line[columns.PIXELS], line[columns.FILTERS] = plan.rows, plan.filters
            line[columns.ACTIVATION], line[columns.RUN] = plan.activation, plan.run
            for i, (part, _) in enumerate(plan.parameters):
                line[columns.PARAMETERS + i] = self.layout.offset(f"{plan.name}/{part}")
            line[columns.INPUT], line[columns.OUTPUT] = blocks[plan.block], output
            line[columns.FROM_OBSERVATION], line[columns.STATE_SIZE] = plan.block == 0, plan.state
            if plan.state or plan.kept:
                line[columns.STATE], line[columns.AFTER] = further.pop(0), further.pop(0)
                for i in range(len(plan.kept)):
                    line[columns.KEPT + i] = further.pop(0)
            line[columns.NOISE_SIZE] = plan.noise
            if plan.noise:
                line[columns.NOISE] = further.pop(0)
            if plan.offsets is not None:
                first_row, tap = plan.offsets()
                row = (np.arange(capacity)[:, None] * plan.inputs + first_row).reshape(-1)
                own = np.zeros(0, np.int64) if plan.own is None else plan.own(capacity)
                for column, values in ((columns.ROW, row), (columns.TAP, tap), (columns.OWN, own)):
                    line[column] = used
                    indices.append(values)
                    used += values.size
        fed = set()
        for line, plan in zip(table[::-1], self.plans[::-1], strict=True):
            # Going backward, the first layer to reach an input overwrites its gradient; the others add to it.
            line[columns.ACCUMULATE] = plan.block in fed
            if plan.taps:
                fed.add(plan.block)
        products = gemm_addresses()
        return Workspace(
            table=table,
            indices=np.concatenate(indices).astype(np.int32),
            theta=aligned_zeros(self.layout.size, np.float32),
            dtheta=aligned_zeros(self.layout.size, np.float32),
            activations=aligned_zeros(int(blocks[-1]), np.float32),
            dactivations=aligned_zeros(int(blocks[-1]), np.float32),
            scratch=aligned_zeros(max(plan.scratch for plan in self.plans), np.float32),
            continues=np.zeros(capacity, np.bool_),
            void=np.zeros(capacity, np.bool_),
            agents=agents,
            speaks=np.ones(capacity, np.bool_),
            hears=np.ones(capacity, np.bool_),
            learns=learns,
            normal=self.normal(scales),
            observation_size=self.observations.size,
            indexed=self.indexed > 0,
            of_bytes=self.observations.dtype == np.uint8,
            scale=float(np.float32(1 / self.observations.high)),
            gemm=products[0],
            gemm_transposed=products[1],
        )

    @staticmethod
    def normal(scales: int) -> np.ndarray:
        """What observations are normalised by at first, means of 0 and scales of 1, float32 (2, scales)."""
        normal = np.zeros((2, scales), np.float32)
        normal[SCALE] = 1
        return normal

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter array by name."""
        return {name: self.layout.shape(name) for name in self.layout.names}

    def head(self, name: str) -> int:
        """The table's row of a head, for `outputs`."""
        return [plan.name for plan in self.plans].index(name)

    def describe(self) -> str:
        """One line a layer: name, output shape, number of parameters."""
        return "\n".join(
            f"{plan.name:10} {'x'.join(map(str, plan.shape)):>12} "
            f"{sum(math.prod(shape) for _, shape in plan.parameters):>10,}"
            for plan in self.plans
        )


def _orthogonal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A matrix with orthonormal columns, or rows where there are fewer, from a uniform distribution of such."""
    normal = rng.standard_normal((max(shape), min(shape)))
    q, r = np.linalg.qr(normal)
    q *= np.sign(np.diag(r))
    return q if shape[0] >= shape[1] else q.T


@jit
def _fill_uniform(array, bound, row):
    for i in range(array.size):
        array[i] = np.float32((2 * uniform(row) - 1) * bound)
