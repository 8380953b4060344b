"""The functions of the environment interface for all MuJoCo tasks, and their descriptions."""

import ctypes
import functools
import math
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium import spaces
from numba import carray

from nbrl.envs.interface import STEPPED, TERMINATED, TRUNCATED, Env, NativeEnvironment
from nbrl.envs.mujoco.physics import (
    ACTION,
    ADVANCE,
    BATCH,
    BEGIN,
    BODIES,
    BODY_A,
    CONTACT_FORCES,
    CONTROLS,
    COUNTERS,
    CTRL,
    DATA,
    DELETE_BATCH,
    FORWARD,
    HIDDEN,
    MASSES,
    NOISE,
    OBSERVATIONS,
    PLACE,
    RANDOM,
    RESET_DATA,
    ROW_SIZE,
    RUNNING,
    SAVED,
    STATE_ROW,
    STEP,
    STEP_SECONDS,
    STEPS,
    SUBSTEP_SECONDS,
    SUBSTEPS,
    TASK,
    TIME_LIMIT,
    WARNINGS,
    Model,
    apply,
    call_engine,
    diverged,
    field,
    floats_at,
    numbers_of,
    rows_at,
    set_counters,
    words_at,
)
from nbrl.envs.mujoco.tasks import TASKS, draw_start, judge, observe, place
from nbrl.kernels.compile import cfunction, jit
from nbrl.kernels.native import call_close, copy
from nbrl.kernels.random import ROW, seed_row

MAX_NUMBER = 1e10  # of a simulation: MuJoCo's mjMAXVAL


@jit
def _words(state):
    """The words of a state: those of fixed meaning, masses, and bounds of controls."""
    sizes = carray(words_at(state), (MASSES,))
    return carray(words_at(state), (MASSES + sizes[BODIES] + 2 * sizes[CONTROLS],))


# An error of the engine jumps out of these two, past their end: they must not hold an array of their own.
@cfunction("void(int64, int64, int32, int64)")
def begin(model, data, simulation, state):
    """For `apply`: a start with noise."""
    words = _words(state)
    words[DATA] = data
    call_engine(words[RESET_DATA], model, data)
    draw_start(words)
    set_counters(words[DATA] + words[COUNTERS])
    call_engine(words[FORWARD], model, data)


@cfunction("void(int64, int64, int32, int64)")
def advance(model, data, simulation, state):
    """For `apply`: the substeps of one step under the action; they end at the first bad number."""
    words = _words(state)
    words[DATA] = data
    action = carray(floats_at(words[ACTION]), (words[CONTROLS],))
    controls = field(words, CTRL, words[CONTROLS])
    bounds = numbers_of(words)[MASSES + words[BODIES] :]
    for i in range(controls.size):
        controls[i] = min(max(np.float64(action[i]), bounds[i]), bounds[controls.size + i])
    for _ in range(words[SUBSTEPS]):
        call_engine(words[STEP], model, data)
        if diverged(words):
            return
    if words[CONTACT_FORCES]:
        call_engine(words[CONTACT_FORCES], model, data)


@cfunction("int32(int64, uint64, int64)")
def reset_simulation(state, seed, observation):
    words = _words(state)
    seed_row(carray(rows_at(state + 8 * RANDOM), (ROW,)), seed, np.uint64(0))
    words[RUNNING] = 0
    if not apply(words, words[BEGIN]):
        return np.int32(0)
    words[RUNNING], words[STEPS] = 1, 0
    numbers_of(words)[PLACE] = place(words)
    observe(words, carray(floats_at(observation), (words[OBSERVATIONS],)))
    return np.int32(STEPPED)


@cfunction("int32(int64, int64, int64, int64)")
def step_simulation(state, action, observation, reward):
    """It fails with an action that is not a number, without an episode, and for good when the physics diverges."""
    words = _words(state)
    chosen = carray(floats_at(action), (words[CONTROLS],))
    for i in range(chosen.size):
        if math.isnan(chosen[i]):
            return np.int32(0)
    words[ACTION] = action
    if not words[RUNNING]:
        return np.int32(0)
    if not apply(words, words[ADVANCE]) or diverged(words):
        words[RUNNING] = 0
        return np.int32(0)
    words[STEPS] += 1
    observe(words, carray(floats_at(observation), (words[OBSERVATIONS],)))
    gain, fallen = judge(words)
    carray(floats_at(reward), (1,))[0] = gain
    numbers_of(words)[PLACE] = place(words)
    status = STEPPED
    if fallen:
        status |= TERMINATED
    if words[STEPS] >= words[TIME_LIMIT]:
        status |= TRUNCATED
    return np.int32(status)


@cfunction("int32(int64, int64)")
def save_simulation(state, buffer):
    words = _words(state)
    if words[BATCH] == 0:
        return np.int32(0)
    saved = carray(words_at(buffer), (SAVED + words[ROW_SIZE],))
    copy(saved[:SAVED], words[RUNNING : RUNNING + SAVED])
    copy(saved[SAVED:], carray(words_at(words[STATE_ROW]), (words[ROW_SIZE],)))
    return np.int32(STEPPED)


@cfunction("int32(int64, int64)")
def load_simulation(state, buffer):
    """The next step takes the row; what MuJoCo derives from it is the old simulation's until then."""
    words = _words(state)
    if words[BATCH] == 0:
        return np.int32(0)
    saved = carray(words_at(buffer), (SAVED + words[ROW_SIZE],))
    copy(words[RUNNING : RUNNING + SAVED], saved[:SAVED])
    copy(carray(words_at(words[STATE_ROW]), (words[ROW_SIZE],)), saved[SAVED:])
    set_counters(words[WARNINGS])
    return np.int32(STEPPED)


@cfunction("void(int64)")
def close_simulation(state):
    words = _words(state)
    batch = words[BATCH]
    words[BATCH], words[RUNNING] = 0, 0
    if batch:
        call_close(words[DELETE_BATCH], batch)


class MujocoEnvironment(NativeEnvironment):
    """One of gymnasium's MuJoCo tasks with its default options, in compiled code.

    Observations are gymnasium's as float32. Actions are clipped to the range of the controls. An episode is truncated
    after gymnasium's number of steps. A step whose physics meets a bad number fails.

    Parameters
    ----------
    name : str
        One of `TASKS`.
    """

    def __init__(self, name: str) -> None:
        self._task = TASKS[name]
        self._model = _model(self._task.file)
        model = self._model.model
        low, high = model.actuator_ctrlrange.astype(np.float32).T
        super().__init__(
            reset_simulation,
            step_simulation,
            state_size=8 * (MASSES + model.nbody + 2 * model.nu),
            observation_space=spaces.Box(-np.inf, np.inf, (self._task.observations,), np.float32),
            action_space=spaces.Box(low, high, dtype=np.float32),
            save=save_simulation,
            load=load_simulation,
            saved_size=8 * (SAVED + self._model.row_size),
            close=close_simulation,
            possible=self._possible,
            name=name,
        )

    def _possible(self, state: np.ndarray) -> bool:
        """Whether an episode runs, and every number of the simulation is one of the size that physics gives."""
        running, steps = state[:16].view(np.int64).tolist()
        numbers = state[16:].view(np.float64)
        return running == 1 and steps in range(self._task.time_limit) and bool((np.abs(numbers) < MAX_NUMBER).all())

    def make(self) -> Env:
        instance = super().make()
        size = MASSES + self._model.model.nbody + 2 * self._model.model.nu
        words = np.frombuffer((ctypes.c_int64 * size).from_address(instance.state_address), np.int64)
        self._model.simulate(words)
        words[BEGIN], words[ADVANCE] = begin.address, advance.address
        task = self._task
        if not task.forces:
            words[CONTACT_FORCES] = 0
        words[TASK : HIDDEN + 1] = task.number, task.substeps, task.time_limit, task.observations, task.hidden
        for word, body in enumerate(task.bodies, start=BODY_A):
            words[word] = self._model.model.body(body).id
        seconds = self._model.model.opt.timestep
        words.view(np.float64)[[SUBSTEP_SECONDS, STEP_SECONDS, NOISE]] = seconds, seconds * task.substeps, task.noise
        return instance


@functools.cache
def _model(file: str) -> Model:
    return Model(Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / file)
