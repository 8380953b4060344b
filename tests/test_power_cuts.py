"""What a power cut or a failing disk leaves of a run: always the old or the new checkpoint, whole."""

import builtins
import errno
import io
import itertools
import os
import shutil
from pathlib import Path

import pytest
from toys import LONG, in_time, our_threads, tiny

from nbrl import Trainer, checkpoint
from nbrl.checkpoint import checkpoint_path, newest, replace_file
from nbrl.metrics import RunDirectory, read_metrics

pytestmark = pytest.mark.skipif(os.name != "posix", reason="elsewhere directories are not synced")


class Disk:
    """Notes each call that changes or syncs what is in a folder, and does it; may refuse any of them.

    Attributes
    ----------
    calls : list of tuple
        What was done: ("make", path, file), ("write", file, bytes), ("sync", file), ("sync folder", path),
        ("rename", from, to), ("remove", path). Files are numbers, and None is a folder.
    asked : int
        Calls until now, with those that may fail but change nothing.
    error : callable
        Of a call's number, from 0: the error number to refuse it with, or None.
    most : int
        Bytes that one write takes.
    """

    def __init__(self, folder, monkeypatch):
        self.folder = str(folder)
        self.calls, self.asked, self.most, self.error = [], 0, 2**30, lambda number: None
        self.descriptors = {}  # what to note when one is synced
        self.real = {name: getattr(os, name) for name in ("open", "close", "fsync", "replace", "unlink", "mkdir")}
        for name in self.real:
            monkeypatch.setattr(os, name, getattr(self, name))
        for module in ("checkpoint", "metrics"):
            monkeypatch.setattr(f"nbrl.{module}.open", self.open_file, raising=False)

    def ask(self):
        number, self.asked = self.asked, self.asked + 1
        if self.error(number):
            raise OSError(self.error(number), os.strerror(self.error(number)))

    def has(self, path):
        return isinstance(path, str | Path) and Path(path).is_relative_to(self.folder)

    def do(self, name, path, *more, note, **options):
        if not self.has(path):
            return self.real[name](path, *more, **options)
        self.ask()
        result = self.real[name](path, *more, **options)
        if note:
            self.calls.append(note)
        return result

    def replace(self, old, new, **options):
        self.do("replace", old, new, note=("rename", str(old), str(new)), **options)

    def unlink(self, path, **options):
        note = None if Path(path).name == "lock" else ("remove", str(path))  # which a power cut ends as well
        self.do("unlink", path, note=note, **options)

    def mkdir(self, path, *more, **options):
        self.do("mkdir", path, *more, note=("make", str(path), None), **options)

    def open(self, path, *more, **options):
        descriptor = self.do("open", path, *more, note=None, **options)
        if self.has(path):
            self.descriptors[descriptor] = ("sync folder", str(path))
        return descriptor

    def fsync(self, descriptor):
        if descriptor in self.descriptors:
            self.ask()
            self.calls.append(self.descriptors[descriptor])
        self.real["fsync"](descriptor)

    def close(self, descriptor):
        self.real["close"](descriptor)
        if self.descriptors.pop(descriptor, None):
            self.ask()

    def open_file(self, path, mode, **options):
        if mode == "rb" or not self.has(path):
            return builtins.open(path, mode, **options)
        self.ask()
        return io.BufferedWriter(NotedFile(self, path, mode))


class NotedFile(io.FileIO):
    """A file that tells its disk."""

    def __init__(self, disk, path, mode):
        super().__init__(path, mode)
        self.disk, self.number = disk, len(disk.calls)
        disk.calls.append(("make", str(path), self.number))
        disk.descriptors[self.fileno()] = ("sync", self.number)

    def write(self, data):
        self.disk.ask()
        taken = bytes(data)[: self.disk.most]
        self.disk.calls.append(("write", self.number, taken))
        return super().write(taken)

    def close(self):
        if not self.closed:
            del self.disk.descriptors[self.fileno()]
            super().close()
            self.disk.ask()


# What a power cut may leave of a file of which only the beginning was synced.
LEFT = (
    lambda synced, rest: synced,
    lambda synced, rest: synced + rest[: len(rest) // 3],
    lambda synced, rest: synced + rest[:-1],
    lambda synced, rest: synced + bytes(len(rest)),
    lambda synced, rest: synced + rest[: len(rest) // 2] + bytes(len(rest) - len(rest) // 2),
    lambda synced, rest: synced + rest,
)


def after_a_power_cut(calls):
    """Yield all that a disk may hold after some calls: dicts of contents by path, None for a folder.

    POSIX promises what was synced. What was written since is there, or cut short, or zeros; of the names made, changed
    or removed in a folder since it was synced any may be so, and the others not.
    """
    synced, rest = {}, {}  # contents by file
    now, durable, pending = {}, {}, []  # files by name, and changes: (folder, name that goes, name that comes, file)
    for kind, what, *more in calls:
        if kind == "write":
            rest[what] += more[0]
        elif kind == "sync":
            synced[what], rest[what] = synced[what] + rest[what], b""
        elif kind == "sync folder":
            durable = changed(durable, [change for change in pending if change[0] == what])
            pending = [change for change in pending if change[0] != what]
        elif kind != "saved":
            goes, comes = (None, what) if kind == "make" else (what, *(more or [None]))
            file = more[0] if kind == "make" else now[what]
            if kind == "make" and file is not None:
                synced[file], rest[file] = b"", b""
            pending.append((os.path.dirname(what), goes, comes, file))
            now = changed(now, pending[-1:])
    for chosen in itertools.product([False, True], repeat=len(pending)):
        files = changed(durable, itertools.compress(pending, chosen))
        for left in LEFT:
            yield {path: None if file is None else left(synced[file], rest[file]) for path, file in files.items()}


def changed(files, changes):
    files = dict(files)
    for _, goes, comes, file in changes:
        files.pop(goes, None)
        files |= {} if comes is None else {comes: file}
    return files


def distinct(calls, folder):
    """Yield all that a power cut may leave after each prefix of some calls, with the paths said to be saved before."""
    seen = set()
    for length in range(len(calls) + 1):
        safe = [call[1] for call in calls[:length] if call[0] == "saved"]
        for found in after_a_power_cut(calls[:length]):
            there = {path: content for path, content in found.items() if is_reached(path, found, folder)}
            key = len(safe), frozenset(there.items())
            if key not in seen:
                seen.add(key)
                yield safe, there


def is_reached(path, found, folder):
    parent = os.path.dirname(path)
    return parent == folder or (parent in found and is_reached(parent, found, folder))


def lay_out(found, folder, target):
    """Make real files of a disk's contents, in another folder."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for path, content in sorted(found.items()):
        place = target / Path(path).relative_to(folder)
        if content is None:
            place.mkdir()
        else:
            place.write_bytes(content)


@pytest.fixture
def disk(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    return Disk(tmp_path / "disk", monkeypatch)


# One file

OLD, NEW = [b"old" * 10], [b"new" * 20, b"er" * 5]


def careless_in_place(path, chunks):
    with checkpoint.open(path, "wb") as file:
        file.write(b"".join(chunks))
        file.flush()
        os.fsync(file.fileno())


def careless_about_contents(path, chunks):
    temporary = path.with_suffix(".tmp")
    with checkpoint.open(temporary, "wb") as file:
        file.write(b"".join(chunks))
    os.replace(temporary, path)
    checkpoint.sync_directory(path.parent)


def careless_about_names(path, chunks):
    temporary = path.with_suffix(".tmp")
    with checkpoint.open(temporary, "wb") as file:
        file.write(b"".join(chunks))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def outcomes(disk, write):
    """What a power cut may leave of a file that is replaced: at any moment, and once that is done."""
    path = Path(disk.folder) / "file"
    disk.most = 16
    replace_file(path, OLD)
    before = len(disk.calls)
    write(path, NEW)
    moments = [
        {found.get(str(path)) for found in after_a_power_cut(disk.calls[:length])}
        for length in range(before, len(disk.calls) + 1)
    ]
    return set().union(*moments), moments[-1]


def test_a_file_that_is_replaced_is_the_old_or_the_new_one(disk):
    old, new = b"".join(OLD), b"".join(NEW)
    assert outcomes(disk, replace_file) == ({old, new}, {new})


@pytest.mark.parametrize("write", [careless_in_place, careless_about_contents, careless_about_names])
def test_the_disk_shows_what_a_careless_write_risks(disk, write):
    assert outcomes(disk, write) != ({b"".join(OLD), b"".join(NEW)}, {b"".join(NEW)})


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EINTR], ids=errno.errorcode.get)
def test_an_error_at_any_call_leaves_the_old_or_the_new_file(disk, number):
    path, old, new = Path(disk.folder) / "file", b"".join(OLD), b"".join(NEW)
    disk.most = 16
    replace_file(path, NEW)
    calls = disk.asked
    assert calls == 1 + 5 + 1 + 1 + 1 + 3  # make, writes of 16 bytes, sync, close, rename, the folder
    for failing in range(calls):
        replace_file(path, OLD)
        disk.error = lambda asked, at=disk.asked + failing: number if asked == at else None
        before, raised = descriptors(), None
        try:
            replace_file(path, NEW)
        except OSError as error:
            raised = error.errno
        disk.error = lambda asked: None
        assert raised == number or (number == errno.EINTR and path.read_bytes() == new)  # a write is tried again
        assert path.read_bytes() in (old, new)
        assert list(path.parent.iterdir()) == [path]
        assert descriptors() == before


def descriptors():
    return sorted(os.listdir("/dev/fd"))


# A whole run


@pytest.fixture
def saved(disk, monkeypatch):
    """The checkpoints that were said to be saved: a list of paths with contents, to which those to come are added.

    Among the disk's calls there is then ("saved", path).
    """
    known, write = [], checkpoint.write_tensors

    def note(path, arrays, metadata):
        write(path, arrays, metadata)
        known.append((str(path), path.read_bytes()))
        disk.calls.append(("saved", str(path)))

    monkeypatch.setattr(checkpoint, "write_tensors", note)
    return known


def train(directory, saved, checkpoints, disk=None):
    """Train, in a new directory or from what is there, until some more checkpoints have been saved.

    Or until a disk that fails was asked often enough: the run would go on.
    """
    wanted, most = len(saved) + checkpoints, disk.asked + 100 if disk else 0

    def on_report(report):
        if len(saved) >= wanted or (disk and disk.asked > most):
            trainer.stop()

    config = tiny(steps=LONG, report_interval=1e-3, checkpoint_interval=1e-3)
    found = newest(directory / "checkpoints")
    trainer = Trainer(config, directory=directory, restore=found, on_report=on_report)
    trainer.start()
    in_time(trainer.join)
    return trainer


def test_a_power_cut_at_any_moment_of_a_run_leaves_its_newest_checkpoint(disk, saved, tmp_path):
    directory = Path(disk.folder) / "runs" / "run"
    config = train(directory, saved, 3).config
    train(directory, saved, 1)
    left = RunDirectory(tmp_path / "left" / "runs" / "run")
    for safe, found in distinct(disk.calls, disk.folder):
        lay_out(found, disk.folder, tmp_path / "left")
        path = newest(left.checkpoints)
        if path is None:
            assert not safe
            continue
        assert path.name >= max((Path(one).name for one in safe), default="")
        # No step may lie between two checkpoints, which then have one name.
        assert (str(directory / "checkpoints" / path.name), path.read_bytes()) in saved
        assert RunDirectory.open(left.path).config() == config
        again = Trainer(config, directory=left.path, restore=path)
        again.stop()
        assert checkpoint_path(left.checkpoints, again.steps) == path
        assert not list(left.path.rglob("*.tmp"))
        if left.metrics_file.exists():
            steps = [report.steps for report in read_metrics(left.metrics_file)]
            assert steps == sorted(steps)


@pytest.mark.parametrize(("number", "once"), [(errno.EIO, True), (errno.ENOSPC, False)], ids=["once", "for ever"])
def test_a_disk_that_fails_at_any_call_of_a_run_leaves_its_newest_checkpoint(disk, saved, number, once):
    for failing in itertools.count():
        run = RunDirectory(Path(disk.folder) / str(failing))
        first = disk.asked + failing
        disk.error = lambda asked, at=first: number if asked == at or (asked > at and not once) else None
        error = None
        try:
            train(run.path, saved, 2, disk)
            train(run.path, saved, 1, disk)
        except (OSError, ValueError) as caught:  # a directory that cannot be used is a ValueError
            error = caught
        disk.error = lambda asked: None
        assert our_threads() == []
        if disk.asked <= first:
            break
        # A checkpoint that fails on the way is tried again; what matters is whether the last ones were written.
        assert error is None or isinstance(error if isinstance(error, OSError) else error.__cause__, OSError)
        assert error is not None or once or disk.asked - first < 20
        safe = [path for path, _ in saved if Path(path).is_relative_to(run.path)]
        found = newest(run.checkpoints)
        assert found is not None or not safe
        if found is not None:
            assert str(found) >= max(safe, default="")
            train(run.path, saved, 1)
            assert not list(run.path.rglob("*.tmp"))
            assert newest(run.checkpoints) >= found
    assert error is None
