"""The disk cache of compiled code: found by the next process, never stale, mended when damaged, harmless where absent.

Each process here has a cache of its own under a temporary folder.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import pytest

from nbrl.kernels import compile as compiling

# What every program below starts with: log lines on standard error, and what a function's cache did.
HEADER = """
import json, logging, sys
logging.basicConfig(level=logging.INFO, format="log: %(message)s")
import numba
import numpy as np
from nbrl.kernels import compile as compiling, random

def stats(function):
    return [sum(function.stats.cache_hits.values()), sum(function.stats.cache_misses.values())]

def again():
    "A fresh dispatcher of the same function, as another process would make it, and what it draws."
    function = compiling.jit(random.next_uint64.py_func)
    word = int(function(np.array([1, 2, 3, 4], np.uint64)))
    return word, stats(function)
"""
WORD = 41943041  # what the row 1, 2, 3, 4 gives first


def start(program, cache, package, **environment):
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(package), **environment}
    command = [sys.executable, "-W", "error", "-c", HEADER + program]
    return subprocess.Popen(
        command, env=environment, cwd=cache.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    """(what the program printed as JSON, its log lines)."""
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(output), [line.removeprefix("log: ") for line in errors.splitlines()]


def run(program, cache, package, **environment):
    return finish(start(program, cache, package, **environment))


@pytest.fixture
def package(tmp_path):
    """A folder with a copy of the package's kernels, and a caller of a callee in another file."""
    target = tmp_path / "site" / "nbrl" / "kernels"
    shutil.copytree(Path(compiling.__file__).parent, target, ignore=shutil.ignore_patterns("__pycache__"))
    (target.parent / "__init__.py").touch()
    (target / "caller.py").write_text(
        "from nbrl.kernels.compile import cfunction, jit\n"
        "from nbrl.kernels.random import uniform\n\n\n"
        "@jit\ndef scaled(row):\n    return uniform(row)\n\n\n"
        "@cfunction('int32(int64, int64)')\ndef callback(state, buffer):\n    return 7\n"
    )
    return tmp_path / "site"


@pytest.fixture
def cache(tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


USE_BOTH = """
from nbrl.kernels.caller import callback, scaled
value = scaled(np.array([1, 2, 3, 4], np.uint64))
called = callback.ctypes(0, 0)
print(json.dumps([value, called, stats(scaled), callback.cache_hits, str(compiling.CACHE_FOLDER)]))
"""


def test_the_next_process_finds_what_one_compiled_and_no_change_of_source_is_missed(cache, package):
    (value, called, hits, callback_hits, folder), log = run(USE_BOTH, cache, package)
    assert (value, called, hits, callback_hits) == (pytest.approx(41943041 / 2**64, rel=1e-3), 7, [0, 1], 0)
    assert not log
    assert Path(folder).is_relative_to(cache)

    again, log = run(USE_BOTH, cache, package)
    assert again == [value, 7, [1, 0], 1, folder]
    assert not log

    # The caller's own file stays as it is; numba alone would go on with the old callee.
    callee = package / "nbrl" / "kernels" / "random.py"
    source = callee.read_text()
    changed = source.replace("UNIT = 1.0 / (1 << 53)", "UNIT = 2.0 / (1 << 53)")
    assert changed != source
    callee.write_text(changed)
    (doubled, called, hits, callback_hits, other_folder), log = run(USE_BOTH, cache, package)
    assert (doubled, called, hits, callback_hits) == (2 * value, 7, [0, 1], 0)
    assert other_folder != folder
    assert Path(other_folder).parent == Path(folder).parent


SLOW = """
from nbrl.methods.slow import twice
compiling.IN_A_ROW = 0
twice(np.ones(2)), twice(np.ones(2))
print(json.dumps(float(twice(np.ones(2, np.float32))[0])))
"""


def test_whoever_waits_for_the_engine_is_told_each_time_that_something_new_is_compiled(cache, package):
    methods = package / "nbrl" / "methods"
    methods.mkdir()
    (methods / "__init__.py").touch()
    (methods / "slow.py").write_text(
        "from nbrl.kernels.compile import jit\n\n\n@jit\ndef twice(x):\n    return 2 * x\n"
    )
    line = "compiling, which takes about half a minute the first time"
    assert run(SLOW, cache, package) == (2.0, [line, line])  # for float64 and for float32
    assert run(SLOW, cache, package) == (2.0, [])
    assert run(SLOW.replace("IN_A_ROW = 0", "IN_A_ROW = 100"), cache.parent / "other", package) == (2.0, [line])


DAMAGE = """
from pathlib import Path
again()
words, log = [], []
for suffix in ".nbi", ".nbc":
    for name, damage in (
        ("emptied", lambda data: b""),
        ("one byte", lambda data: data[:1]),
        ("cut in half", lambda data: data[: len(data) // 2]),
        ("cut by a byte", lambda data: data[:-1]),
        ("text", lambda data: b"this is not a pickle"),
        ("zeros", lambda data: bytes(len(data))),
        ("zeros at the end", lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2)),
    ):
        for path in Path(compiling.CACHE_FOLDER).rglob("random.next_uint64*" + suffix):
            path.write_bytes(damage(path.read_bytes()))
            break
        else:
            raise FileNotFoundError(suffix)
        words.append([suffix, name, again(), again()])
print(json.dumps(words))
"""


def test_a_damaged_file_is_made_anew(cache, package):
    results, log = run(DAMAGE, cache, package)
    assert len(results) == 14
    for suffix, name, first, second in results:
        assert first == [WORD, [0, 1]], (suffix, name)  # compiled
        assert second == [WORD, [1, 0]], (suffix, name)  # and found again: mended
    assert len(log) == len(results)
    assert all("damaged" in line for line in log)


ZEROED_INSIDE = """
from pathlib import Path
again()
[path] = Path(compiling.CACHE_FOLDER).rglob("random.next_uint64*.nbc")
data = path.read_bytes()
at = data.index(b"\\x7fELF")
path.write_bytes(data[: at + 64] + bytes(512) + data[at + 576 :])
print(json.dumps([again(), again()]))
"""


def test_machine_code_with_a_hole_is_not_run(cache, package):
    # What a lost block of a disk leaves: a whole pickle around broken code, which would crash.
    results, log = run(ZEROED_INSIDE, cache, package)
    assert results == [[WORD, [0, 1]], [WORD, [1, 0]]]
    assert len(log) == 1


ONCE = "print(json.dumps([again(), compiling.CACHE_FOLDER is None]))"


def test_no_place_to_write_means_no_cache_and_one_log_line(cache, package):
    blocked = cache / "file"
    blocked.write_text("not a folder")
    (result, absent), log = run(ONCE, blocked, package)
    assert result == [WORD, [0, 1]]
    assert absent
    assert len(log) == 1
    assert "cannot be written" in log[0]
    assert str(blocked) in log[0]
    assert sorted(path.name for path in cache.iterdir()) == ["file"]
    assert not list(package.rglob("*.nb?"))  # nor beside the sources


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_read_only_place_means_no_cache_and_one_log_line(cache, package):
    cache.chmod(0o500)
    try:
        (result, absent), log = run(ONCE, cache, package)
    finally:
        cache.chmod(0o700)
    assert (result, absent, len(log)) == ([WORD, [0, 1]], True, 1)


GONE = """
import shutil
shutil.rmtree(compiling.CACHE_FOLDER)
compiling.CACHE_FOLDER.write_text("in the way")
print(json.dumps([again(), random.uniform(np.array([1, 2, 3, 4], np.uint64))]))
"""


def test_a_folder_lost_after_the_import_stops_nothing(cache, package):
    (result, value), log = run(GONE, cache, package)
    assert result[0] == WORD
    assert 0 < value < 1
    assert log  # it says so


HOST = """
print(json.dumps([numba.config.CACHE_DIR, str(compiling.CACHE_FOLDER), again()[0]]))
"""


def test_the_host_keeps_its_own_cache_folder(cache, package, tmp_path):
    hosts = str(tmp_path / "hosts")
    (setting, ours, word), _ = run(HOST, cache, package, NUMBA_CACHE_DIR=hosts)
    assert (setting, word) == (hosts, WORD)
    assert Path(ours).is_relative_to(cache)
    assert not Path(hosts).exists()
    assert list(Path(ours).rglob("*.nbc"))


def test_two_processes_may_fill_an_empty_cache_at_once(cache, package):
    both = [start(USE_BOTH, cache, package) for _ in range(2)]
    results = [finish(process) for process in both]
    assert results[0][0][:2] == results[1][0][:2]
    assert not results[0][1] + results[1][1]
    assert run(USE_BOTH, cache, package)[0][2] == [1, 0]


def test_the_hash_follows_names_and_contents_of_all_sources(tmp_path):
    (tmp_path / "inner").mkdir()
    for name in ("a.py", "inner/b.py", "notes.txt"):
        (tmp_path / name).write_text("x = 1\n")
    first = compiling.source_hash(tmp_path)
    assert compiling.source_hash(tmp_path) == first
    (tmp_path / "notes.txt").write_text("other")
    (tmp_path / "inner" / "__pycache__").mkdir()
    (tmp_path / "inner" / "__pycache__" / "b.cpython-312.pyc").write_bytes(b"compiled")
    assert compiling.source_hash(tmp_path) == first
    seen = {first}
    (tmp_path / "inner" / "b.py").write_text("x = 2\n")
    seen.add(compiling.source_hash(tmp_path))
    (tmp_path / "inner" / "b.py").rename(tmp_path / "inner" / "c.py")
    seen.add(compiling.source_hash(tmp_path))
    (tmp_path / "d.py").touch()
    seen.add(compiling.source_hash(tmp_path))
    assert len(seen) == 4


def test_the_oldest_folders_are_cleared(tmp_path):
    for age in range(10):
        folder = tmp_path / f"old{age}"
        folder.mkdir()
        (folder / "code.nbc").touch()
        os.utime(folder, (10**9 - age, 10**9 - age))
    (tmp_path / "file").touch()
    ours = tmp_path / "ours"
    assert compiling.prepare_folder(ours) == ours
    kept = {f"old{age}" for age in range(compiling.KEPT_FOLDERS)}
    assert {path.name for path in tmp_path.iterdir()} == kept | {"ours", "file"}
    assert not list(ours.iterdir())  # no trace of the probe
    assert compiling.prepare_folder(tmp_path / "file" / "inside") is None


def test_numba_is_as_it_was_after_the_import():
    assert str(compiling.CACHE_FOLDER) not in str(numba.config.CACHE_DIR)


def test_threads_that_ask_at_once_get_one_result():
    made, begun = [], threading.Barrier(8)

    @compiling.computed_once
    def slow(number):
        made.append(number)
        time.sleep(0.05)
        return np.full(3, number)

    def ask(number):
        begun.wait()
        return slow(number)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(ask, [5] * 8))
    assert made == [5]
    assert all(result is results[0] for result in results)
    assert slow(6).tolist() == [6, 6, 6]
    assert slow(6) is slow(6)


def test_threads_that_make_the_first_mazes_get_the_same_textures():
    program = """
import threading
from concurrent.futures import ThreadPoolExecutor
from nbrl.envs.maze.textures import texels
begun = threading.Barrier(4)
def ask(_):
    begun.wait()
    return texels().ctypes.data
with ThreadPoolExecutor(4) as pool:
    print(len(set(pool.map(ask, range(4)))), list(pool.map(ask, range(4)))[0] == texels().ctypes.data)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert ended.stdout == "1 True\n", ended.stderr
