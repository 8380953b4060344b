"""Mazes with nothing but a portal far off, which ends the episode."""

import numpy as np
import pytest
from guide import next_action

from nbrl.envs import EnvStepper, make
from nbrl.envs.interface import STEPPED, TERMINATED, TRUNCATED
from nbrl.envs.maze import Settings, maze
from nbrl.envs.maze.environment import state_of
from nbrl.envs.maze.world import ANGLE, FORWARD, FRAME, PORTAL_TILE, TURN_LEFT, TURN_RIGHT, X, Y, world_at


def aligned(world):
    """An action of a player that knows the plan, looks along a corridor and then goes without turning."""
    off = (world.body[ANGLE] + np.pi / 4) % (np.pi / 2) - np.pi / 4
    if abs(off) > 0.1:
        return TURN_LEFT if off > 0 else TURN_RIGHT
    return next_action(world, sideways=True)


@pytest.mark.parametrize(("name", "frames"), [("nbrl/MazeSparse-v0", 270), ("nbrl/MazeVerySparse-v0", 350)])
def test_the_best_way_to_a_portal_far_off(name, frames):
    """Where it happens to look along a corridor at first, a way at top speed takes about so many frames."""
    player, needed, places, headings = EnvStepper(make(name)), [], set(), []
    for seed in range(8):
        player.reset(seed)
        world = world_at(state_of(player.instance))
        places.add((*world.body[[X, Y]], world.counters[PORTAL_TILE]))
        headings.append(world.body[ANGLE])
        status = STEPPED
        while status == STEPPED:
            _, reward, status = player.step(np.array([aligned(world)], np.int32))
            assert reward == (10 if status & TERMINATED else 0)
        assert status == STEPPED | TERMINATED
        needed.append(world.counters[FRAME])
        with pytest.raises(RuntimeError):
            player.step(np.array([FORWARD], np.int32))
    assert abs(min(needed) - frames) <= 16
    assert len(places) == 1
    assert len(set(headings)) == 8


def test_a_portal_that_is_not_found_ends_the_episode_after_2100_frames():
    spec = maze(fixed=True, apples=0, distance=24)
    player = EnvStepper(spec)
    world = world_at(state_of(player.instance))
    player.reset(0)
    statuses = [player.step(np.array([TURN_LEFT], np.int32))[2] for _ in range(525)]
    assert statuses == [STEPPED] * 524 + [STEPPED | TRUNCATED]
    assert world.counters[FRAME] == 2100
    with pytest.raises(RuntimeError):
        player.step(np.array([TURN_LEFT], np.int32))
    player.reset(1)
    saved = player.instance.save()
    first = player.step(np.array([FORWARD], np.int32))[0].copy()
    player.instance.load(saved)
    assert np.array_equal(player.step(np.array([FORWARD], np.int32))[0], first)
    world.counters[PORTAL_TILE] = -1
    with pytest.raises(ValueError, match="state"):
        spec.check_state(player.instance.save())


def test_distances_that_cannot_be():
    for options, sentence in (
        ({"distance": 24}, "distance is 24: it needs fixed=true, and a portal"),
        ({"distance": 24, "fixed": True, "portal": False}, "it needs fixed=true"),
        ({"distance": 25, "fixed": True}, "distance is 25: in this maze it can be 2, 4, .*32"),
        ({"distance": 0, "fixed": True}, "distance is 0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Settings(**options)
