"""What all agents of an environment observe, for a value that knows more than each policy (Lowe et al., 2017).

    y_a = [x_a, x_a+1, ..., x_n-1, x_0, ..., x_a-1], and zeros for those who are not there

Shapes: x (samples, inputs), y (samples, agents inputs). The agents of one step of one environment are `work.agents`
samples, one behind the other, as in communicate.py. It reads the observation, so nothing flows back.
"""

from nbrl.kernels.compile import routine
from nbrl.kernels.native import copy, span
from nbrl.nets.table import INPUT, INPUTS, OUTPUT, Plan, Workspace


def everyone_plan(name: str, inputs: int, agents: int) -> Plan:
    """The layer above observations of so many numbers, of so many agents."""
    size = agents * inputs
    return Plan(name, everyone_forward, everyone_backward, (size,), (), inputs=inputs, filters=size)


@routine(Workspace)
def everyone_forward(work, i, first, samples, _, __):
    """Fill y."""
    n, inputs, line = work.agents, work.table[i, INPUTS], work.table[i]
    for sample in range(first, first + samples):
        agent, y = sample % n, span(work.activations, line[OUTPUT] + sample * n * inputs, n * inputs)
        for place in range(n):
            other = sample - agent + (agent + place) % n
            if work.void[other]:
                y[place * inputs : (place + 1) * inputs] = 0
            else:
                copy(span(y, place * inputs, inputs), span(work.activations, line[INPUT] + other * inputs, inputs))


@routine(Workspace)
def everyone_backward(work, i, samples, k, inputs_from, _):
    """Nothing is learnt here."""
