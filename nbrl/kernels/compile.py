"""How everything here is compiled, and where the compiled code is kept between processes.

Numba's disk cache checks one source file a function: a change in a callee of another file leaves the caller's cached
code as it was. So the cache lies in a folder named by a hash of all the package's sources, is never stale, and mends
itself.
"""

import functools
import hashlib
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core.ccallback import CFunc
from numba.core.sigutils import normalize_signature
from numba.misc.appdirs import AppDirs

logger = logging.getLogger("nbrl")
Result = TypeVar("Result")

# Reassociation and fused multiply-add, but not the assumption that NaN never occurs: the checks for it must stay.
FAST_MATH = {"reassoc", "contract", "nsz", "arcp"}
KEPT_FOLDERS = 4
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
        logger.warning("compiled code is not kept, since %s cannot be written (%s)", folder, error.strerror)
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
_announced = False
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


def _heal(cache: Any) -> None:
    """Make a damaged cache file count as an absent one, and a failed write as none.

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
            return load(signature, target_context)
        except Exception as error:  # a truncated pickle can raise almost anything
            logger.warning("a damaged file of compiled code is made anew (%s)", type(error).__name__)
            try:
                cache.flush()
            except OSError:
                cache.disable()
            return None

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
        _heal(function._cache)


def announce(function: Any) -> None:
    """Log that compiling takes a while, if the code of a `jit` function is not on disk; once in a process."""
    global _announced
    files = getattr(function._cache, "_cache_file", None)
    if not _announced and (files is None or not Path(files._index_path).exists()):
        _announced = True
        logger.info("compiling, which takes about a minute the first time")


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


def cfunction(signature: str) -> Callable[[Callable[..., Any]], Any]:
    """Compile a C callback for the environment interface; its `address` is an int. Strict arithmetic, kept on disk.

    Parameters
    ----------
    signature
        As in numba, for example ``"int32(int64, uint64, int64)"``.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        callback = CFunc(function, normalize_signature(signature), locals={}, options={"error_model": "numpy"})
        _keep_compiled(callback)
        callback.compile()
        return callback

    return decorate
