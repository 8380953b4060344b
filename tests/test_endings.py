"""Runs that are killed or stopped at random moments go on from what they had saved; see endings.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # before a fork


@pytest.fixture
def endings(tmp_path, environment_variables):
    """End training processes some times, and return what was seen."""

    def end(how, times):
        command = [
            sys.executable,
            str(Path(__file__).parent / "support/endings.py"),
            how,
            str(tmp_path / "run"),
            str(times),
        ]
        ended = subprocess.run(
            command, env=environment_variables | ONE_THREAD, capture_output=True, text=True, timeout=600
        )
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    return end


@pytest.mark.parametrize("times", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_from_its_last_checkpoint(endings, times):
    seen = endings("kill", times)
    assert seen["kills"] == times
    assert seen["checkpoints"] > times // 4  # that were known to be saved
    assert seen.get("while saving", 0) > times // 100  # which left a temporary file


@pytest.mark.parametrize("times", [6, pytest.param(30, marks=pytest.mark.slow)])
def test_a_stopped_run_is_saved_and_goes_on(endings, times):
    seen = endings("stop", times)
    assert seen["stops"] == times
    assert seen["while training"] >= times // 2
