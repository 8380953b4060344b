"""What is in a maze and what happens there, sixty frames a second.

Lengths are in tiles, x to the right and y down the plan; angles go clockwise, from 0 along x.
"""

from typing import NamedTuple

import numpy as np

from nbrl.envs.maze.making import DOWN, RIGHT, WALL, carve, furnish, is_for_evaluation, open_dead_ends, sides
from nbrl.envs.maze.textures import AROUND, WALLS
from nbrl.kernels.compile import jit
from nbrl.kernels.random import ROW, integer, seed_row, uniform

# Settings, int64: cells of a side at most and at least, number of apples, whether there is a portal, whether the maze
# is always the same one and whether it is one for evaluation, the part of dead ends that are opened in millionths,
# tiles from the agent's first place to the portal or 0 for any, height and width of the picture. Then what follows from
# them: bytes of the world, which are saved, and of the whole state. Then the address of the textures.
SIZE, SMALLEST, APPLES, PORTAL, FIXED, EVALUATION, OPENED, DISTANCE, HEIGHT, WIDTH = range(10)
SAVED, WHOLE, TEXELS, HEADER = range(WIDTH + 1, WIDTH + 5)

# Counters, int64: frames played, agent steps, the portal's tile or -1, cells of a side of this episode's maze.
FRAME, STEP, PORTAL_TILE, CELLS, COUNTERS = range(5)

# The agent, float64: place, direction, velocity in tiles a frame, turning in radians a frame.
X, Y, ANGLE, VELOCITY_X, VELOCITY_Y, TURNING, BODY = range(7)

FRAMES, REPEAT = 3600, 4  # of an episode, of an agent step
SEARCH = 2100  # frames of an episode that ends in the portal
STEPS = FRAMES // REPEAT
TURN_LEFT, TURN_RIGHT, FORWARD, BACK, STRAFE_LEFT, STRAFE_RIGHT, ACTIONS = range(7)
TOP_SPEED, TOP_TURN = 0.1, np.pi / 48  # tiles and radians a frame: six tiles a second, 225 degrees a second
GLIDE, SPIN = 0.88, 0.8  # of the velocity and of the turning, what a frame leaves
RADIUS = 0.25  # of the agent
REACH = 0.5  # tiles from which the agent takes an apple or enters the portal
APPLE_REWARD, PORTAL_REWARD = 1.0, 10.0

FIXED_SEED = 2016
MAZE_STREAM, AGENT_STREAM = 0, 1
TRIES = 1000  # mazes made by a reset at most, of which half are of the kind that it wants


class World(NamedTuple):
    """A maze and what goes on in it: views of one flat state."""

    settings: np.ndarray  # int64 (HEADER,)
    counters: np.ndarray  # int64 (COUNTERS,)
    body: np.ndarray  # float64 (BODY,)
    random: np.ndarray  # uint64 (4,): what is still to be drawn in this episode
    apples: np.ndarray  # int64 (apples,): an apple's tile, or ~tile when it is eaten
    path: np.ndarray  # float64 (STEPS + 1, 2): x and y after each agent step
    tiles: np.ndarray  # uint16 (side * side,) of the largest maze; a smaller one takes the first of them


@jit
def places(size, apples):
    """Where the parts of a world begin in its bytes, and where it ends, all at multiples of 8."""
    side = 2 * size + 1
    counters = 8 * HEADER
    body = counters + 8 * COUNTERS
    random = body + 8 * BODY
    eaten = random + 8 * ROW
    path = eaten + 8 * apples
    tiles = path + 16 * (STEPS + 1)
    return counters, body, random, eaten, path, tiles, tiles + (2 * side * side + 7) // 8 * 8


@jit
def world_at(state):
    """The world in a state, uint8, that begins with its settings."""
    settings = state[: 8 * HEADER].view(np.int64)
    side = 2 * settings[SIZE] + 1
    counters, body, random, apples, path, tiles, _ = places(settings[SIZE], settings[APPLES])
    return World(
        settings,
        state[counters:body].view(np.int64),
        state[body:random].view(np.float64),
        state[random:apples].view(np.uint64),
        state[apples:path].view(np.int64),
        state[path:tiles].view(np.float64).reshape(STEPS + 1, 2),
        state[tiles : tiles + 2 * side * side].view(np.uint16),
    )


@jit
def has_begun(world):
    """Whether there has been a reset: a new state is all zeros."""
    return world.tiles[0] >= WALL


@jit
def side_of(world):
    """Tiles of a side of this episode's maze."""
    return 2 * world.counters[CELLS] + 1


# How an episode begins


@jit
def _free_tile(world):
    """A random cell's tile, on which there is neither portal nor apple, eaten or not."""
    n, side = world.counters[CELLS], side_of(world)
    while True:
        tile = (1 + 2 * integer(world.random, n)) * side + 1 + 2 * integer(world.random, n)
        free = tile != world.counters[PORTAL_TILE]
        for i in range(world.apples.size):
            free = free and world.apples[i] != tile and world.apples[i] != ~tile
        if free:
            return tile


@jit
def _enter(world):
    """Put the agent on a random free cell, at rest, with an open way before it."""
    side = side_of(world)
    tile, body = _free_tile(world), world.body
    body[:] = 0
    body[X], body[Y] = tile % side + 0.5, tile // side + 0.5
    chosen = integer(world.random, sides(world.tiles, side, tile))
    for direction in range(4):
        if world.tiles[tile + DOWN[direction] * side + RIGHT[direction]] < WALL:
            if chosen == 0:
                body[ANGLE] = direction * np.pi / 2
            chosen -= 1


@jit
def tiles_away(world):
    """From every tile the tiles of a shortest way to the portal, by breadth first; -1 where there is none."""
    side = side_of(world)
    away, queue = np.full(side * side, -1), np.empty(side * side, np.int64)
    queue[0], taken, added = world.counters[PORTAL_TILE], 0, 1
    away[queue[0]] = 0
    while taken < added:
        tile = queue[taken]
        taken += 1
        for direction in range(4):
            there = tile + DOWN[direction] * side + RIGHT[direction]
            if world.tiles[there] < WALL and away[there] < 0:
                away[there] = away[tile] + 1
                queue[added] = there
                added += 1
    return away


@jit
def _enter_far_off(world):
    """Put the agent on the first cell as far from the portal as it must be, looking anywhere; whether there is one."""
    side, body = side_of(world), world.body
    away = tiles_away(world)
    for cell in range(world.counters[CELLS] ** 2):
        y, x = 1 + 2 * (cell // world.counters[CELLS]), 1 + 2 * (cell % world.counters[CELLS])
        if away[y * side + x] == world.settings[DISTANCE]:
            body[:] = 0
            body[X], body[Y], body[ANGLE] = x + 0.5, y + 0.5, 2 * np.pi * uniform(world.random)
            return True
    return False


@jit
def is_over(world):
    """Whether the episode is: at its time, or in the portal where that ends it."""
    if world.settings[DISTANCE] == 0:
        return world.counters[FRAME] >= FRAMES
    return world.counters[FRAME] >= SEARCH or world.counters[PORTAL_TILE] < 0


@jit
def begin(world, seed):
    """A new episode: the maze, then portal and apples, then the agent. False if no maze of the wanted kind is found."""
    settings, random = world.settings, world.random
    fixed = settings[FIXED] != 0
    seed_row(random, np.uint64(FIXED_SEED) if fixed else seed, np.uint64(MAZE_STREAM))
    n, more = settings[SMALLEST], settings[SIZE] - settings[SMALLEST]
    if more:
        n += integer(random, more + 1)
    world.counters[:] = 0
    world.counters[CELLS] = n
    tiles = world.tiles[: side_of(world) ** 2]
    world.tiles[tiles.size :] = WALL
    for _ in range(TRIES):
        carve(tiles, n, random)
        open_dead_ends(tiles, n, settings[OPENED], random)
        if fixed or is_for_evaluation(tiles) == (settings[EVALUATION] != 0):
            break
    else:
        return False
    furnish(tiles, side_of(world), random)
    world.counters[PORTAL_TILE] = -1
    world.apples[:] = 0  # no cell's tile
    if settings[PORTAL]:
        world.counters[PORTAL_TILE] = _free_tile(world)
    for i in range(world.apples.size):
        world.apples[i] = _free_tile(world)
    seed_row(random, seed, np.uint64(AGENT_STREAM))
    if settings[DISTANCE] == 0:
        _enter(world)
    elif not _enter_far_off(world):
        return False
    world.path[:] = 0
    world.path[0, 0], world.path[0, 1] = world.body[X], world.body[Y]
    return True


# What happens in it


@jit
def room(tiles, side, x, y):
    """The distance from a place in an open tile to the nearest wall, if that is less than half a tile."""
    column, row, nearest = int(x), int(y), 0.5
    for bit in range(8):
        down, right = AROUND[bit]
        if tiles[(row + down) * side + column + right] >= WALL:
            away_x = 0.0 if right == 0 else abs(column + (right > 0) - x)
            away_y = 0.0 if down == 0 else abs(row + (down > 0) - y)
            nearest = min(nearest, np.sqrt(away_x**2 + away_y**2))
    return nearest


@jit
def _move(world):
    """One frame of motion. Walls around push the agent out of them and take the velocity into them: so it slides."""
    body, tiles, side = world.body, world.tiles, side_of(world)
    body[X] += body[VELOCITY_X]
    body[Y] += body[VELOCITY_Y]
    column, row = int(body[X]), int(body[Y])
    for diagonal in range(2):  # first the faces of walls, then corners
        for bit in range(8):
            down, right = AROUND[bit]
            if (down * right != 0) != diagonal or tiles[(row + down) * side + column + right] < WALL:
                continue
            away_x = 0.0 if right == 0 else body[X] - column - (right > 0)
            away_y = 0.0 if down == 0 else body[Y] - row - (down > 0)
            away = np.sqrt(away_x**2 + away_y**2)
            if away < RADIUS:
                normal_x, normal_y = away_x / away, away_y / away
                body[X] += (RADIUS - away) * normal_x
                body[Y] += (RADIUS - away) * normal_y
                into = min(body[VELOCITY_X] * normal_x + body[VELOCITY_Y] * normal_y, 0.0)
                body[VELOCITY_X] -= into * normal_x
                body[VELOCITY_Y] -= into * normal_y


@jit
def _take(world):
    """The reward for what is within reach."""
    body, side, reward = world.body, side_of(world), 0.0
    for i in range(world.apples.size):
        tile = world.apples[i]
        if tile >= 0 and (tile % side + 0.5 - body[X]) ** 2 + (tile // side + 0.5 - body[Y]) ** 2 < REACH**2:
            world.apples[i] = ~tile
            reward += APPLE_REWARD
    tile = world.counters[PORTAL_TILE]
    if tile >= 0 and (tile % side + 0.5 - body[X]) ** 2 + (tile // side + 0.5 - body[Y]) ** 2 < REACH**2:
        for i in range(world.apples.size):
            world.apples[i] = max(world.apples[i], ~world.apples[i])
        if world.settings[DISTANCE] == 0:
            _enter(world)
        else:
            world.counters[PORTAL_TILE] = -1
        reward += PORTAL_REWARD
    return reward


@jit
def advance(world, action):
    """One agent step, four frames of one action: the reward."""
    body, reward = world.body, 0.0
    for _ in range(REPEAT):
        if is_over(world):
            break
        turn = (action == TURN_RIGHT) - (action == TURN_LEFT)
        body[TURNING] = SPIN * body[TURNING] + (1 - SPIN) * TOP_TURN * turn
        body[ANGLE] = (body[ANGLE] + body[TURNING]) % (2 * np.pi)
        ahead = (action == FORWARD) - (action == BACK)
        aside = (action == STRAFE_RIGHT) - (action == STRAFE_LEFT)
        along, across = np.cos(body[ANGLE]), np.sin(body[ANGLE])
        push = (1 - GLIDE) * TOP_SPEED
        body[VELOCITY_X] = GLIDE * body[VELOCITY_X] + push * (ahead * along - aside * across)
        body[VELOCITY_Y] = GLIDE * body[VELOCITY_Y] + push * (ahead * across + aside * along)
        _move(world)
        reward += _take(world)
    world.counters[FRAME] += REPEAT
    world.counters[STEP] += 1
    step = world.counters[STEP]
    world.path[step, 0], world.path[step, 1] = body[X], body[Y]
    return reward


@jit
def is_sound(world):
    """Whether a world from elsewhere is one that the functions here can go on with, reading nothing outside of it."""
    settings, counters, body, tiles = world.settings, world.counters, world.body, world.tiles
    if not settings[SMALLEST] <= counters[CELLS] <= settings[SIZE]:
        return False
    side = side_of(world)
    if not 0 <= counters[STEP] <= STEPS or counters[FRAME] != REPEAT * counters[STEP]:
        return False
    if settings[DISTANCE] and is_over(world):
        return False
    for y in range(side):
        for x in range(side):
            tile, rim = tiles[y * side + x], y in (0, side - 1) or x in (0, side - 1)
            if tile >= WALL + WALLS or (rim and tile < WALL):
                return False
    for i in range(world.apples.size + 1):
        tile = counters[PORTAL_TILE] if i == world.apples.size else world.apples[i]
        tile = max(tile, ~tile)
        if tile >= side**2 or (tile and tiles[tile] >= WALL):
            return False
    if not (np.isfinite(body).all() and 0 <= body[ANGLE] <= 2 * np.pi and np.isfinite(world.path).all()):
        return False
    fast = max(abs(body[VELOCITY_X]), abs(body[VELOCITY_Y])) > 1.01 * TOP_SPEED
    if fast or abs(body[TURNING]) > 1.01 * TOP_TURN or (world.random == 0).all():
        return False
    if min(body[X], body[Y]) < 1 or max(body[X], body[Y]) > side - 1:
        return False
    at_home = tiles[int(body[Y]) * side + int(body[X])] < WALL
    return at_home and room(tiles, side, body[X], body[Y]) > RADIUS - 1e-6
