"""What many trainings in one process leave behind: nothing."""

import gc
import os
import threading
from pathlib import Path

import gymnasium
import pytest

import nbrl


def resident():
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from Linux's /proc")
def test_two_hundred_trainings_leave_nothing_behind(tmp_path):
    """The second hundred takes no memory beyond what the allocator moves about."""
    environments = ["CartPole-v1", "Catch-v0", lambda: gymnasium.make("Acrobot-v1"), "Pendulum-v1"]
    sizes = []
    for i in range(200):
        directory = tmp_path / str(i) if i % 10 == 0 else None
        agent = nbrl.train(environments[i % 4], steps=100, seed=i, threads=2, actors=2, directory=directory)
        if i % 5 == 0:
            nbrl.evaluate(agent, environments[i % 4], episodes=1, max_episode_steps=20, threads=1)
        del agent
        gc.collect()
        sizes.append(resident())
        if i == 20:
            open_before, threads_before = descriptors(), threading.active_count()
    assert descriptors() <= open_before
    assert threading.active_count() <= threads_before
    first, second = sizes[100:120], sizes[180:200]
    assert min(second) - min(first) < 2**20
