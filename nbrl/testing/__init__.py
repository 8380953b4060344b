"""For tests of one's own environments, agents, layers and settings; needs hypothesis (the extra ``test``).

Strategies draw what such tests need and shrink to small cases, checkers say in one sentence what is wrong, machines try
a trainer and a learner in any order. The page beside this file shows them at work.
"""

from nbrl.envs.interface import EnvStepper
from nbrl.testing.checks import (
    check_agent,
    check_gradients,
    check_learns,
    check_resume,
    check_returns,
)
from nbrl.testing.environments import CheckError, check_environment
from nbrl.testing.machines import online_learner_machine, trainer_machine
from nbrl.testing.parts import (
    categorical_loss,
    gaussian_loss,
    network_loss,
    outputs,
    q_loss,
    returns,
    value_loss,
)
from nbrl.testing.profile import load_profile, warm_up
from nbrl.testing.strategies import (
    Returns,
    Step,
    actions,
    configurations,
    episodes,
    layer_tables,
    observations,
    parameters,
    returns_cases,
)

__all__ = [
    "CheckError",
    "EnvStepper",
    "Returns",
    "Step",
    "actions",
    "categorical_loss",
    "check_agent",
    "check_environment",
    "check_gradients",
    "check_learns",
    "check_resume",
    "check_returns",
    "configurations",
    "episodes",
    "gaussian_loss",
    "layer_tables",
    "load_profile",
    "network_loss",
    "observations",
    "online_learner_machine",
    "outputs",
    "parameters",
    "q_loss",
    "returns",
    "returns_cases",
    "trainer_machine",
    "value_loss",
    "warm_up",
]
