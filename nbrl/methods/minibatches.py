"""Several passes over one rollout, each in minibatches that are drawn anew, for methods without a replay memory.

A pass parts the rollout's samples at random; where the network remembers, whole sequences of actors, each from the
state that its actor had at the rollout's start. Every minibatch is an update: theta' is read anew, its samples pass
forward, the method fills the gradients of their outputs, and theta is moved. So the rollout was acted by older
parameters than those that learn from it: what a method needs of them it has noted before.

One pass of one minibatch is the rollout itself, whose forward pass is that of acting.
"""

from typing import Any

import numpy as np
from numba import int64

from nbrl.actions import mask_outputs
from nbrl.kernels.compile import generic, jit
from nbrl.kernels.native import address_at, atomic_load, copy
from nbrl.kernels.random import integer
from nbrl.kernels.struct import Struct, reference
from nbrl.methods.driver import ABANDONED, GO_ON, count_steps, descend, env_steps
from nbrl.methods.state import ABANDON
from nbrl.nets.table import Workspace, backward, carry_state, copy_inputs, forward
from nbrl.settings import Setting

EPOCHS = Setting(1, "passes of ppo and pqn over each rollout; not in the paper", least=1, most=1000)
MINIBATCHES = Setting(
    1,
    "updates of ppo and pqn in each pass, from so many parts of a group's rollout, with an LSTM of whole actors; fewer "
    "where there is less to part; not in the paper",
    least=1,
    most=1_000_000,
)


class Minibatches(Struct):
    """What a worker parts its rollouts into, in units: one sample, or an actor's steps in their order.

    Agents of one environment stay together: a unit has all of theirs.
    """

    work = reference(Workspace)  # of one minibatch; its parameters, gradient and scales are the worker's own
    order = int64[::1]  # (units,): the units of a pass as they are drawn; the first sample of each is that times agents
    sample = int64[::1]  # (samples of a rollout,): of a minibatch's samples their numbers in the rollout
    length = int64  # steps of a unit
    size = int64  # units of a minibatch; the last one may have fewer

    @classmethod
    def make(cls, learner: Any, work: Workspace) -> "Minibatches":
        """For the worker that has `work`."""
        config = learner.config
        length, agents = config.rollout_length if learner.network.state_size else 1, work.agents
        units = config.rollout_length * config.envs_per_batch // length
        size = -(-units // config.minibatches)
        own = learner.network.workspace(size * length * agents, agents=agents).replace(
            theta=work.theta, dtheta=work.dtheta, normal=work.normal
        )
        sample = np.arange(units * length * agents)
        return cls(work=own, order=np.arange(units), sample=sample, length=length, size=size)


@generic
def minibatch_gradient(method, policy, shared, worker, work, samples):
    """Fill the gradients of the outputs of a minibatch's samples, which passed forward in `work`.

    Its sample i is number `method.batches.sample[i]` of the rollout.
    """


@jit
def learn_in_minibatches(method, policy, shared, worker, first):
    """Update theta by each minibatch of each pass over the rollout, and count its steps."""
    batches, k, n = method.batches, worker.rollout.reward.shape[1], worker.actors.agents
    units = batches.order.size
    for epoch in range(method.epochs):
        whole = epoch == 0 and batches.size == units
        if not whole:
            shuffle(batches.order, worker.actors.random[first])
        for begin in range(0, units, batches.size):
            size = min(batches.size, units - begin)
            work, samples = worker.work if whole else batches.work, size * batches.length * n
            if whole:
                for i in range(samples):
                    batches.sample[i] = i
            else:
                if atomic_load(address_at(shared.control, 0)) == ABANDON:
                    return ABANDONED
                copy(work.theta, shared.theta)  # theta' = theta
                _forward_minibatch(batches, policy, worker, begin, size)
            minibatch_gradient(method, policy, shared, worker, work, samples)
            backward(work, samples, k if whole else size * n)
            code = descend(method, shared, worker, first, samples)  # asynchronous update of theta
            if code != GO_ON:
                return code
    count_steps(shared, worker, env_steps(worker))
    return GO_ON


@jit
def shuffle(order, random):
    """Fill `order` with the numbers from 0, in any order as likely (Durstenfeld, 1964), by a random row."""
    for i in range(order.size):
        order[i] = i
    for i in range(order.size - 1, 0, -1):
        j = integer(random, i + 1)
        order[i], order[j] = order[j], order[i]


@jit
def _forward_minibatch(batches, policy, worker, begin, size):
    """Forward `size` units from place `begin` of the order on: step t of unit number j, its first agent, is sample
    (t * size + j) * agents."""
    work, rollout, k, n = batches.work, worker.rollout, worker.rollout.reward.shape[1], worker.actors.agents
    width = size * n
    for t in range(batches.length):
        for j in range(width):
            i, sample = t * width + j, batches.order[begin + j // n] * n + j % n + t * k
            batches.sample[i] = sample
            copy_inputs(work, i, worker.work, sample, 1)
            work.void[i] = worker.work.void[sample]
            work.continues[i] = t > 0 and worker.work.continues[sample]
            if work.continues[i]:
                carry_state(work, i - width, i)
        forward(work, t * width, width)
        if rollout.mask.shape[1]:
            for i in range(t * width, (t + 1) * width):
                mask_outputs(policy, work, i, rollout.mask[batches.sample[i]])
