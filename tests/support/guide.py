"""A player of mazes that knows the plan: it walks a shortest way to the nearest apple or the portal."""

from collections import deque

import numpy as np

from nbrl.envs.maze.making import WALL
from nbrl.envs.maze.world import (
    ANGLE,
    BACK,
    FORWARD,
    PORTAL_TILE,
    STRAFE_LEFT,
    STRAFE_RIGHT,
    TURN_LEFT,
    TURN_RIGHT,
    X,
    Y,
    side_of,
)


def distances(world, goals):
    """Steps from every tile to the nearest of some, by breadth-first search; -1 where there is no way."""
    side = side_of(world)
    away = np.full(side * side, -1)
    away[goals] = 0
    todo = deque(goals)
    while todo:
        tile = todo.popleft()
        for there in (tile - 1, tile + 1, tile - side, tile + side):
            if 0 <= there < side * side and world.tiles[there] < WALL and away[there] < 0:
                away[there] = away[tile] + 1
                todo.append(there)
    return away


def next_action(world, sideways=False):
    """Turn and go forward to the next tile of the way, or to the one after it if that lies straight ahead. Who goes
    sideways never turns from the first direction, which is along a corridor, and looks at the next tile alone.
    """
    side = int(side_of(world))
    goals = [int(tile) for tile in world.apples if tile >= 0]
    away = distances(world, goals or [int(world.counters[PORTAL_TILE])])
    x, y = world.body[[X, Y]]
    here = int(y) * side + int(x)

    def nearer(tile):
        around = (tile - 1, tile + 1, tile - side, tile + side)
        return min((there for there in around if away[there] >= 0), key=lambda there: away[there])

    tile = nearer(here)
    if not sideways and away[tile] and nearer(tile) - tile == tile - here:
        tile = nearer(tile)
    turn = np.arctan2(tile // side + 0.5 - y, tile % side + 0.5 - x) - world.body[ANGLE]
    turn = (turn + np.pi) % (2 * np.pi) - np.pi
    if sideways:
        return (FORWARD, STRAFE_RIGHT, BACK, STRAFE_LEFT)[round(turn / (np.pi / 2)) % 4]
    return FORWARD if abs(turn) < 0.3 else TURN_RIGHT if turn > 0 else TURN_LEFT
