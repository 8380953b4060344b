"""What a run learns with: the shared arrays, and what each worker owns. No threads.

`nbrl.run` runs the loop over these in threads of its own, `nbrl.snapshot` saves and restores them.
"""

import logging
import math
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np

from nbrl import envs
from nbrl.actions import Discrete, Policy, before_softplus
from nbrl.agent import Agent
from nbrl.bonuses import bonus_class, bonus_names
from nbrl.bonuses.giving import summed
from nbrl.config import Config
from nbrl.envs.interface import Env
from nbrl.methods import driver, method_class
from nbrl.methods.driver import Method
from nbrl.methods.optimisers import OPTIMISERS
from nbrl.methods.running_statistics import RunningStatistics, fill_normal, fill_total, merge
from nbrl.methods.state import (
    ACTOR,
    DROPPED,
    METRICS,
    RESETS,
    WRITTEN,
    Actors,
    Bonus,
    Episodes,
    Rollout,
    Shared,
    Worker,
)
from nbrl.nets.network import Network
from nbrl.nets.table import Workspace
from nbrl.settings import points

logger = logging.getLogger(__name__)


class Learner:
    """The arrays of one run, built from its settings.

    Parameters
    ----------
    config : Config
        Without a seed it is given one.
    environment : str, callable or EnvSpec, optional
        By default the one named in `config`.

    Attributes
    ----------
    config : Config
    environment : EnvSpec
    network : Network
    policy_network : Network
        What policies have of it: all but a bonus's value and a central one, whose parameters come last.
    method : type of Method
    shared : Shared
        What all threads read and write.
    workers : list of Worker
        What each thread owns.
    methods, policies : list of Method, list of Policy
        Of each thread: its settings and state, and how its actors choose.
    actors : list of numpy.ndarray
        The numbers of each worker's actors: groups of `envs_per_batch` environments are dealt to the threads in turn.
        With n agents, those of environment e are numbers e n to e n + n - 1.
    bonuses : dict of str to type of Bonus
        Of exploration, by name.
    bonus_arrays : dict of str to dict of str to numpy.ndarray
        What all threads write to, of each bonus.
    own_bonuses : list of dict of str to Bonus
        What each thread has of each.
    instances : list of list of Env
        The running environments of each worker, once they are attached.
    saved_environments : dict of int to bytes
        States that environments are given as they are attached, by number.
    keeps_infos : bool
        Whether environments keep what their episodes end with, for `info`.

    Raises
    ------
    ValueError
        A setting or an environment that cannot be used, in one sentence.
    """

    def __init__(self, config: Config, environment: Any = None) -> None:
        self.config = config = config.replace(seed=secrets.randbits(63) if config.seed is None else config.seed)
        if environment is None and config.environment.startswith("<"):
            envs.check_named_in_file(config.environment)
        self.environment = envs.make(
            config.environment if environment is None else environment,
            sticky_actions=config.sticky_actions,
            cut_on_life_loss=config.cut_on_life_loss,
            arguments=config.environment_arguments,
            observation_layout=config.observation_layout,
            check=True,
        )
        group, most = self.environment.group, self.environment.groups
        if self.environment.vector and config.envs_per_batch != group:
            raise ValueError(
                f"envs_per_batch is {config.envs_per_batch}: {self.environment.name} steps {group} environments at "
                f"once, so it must be {group}"
            )
        if most is not None and (config.actors > most * group or config.eval_interval is not None):
            setting = "actors" if config.actors > most * group else "eval_interval"
            raise ValueError(
                f"{setting} is {getattr(config, setting)}: {self.environment.name} is one object that serves {group} "
                "actors; give a function that makes such objects instead"
            )
        self.method: type[Method] = method_class(config.method)
        self._check_agents()
        actions = self.environment.actions
        kinds = [kind for kind in self.method.policies if kind.takes(actions)]
        if not kinds:
            takes = "discrete" if issubclass(self.method.policies[0], Discrete) else "continuous"
            raise ValueError(
                f"{self.environment.name} has {actions.words} actions: "
                f"{config.method} takes an environment with {takes} ones"
            )
        self.policy: Any = kinds[0]
        if "action" in self.policy.heads and self.environment.observations.image:
            raise ValueError(f"{config.method} takes vectors, and {self.environment.name} gives images")
        if "action" in self.policy.heads and not np.isfinite(actions.bounds).all():
            raise ValueError(
                f"{config.method} takes actions with two bounds each, and {self.environment.name} has some without: "
                "give them bounds, as gymnasium.wrappers.RescaleAction needs them too, or learn by a3c"
            )
        self.bonuses = {name: bonus_class(name) for name in bonus_names(config.bonus)}
        critic = self.method.critic
        self.network = self.policy_network = self._make_network(() if self.central else critic)
        if "value" in critic and any(kind.has_value for kind in self.bonuses.values()):
            critic = (*critic, "bonus_value")
        if self.central or critic != self.method.critic:
            self.network = self._make_network(critic)
        self.optimiser = OPTIMISERS[config.optimiser]
        groups = np.arange(self.actor_count).reshape(-1, self.group_size)
        owners = 1 if self.optimiser.shared else len(groups)
        sizes = [kind.parameters(config, self.environment) for kind in self.bonuses.values()]
        self.shared = Shared.make(
            config.threads,
            self.network.layout.size,
            (owners, len(self.optimiser.statistics)),
            self.scales + 1,
            self.method.has_target,
            sum(sizes),
        )
        theta = self.network.initial(config.seed or 0, config.initialisation)
        if "variance" in self.policy.heads and config.initial_std is not None:
            self.network.layout.view(theta, "variance/bias")[...] += before_softplus(config.initial_std)
        self.begin_with(theta)
        parts = np.split(self.shared.bonuses, np.cumsum(sizes)[:-1])
        self.bonus_arrays = {
            name: kind.shared_arrays(config, self.environment, part)
            for (name, kind), part in zip(self.bonuses.items(), parts, strict=False)
        }
        self.own_bonuses: list[dict[str, Bonus]] = []
        self.actors = [groups[thread :: config.threads].reshape(-1) for thread in range(config.threads)]
        self.workers: list[Worker] = []
        self.methods: list[Method] = []
        self.policies: list[Policy] = []
        for thread, actors in enumerate(self.actors):
            self._add_thread(thread, actors)
        self.instances: list[list[Env]] = [[] for _ in self.workers]
        self.saved_environments: dict[int, bytes] = {}
        self.keeps_infos = False

    def _check_agents(self) -> None:
        """Raise ``ValueError`` where the method cannot learn from several agents."""
        for setting in ("agent_index", "central_value"):
            if getattr(self.config, setting) and (self.environment.agents == 1 or self.environment.observations.image):
                kind = "one agent" if self.environment.agents == 1 else "images"
                raise ValueError(
                    f"{setting} is true, but {self.environment.name} has {kind}: it is for several, of vectors"
                )
        if self.environment.agents > 1 and self.method.one_agent:
            raise ValueError(
                f"{self.environment.name} has {self.environment.agents} agents: {self.config.method} learns from one "
                "alone, take a3c, ppo, pqn or n_step_q"
            )

    @property
    def central(self) -> bool:
        """Whether the value sees what all agents observe."""
        return self.config.central_value and "value" in self.method.critic

    def _make_network(self, critic: Sequence[str]) -> Network:
        """The network of the policy and these heads of one unit."""
        config, heads = self.config, dict.fromkeys(self.policy.heads, self.environment.actions.outputs)
        return Network(
            config.network,
            self.environment.observations,
            heads | dict.fromkeys(critic, 1),
            separate=config.separate_networks and "value" in critic,
            constant={"variance"} & set(self.policy.heads) if config.policy_variance == "constant" else (),
            indexed=self.environment.agents if config.agent_index else 0,
            everyone=self.environment.agents if self.central and critic else 0,
        )

    @property
    def actor_count(self) -> int:
        """Actors of the run: each agent of each environment is one."""
        return self.config.actors * self.environment.agents

    @property
    def group_size(self) -> int:
        """Actors that step as one batch: all agents of `envs_per_batch` environments."""
        return self.config.envs_per_batch * self.environment.agents

    @property
    def scales(self) -> int:
        """How many running means and deviations observations are normalised by: an image's pixels have one alike."""
        if not self.config.normalise_observations:
            return 0
        return 1 if self.environment.observations.image else self.environment.observations.size

    def begin_with(self, parameters: np.ndarray) -> None:
        """Set theta, as far as a policy has it, and theta^- where there is one."""
        self.shared.theta[: parameters.size] = parameters
        if self.method.has_target:
            self.shared.target[:] = parameters

    def _add_thread(self, thread: int, actors: np.ndarray) -> None:
        config, environment = self.config, self.environment
        agents, t_max, k = environment.agents, config.rollout_length, self.group_size
        work = self.network.workspace(self._capacity, scales=self.scales, agents=agents)
        own = Actors.make(
            actors,
            config.seed or 0,
            observation_bytes=environment.observations.bytes,
            mask_size=environment.mask_size,
            state_size=self.network.state_size,
            agents=agents,
        )
        policy = self.make_policy((t_max, k))
        rollout, sums = Rollout.make(t_max, k, environment.mask_size), np.zeros(METRICS + len(self.method.metrics))
        self.workers.append(
            Worker(
                thread=thread,
                turn=0,
                at=0,
                doing=RESETS,
                work=work,
                actors=own,
                rollout=rollout,
                episodes=Episodes.make(agents),
                statistics=RunningStatistics.make(self.scales + 1),
                optimiser=self.optimiser.optimiser(self.shared.theta, self.shared.optimiser, work.dtheta, config),
                bonus=self._bonus(
                    policy, actors=own, rollout=rollout, work=work, sums=sums, lost=np.zeros(1, np.int64)
                ),
                owners=np.zeros(actors.size // k, np.int64) if self.optimiser.shared else actors[::k] // k,
                sums=sums,
                raw_reward=np.zeros(agents, np.float32),
            )
        )
        settings = {name: getattr(config, name, None) for name in self.method.names()}
        settings |= {"total_steps": config.steps, "learning_rate_points": points(config.learning_rate_schedule)}
        settings["reward_clip"] = math.inf if config.reward_clip is None else config.reward_clip
        settings = {name: 0 if value is None else value for name, value in settings.items()}
        self.methods.append(self.method(**settings | self.method.own(self, actors, work)))
        self.policies.append(policy)

    def _bonus(self, policy: Policy, **common: Any) -> Bonus:
        """What a worker's steps are given besides their rewards; `common` is what all kinds have."""
        own = {}
        for name, kind in self.bonuses.items():
            settings = {field: getattr(self.config, field) for field in kind.settings}
            shared = self.bonus_arrays[name]
            state = kind.own(self, len(common["actors"].begun), policy, shared)
            own[name] = kind(**{"see": 0, "learn": 0} | common | settings | shared | state)
        self.own_bonuses.append(own)
        return summed(list(own.values()), common)

    def make_policy(self, shape: tuple[int, int]) -> Policy:
        """How actors choose, with room for the actions of (t_max, k) steps."""
        more = {"epsilon": 0.0} if "epsilon" in self.policy.names() else {}
        return self.policy.make(self.network.head(self.policy.heads[0]), shape, self.environment.actions, **more)

    @property
    def _capacity(self) -> int:
        """Samples that a workspace holds: a rollout and what is seen after it, or a minibatch."""
        config = self.config
        from_memory = config.batch_size if "replay" in self.method.names() and config.buffer_size > 0 else 0
        return max((config.rollout_length + 1) * self.group_size, from_memory)

    def target_workspace(self, work: Workspace) -> Workspace:
        """Of the target network, for the worker that has `work`."""
        return self.network.workspace(self._capacity, agents=self.environment.agents).replace(
            theta=self.shared.target, dtheta=work.dtheta, normal=work.normal
        )

    def arguments(self, thread: int) -> tuple[Method, Policy, Shared, Worker]:
        """What the parts of a method are called with in a thread."""
        return self.methods[thread], self.policies[thread], self.shared, self.workers[thread]

    def loop(self, thread: int, rollouts: int) -> int:
        """Act and learn in the calling thread, for up to so many rollouts: a code of `nbrl.methods.driver`."""
        return driver.loop(*self.arguments(thread), rollouts)

    def attach(self, worker: int) -> list[Env]:
        """Make the environments of one worker's actors; the caller closes them when the worker is done."""
        instances, environment, agents = self.instances[worker], self.environment, self.environment.agents
        rows = self.workers[worker].actors.functions[::agents]
        for functions, actor in zip(rows, self.environments_of(worker), strict=True):
            try:
                if actor % environment.group == 0:
                    instances += environment.make_group()
            except BaseException as error:
                error.add_note(
                    f"raised while the environment of actor {actor} was made; where only one may exist, set actors=1"
                )
                raise
            instance = instances[len(instances) - environment.group + actor % environment.group]
            functions[:] = instance.reset_address, instance.step_address, instance.state_address
            if self.keeps_infos:
                instance.keep_infos()
            if actor in self.saved_environments:
                self._go_on(worker, actor, instance)
        return instances

    def environments_of(self, worker: int) -> list[int]:
        """The numbers of a worker's environments."""
        agents = self.environment.agents
        return (self.actors[worker][::agents] // agents).tolist()

    def _go_on(self, worker: int, number: int, instance: Env) -> None:
        """Let an environment go on with its saved episode; one that cannot begins another."""
        try:
            instance.load(self.saved_environments.pop(number))
        except (RuntimeError, ValueError) as error:  # NotImplementedError where it is played in another way here
            logger.warning("the episode of actor %d begins anew, since it could not be loaded: %s", number, error)
            self.workers[worker].actors.begun[self.actors[worker] // self.environment.agents == number] = False

    @property
    def steps(self) -> int:
        """Agent steps by all workers, of all machines."""
        return self.own_steps + int(self.shared.elsewhere[0])

    @property
    def own_steps(self) -> int:
        """Agent steps by the workers of this machine."""
        return int(self.shared.steps[:, 0].sum())

    def activity(self) -> np.ndarray:
        """Of each worker a number that any step, reset or rollout changes, int64 (threads,)."""
        return np.array(
            [
                steps
                + worker.actors.episodes.sum()
                + worker.actors.episode_length.sum()
                + worker.episodes.ends[WRITTEN]
                for steps, worker in zip(self.shared.steps[:, 0], self.workers, strict=True)
            ]
        )

    @property
    def learning_rate(self) -> float:
        """At this moment."""
        return driver.annealed(self.methods[0], self.steps)

    def sums(self) -> np.ndarray:
        """Columns of `Worker.sums`, float64, over all workers."""
        return np.sum([worker.sums for worker in self.workers], axis=0)

    def new_episodes(self) -> np.ndarray:
        """The episodes that ended since the last call, float64 (n, columns); ACTOR is the environment's number."""
        found = [worker.episodes.take() for worker in self.workers]
        for records, actors in zip(found, self.actors, strict=True):
            records[:, ACTOR] = actors[records[:, ACTOR].astype(np.int64)] // self.environment.agents
        return np.concatenate(found)

    def info(self, environment: int, number: int) -> dict[str, Any]:
        """What the last step of an environment's episode told, {} where it is not known."""
        for worker, instances in enumerate(self.instances):
            for instance in [instances[i] for i, e in enumerate(self.environments_of(worker)) if e == environment]:
                return instance.take_info(number)
        return {}

    def dropped_episodes(self) -> int:
        """Episodes whose record was lost, because nobody took the records out."""
        return sum(int(worker.episodes.ends[DROPPED]) for worker in self.workers)

    def agent(self) -> Agent:
        """The policy of this moment."""
        normal = self.network.normal(self.scales)
        fill_normal(self.statistics(), normal)
        return Agent(
            self.policy_network,
            self.shared.theta[: self.policy_network.layout.size],
            self.environment.actions,
            environment=self.config.environment,
            sticky_actions=self.config.sticky_actions,
            environment_arguments=self.config.environment_arguments,
            agents=self.environment.agents,
            normal=normal,
        )

    def statistics(self) -> np.ndarray:
        """Running statistics of all workers, of all machines, float64 (ROWS, features)."""
        total, threads = np.zeros_like(self.workers[0].statistics.own), len(self.workers)
        fill_total(self.shared, threads, threads + 1, total)
        for worker in self.workers:
            merge(total, worker.statistics.own)
        return total
