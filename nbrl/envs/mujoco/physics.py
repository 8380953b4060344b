"""MuJoCo's C library, called by address from compiled code: one simulation an instance, without the interpreter.

Which of its calls: `mj_step` alone would be enough, but an error of the engine then ends the whole process. So all work
is done inside `mjb_apply` on a batch of one simulation with data of its own: the library catches its errors there and
returns their number. That costs one to three hundredths of a step (measured; `mjb_step` as much, but it cannot compute
contact forces). The batch also keeps the state in one row of numbers from which a simulation goes on to the bit, so
saving is a copy.

MuJoCo sets a simulation with a bad number back to its start, counts a warning and goes on. Here that is a failure,
found by the counters. They begin at `COUNTED` rather than 0, since only a first warning is printed and put into a log
file in the current folder.
"""

import ctypes
import functools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from nbrl.envs.interface import function_address
from nbrl.kernels.compile import jit
from nbrl.kernels.native import emit_call, pointer_to
from nbrl.kernels.random import ROW

FUNCTIONS = ("mj_step", "mj_forward", "mj_resetData", "mj_rnePostConstraint", "mjb_apply", "mjb_deleteBatch")
FIELDS = (
    "qpos", "qvel", "ctrl", "xpos", "xipos", "site_xpos", "cinert", "cvel", "qfrc_actuator", "qfrc_constraint",
    "cfrc_ext",
)  # fmt: skip

# An instance's state, int64 each: addresses, sizes, where mjData keeps the fields (bytes from its start), settings.
(
    BATCH, DATA, STATE_ROW, WARNINGS, BEGIN, ADVANCE, ACTION,
    STEP, FORWARD, RESET_DATA, CONTACT_FORCES, APPLY, DELETE_BATCH,
    QPOS, QVEL, CTRL, XPOS, XIPOS, SITE_XPOS, CINERT, CVEL, QFRC_ACTUATOR, QFRC_CONSTRAINT, CFRC_EXT, COUNTERS,
    POSITIONS, VELOCITIES, CONTROLS, BODIES, ROW_SIZE, TASK, SUBSTEPS, TIME_LIMIT, OBSERVATIONS, HIDDEN,
    BODY_A, BODY_B, BODY_C,
) = range(38)  # fmt: skip
# float64: seconds in a substep and in a step, the size of a reset's noise.
SUBSTEP_SECONDS, STEP_SECONDS, NOISE = range(BODY_C + 1, BODY_C + 4)
# Saved with the simulation's row: whether an episode runs, its steps so far, and as float64 the robot's place on x.
RUNNING, STEPS, PLACE = range(NOISE + 1, NOISE + 4)
SAVED = 3
RANDOM = RUNNING + SAVED
# Then float64: the mass of each body, and the bounds of each control, low ones first.
MASSES = RANDOM + ROW

COUNTED = 1 << 20
WARNING_KINDS = 7
BAD_KINDS = (3, 4, 5, 6)  # mjWARN_BADQPOS, BADQVEL, BADQACC and BADCTRL

words_at, numbers_at, floats_at = pointer_to(types.int64), pointer_to(types.float64), pointer_to(types.float32)
rows_at, counters_at = pointer_to(types.uint64), pointer_to(types.int32)


@intrinsic
def call_engine(context, function, model, data):
    """``void function(const mjModel *, mjData *)``."""

    def codegen(context, builder, signature, args):
        emit_call(builder, args, ir.VoidType())
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def _call_apply(context, function, batch, ids, count, work, argument, save):
    def codegen(context, builder, signature, args):
        return emit_call(builder, args, ir.IntType(32))

    return types.int32(*[types.int64] * 3, types.int32, types.int64, types.int64, types.int32), codegen


@jit
def apply(words, work):
    """Run the function at address `work` on the simulation, which it may change; whether the engine raised no error."""
    if words[BATCH] == 0:
        return False
    failed = _call_apply(words[APPLY], words[BATCH], 0, np.int32(0), work, np.int64(words.ctypes.data), np.int32(1))
    return failed == 0


@jit
def numbers_of(words):
    """The state's words as float64."""
    return carray(numbers_at(words.ctypes.data), (words.size,))


@jit
def field(words, which, size):
    """A field of mjData as a flat float64 array. It stays where it is for as long as the simulation lives."""
    address = carray(words_at(words[DATA] + words[which]), (1,))[0]
    return carray(numbers_at(address), (size,))


@jit
def set_counters(address):
    """Set the counters of warnings, pairs of a detail and a number, to the number that is none here."""
    counters = carray(counters_at(address), (2 * WARNING_KINDS,))
    for kind in range(WARNING_KINDS):
        counters[2 * kind + 1] = COUNTED


@jit
def diverged(words):
    """Whether a bad number was met since the episode began."""
    counters = carray(counters_at(words[DATA] + words[COUNTERS]), (2 * WARNING_KINDS,))
    bad = False
    for kind in BAD_KINDS:
        bad |= counters[2 * kind + 1] != COUNTED
    return bad


class _Configuration(ctypes.Structure):
    _fields_ = (("threads", ctypes.c_int), ("persistent", ctypes.c_bool))


@functools.cache
def _library() -> Any:
    import mujoco

    library = ctypes.CDLL(str(next(Path(mujoco.__file__).parent.glob("libmujoco.so*"))))
    library.mjb_makeBatch.restype = ctypes.c_void_p
    library.mjb_makeBatch.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int)
    library.mjb_state.restype = library.mjb_warning.restype = ctypes.c_void_p
    library.mjb_state.argtypes = library.mjb_warning.argtypes = (ctypes.c_void_p,)
    return library


class Model:
    """A compiled model, and where mjData keeps what is read from it.

    Parameters
    ----------
    path : pathlib.Path
        An XML file.

    Attributes
    ----------
    model : mujoco.MjModel
    row_size : int
        Numbers in the row of a simulation's state.
    """

    def __init__(self, path: Path) -> None:
        import mujoco

        with warnings.catch_warnings(action="ignore"):  # some of gymnasium's files use old words
            self.model = mujoco.MjSpec.from_file(str(path)).compile()
        self.row_size = mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_INTEGRATION)
        data = mujoco.MjData(self.model)
        # The struct's layout is nowhere promised, but the package's own arrays tell where its pointers are.
        self._offsets = _offsets(data._address, [getattr(data, name) for name in FIELDS])
        self._offsets.append(data.warning.lastinfo.ctypes.data - data._address)

    def simulate(self, words: np.ndarray) -> None:
        """Make a simulation and write what compiled code needs of it into a state's int64 `words`.

        Raises
        ------
        RuntimeError
            MuJoCo could not make it.
        """
        library = _library()
        problem = ctypes.create_string_buffer(1000)
        alone = _Configuration(1, True)
        batch = library.mjb_makeBatch(self.model._address, 1, ctypes.byref(alone), problem, len(problem))
        if not batch:
            raise RuntimeError(f"MuJoCo could not make a simulation: {problem.value.decode(errors='replace')}")
        words[BATCH], words[STATE_ROW], words[WARNINGS] = batch, library.mjb_state(batch), library.mjb_warning(batch)
        for word, name in enumerate(FUNCTIONS, start=STEP):
            words[word] = function_address(library[name], name)
        words[QPOS : COUNTERS + 1] = self._offsets
        model = self.model
        words[POSITIONS : ROW_SIZE + 1] = model.nq, model.nv, model.nu, model.nbody, self.row_size
        numbers = words.view(np.float64)
        numbers[MASSES:] = np.concatenate([model.body_mass, *model.actuator_ctrlrange.astype(np.float32).T])


def _offsets(start: int, arrays: list[np.ndarray]) -> list[int]:
    """Where in a C struct the pointers to arrays' numbers are, in bytes; 0 for an empty array, which may have none."""
    wanted = {array.ctypes.data for array in arrays if array.size}
    found: dict[int, int] = {}
    offset = 0
    while len(found) < len(wanted):
        address = ctypes.c_int64.from_address(start + offset).value
        if address in wanted:
            found.setdefault(address, offset)
        offset += 8
    return [found.get(array.ctypes.data, 0) for array in arrays]
