"""Messages as actions: what each agent says is a part of its action, and what the others observe a step later.

Any environment of several agents with vectors and Discrete actions may be made so, by the keyword `messages`, the
number of symbols. It is what reinforced inter-agent learning needs (Foerster et al., 2016, RIAL), by any method for
discrete actions.

An action is a m + s: action a of the environment, and symbol s of m. After the environment's own numbers an observation
has m for each other agent, the next one first: one-hot what it said in the last step, zeros where it could not speak or
is not heard. Agents that come and go have one such row, the mean of the others who spoke. Who cannot speak can only say
symbol 0.
"""

from typing import Any

import numpy as np
from gymnasium import spaces
from numba import carray, float32, int32, uint8

from nbrl.envs.interface import Env, EnvSpec, name_with, succeeded
from nbrl.kernels.compile import cfunction, jit
from nbrl.kernels.native import address_at, call_reset, call_step, pointer_to
from nbrl.settings import Setting
from nbrl.spaces import ALIVE, HEARS, NEW, PRESENT, SPEAKS, STOPPED, Observations

SYMBOLS = Setting(2, "", least=2, most=1000)
EVERY_BIT = PRESENT | STOPPED | NEW

# State, int64: addresses of the environment's functions, its state and rows for it, sizes; then what each agent said
# last, a symbol from 1 on, 0 for nothing; then what it does now, bits as in the environment interface.
(
    RESET, STEP, STATE, ACTIONS_ROW, OBSERVATION_ROW, MASK_ROW, AGENTS, NUMBERS, CHOICES, SYMBOL_COUNT, COME_AND_GO,
    MASKED, SAID,
) = range(13)  # fmt: skip

COLOURS = ((230, 120, 60), (70, 160, 230), (120, 200, 90), (220, 200, 70), (180, 110, 220), (90, 200, 200))

_floats, _ints, _bytes = pointer_to(float32), pointer_to(int32), pointer_to(uint8)


@jit
def _tell(state, observation_pointer, mask_pointer, alive_pointer):
    """Fill observations and masks from the environment's own."""
    n, numbers, choices, m = state[AGENTS], state[NUMBERS], state[CHOICES], state[SYMBOL_COUNT]
    heard = m if state[COME_AND_GO] else m * (n - 1)
    seen = carray(_floats(state[OBSERVATION_ROW]), (n, numbers))
    own = carray(_bytes(state[MASK_ROW]), (n, choices))
    observation = carray(observation_pointer, (n, numbers + heard))
    mask, alive = carray(mask_pointer, (n, choices, m)), carray(alive_pointer, n)
    said = state[SAID : SAID + n]
    for a in range(n):
        state[SAID + n + a] = alive[a]
        observation[a, :numbers] = seen[a]
        observation[a, numbers:] = 0
        here = alive[a] & ALIVE != 0
        if here and alive[a] & HEARS:
            spoke = 0
            for other in range(1, n):
                symbol = said[(a + other) % n]
                if symbol:
                    spoke += 1
                    row = 0 if state[COME_AND_GO] else other - 1
                    observation[a, numbers + row * m + symbol - 1] += 1
            if state[COME_AND_GO] and spoke:
                observation[a, numbers:] /= spoke
        speaks = here and alive[a] & SPEAKS != 0
        for choice in range(choices):
            for symbol in range(m):
                mask[a, choice, symbol] = own[a, choice] if speaks or symbol == 0 else 0


@cfunction("int32(CPointer(int64), uint64, CPointer(float32), CPointer(uint8), CPointer(uint8))")
def talk_reset(state_pointer, seed, observation_pointer, mask_pointer, alive_pointer):
    """Begin an episode, in which nothing was said."""
    n = carray(state_pointer, SAID)[AGENTS]
    state, alive = carray(state_pointer, SAID + 2 * n), carray(alive_pointer, n)
    mask = state[MASK_ROW] if state[MASKED] else 0
    state[SAID:] = 0
    status = call_reset(state[RESET], state[STATE], seed, state[OBSERVATION_ROW], mask, address_at(alive, 0))
    if succeeded(status):
        _tell(state, observation_pointer, mask_pointer, alive_pointer)
    return status


@cfunction(
    "int32(CPointer(int64), CPointer(int32), CPointer(float32), CPointer(float32), CPointer(uint8), CPointer(uint8))"
)
def talk_step(state_pointer, action_pointer, observation_pointer, reward_pointer, mask_pointer, alive_pointer):
    """Say and act."""
    n = carray(state_pointer, SAID)[AGENTS]
    state, alive = carray(state_pointer, SAID + 2 * n), carray(alive_pointer, n)
    given, own, reward = carray(action_pointer, n), carray(_ints(state[ACTIONS_ROW]), n), carray(reward_pointer, n)
    for a in range(n):
        does = state[SAID + n + a]
        speaks = does & ALIVE != 0 and does & SPEAKS != 0
        state[SAID + a] = 1 + given[a] % state[SYMBOL_COUNT] if speaks else 0
        own[a] = given[a] // state[SYMBOL_COUNT]
    mask = state[MASK_ROW] if state[MASKED] else 0
    status = call_step(
        state[STEP], state[STATE], state[ACTIONS_ROW], state[OBSERVATION_ROW], address_at(reward, 0), mask,
        address_at(alive, 0),
    )  # fmt: skip
    if succeeded(status):
        _tell(state, observation_pointer, mask_pointer, alive_pointer)
    return status


class TalkingEnvironment(EnvSpec):
    """An environment whose agents say symbols.

    Parameters
    ----------
    spec : EnvSpec
        Of several agents, with vectors and Discrete actions.
    messages : int
        How many symbols there are, 2 to 1,000.

    Raises
    ------
    ValueError
        It is no such environment.
    """

    converts = True

    def __init__(self, spec: EnvSpec, messages: Any) -> None:
        symbols = SYMBOLS.checked("messages", messages)
        seen, actions = spec.observations, spec.actions
        if spec.agents == 1 or seen.image or not actions.discrete or len(actions.counts) > 1:
            raise ValueError(
                f"messages are for several agents with vectors and Discrete actions, and {spec.name} has {spec.agents} "
                f"with {seen} and {actions}"
            )
        heard = symbols * (1 if spec.agents_come_and_go else spec.agents - 1)
        super().__init__(
            name_with(spec.name, messages=(symbols, None)),
            Observations.vector(seen.size + heard),
            spaces.Discrete(actions.counts[0] * symbols),
            frames_per_step=spec.frames_per_step,
            action_mask=True,
            agents=spec.agents,
            agents_come_and_go=spec.agents_come_and_go,
        )
        self.spec, self.symbols, self.checks_states = spec, symbols, spec.checks_states

    def make(self) -> Env:
        return _TalkingEnv(self.spec.make(), self)

    def check_state(self, saved: bytes) -> None:
        size = 16 * self.agents
        if len(saved) < size:
            raise ValueError(f"a state of {self.name} with messages has at least {size} bytes, not {len(saved)}")
        said, does = np.frombuffer(saved[-size:], np.int64).reshape(2, -1)
        if ((said < 0) | (said > self.symbols)).any():
            raise ValueError(f"what the agents of {self.name} said last is none of {self.symbols} symbols")
        if (does & ~EVERY_BIT).any():
            raise ValueError(f"what the agents of {self.name} do has bits that are none")
        self.spec.check_state(saved[:-size])

    def for_evaluation(self) -> EnvSpec:
        return TalkingEnvironment(self.spec.for_evaluation(), self.symbols)


class _TalkingEnv(Env):
    """One running environment within another: its own calls go to that, messages are between the two."""

    def __init__(self, inner: Env, spec: TalkingEnvironment) -> None:
        n, own = spec.agents, spec.spec
        self._seen = np.zeros((n, *own.observations.shape), np.float32)
        rows: list[np.ndarray] = [np.zeros(n, np.int32), self._seen, np.ones((n, own.actions.outputs), np.uint8)]
        self._state = np.zeros(SAID + 2 * n, np.int64)
        self._state[:SAID] = [
            inner.reset_address, inner.step_address, inner.state_address, *(row.ctypes.data for row in rows),
            n, own.observations.size, own.actions.outputs, spec.symbols, own.agents_come_and_go, own.action_mask,
        ]  # fmt: skip
        self.inner = inner
        super().__init__(
            reset=talk_reset.address,
            step=talk_step.address,
            state_address=self._state.ctypes.data,
            picture=self._draw,
            owned=(inner, self._state, rows),
        )

    def _draw(self, observation: np.ndarray) -> np.ndarray | None:
        said = self._state[SAID:].reshape(2, -1)[0]
        colours = np.array([(0, 0, 0), *COLOURS])[np.where(said > 0, 1 + (said - 1) % len(COLOURS), 0)]
        self.inner.says = colours.astype(np.uint8)
        return self.inner.picture(self._seen)

    @property
    def error(self) -> BaseException | None:
        return self.inner.error

    def guard_holds(self) -> bool:
        return self.inner.guard_holds()

    def keep_infos(self) -> None:
        self.inner.keep_infos()

    def take_info(self, episode: int) -> dict[str, Any]:
        return self.inner.take_info(episode)

    def save(self) -> bytes | None:
        saved = self.inner.save()
        return None if saved is None else saved + self._state[SAID:].tobytes()

    def load(self, saved: bytes) -> None:
        size = self._state[SAID:].nbytes
        self.inner.load(saved[:-size])
        self._state[SAID:] = np.frombuffer(saved[-size:], np.int64)

    def close(self) -> None:
        self.inner.close()
        super().close()
