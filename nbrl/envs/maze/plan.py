"""The maze from above: what is where, what the agent sees of it, and the way that it went."""

import numpy as np

from nbrl.envs.maze.making import WALL
from nbrl.envs.maze.view import HALF_HEIGHT, cast
from nbrl.envs.maze.world import ANGLE, PORTAL_TILE, STEP, X, Y, side_of
from nbrl.kernels.compile import jit

FLOOR, SEEN = (43, 44, 54), (132, 126, 108)  # of tiles, in the dark and where the agent looks
WALLS = ((176, 86, 66), (140, 143, 156), (96, 134, 72), (204, 170, 110), (62, 124, 162))
APPLE, PORTAL, HEART, AGENT, OUTLINE = (232, 52, 44), (90, 200, 255), (196, 150, 255), (255, 255, 255), (20, 20, 26)
OLD, NEW = (96, 62, 190), (255, 206, 84)  # the path's colours, from its beginning to its end
JUMP = 1.0  # tiles: an agent step that is longer went through the portal
SAMPLES = 2  # of a pixel's side, for smooth edges of tiles


@jit
def _mix(picture, row, column, colour, part):
    for channel in range(3):
        old = np.float64(picture[row, column, channel])
        picture[row, column, channel] = np.uint8(old + part * (colour[channel] - old) + 0.5)


@jit
def _disc(picture, x, y, radius, colour, strength):
    """A disc with soft edges; lengths in pixels."""
    size = picture.shape[0]
    for row in range(max(int(y - radius - 1), 0), min(int(y + radius + 2), size)):
        for column in range(max(int(x - radius - 1), 0), min(int(x + radius + 2), size)):
            far = np.sqrt((row + 0.5 - y) ** 2 + (column + 0.5 - x) ** 2)
            part = min(max(radius + 0.5 - far, 0.0), 1.0) * strength
            if part > 0:
                _mix(picture, row, column, colour, part)


@jit
def _sight(world, x, y, along_x, along_y):
    """How lit the floor is at a place: 0 in the dark, up to 1 where the agent looks."""
    to_x, to_y = x - world.body[X], y - world.body[Y]
    depth, aside = to_x * along_x + to_y * along_y, to_y * along_x - to_x * along_y
    if depth <= 0 or abs(aside) > HALF_HEIGHT * depth:
        return 0.0
    walled, _, _, _ = cast(world.tiles, side_of(world), world.body[X], world.body[Y], to_x, to_y)
    return 1 / (1 + 0.03 * depth * depth) if walled > 1 - 1e-9 else 0.0


@jit
def _ground(world, picture):
    """Tiles: walls in their textures' colours, with a lit upper and left edge, and the floor."""
    size, side = picture.shape[0], side_of(world)
    scale = side / size
    along_x, along_y = np.cos(world.body[ANGLE]), np.sin(world.body[ANGLE])
    for row in range(size):
        for column in range(size):
            red, green, blue = 0.0, 0.0, 0.0
            for sample in range(SAMPLES * SAMPLES):
                y = (row + (sample // SAMPLES + 0.5) / SAMPLES) * scale
                x = (column + (sample % SAMPLES + 0.5) / SAMPLES) * scale
                tile = np.int64(world.tiles[int(y) * side + int(x)])
                if tile >= WALL:
                    colour, light = WALLS[tile - WALL], 1.0
                    above = np.int64(world.tiles[max(int(y) - 1, 0) * side + int(x)])
                    below = np.int64(world.tiles[min(int(y) + 1, side - 1) * side + int(x)])
                    if above < WALL and y - np.floor(y) < 0.14:
                        light = 1.25
                    elif below < WALL and y - np.floor(y) > 0.72:
                        light = 0.55
                    red, green, blue = red + light * colour[0], green + light * colour[1], blue + light * colour[2]
                else:
                    lit = _sight(world, x, y, along_x, along_y)
                    red += FLOOR[0] + lit * (SEEN[0] - FLOOR[0])
                    green += FLOOR[1] + lit * (SEEN[1] - FLOOR[1])
                    blue += FLOOR[2] + lit * (SEEN[2] - FLOOR[2])
            samples = SAMPLES * SAMPLES
            picture[row, column, 0] = min(red / samples, 255.0)
            picture[row, column, 1] = min(green / samples, 255.0)
            picture[row, column, 2] = min(blue / samples, 255.0)


@jit
def _way(world, picture):
    """The path, older parts darker; it breaks where the portal was entered."""
    scale = picture.shape[0] / side_of(world)
    steps, radius = world.counters[STEP], max(0.09 * scale, 0.6)
    for step in range(1, steps + 1):
        from_x, from_y = world.path[step - 1]
        to_x, to_y = world.path[step]
        length = np.sqrt((to_x - from_x) ** 2 + (to_y - from_y) ** 2)
        if length > JUMP:
            continue
        parts = int(length * scale / (0.5 * radius)) + 1
        age = (step / steps) ** 2
        colour = (OLD[0] + age * (NEW[0] - OLD[0]), OLD[1] + age * (NEW[1] - OLD[1]), OLD[2] + age * (NEW[2] - OLD[2]))
        for part in range(parts):
            along = part / parts
            x, y = from_x + along * (to_x - from_x), from_y + along * (to_y - from_y)
            _disc(picture, x * scale, y * scale, radius, colour, 1.0)


@jit
def _arrow(world, picture, size, colour):
    """The agent, a triangle of three corners on a circle of `size` tiles."""
    scale = picture.shape[0] / side_of(world)
    x, y, angle = world.body[X] * scale, world.body[Y] * scale, world.body[ANGLE]
    along_x, along_y, length = np.cos(angle), np.sin(angle), size * scale
    reach = int(length) + 2
    for row in range(max(int(y) - reach, 0), min(int(y) + reach + 1, picture.shape[0])):
        for column in range(max(int(x) - reach, 0), min(int(x) + reach + 1, picture.shape[0])):
            to_x, to_y = column + 0.5 - x, row + 0.5 - y
            along, across = to_x * along_x + to_y * along_y, to_y * along_x - to_x * along_y
            outside = max(-0.62 * length - along, 0.42 * (along - length) + 0.9 * abs(across))
            part = min(max(0.5 - outside, 0.0), 1.0)
            if part > 0:
                _mix(picture, row, column, colour, part)


@jit
def draw_plan(world, picture):
    """Draw into uint8 (size, size, 3)."""
    side = side_of(world)
    scale = picture.shape[0] / side
    _ground(world, picture)
    _way(world, picture)
    for i in range(world.apples.size):
        tile = world.apples[i]
        if tile >= 0:
            x, y = (tile % side + 0.5) * scale, (tile // side + 0.5) * scale
            _disc(picture, x, y, 0.34 * scale, OUTLINE, 0.7)
            _disc(picture, x, y, 0.28 * scale, APPLE, 1.0)
            _disc(picture, x - 0.09 * scale, y - 0.09 * scale, 0.07 * scale, AGENT, 0.8)
    tile = world.counters[PORTAL_TILE]
    if tile >= 0:
        x, y = (tile % side + 0.5) * scale, (tile // side + 0.5) * scale
        for ring in range(8):
            _disc(picture, x, y, (0.95 - 0.07 * ring) * scale, PORTAL, 0.06)
        _disc(picture, x, y, 0.40 * scale, PORTAL, 1.0)
        _disc(picture, x, y, 0.27 * scale, HEART, 1.0)
        _disc(picture, x, y, 0.12 * scale, AGENT, 1.0)
    _arrow(world, picture, 0.62, OUTLINE)
    _arrow(world, picture, 0.46, AGENT)
