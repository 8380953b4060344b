"""How a maze is made.

A maze of n x n cells is a plan of 2n+1 x 2n+1 tiles: cells at odd rows and columns, walls or passages between them,
posts at even rows and columns.
"""

import numpy as np

from nbrl.envs.maze.textures import AROUND, WALLS
from nbrl.kernels.compile import jit
from nbrl.kernels.random import ROW, integer, seed_row, uniform

# Tiles, uint16: an open one holds the mask of its neighbours that are walls, a wall this and its texture.
WALL = 256
AREAS = 7  # of one wall texture each
MILLION = 1_000_000

DOWN, RIGHT = (0, 1, 0, -1), (1, 0, -1, 0)  # directions: right, down, left, up


@jit
def carve(tiles, n, random):
    """A maze by the recursive backtracker: between any two cells one way. The tiles keep the ways back meanwhile."""
    side = 2 * n + 1
    tiles[:] = WALL
    at, root = (1 + 2 * integer(random, n)) * side + 1 + 2 * integer(random, n), 5
    tiles[at] = root
    while True:
        row, column, ways = at // side, at % side, 0
        for direction in range(4):
            y, x = row + 2 * DOWN[direction], column + 2 * RIGHT[direction]
            ways += 0 < y < side and 0 < x < side and tiles[y * side + x] == WALL
        if ways:
            chosen = integer(random, ways)
            for direction in range(4):
                y, x = row + 2 * DOWN[direction], column + 2 * RIGHT[direction]
                if 0 < y < side and 0 < x < side and tiles[y * side + x] == WALL:
                    if chosen == 0:
                        tiles[(row + DOWN[direction]) * side + column + RIGHT[direction]] = 0
                        at = y * side + x
                        tiles[at] = 1 + direction
                        break
                    chosen -= 1
        elif tiles[at] == root:
            break
        else:
            back = np.int64(tiles[at]) - 1
            at -= 2 * (DOWN[back] * side + RIGHT[back])
    for i in range(tiles.size):
        if tiles[i] != WALL:
            tiles[i] = 0


@jit
def sides(tiles, side, at):
    """How many of a cell's four sides are open."""
    ways = 0
    for direction in range(4):
        ways += tiles[at + DOWN[direction] * side + RIGHT[direction]] < WALL
    return ways


@jit
def open_dead_ends(tiles, n, opened, random):
    """Open so many millionths of the dead ends, each to one side; some open each other."""
    side, left, mark = 2 * n + 1, 0, 1
    for cell in range(n * n):
        at = (1 + 2 * (cell // n)) * side + 1 + 2 * (cell % n)
        if sides(tiles, side, at) == 1:
            tiles[at] = mark
            left += 1
    wanted = (left * opened + MILLION // 2) // MILLION
    for cell in range(n * n):
        at = (1 + 2 * (cell // n)) * side + 1 + 2 * (cell % n)
        if tiles[at] != mark:
            continue
        tiles[at] = 0
        if uniform(random) * left < wanted:
            wanted -= 1
            while sides(tiles, side, at) == 1:
                direction = integer(random, 4)
                y, x = at // side + DOWN[direction], at % side + RIGHT[direction]
                if 0 < y < side - 1 and 0 < x < side - 1:
                    tiles[y * side + x] = 0
        left -= 1


@jit
def is_for_evaluation(tiles):
    """Whether a maze is one for evaluation: a bit of a hash of its plan, so it is a matter of the maze alone.

    About half of all mazes are. A reset makes mazes until one is of the kind that it wants.
    """
    total, row = np.uint64(0), np.empty(ROW, np.uint64)
    for i in range(tiles.size):
        if tiles[i] < WALL:
            seed_row(row, np.uint64(i), np.uint64(0))
            total ^= row[0]
    return (total >> np.uint64(63)) == 1


@jit
def furnish(tiles, side, random):
    """Give every wall the texture of the nearest of some random points, and every open tile the mask of its walls."""
    points = np.empty((AREAS, 2), np.int64)
    for area in range(AREAS):
        points[area, 0], points[area, 1] = integer(random, side), integer(random, side)
    first = integer(random, WALLS)
    for y in range(side):
        for x in range(side):
            if tiles[y * side + x] >= WALL:
                nearest, best = 0, 4 * side * side
                for area in range(AREAS):
                    far = (points[area, 0] - y) ** 2 + (points[area, 1] - x) ** 2
                    if far < best:
                        nearest, best = area, far
                tiles[y * side + x] = WALL + (first + nearest) % WALLS
            else:
                mask = 0
                for bit in range(8):
                    down, right = AROUND[bit]
                    mask |= int(tiles[(y + down) * side + x + right] >= WALL) << bit
                tiles[y * side + x] = mask
