"""What the tests share: hypothesis's settings and the command ``nbrl`` in a process of its own."""

import importlib
import importlib.util
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

from nbrl.metrics import Report

# No deadline: the first example of a test may compile.
hypothesis.settings.register_profile("nbrl", deadline=None, print_blob=True)
hypothesis.settings.load_profile("nbrl")

ROOT = Path(__file__).parent.parent

# Ray is large, and not in the extra dev: pip install -e ".[dev,ray]" && pytest -m "" tests/test_cluster.py
collect_ignore = [] if importlib.util.find_spec("ray") else ["test_cluster.py"]


@pytest.fixture(scope="session")
def environment_variables() -> dict[str, str]:
    """Variables with which a process in any folder finds this tree's nbrl."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], types.ModuleType]:
    """Import a program of tools/."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    return importlib.import_module


@pytest.fixture
def nbrl_command(tmp_path: Path, environment_variables: dict[str, str]) -> Callable[..., subprocess.CompletedProcess]:
    """Run ``nbrl`` with the given words in an empty folder and return the ended process."""

    def run(*words: object) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "nbrl", *map(str, words)],
            cwd=tmp_path,
            env=environment_variables,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture
def make_report() -> Callable[..., Report]:
    """Make a report with the given fields, and something likely for the others."""

    def make(**fields: object) -> Report:
        values: dict[str, object] = {
            "steps": 3_000, "frames": 12_000, "seconds": 4.5, "total_steps": 30_000, "steps_per_second": 100.0,
            "frames_per_second": 400.0, "episodes": 2, "return_mean": 1.5, "return_minimum": 1.0,
            "return_maximum": 2.0, "length_mean": 30.0, "recent_return": 1.25, "policy_loss": 0.1, "value_loss": 0.2,
            "entropy": 0.6, "gradient_norm": 3.0, "learning_rate": 1e-3, "dropped_episodes": 0,
        }  # fmt: skip
        return Report(**{**values, **fields})  # type: ignore[arg-type]

    return make
