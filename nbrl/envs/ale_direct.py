"""Atari without the interpreter: ale-py's own C++ functions, called by address from compiled code.

A step through the public vector environment wakes another thread and takes the interpreter's lock; here it is a call.
The price is that this leans on a C++ object layout that nobody promises. So it is used for the versions and platforms
of `KNOWN` only, and for each game only after some hundred frames have been compared with the public interface.
Stickiness and no-ops are drawn here, from the seed of each reset: an episode depends on that and its actions alone.
So these are what is saved of it, a byte an action, and played again to go on: some seconds for a long episode, where
ale-py's own saved states would be there at once. But a state that was tampered with can crash the emulator.
"""

import ctypes
import functools
import logging
import platform
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from nbrl.envs.interface import (
    CUT,
    STEPPED,
    TERMINATED,
    TRUNCATED,
    Env,
    PythonEnvironment,
    python_instance,
)
from nbrl.kernels.compile import cfunction, jit
from nbrl.kernels.native import emit_call, pointer_to
from nbrl.kernels.random import ROW, integer, next_uint64, seed_row

logger = logging.getLogger(__name__)

KNOWN = {("0.12.1", "linux", "x86_64")}  # of ale-py: version, sys.platform, machine
ROWS, COLUMNS = 210, 160
SIZE = 84
STACK = 4
CHECKED_FRAMES = 300

SYMBOLS = {
    "act": "_ZN3ale12ALEInterface3actENS_6ActionEf",
    "game_over": "_ZNK3ale12ALEInterface9game_overEb",
    "reset_game": "_ZN3ale12ALEInterface10reset_gameEv",
    "lives": "_ZN3ale12ALEInterface5livesEv",
    "get_screen": "_ZNK3ale12ALEInterface9getScreenEv",
}
# Words of an emulator's state, int64 each: addresses, settings, counters; then a random row.
(
    EMULATOR, ACT, GAME_OVER, RESET_GAME, LIVES, GET_SCREEN, GREY, ACTIONS, FRAMES, BEFORE, KEPT, LINES,
    STICKY, CUT_ON_LIFE_LOSS, MAX_NOOPS, MAX_FRAMES, ACTION_COUNT, LIVES_LEFT, FRAME_COUNT, LAST_ACTION, LOG, SEED,
    RANDOM,
) = range(23)  # fmt: skip
WORDS = RANDOM + ROW
SEED_BYTES = 8  # of what is saved of an episode; an action a byte follows
# Output column x covers 40/21 columns from column 40 x / 21 on: the first of them, and the shares of three, in 1/21.
LEFT = (40 * np.arange(SIZE) // 21).astype(np.int32)
_FIRST_SHARE = 21 * (LEFT + 1) - 40 * np.arange(SIZE)
_SECOND_SHARE = np.minimum(21, 40 - _FIRST_SHARE)
SHARES = np.stack([_FIRST_SHARE, _SECOND_SHARE, 40 - _FIRST_SHARE - _SECOND_SHARE]).astype(np.int32)


@intrinsic
def _call_act(context, function, emulator, action, strength):
    def codegen(context, builder, signature, args):
        return emit_call(builder, args, ir.IntType(32))

    return types.int32(types.int64, types.int64, types.int32, types.float32), codegen


@intrinsic
def _call_game_over(context, function, emulator, with_truncation):
    def codegen(context, builder, signature, args):
        return emit_call(builder, args, ir.IntType(8))

    return types.uint8(types.int64, types.int64, types.int32), codegen


@intrinsic
def _call_int(context, function, emulator):
    def codegen(context, builder, signature, args):
        return emit_call(builder, args, ir.IntType(32))

    return types.int32(types.int64, types.int64), codegen


@intrinsic
def _call_pointer(context, function, emulator):
    def codegen(context, builder, signature, args):
        return emit_call(builder, args, ir.IntType(64))

    return types.int64(types.int64, types.int64), codegen


_bytes_at, _words_at, _rewards_at = pointer_to(types.uint8), pointer_to(types.int64), pointer_to(types.float32)
_rows_at, _actions_at = pointer_to(types.uint64), pointer_to(types.int32)
_lines_at = _actions_at


@jit
def _differ(a, b):
    a, b = a.view(np.uint64), b.view(np.uint64)
    difference = np.uint64(0)
    for i in range(a.size):
        difference |= a[i] ^ b[i]
    return difference != 0


@jit
def shrink(before, screen, grey, kept, lines, last, out):
    """The maximum of two raw screens in grey, averaged over areas: what has not changed is taken from last time.

    Parameters
    ----------
    before, screen : uint8 (210, 160)
        Palette indices of the third and fourth frame.
    grey : uint8 (256,)
        Grey level of each palette index.
    kept : uint8 (2, 210, 160)
        `before` and `screen` of last time; brought up to date. The first time, something that differs in every row.
    lines : int32 (210, 160)
        Their maxima in grey; brought up to date.
    last, out : uint8 (84, 84)
        The result of last time, and this one. An output pixel covers 2.5 x 40/21 pixels; sums are exact, in 1/200.
    """
    changed = np.empty(ROWS, np.bool_)
    for row in range(ROWS):
        new, old, line = screen[row], before[row], lines[row]
        changed[row] = _differ(new, kept[1, row]) or _differ(old, kept[0, row])
        if changed[row]:
            kept[0, row], kept[1, row] = old, new
            for x in range(COLUMNS):
                line[x] = max(grey[new[x]], grey[old[x]])
    blend = np.zeros(COLUMNS + 1, np.int32)
    for y in range(SIZE):
        first = 5 * y // 2
        if not (changed[first] or changed[first + 1] or changed[first + 2]):
            out[y] = last[y]
            continue
        top, low = (np.int32(2), np.int32(1)) if y % 2 == 0 else (np.int32(1), np.int32(2))
        a, b, c = lines[first], lines[first + 1], lines[first + 2]
        for x in range(COLUMNS):
            blend[x] = top * a[x] + np.int32(2) * b[x] + low * c[x]
        for x in range(SIZE):
            at = LEFT[x]
            total = SHARES[0, x] * blend[at] + SHARES[1, x] * blend[at + 1] + SHARES[2, x] * blend[at + 2]
            out[y, x] = np.uint8(np.uint32(total + 100) // np.uint32(200))


@jit
def _raw_screen(words):
    """ALEScreen holds int32 rows, int32 columns, then a std::vector of palette indices."""
    screen = carray(_words_at(_call_pointer(words[GET_SCREEN], words[EMULATOR])), (2,))
    return carray(_bytes_at(screen[1]), (ROWS, COLUMNS))


@jit
def _show(words, before, observation):
    """Put the newest screen on the stack of four and copy the stack out."""
    frames = carray(_bytes_at(words[FRAMES]), (STACK, SIZE, SIZE))
    for i in range(STACK - 1):
        frames[i] = frames[i + 1]
    kept = carray(_bytes_at(words[KEPT]), (2, ROWS, COLUMNS))
    lines = carray(_lines_at(words[LINES]), (ROWS, COLUMNS))
    grey = carray(_bytes_at(words[GREY]), (256,))
    shrink(before, _raw_screen(words), grey, kept, lines, frames[STACK - 2], frames[STACK - 1])
    carray(_bytes_at(observation), (STACK, SIZE, SIZE))[:] = frames


@jit
def _reset(words, seed, observation):
    row = carray(_rows_at(words.ctypes.data + 8 * RANDOM), (ROW,))
    seed_row(row, seed, np.uint64(0))
    words[SEED] = np.int64(seed)
    emulator = words[EMULATOR]
    _call_int(words[RESET_GAME], emulator)
    for _ in range(integer(row, words[MAX_NOOPS] + 1)):
        _call_act(words[ACT], emulator, np.int32(0), np.float32(1.0))
        if _call_game_over(words[GAME_OVER], emulator, np.int32(0)) & 1:
            _call_int(words[RESET_GAME], emulator)
    words[LIVES_LEFT] = _call_int(words[LIVES], emulator)
    words[FRAME_COUNT], words[LAST_ACTION] = 0, 0
    carray(_bytes_at(words[FRAMES]), (STACK, SIZE, SIZE))[:] = 0
    screen = _raw_screen(words)
    kept = carray(_bytes_at(words[KEPT]), (2, ROWS, COLUMNS))
    for i in range(ROWS):
        for j in range(COLUMNS):
            kept[1, i, j] = ~screen[i, j]  # so that every row has changed
    _show(words, screen, observation)
    return np.int32(STEPPED)


@jit
def _step(words, action, observation, reward):
    emulator = words[EMULATOR]
    row = carray(_rows_at(words.ctypes.data + 8 * RANDOM), (ROW,))
    before = carray(_bytes_at(words[BEFORE]), (ROWS, COLUMNS))
    index = carray(_actions_at(action), (1,))[0]
    if emulator == 0 or not 0 <= index < words[ACTION_COUNT]:
        return np.int32(0)
    chosen = carray(_actions_at(words[ACTIONS]), (words[ACTION_COUNT],))[index]
    carray(_bytes_at(words[LOG]), (words[MAX_FRAMES] // 4 + 1,))[words[FRAME_COUNT] // 4] = index
    total = 0
    for frame in range(4):
        # Machado et al. (2018), section 5.2: each frame, with this probability, the action before goes on.
        if words[STICKY] == 0 or np.int64(next_uint64(row) >> np.uint64(1)) >= words[STICKY]:
            words[LAST_ACTION] = chosen
        total += _call_act(words[ACT], emulator, np.int32(words[LAST_ACTION]), np.float32(1.0))
        if frame == 2:
            before[:] = _raw_screen(words)
    _show(words, before, observation)
    carray(_rewards_at(reward), (1,))[0] = total
    words[FRAME_COUNT] += 4
    status = STEPPED
    if _call_game_over(words[GAME_OVER], emulator, np.int32(0)) & 1:
        status |= TERMINATED
    elif words[FRAME_COUNT] >= words[MAX_FRAMES]:
        status |= TRUNCATED
    lives = _call_int(words[LIVES], emulator)
    if words[CUT_ON_LIFE_LOSS] and lives < words[LIVES_LEFT] and status == STEPPED:
        status |= CUT
    words[LIVES_LEFT] = lives
    return np.int32(status)


@cfunction("int32(int64, uint64, int64)")
def reset_game(state, seed, observation):
    return _reset(carray(_words_at(state), (WORDS,)), seed, observation)


@cfunction("int32(int64, int64, int64, int64)")
def step_game(state, action, observation, reward):
    return _step(carray(_words_at(state), (WORDS,)), action, observation, reward)


def emulator(game: str) -> Any:
    """A public ALEInterface with a game loaded, its own stickiness off."""
    import ale_py

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.setInt("random_seed", 1)
    path = ale_py.roms.get_rom_path(game)
    if path is None:
        raise ValueError(f"ale-py has no cartridge of {game}")
    ale.loadROM(path)
    ale.reset_game()
    return ale


class _Game(PythonEnvironment):
    """What the state of one game points to. The emulator is built in the first reset, so that many start at once."""

    def __init__(self, game: str, settings: dict[int, int], full_action_space: bool) -> None:
        self._game, self._full_action_space = game, full_action_space
        self._ale: Any = None
        self._closed = False
        self._arrays: dict[int, np.ndarray] = {}
        self.words = np.zeros(WORDS, np.int64)
        for word, value in settings.items():
            self.words[word] = value

    def _build(self) -> None:
        ale, words = emulator(self._game), self.words
        for name, address in _addresses().items():
            words[globals()[name.upper()]] = address
        words[EMULATOR] = _this(ale)
        actions = ale.getLegalActionSet() if self._full_action_space else ale.getMinimalActionSet()
        self._arrays = {
            GREY: _of_every_index(words, ale.getScreenGrayscale),
            ACTIONS: np.array([action.value for action in actions], np.int32),
            FRAMES: np.zeros((STACK, SIZE, SIZE), np.uint8),
            BEFORE: np.zeros((ROWS, COLUMNS), np.uint8),
            KEPT: np.zeros((2, ROWS, COLUMNS), np.uint8),
            LINES: np.zeros((ROWS, COLUMNS), np.int32),
            LOG: np.zeros(words[MAX_FRAMES] // 4 + 1, np.uint8),
        }
        for word, array in self._arrays.items():
            words[word] = array.ctypes.data
        words[ACTION_COUNT] = len(actions)
        self._ale, self._first = ale, ale.cloneState(include_rng=True)

    def reset(self, seed: int, observation: int) -> None:
        if self._closed:
            raise RuntimeError("this game is closed")
        if self._ale is None:
            self._build()
        self._ale.restoreState(self._first)  # some games draw from the emulator's own numbers, which would go on
        reset_game.ctypes(self.words.ctypes.data, seed, observation)

    def save(self) -> bytes:
        return self.words[SEED].tobytes() + self._arrays[LOG][: self.words[FRAME_COUNT] // 4].tobytes()

    def load(self, saved: bytes) -> None:
        if self._ale is None:
            self._build()
        observation, reward = np.zeros((STACK, SIZE, SIZE), np.uint8), np.zeros(1, np.float32)
        state, seen, gain = self.words.ctypes.data, observation.ctypes.data, reward.ctypes.data
        actions = np.frombuffer(saved, np.uint8, offset=SEED_BYTES).astype(np.int32)
        self._ale.restoreState(self._first)
        status = reset_game.ctypes(state, int(np.frombuffer(saved, np.uint64, 1)[0]), seen)
        for action in range(actions.ctypes.data, actions.ctypes.data + actions.nbytes, actions.itemsize):
            if status not in (STEPPED, STEPPED | CUT):
                break
            status = step_game.ctypes(state, action, seen, gain)
        if status not in (STEPPED, STEPPED | CUT):
            raise RuntimeError("the actions that were saved do not lead on")

    def picture(self, observation: np.ndarray) -> np.ndarray:
        """In colour, the maximum of the screens that the observation was made of: games draw some things by turns."""
        palette = _of_every_index(self.words, self._ale.getScreenRGB)
        return np.maximum(*palette[self._arrays[KEPT]])

    def close(self) -> None:
        self._closed, self.words[EMULATOR] = True, 0


def instance(
    game: str,
    *,
    sticky_actions: float,
    cut_on_life_loss: bool,
    full_action_space: bool,
    max_noops: int,
    max_frames: int,
) -> Env:
    """A running game; see `nbrl.envs.atari.AtariEnvironment` for the settings."""
    settings = {
        STICKY: int(sticky_actions * 2**63),
        CUT_ON_LIFE_LOSS: int(cut_on_life_loss),
        MAX_NOOPS: max_noops,
        MAX_FRAMES: max_frames,
    }
    running = _Game(game, settings, full_action_space)
    return python_instance(running, compiled_step=step_game.address, state_address=running.words.ctypes.data)


@functools.cache
def _addresses() -> dict[str, int]:
    import ale_py._ale_py as extension

    library = ctypes.CDLL(extension.__file__)
    return {name: ctypes.cast(library[symbol], ctypes.c_void_p).value or 0 for name, symbol in SYMBOLS.items()}


def _this(ale: Any) -> int:
    """The C++ object behind a nanobind instance: int32 offset at +16, flags at +20 (bit 2: stored in place)."""
    address = id(ale) + ctypes.c_int32.from_address(id(ale) + 16).value
    in_place = ctypes.c_uint32.from_address(id(ale) + 20).value >> 2 & 1
    return address if in_place else ctypes.c_int64.from_address(address).value


def _of_every_index(words: np.ndarray, convert: Callable[[], np.ndarray]) -> np.ndarray:
    """What the emulator's conversion of its screen gives for each of the 256 palette indices, (256, ...)."""
    screen = _raw_screen(words)
    kept = screen.copy()
    screen.reshape(-1)[:256] = np.arange(256)
    converted = convert()
    screen[:] = kept
    return converted.reshape(ROWS * COLUMNS, *converted.shape[2:])[:256].copy()


@functools.cache
def works(game: str) -> bool:
    """Whether a game may be played this way: a known build, and no difference from the public interface."""
    import ale_py

    build = (ale_py.__version__, sys.platform, platform.machine())
    if build not in KNOWN:
        logger.info("ale-py %s on %s %s is played through its public interface, which is slower", *build)
        return False
    difference = _difference(game)
    if difference:
        logger.warning("%s is played through ale-py's public interface: compiled calls differ in %s", game, difference)
    return difference is None


def _difference(game: str) -> str | None:
    """What differs over some hundred frames between compiled and public calls; None if nothing does."""
    public, native = emulator(game), emulator(game)
    address = _addresses()
    words = np.zeros(WORDS, np.int64)
    words[EMULATOR], words[GET_SCREEN] = _this(native), address["get_screen"]
    act = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_float)(address["act"])
    over = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool)(address["game_over"])
    lives = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(address["lives"])
    restart = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address["reset_game"])
    this = int(words[EMULATOR])
    header = np.ctypeslib.as_array((ctypes.c_int32 * 2).from_address(_screen_object(this)))
    if tuple(header) != (ROWS, COLUMNS):
        return "the size of the screen"
    minimal = public.getMinimalActionSet()
    rng = np.random.default_rng(0)
    for frame in range(CHECKED_FRAMES):
        # FIRE, where there is one, begins some games; no game ends so soon, so half-way a new one is begun.
        action = minimal[1 if frame % (CHECKED_FRAMES // 2) == 0 else rng.integers(len(minimal))]
        if act(this, int(action.value), 1.0) != public.act(action):
            return "rewards"
        if lives(this) != public.lives():
            return "lives"
        if over(this, False) != public.game_over(with_truncation=False):
            return "the end of a game"
        if not np.array_equal(_raw_screen(words), public.getScreen()):
            return "screens"
        if public.game_over() or frame == CHECKED_FRAMES // 2 - 1:
            public.reset_game()
            restart(this)
    return None


def _screen_object(this: int) -> int:
    get_screen = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(_addresses()["get_screen"])
    return get_screen(this) or 0
