"""Calls by address, atomics, and flush-to-zero."""

import ctypes
import threading

import numba
import numpy as np
import pytest
from numba import carray, types

from nbrl.kernels import native

INT64, FLOAT32, INT32 = types.CPointer(types.int64), types.CPointer(types.float32), types.CPointer(types.int32)


@numba.cfunc(types.int32(INT64, types.uint64, FLOAT32))
def native_reset(state, seed, observation):
    carray(state, 1)[0] = np.int64(seed)
    carray(observation, 1)[0] = 0.5
    return 1


@numba.cfunc(types.int32(INT64, INT32, FLOAT32, FLOAT32))
def native_step(state, action, observation, reward):
    carray(state, 1)[0] += 1
    carray(observation, 1)[0] = 2 * carray(action, 1)[0]
    carray(reward, 1)[0] = -1.25
    return 3


@numba.cfunc(types.int32(INT64, INT64))
def native_copy(source, target):
    carray(target, 1)[0] = carray(source, 1)[0] + 100
    return 1


@numba.cfunc(types.void(INT64))
def native_close(state):
    carray(state, 1)[0] = -7


def pointed(kind, address):
    return kind.from_address(address)


@ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p)
def python_reset(state, seed, observation):
    pointed(ctypes.c_uint64, state).value = seed
    pointed(ctypes.c_float, observation).value = 0.5
    return 1


@ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 4)
def python_step(state, action, observation, reward):
    pointed(ctypes.c_int64, state).value += 1
    pointed(ctypes.c_float, observation).value = 2 * pointed(ctypes.c_int32, action).value
    pointed(ctypes.c_float, reward).value = -1.25
    return 3


@ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)
def python_copy(source, target):
    pointed(ctypes.c_int64, target).value = pointed(ctypes.c_int64, source).value + 100
    return 1


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def python_close(state):
    pointed(ctypes.c_int64, state).value = -7


@numba.njit(nogil=True)
def reset(address, state, seed, observation):
    return native.call_reset(address, state.ctypes.data, np.uint64(seed), observation.ctypes.data, 0, 0)


@numba.njit(nogil=True)
def step(address, state, action, observation, reward):
    return native.call_step(
        address, state.ctypes.data, action.ctypes.data, observation.ctypes.data, reward.ctypes.data, 0, 0
    )


@numba.njit(nogil=True)
def save(address, state, buffer):
    return native.call_save(address, state.ctypes.data, buffer.ctypes.data)


@numba.njit(nogil=True)
def load(address, state, buffer):
    return native.call_load(address, state.ctypes.data, buffer.ctypes.data)


@numba.njit(nogil=True)
def close(address, state):
    native.call_close(address, state.ctypes.data)


def address_of(function):
    return function.address if hasattr(function, "address") else ctypes.cast(function, ctypes.c_void_p).value


@pytest.mark.parametrize(
    "functions",
    [(native_reset, native_step, native_copy, native_close), (python_reset, python_step, python_copy, python_close)],
    ids=["cfunc", "ctypes"],
)
def test_every_function_of_the_interface_is_called_with_its_arguments(functions):
    at_reset, at_step, at_copy, at_close = map(address_of, functions)
    state, action = np.zeros(1, np.int64), np.array([21], np.int32)
    observation, reward = np.zeros(1, np.float32), np.zeros(1, np.float32)

    seed = 2**63 + 12345  # an unsigned seed that would be negative as int64
    assert reset(at_reset, state, np.uint64(seed), observation) == 1
    assert state.view(np.uint64)[0] == seed
    assert observation[0] == 0.5

    state[0] = 4
    assert step(at_step, state, action, observation, reward) == 3
    assert (state[0], observation[0], reward[0]) == (5, 42, -1.25)

    buffer = np.zeros(1, np.int64)
    assert save(at_copy, state, buffer) == 1
    assert buffer[0] == 105
    assert load(at_copy, buffer, state) == 1
    assert state[0] == 205

    close(at_close, state)
    assert state[0] == -7


@numba.njit(nogil=True)
def add_many(counter, count, before):
    for i in range(count):
        before[i] = native.atomic_add(counter.ctypes.data, 1)


def test_two_threads_adding_lose_nothing():
    count = 200_000
    counter = np.array([5], np.int64)
    before = np.zeros((2, count), np.int64)
    add_many(np.zeros(1, np.int64), 1, np.zeros(1, np.int64))  # compiled before the threads race
    threads = [threading.Thread(target=add_many, args=(counter, count, before[i])) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter[0] == 5 + 2 * count
    assert np.array_equal(np.sort(before.ravel()), np.arange(5, 5 + 2 * count))  # each add saw its own value
    assert (np.diff(before, axis=1) > 0).all()


@numba.njit(nogil=True)
def exchange(place, value):
    native.atomic_store(place.ctypes.data, value)
    return native.atomic_load(place.ctypes.data)


@numba.njit(nogil=True)
def wait_until_set(control, limit):
    polls = 0
    while native.atomic_load(control.ctypes.data) == 0 and polls < limit:
        polls += 1
    return polls


def test_atomic_store_and_load_keep_all_64_bits():
    place = np.zeros(3, np.int64)
    for value in (0, -1, 2**62 + 3, -(2**63)):
        assert exchange(place[1:2], value) == value
        assert place[1] == value
    assert (place[0], place[2]) == (0, 0)


def test_a_polling_thread_sees_a_store_of_another():
    # Were the load hoisted out of the loop, the poller would run to its limit of polls.
    control, limit = np.zeros(1, np.int64), 2**62
    wait_until_set(np.ones(1, np.int64), 1)
    exchange(np.zeros(1, np.int64), 1)
    polls = []
    thread = threading.Thread(target=lambda: polls.append(wait_until_set(control, limit)), daemon=True)
    thread.start()
    exchange(control, 1)
    thread.join(timeout=20)
    assert not thread.is_alive()
    assert polls[0] < limit


@numba.njit
def flush():
    return native.flush_denormals()


@numba.njit
def restore(mode):
    native.restore_denormals(mode)


@pytest.mark.skipif(not (native.X86 or native.ARM), reason="flush-to-zero is known on x86-64 and ARM only")
def test_denormals_are_flushed_between_the_two_calls_only():
    # NumPy's own arithmetic shows the mode of this thread; the factors are variables, so nothing is computed early.
    smallest = np.full(64, 1.2e-38, np.float32)
    tiny = np.full(64, 1e-40, np.float32)  # a denormal itself
    expected = smallest * np.float32(0.01)
    assert (expected > 0).all()
    before = flush()
    try:
        product, from_denormal = smallest * np.float32(0.01), tiny * np.float32(2.0**20)
        inner = flush()  # flushing twice, as nested kernels would
        restore(inner)
        still = smallest * np.float32(0.01)
        elsewhere = []
        thread = threading.Thread(target=lambda: elsewhere.append(np.float32(1.2e-38) * np.float32(0.01)))
        ordinary = np.full(4, 3.0, np.float32) * np.full(4, 0.5, np.float32)
    finally:
        restore(before)
    thread.start()
    thread.join()
    assert (product == 0).all()
    assert (still == 0).all()
    assert (ordinary == 1.5).all()
    if native.X86:
        assert (from_denormal == 0).all()  # denormals are zero on the way in, too
    assert elsewhere[0] > 0
    assert np.array_equal(smallest * np.float32(0.01), expected)
    assert (tiny * np.float32(2.0**20) > 0).all()
