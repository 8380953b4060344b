"""How everything here is compiled, and where the compiled code is kept between processes.

Numba's disk cache checks one source file a function: a change in a callee of another file leaves the caller's cached
code as it was. So the cache lies in a folder named by a hash of all the package's sources, is never stale, and mends
itself.
"""

import functools
import hashlib
import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core import types
from numba.core.ccallback import CFunc
from numba.core.sigutils import normalize_signature
from numba.extending import overload
from numba.misc.appdirs import AppDirs

if numba.config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set, but everything here is compiled: unset it")

logger = logging.getLogger("nbrl")
Result = TypeVar("Result")

# Reassociation and fused multiply-add, but not the assumption that NaN never occurs: the checks for it must stay.
FAST_MATH = {"reassoc", "contract", "nsz", "arcp"}
KEPT_FOLDERS = 4
LONG = ("nbrl.methods", "nbrl.nets", "nbrl.bonuses", "nbrl.agent", "nbrl.evaluation", "nbrl.online")  # to compile
IN_A_ROW = 120.0  # seconds between two things that are compiled, at most, for both to be told of as one
CHECKSUM_SIZE = hashlib.sha256().digest_size


def computed_once(function: Callable[..., Result]) -> Callable[..., Result]:
    """Keep what a function returns, for what is then used by its address.

    Unlike with `functools.cache` alone, threads that ask at the same time get one and the same result. Of two results
    the cache would keep one, and addresses in the other would be those of memory that is free.
    """
    kept, lock = functools.cache(function), threading.Lock()

    @functools.wraps(function)
    def once(*arguments: Any) -> Result:
        with lock:
            return kept(*arguments)

    return once


def source_hash(package: Path) -> str:
    """SHA-256 over the names and contents of every Python file under `package`, as 16 hex digits."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def prepare_folder(folder: Path) -> Path | None:
    """Make `folder` and clear away the oldest beside it; None, with one log line, where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
        os.utime(folder)
    except OSError as error:
        logger.warning(
            "compiled code is not kept, so each start takes half a minute: %s cannot be written (%s)",
            folder,
            error.strerror,
        )
        return None
    _prune(folder)
    return folder


def _prune(folder: Path) -> None:
    try:
        others = [(path.stat().st_mtime, path) for path in folder.parent.iterdir() if path.is_dir() and path != folder]
    except OSError:  # another process is pruning
        return
    for _, path in sorted(others, reverse=True)[KEPT_FOLDERS:]:
        shutil.rmtree(path, ignore_errors=True)


PACKAGE = Path(__file__).parents[1]
CACHE_FOLDER = prepare_folder(Path(AppDirs("nbrl", appauthor=False).user_cache_dir) / source_hash(PACKAGE))
_last_compiled = -math.inf
_setting_folder = threading.Lock()  # two threads may import modules of the package at once


@contextmanager
def _our_cache_folder() -> Iterator[None]:
    # Numba reads the setting when a function is decorated; the host's own setting is put back at once.
    with _setting_folder:
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = str(CACHE_FOLDER)
        try:
            yield
        finally:
            numba.config.CACHE_DIR = before


def _heal(cache: Any, on_absent: Callable[[], None]) -> None:
    """Make a damaged cache file count as an absent one, and a failed write as none; `on_absent` is told of the former.

    Each file of machine code ends with its checksum: one with a hole would be run otherwise. They are one file, so that
    two processes that save the same code at once cannot leave one's code with the other's checksum.
    """
    load, save, files = cache.load_overload, cache.save_overload, cache._cache_file
    load_data = files._load_data

    def load_checked(name: str) -> Any:
        data = Path(files._data_path(name)).read_bytes()
        if hashlib.sha256(data[:-CHECKSUM_SIZE]).digest() != data[-CHECKSUM_SIZE:]:
            raise ValueError(f"{name} does not match its checksum")
        return load_data(name)  # which ends at the code's own mark and does not see the checksum

    def save_with_checksum(name: str, data: Any) -> None:
        encoded = files._dump(data)
        with files._open_for_write(files._data_path(name)) as file:
            file.write(encoded + hashlib.sha256(encoded).digest())

    files._load_data, files._save_data = load_checked, save_with_checksum

    def load_or_discard(signature: Any, target_context: Any) -> Any:
        try:
            found = load(signature, target_context)
        except Exception as error:  # a truncated pickle can raise almost anything
            logger.warning("a damaged file of compiled code is made anew (%s)", type(error).__name__)
            found = None
            try:
                cache.flush()
            except OSError:
                cache.disable()
        if found is None:
            on_absent()
        return found

    def save_or_go_on(signature: Any, data: Any) -> None:
        try:
            save(signature, data)
        except OSError as error:
            logger.warning("compiled code is not kept (%s)", error.strerror)

    cache.load_overload, cache.save_overload = load_or_discard, save_or_go_on


def _keep_compiled(function: Any) -> None:
    if CACHE_FOLDER is not None:
        with _our_cache_folder():
            function.enable_caching()
        _heal(function._cache, _announce if function.__module__.startswith(LONG) else lambda: None)


def _announce() -> None:
    """Say that compiling takes a while; once for all that is compiled in a row.

    It is logged; where the host has set up no logging, half a minute of silence would be worse than a line.
    """
    global _last_compiled
    before, _last_compiled = _last_compiled, time.monotonic()
    if _last_compiled - before < IN_A_ROW:
        return
    words = "compiling, which takes about half a minute the first time"
    logger.info("%s", words)
    handlers = [*logging.getLogger().handlers, *logging.getLogger("nbrl").handlers]
    if logging.lastResort and all(isinstance(handler, logging.NullHandler) for handler in handlers):
        logging.lastResort.handle(logger.makeRecord(logger.name, logging.WARNING, "", 0, f"nbrl: {words}", (), None))


def jit(function: Callable[..., Any]) -> Any:
    """Compile a module-level function: without the GIL, C semantics of division, and kept on disk.

    Parameters
    ----------
    function
        A function at the top level of a module of this package. Closures are not found again in the disk cache.

    Returns
    -------
    numba dispatcher
    """
    return _compiled(function, FAST_MATH)


def strict(function: Callable[..., Any]) -> Any:
    """As `jit`, in strict arithmetic: for physics that equal another program's to the bit."""
    return _compiled(function, False)


def _compiled(function: Callable[..., Any], fast_math: Any) -> Any:
    dispatcher = numba.njit(nogil=True, error_model="numpy", fastmath=fast_math)(function)
    _keep_compiled(dispatcher)
    return dispatcher


def cfunction(signature: Any, fast_math: Any = False) -> Callable[[Callable[..., Any]], Any]:
    """Compile a C callback; its `address` is an int. Strict arithmetic as environments want it, kept on disk.

    Parameters
    ----------
    signature
        As in numba, for example ``"int32(int64, uint64, int64)"``.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        options = {"error_model": "numpy", "fastmath": fast_math}
        callback = CFunc(function, normalize_signature(signature), locals={}, options=options)
        _keep_compiled(callback)
        callback.compile()
        return callback

    return decorate


class Routine:
    """A C function of a struct and five numbers that compiled code calls by its address, with `call_routine`.

    Code that is linked into a caller is optimised anew in each of them; a routine is compiled once, when its address is
    first asked for, and only where something needs it.
    """

    def __init__(self, function: Callable[..., None], struct: Any) -> None:
        self._function = function
        self._signature = types.void(struct.type, *[types.int64] * 5)

    @property
    def address(self) -> int:
        """Compiled or read from disk when new."""
        return _routine(self._function, self._signature).address


@computed_once
def _routine(function: Callable[..., None], signature: Any) -> Any:
    return cfunction(signature, fast_math=FAST_MATH)(function)


def routine(struct: Any) -> Callable[[Callable[..., None]], Routine]:
    """Make a module-level function of a struct of this class and five int64 a `Routine`."""
    return lambda function: Routine(function, struct)


def generic(stub: Callable[..., Any]) -> Any:
    """Make a function that compiled code calls by its name, and that each class of structs has in a form of its own.

    Which form is compiled into a caller depends on the class of the first argument: the one that `part` registered for
    it or for its nearest base. Modules that register parts are imported before callers are compiled.
    """
    stub.parts = {}  # type: ignore[attr-defined]
    options = {"no_cpython_wrapper": True, "error_model": "numpy", "fastmath": FAST_MATH}

    @overload(stub, jit_options=options, strict=False)
    def form(*arguments: Any) -> Any:
        bases = getattr(getattr(arguments[0], "of", None), "__mro__", ())
        return next((stub.parts[base] for base in bases if base in stub.parts), None)  # type: ignore[attr-defined]

    return stub


def part(stub: Any, of: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a module-level function as the form of a `generic` function for a class of structs."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        stub.parts[of] = function
        return function

    return register
