"""The environment interface: C functions called by address, whoever wrote them.

    int32_t reset(void *state, uint64_t seed, void *observation, uint8_t *mask, uint8_t *alive);
    int32_t step (void *state, const void *action, void *observation, float *reward, uint8_t *mask, uint8_t *alive);
    int32_t save (void *state, void *buffer);
    int32_t load (void *state, const void *buffer);
    void    close(void *state);

The int32 is a status: bit 0 stepped, set on every success; bit 1 terminated; bit 2 truncated; bit 3 "the return is cut
here, but the episode goes on" (a lost life); bit 4 void, "the action was not used: this step only began the episode",
for those that begin the next episode by themselves, a step late. From such a step nothing is learnt. Without bit 0, or
with any other bit, such as those of -1, the call failed. Observations are float32 or uint8 rows; actions one int32
(discrete) or float32 (continuous). Reset is explicit: after an end the observation is the episode's last, and the next
call must be a reset. `save`, `load` and `close` may be absent.

`mask` is a row of uint8, one for each number that a part of a discrete action may be: 1 where that is legal now. It is
written by both functions where the environment's description says that it has masks, and NULL elsewhere.

An environment with n agents has n rows of observation, action, reward and mask, one behind the other, and one status
for all. `alive` is a byte for each agent: bit 0 alive, the agent acts now, and its action is used; bit 1 speaks, others
hear at the next step what it says now; bit 2 hears, what was said reaches it; bit 3 stopped, it is not alive any more
because a limit ended its part: its return goes on with the value of what it sees; bit 4 new, another agent has taken
the place of the one before. Both functions may write it, and where neither does all do all; with one agent alone it is
NULL. An agent that is not alive has an observation that nobody reads; one that comes to life begins with nothing in
mind.

A function that uses neither may leave the two last parameters out: by the calling conventions of C on all systems that
are supported, it does not see them.
"""

import copy
import ctypes
import difflib
import math
import numbers
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from gymnasium import spaces

from nbrl.kernels.compile import jit
from nbrl.spaces import LARGEST_FLOAT, PRESENT, Actions, Observations

STEPPED, TERMINATED, TRUNCATED, CUT, VOID = 1, 2, 4, 8, 16
ALL_BITS = STEPPED | TERMINATED | TRUNCATED | CUT | VOID

ResetFunction = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int64, ctypes.c_uint64, *[ctypes.c_int64] * 3)
StepFunction = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_int64] * 6)
SaveFunction = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_int64] * 2)
CloseFunction = ctypes.CFUNCTYPE(None, ctypes.c_int64)

ALIGNMENT = 64
GUARD = np.frombuffer(b"\xa5" * 64, np.uint8)  # what stands behind a state, and must stay
KEPT_VIEWS = 4096
KEPT_INFOS = 4096  # of an environment, for who does not ask in time


def suggestion(name: str, candidates: Iterable[str]) -> str:
    """The end of a sentence on an unknown name: close matches among the known ones, or nothing."""
    known = {candidate.lower(): candidate for candidate in candidates}
    close = [known[match] for match in difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.7)]
    return f"; did you mean {' or '.join(close)}?" if close else ""


@jit
def succeeded(status):
    """Whether a function of an environment says that it did what it should."""
    return status & STEPPED != 0 and status & ~ALL_BITS == 0


def read_number(what: str, value: Any, wanted: str = "a number") -> float:
    """A number, or an array of one, as a float; ValueError for anything else, and for what float32 cannot hold."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if not isinstance(value, numbers.Real | np.bool_):
        raise ValueError(f"{what} is {value!r}: it must be {wanted}")
    number = float(value)
    if LARGEST_FLOAT < abs(number) < math.inf:
        raise ValueError(f"{what} is {value!r}: it must be within what a float32 can hold")
    return number


class PythonEnvironment:
    """Base of the adapters of Python environments; arguments are addresses, to be viewed through `Views`.

    Attributes
    ----------
    error : BaseException or None
        What the last failed call raised.
    mask : numpy.ndarray or None
        uint8, what is legal after the last call, where the description says that there are masks.
    alive : numpy.ndarray or None
        uint8 (agents,), what each agent does after the last call, where they come and go.
    infos : dict of int to dict, or None
        What the last step of each episode told, by the number of the episode, from 1 on; None where nobody asks.
    """

    error: BaseException | None = None
    mask: np.ndarray | None = None
    alive: np.ndarray | None = None
    infos: dict[int, dict[str, Any]] | None = None
    episodes = 0

    def keep_info(self, info: dict[str, Any]) -> None:
        """Keep what a step told, in place of what earlier ones of the same episode did."""
        if self.infos is not None:
            self.infos[self.episodes] = info
            self.infos.pop(self.episodes - KEPT_INFOS, None)

    def reset(self, seed: int, observation: int) -> None:
        """Begin an episode and write its first observation."""
        raise NotImplementedError

    def step(self, action: int, observation: int, reward: int) -> int:
        """Act, write observation and reward, and return a status."""
        raise NotImplementedError

    def picture(self, observation: np.ndarray) -> np.ndarray | None:
        """As `Env.picture`."""
        raise NotImplementedError

    def save(self) -> bytes | None:
        """As `Env.save`; an environment that can do it overrides this and `load`."""
        return None

    def load(self, saved: bytes) -> None:
        """As `Env.load`."""
        raise NotImplementedError("this environment loads no states")

    def close(self) -> None:
        """Let go of what the environment holds."""
        raise NotImplementedError


class Env:
    """One running environment: addresses to call, and what must live as long as they are called.

    Parameters
    ----------
    reset, step, save, load, close : int
        Addresses of the C functions above; 0 for an absent one.
    state_address : int
        Their first argument.
    saved_size : int
        Bytes that `save` writes; 0 when the state cannot be saved. With a size but without `save`, the state is
        `saved_size` bytes at `state_address`, and saving is a copy.
    owned
        Whatever must be kept alive with the instance.
    picture : callable
        As the attribute.
    python : PythonEnvironment, optional
        What the functions call, where that is Python.
    guard : numpy.ndarray, optional
        What lies behind the state, a copy of `GUARD`.

    Attributes
    ----------
    reset_address, step_address, save_address, load_address, close_address, state_address, saved_size : int
    picture : callable
        ``picture(observation)`` is what people see of the environment after the call that gave `observation`: uint8
        (height, width, 3), or None where there is nothing to see.
    says : numpy.ndarray or None
        What several agents said in the last step, a colour each, uint8 (agents, 3): for `picture`, by who draws it.
    """

    says: np.ndarray | None

    def __init__(
        self,
        *,
        reset: int,
        step: int,
        picture: Callable[[np.ndarray], np.ndarray | None],
        state_address: int = 0,
        save: int = 0,
        load: int = 0,
        saved_size: int = 0,
        close: int = 0,
        owned: Any = None,
        python: PythonEnvironment | None = None,
        guard: np.ndarray | None = None,
    ) -> None:
        self.picture, self.says = picture, None
        self.reset_address, self.step_address = reset, step
        self.save_address, self.load_address, self.close_address = save, load, close
        self.state_address, self.saved_size = state_address, saved_size
        self._owned, self._python, self._guard = owned, python, guard
        self._finaliser = weakref.finalize(self, _close, close, state_address, owned, python)
        self._finaliser.atexit = False  # workers may still be stepping while the interpreter goes

    @property
    def error(self) -> BaseException | None:
        """What a Python environment raised in the call that failed."""
        return self._python.error if self._python is not None else None

    def guard_holds(self) -> bool:
        """Whether nothing was written behind the state."""
        return self._guard is None or np.array_equal(self._guard, GUARD)

    def keep_infos(self) -> None:
        """Keep from now on what episodes end with, for `take_info`."""
        if self._python is not None:
            self._python.infos = {}

    def take_info(self, episode: int) -> dict[str, Any]:
        """What the last step of an episode told, by its number since the environment was made; {} where it is lost."""
        kept = None if self._python is None else self._python.infos
        return {} if kept is None else kept.pop(episode, {})

    def save(self) -> bytes | None:
        """The environment's state, to go on from later; None where it cannot be saved.

        Raises
        ------
        RuntimeError
            Its own `save` failed.
        """
        if self._python is not None:
            return self._python.save()
        if self.saved_size == 0:
            return None
        if not self.save_address:
            return ctypes.string_at(self.state_address, self.saved_size)
        buffer = ctypes.create_string_buffer(self.saved_size)
        status = SaveFunction(self.save_address)(self.state_address, ctypes.addressof(buffer))
        if not succeeded(status):
            raise RuntimeError(f"the environment could not save its state: status {status}")
        return buffer.raw

    def load(self, saved: bytes) -> None:
        """Go back to a state from `save`, of this or another instance.

        Raises
        ------
        ValueError
            It is not of this environment's size.
        RuntimeError
            The environment's own `load` failed.
        """
        if self._python is not None:
            self._python.load(saved)
            return
        if len(saved) != self.saved_size or not saved:
            raise ValueError(f"a saved state of {self.saved_size} bytes is needed, not of {len(saved)}")
        if not self.load_address:
            ctypes.memmove(self.state_address, saved, len(saved))
            return
        buffer = ctypes.create_string_buffer(saved, len(saved))
        status = SaveFunction(self.load_address)(self.state_address, ctypes.addressof(buffer))
        if not succeeded(status):
            raise RuntimeError(f"the environment could not load a state: status {status}")

    def close(self) -> None:
        """Close the environment; a second time does nothing. The instance must not be stepped afterwards."""
        self._finaliser()


def _close(close: int, state_address: int, owned: Any, python: PythonEnvironment | None) -> None:
    if close:
        CloseFunction(close)(state_address)
    if python is not None:
        python.close()


def python_instance(environment: PythonEnvironment, *, compiled_step: int = 0, state_address: int = 0) -> Env:
    """An instance that calls a Python object. An exception is kept in its `error`, and the call returns 0: failure.

    With the address of a `compiled_step`, which gets `state_address`, Python is called for resets alone.
    """

    def write(mask: int, alive: int) -> None:
        for address, array in ((mask, environment.mask), (alive, environment.alive)):
            if address and array is not None:
                ctypes.memmove(address, array.tobytes(), array.size)

    def on_reset(state: int, seed: int, observation: int, mask: int, alive: int) -> int:
        try:
            environment.reset(seed, observation)
            environment.episodes += 1
            write(mask, alive)
            return STEPPED
        except BaseException as error:  # none may cross the C code above; the engine raises it again
            environment.error = error
            return 0

    def on_step(state: int, action: int, observation: int, reward: int, mask: int, alive: int) -> int:
        try:
            status = environment.step(action, observation, reward)
            write(mask, alive)
            return status
        except BaseException as error:
            environment.error = error
            return 0

    reset, step = ResetFunction(on_reset), StepFunction(on_step)
    return Env(
        reset=function_address(reset, "reset"),
        step=compiled_step or function_address(step, "step"),
        state_address=state_address,
        owned=(reset, step),
        python=environment,
        picture=environment.picture,
    )


class Views(dict[int, np.ndarray]):
    """Arrays over foreign memory by address: ``views[address]``. A view is remembered, since callers reuse theirs.

    Parameters
    ----------
    shape : tuple of int
    dtype : numpy dtype
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        super().__init__()
        self._shape, self._dtype = shape, np.dtype(dtype)
        self._bytes = ctypes.c_uint8 * (math.prod(shape) * self._dtype.itemsize)

    def __missing__(self, address: int) -> np.ndarray:
        if len(self) >= KEPT_VIEWS:
            self.clear()
        view = np.frombuffer(self._bytes.from_address(address), self._dtype).reshape(self._shape)
        self[address] = view
        return view


class EnvSpec:
    """What the engine must know of an environment before it runs, and how to make a running one.

    Parameters
    ----------
    name : str
    observation_space : gymnasium.Space or Observations
    action_space : gymnasium.spaces.Discrete, MultiDiscrete, MultiBinary or Box
        Discrete actions are always 0 to n-1 here, whatever the space's start; several are a row of such numbers.
    frames_per_step : int, optional
        4 for Atari, for counts of frames.
    action_mask : bool, optional
        Whether it says which discrete actions are legal.
    agents : int, optional
        How many agents act in it, each with a row of observation, action and reward.
    agents_come_and_go : bool, optional
        Whether an agent is a place that one after another takes, as of cars, so that its number says nothing.
    observation_layout : str, optional
        As in `nbrl.spaces.Observations`.

    Attributes
    ----------
    observations : Observations
    actions : Actions
    clips_rewards : bool
        Whether learning clips rewards to [-1, 1] by default: Atari's, whose scores are of all sizes.
    converts : bool
        Whether values of the space are written as rows by `Observations.write`, and not by compiled functions.
    vector : bool
        True if one object steps several environments, which play together: never one of them alone.
    group : int
        Number of actors that one object serves.
    groups : int or None
        Number of such objects that there can be, None for any.

    Raises
    ------
    ValueError
        When observations or actions are of a kind that nothing here can use.
    """

    clips_rewards = False
    converts = False
    vector = False
    group = 1
    groups: int | None = None

    def __init__(
        self,
        name: str,
        observation_space: spaces.Space | Observations,
        action_space: spaces.Space,
        *,
        frames_per_step: int = 1,
        action_mask: bool = False,
        agents: int = 1,
        agents_come_and_go: bool = False,
        observation_layout: str = "auto",
    ) -> None:
        self.name, self.frames_per_step, self.action_mask = name, frames_per_step, action_mask
        self.agents, self.agents_come_and_go = agents, agents_come_and_go
        try:
            given = observation_space
            self.observations = given if isinstance(given, Observations) else Observations(given, observation_layout)
            self.actions = Actions(action_space)
        except ValueError as problem:
            raise ValueError(f"{name}: {problem}") from None
        if isinstance(agents, bool) or not isinstance(agents, int) or agents < 1:
            raise ValueError(f"{name}: agents is {agents!r}: it must be a whole number of at least 1")
        if action_mask and not self.actions.discrete:
            raise ValueError(f"{name}: action_mask is set, but its actions are continuous: leave it out")

    def laid_out(self, observation_layout: str) -> "EnvSpec":
        """The same environment, its observations read in another layout than the one that was found; "auto" for that.

        Raises
        ------
        ValueError
            The layout does not fit them.
        """
        if observation_layout in ("auto", self.observations.layout):
            return self
        other = copy.copy(self)
        other.observations = Observations(self.observations.space, observation_layout)
        if not self.converts and not other.observations.as_it_lies:
            raise ValueError(
                f"{self.name}: observation_layout is {observation_layout!r}, but its compiled functions write "
                f"{self.observations}"
            )
        return other

    @property
    def mask_size(self) -> int:
        """Numbers in a row of the mask; 0 where there is none."""
        return self.actions.outputs if self.action_mask else 0

    def make(self) -> Env:
        """A new running environment, to be reset before it is stepped."""
        raise NotImplementedError

    def make_group(self) -> list[Env]:
        """As `make`, for so many actors as one object serves, which step in turn, each once."""
        return [self.make()]

    checks_states = False

    def check_state(self, saved: bytes) -> None:
        """Raise ``ValueError`` for a saved state that the environment cannot be in, as far as it can tell.

        It can where `checks_states` says so.
        """

    def for_evaluation(self) -> "EnvSpec":
        """Where policies that were trained here are evaluated: here, unless it keeps something back for that."""
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


def name_with(name: str, **keywords: tuple[Any, Any]) -> str:
    """An id, and which of the keywords that it was made with (value, usual value) differ.

    >>> name_with("nbrl/DeepSea-v0", size=(20, 10), stochastic=(False, False))
    'nbrl/DeepSea-v0(size=20)'
    """
    others = ", ".join(f"{key}={value}" for key, (value, usual) in keywords.items() if value != usual)
    return f"{name}({others})" if others else name


def function_address(function: Any, role: str) -> int:
    """The address of a C function given as an int, a numba callback or a ctypes function."""
    if isinstance(function, int) and not isinstance(function, bool) and function > 0:
        return function
    if isinstance(getattr(function, "address", None), int):
        return function.address
    if callable(function) and hasattr(function, "restype"):
        address = ctypes.c_void_p.from_buffer(function).value  # ctypes.cast would make a cycle
        if address:
            return address
    raise ValueError(f"{role} must be an address, a numba @cfunc or a ctypes function, not {function!r}")


class NativeEnvironment(EnvSpec):
    """An environment of C functions: from numba, from a C library, or anything else with addresses.

    Parameters
    ----------
    reset, step, save, load, close : int, numba @cfunc or ctypes function
        As at the top of this file. Without `save` and `load` the state must be flat, without pointers to itself or to
        memory of its own, so that a copy saves it.
    state_size : int
        Bytes of state. Every instance has its own, zeroed, at a multiple of 64.
    begins_with : numpy.ndarray, optional
        What a new state begins with instead of zeros: settings that `reset` and `step` read there.
    observation_space, action_space : gymnasium.spaces.Box and gymnasium.spaces.Box or gymnasium.spaces.Discrete
    saved_size : int, optional
        Bytes that `save` writes.
    possible : callable, optional
        Whether the environment can be in a state, uint8 (bytes saved,): what a file holds is asked about first.
        Without it, a file that was made to do harm can bring about what no reset and step would.
    action_mask : bool, optional
        Whether `reset` and `step` write the mask of legal actions.
    agents, agents_come_and_go
        As for `EnvSpec`; the spaces are those of one agent.
    name : str, optional
    frames_per_step, observation_layout
        As for `EnvSpec`.
    picture : callable, optional
        As for `Env`.
    state_picture : callable, optional
        In place of `picture`, to show what an observation does not tell: called with the state as uint8 (state_size,),
        and, where there are several agents, with `Env.says`.

    Raises
    ------
    ValueError
        When a part cannot be what it should.
    """

    def __init__(
        self,
        reset: Any,
        step: Any,
        *,
        state_size: int,
        begins_with: np.ndarray | None = None,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        save: Any = None,
        load: Any = None,
        saved_size: int = 0,
        close: Any = None,
        possible: Callable[[np.ndarray], bool] | None = None,
        action_mask: bool = False,
        agents: int = 1,
        agents_come_and_go: bool = False,
        name: str = "native",
        frames_per_step: int = 1,
        observation_layout: str = "auto",
        picture: Callable[[np.ndarray], np.ndarray | None] | None = None,
        state_picture: Callable[..., np.ndarray | None] | None = None,
    ) -> None:
        super().__init__(
            name,
            observation_space,
            action_space,
            frames_per_step=frames_per_step,
            action_mask=action_mask,
            agents=agents,
            agents_come_and_go=agents_come_and_go,
            observation_layout=observation_layout,
        )
        if not self.observations.as_it_lies:
            raise ValueError(
                f"{name}: the observation space {observation_space} cannot be used: it must be a Box of float32, or of "
                "uint8 for images"
            )
        if not isinstance(state_size, int) or state_size < 0:
            raise ValueError(f"{name}: state_size must be a number of bytes, not {state_size!r}")
        self._begins_with = np.zeros(0, np.uint8) if begins_with is None else begins_with.reshape(-1).view(np.uint8)
        if self._begins_with.size > state_size:
            raise ValueError(f"{name}: begins_with has {self._begins_with.size} bytes, and the state {state_size}")
        if (save is None, load is None, saved_size <= 0) not in ((True,) * 3, (False,) * 3):
            raise ValueError(f"{name}: save, load and saved_size (bytes) belong together: give all three or none")
        self._picture, self._state_picture = picture or self.observations.picture, state_picture
        self._state_size, self._possible, self.checks_states = state_size, possible, possible is not None
        self._saved_size = saved_size if save is not None else state_size
        self._functions = {"reset": reset, "step": step, "save": save, "load": load, "close": close}
        self._addresses = {
            role: 0
            if function is None and role not in ("reset", "step")
            else function_address(function, f"{name}: {role}")
            for role, function in self._functions.items()
        }

    def check_state(self, saved: bytes) -> None:
        if len(saved) != self._saved_size:
            raise ValueError(f"a state of {self.name} has {self._saved_size} bytes, not {len(saved)}")
        if self._possible is not None and not self._possible(np.frombuffer(saved, np.uint8)):
            raise ValueError(f"{self.name} can never be in a state that is saved")

    def make(self) -> Env:
        memory = np.zeros(ALIGNMENT + self._state_size + GUARD.size, np.uint8)
        address = memory.ctypes.data + -memory.ctypes.data % ALIGNMENT
        state, guard = np.split(
            memory[address - memory.ctypes.data :][: self._state_size + GUARD.size], [self._state_size]
        )
        state[: self._begins_with.size], guard[:] = self._begins_with, GUARD
        picture, state_picture = self._picture, self._state_picture
        if state_picture is not None:

            def picture(observation: np.ndarray) -> np.ndarray | None:
                return state_picture(state) if self.agents == 1 else state_picture(state, instance.says)

        instance = Env(
            reset=self._addresses["reset"],
            step=self._addresses["step"],
            state_address=address,
            save=self._addresses["save"],
            load=self._addresses["load"],
            saved_size=self._saved_size,
            close=self._addresses["close"],
            owned=(memory, self._functions),
            picture=picture,
            guard=guard,
        )
        return instance


class EnvStepper:
    """One environment stepped from Python, for hosts and tests; the engine does the same from jitted code.

    Parameters
    ----------
    environment : EnvSpec

    Attributes
    ----------
    instance : Env
    mask : numpy.ndarray
        uint8, what is legal now; empty where there are no masks.
    rewards : numpy.ndarray
        float32 (agents,), of the last step.
    alive : numpy.ndarray
        uint8 (agents,), what each agent does now: bits ALIVE, SPEAKS and HEARS.

    Where there are several agents, observations and masks have a dimension more in front.
    """

    def __init__(self, environment: EnvSpec) -> None:
        self.instance = environment.make()
        self._reset = ResetFunction(self.instance.reset_address)
        self._step = StepFunction(self.instance.step_address)
        observations, actions = environment.observations, environment.actions
        rows = () if environment.agents == 1 else (environment.agents,)
        self._observation = np.zeros((*rows, *observations.shape), observations.dtype)
        self._action = np.zeros((*rows, actions.parts), np.int32 if actions.discrete else np.float32)
        self.rewards = np.zeros(environment.agents, np.float32)
        self.mask = np.ones((*rows, environment.mask_size), np.uint8)
        self.alive = np.full(environment.agents, PRESENT, np.uint8)
        self._alive_address = self.alive.ctypes.data if environment.agents > 1 else 0

    def _checked(self, status: int) -> int:
        if not succeeded(status):
            error = self.instance.error
            raise RuntimeError(f"the environment failed with status {status}") if error is None else error
        return status

    @property
    def _mask_address(self) -> int:
        return self.mask.ctypes.data if self.mask.size else 0

    def reset(self, seed: int) -> np.ndarray:
        """Begin an episode.

        Returns
        -------
        observation : numpy.ndarray
            A copy, of the environment's shape and dtype.

        Raises
        ------
        BaseException
            Whatever a Python environment raised; RuntimeError when another fails.
        """
        state, observation = self.instance.state_address, self._observation.ctypes.data
        self._checked(self._reset(state, seed, observation, self._mask_address, self._alive_address))
        return self._observation.copy()

    def step(self, action: Any) -> tuple[np.ndarray, float, int]:
        """Act once, by the parts of an action in any shape; errors as in `reset`.

        Returns
        -------
        observation : numpy.ndarray
        reward : float
            Of several agents the mean; `rewards` has each one's.
        status : int
            Bits STEPPED, TERMINATED, TRUNCATED, CUT and VOID.
        """
        self._action[...] = np.reshape(action, self._action.shape)
        pointers = (array.ctypes.data for array in (self._action, self._observation, self.rewards))
        addresses = self._mask_address, self._alive_address
        status = self._checked(self._step(self.instance.state_address, *pointers, *addresses))
        return self._observation.copy(), float(self.rewards.mean()), status

    def close(self) -> None:
        """Close the environment."""
        self.instance.close()
