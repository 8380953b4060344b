"""Runs of a study on the machines of a Ray cluster. Needs the extra ``ray``."""

import os
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from nbrl.checkpoint import CHECKPOINTS, replace_file
from nbrl.cluster import LEAVING, connect
from nbrl.studies.plan import Plan, Trial
from nbrl.studies.runs import run_trial, trial_text


def over_cluster(address: str) -> tuple[Callable[[Trial, Plan, Path], "RemoteRun"], int]:
    """How a run of a study is begun on some machine of a cluster, and how many cores there are."""
    ray = connect(address)
    return partial(RemoteRun, ray), int(ray.cluster_resources().get("CPU", 1))


class RemoteRun:
    """A run of a study on some machine of a cluster, with what `nbrl.studies.runs` wants of a process.

    Parameters
    ----------
    ray : module
        As `connect` returns it.
    trial : Trial
    plan : Plan
    folder : path
        Of the study, on this machine.
    """

    def __init__(self, ray: Any, trial: Trial, plan: Plan, folder: Path) -> None:
        self._ray, self._own = ray, folder / trial.name
        self._own.mkdir(parents=True, exist_ok=True)
        making = ray.remote(make_run).options(num_cpus=plan.threads, max_retries=2)
        self._task, self._ended = making.remote(trial_text(trial, plan)), False

    def poll(self) -> int | None:
        """None while it goes on, else 0 if it came to its end and 1 if not; what it wrote is then here."""
        if not self._ended and not self._ray.wait([self._task], timeout=0)[0]:
            return None
        if not self._ended:
            self._ended = True
            try:
                files: dict[str, bytes] = self._ray.get(self._task)
            except self._ray.exceptions.RayError as error:
                files = {"log": str(error).encode()}
            for name, content in files.items():
                (self._own / name).parent.mkdir(parents=True, exist_ok=True)
                replace_file(self._own / name, [content])
        return 0 if (self._own / "result.json").exists() else 1

    def terminate(self) -> None:
        """Let it go."""
        self._ray.cancel(self._task, force=True)

    def wait(self) -> None:
        """Until it has ended."""
        self._ray.wait([self._task], timeout=LEAVING)


def make_run(text: bytes) -> dict[str, bytes]:
    """Make a run of a study, and return what it wrote but for checkpoints, by name: the task of a `RemoteRun`."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "trial.json").write_bytes(text)
        try:
            run_trial(folder, os.getppid())
        except Exception:
            (folder / "log").write_text(traceback.format_exc())
        files = [path for path in folder.rglob("*") if path.is_file() and CHECKPOINTS not in path.parts]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
