"""What the agent sees: one ray a column, then floor and ceiling from the same ray, then apples and portal over them.

The eye is half a tile above the floor; the picture's height is as wide an angle everywhere, so that a wider picture
shows more. Distances are along the direction of view, so straight walls stay straight. Light falls off with distance
and becomes FOG; it is a number of 256ths.
"""

from typing import NamedTuple

import numpy as np

from nbrl.envs.maze.making import WALL
from nbrl.envs.maze.textures import (
    APPLE,
    CEILING,
    FLOOR,
    LAMP,
    LEVELS,
    PHASES,
    PORTAL,
    PYRAMID,
    SHADOW,
    SIDE,
    STARTS,
    TEXTURES,
)
from nbrl.envs.maze.world import ANGLE, FRAME, PORTAL_TILE, X, Y, side_of
from nbrl.kernels.compile import jit

HALF_HEIGHT = 0.8  # tangent of half of the vertical angle of view
DIMMING = 0.022  # light at distance d is 1 / (1 + DIMMING d^2)
FACES = (1.0, 0.80)  # light on walls that look along x, and along y
FOG = (9, 10, 16)  # red, green, blue of what is too far to see
SHARPNESS = 1.3  # texels a pixel above which the next smaller picture of a pyramid is taken
NEVER, LEAST = 1e300, 1e-200  # lengths of a ray; part of a ray along x or y that is more than none
NEAREST = 0.15  # tiles: sprites closer than this are behind the eye
FRAMES_A_PHASE = 4
# Sprites: width and height in tiles, height of the middle above the floor.
APPLE_SIZE, APPLE_MIDDLE = 0.58, 0.28
PORTAL_SIZE, PORTAL_MIDDLE = 1.0, 0.5


class Screen(NamedTuple):
    """A picture, and what drawing it takes."""

    picture: np.ndarray  # uint8 (height, width, 3)
    depth: np.ndarray  # float64 (width,): distance of the wall in each column
    rows: np.ndarray  # float64 (height,): distance of the floor in each row below the middle
    shades: np.ndarray  # int64 (height, 3): the same rows' light, level in a pyramid, and side of it
    sprites: np.ndarray  # float64 (apples + 1, 4): those in sight, the farthest first: distance, aside, size, middle
    textures: np.ndarray  # int64 (apples + 1,): of these


@jit
def cast(tiles, side, x, y, ray_x, ray_y):
    """Follow a ray from an open tile to a wall, tile by tile (Amanatides and Woo, 1987).

    Returns the distance in lengths of the ray, the side that was hit (0: one that looks along x, 1: along y), the place
    along it from 0 to 1, and the wall's texture.
    """
    column, row = int(x), int(y)
    step_x, step_y = 1 if ray_x > 0 else -1, 1 if ray_y > 0 else -1
    slow_x, slow_y = 1 / abs(ray_x), 1 / abs(ray_y)  # lengths of the ray for a tile along x or y
    next_x = NEVER if abs(ray_x) < LEAST else (column + 1 - x if ray_x > 0 else x - column) * slow_x
    next_y = NEVER if abs(ray_y) < LEAST else (row + 1 - y if ray_y > 0 else y - row) * slow_y
    at, distance, face = row * side + column, 0.0, 0
    while tiles[at] < WALL:
        if next_x < next_y:
            distance, face = next_x, 0
            next_x += slow_x
            at += step_x
        else:
            distance, face = next_y, 1
            next_y += slow_y
            at += step_y * side
    place = y + distance * ray_y if face == 0 else x + distance * ray_x
    return distance, face, place - np.floor(place), np.int64(tiles[at]) - WALL


@jit
def _at(array, index):
    """An element, as int64. Unsigned, the index is not asked whether it is negative, a fifth of the time of drawing."""
    return np.int64(array[np.uint64(index)])


@jit
def _light(distance):
    return 256 / (1 + DIMMING * distance * distance)


@jit
def _level(texels):
    """The picture of a pyramid to take where so many texels of the largest would meet a pixel."""
    level = 0
    while texels > SHARPNESS and level < LEVELS - 1:
        texels *= 0.5
        level += 1
    return level


@jit
def _put(picture, row, column, texel, light):
    """A texel in some light, less than 256, as a pixel."""
    dark = 256 - light
    row, column = np.uint64(row), np.uint64(column)  # as in `_at`
    picture[row, column, 0] = ((texel & 255) * light + FOG[0] * dark) >> 8
    picture[row, column, 1] = ((texel >> 8 & 255) * light + FOG[1] * dark) >> 8
    picture[row, column, 2] = ((texel >> 16 & 255) * light + FOG[2] * dark) >> 8


@jit
def _prepare_rows(screen, focal):
    """What all pixels of a row of floor or ceiling have in common."""
    height = screen.picture.shape[0]
    for row in range(height // 2, height):
        below = row + 0.5 - height / 2
        distance = 0.5 * focal / max(below, 0.5)
        screen.rows[row] = distance
        level = _level(SIDE * distance / focal * (1 + distance))
        screen.shades[row, 0] = int(_light(distance))
        screen.shades[row, 1], screen.shades[row, 2] = STARTS[level], SIDE >> level


@jit
def _draw_column(world, texels, screen, column, x, y, ray_x, ray_y, turn_x, turn_y, focal):
    """A wall, the floor before it and the ceiling over that. (turn_x, turn_y) is what the next column's ray adds."""
    tiles, side, picture = world.tiles, side_of(world), screen.picture
    height = picture.shape[0]
    distance, face, place, texture = cast(tiles, side, x, y, ray_x, ray_y)
    screen.depth[column] = distance
    # Texels that the next column is away along the wall, and that the next row is.
    if face == 0:
        along = abs(distance * (turn_y - ray_y * turn_x / ray_x))
    else:
        along = abs(distance * (turn_x - ray_x * turn_y / ray_y))
    level = _level(SIDE * max(distance / focal, 0.6 * along))
    length = SIDE >> level
    start = texture * PYRAMID + STARTS[level] + min(int(place * length), length - 1) * length
    tall = focal / distance
    first = max(int(np.ceil((height - tall) / 2 - 0.5)), 0)
    last = height - first
    light = int(_light(distance) * FACES[face])
    step = int(length / tall * 65536)
    at = int(((first + 0.5 - height / 2) / tall + 0.5) * length * 65536)
    for row in range(first, last):
        _put(picture, row, column, _at(texels, start + (at >> 16)), light)
        at += step
    for row in range(last, height):
        floor_x, floor_y = x + screen.rows[row] * ray_x, y + screen.rows[row] * ray_y
        tile_x, tile_y = int(floor_x), int(floor_y)
        part_x, part_y = floor_x - tile_x, floor_y - tile_y
        mask = _at(tiles, tile_y * side + tile_x) & 255
        shadow = int(part_y * SHADOW) * SHADOW + int(part_x * SHADOW)
        shade = _at(texels, TEXTURES * PYRAMID + mask * SHADOW * SHADOW + shadow)
        light = screen.shades[row, 0] * shade >> 7
        length = screen.shades[row, 2]
        at = screen.shades[row, 1] + int(part_x * length) * length + int(part_y * length)
        ceiling = LAMP if tile_x & tile_y & 1 else CEILING
        _put(picture, row, column, _at(texels, FLOOR * PYRAMID + at), light)
        _put(picture, height - 1 - row, column, _at(texels, ceiling * PYRAMID + at), light)


@jit
def _add_sprite(world, screen, count, tile, texture, size, middle, along_x, along_y):
    """Put what stands on a tile in its place among the sprites in sight: how many there are now."""
    side = side_of(world)
    x, y = tile % side + 0.5 - world.body[X], tile // side + 0.5 - world.body[Y]
    distance, aside = x * along_x + y * along_y, y * along_x - x * along_y
    if distance < NEAREST:
        return count
    place = count
    while place and screen.sprites[place - 1, 0] < distance:
        for part in range(4):
            screen.sprites[place, part] = screen.sprites[place - 1, part]
        screen.textures[place] = screen.textures[place - 1]
        place -= 1
    screen.sprites[place, 0], screen.sprites[place, 1] = distance, aside
    screen.sprites[place, 2], screen.sprites[place, 3] = size, middle
    screen.textures[place] = texture
    return count + 1


@jit
def _draw_sprite(texels, screen, place, focal):
    """Lay a sprite over what is drawn, in the columns whose wall is farther away.

    The portal shines, and an apple gleams: it is as light as a wall at half its distance.
    """
    distance, aside, size, middle = screen.sprites[place]
    texture = screen.textures[place]
    height, width, _ = screen.picture.shape
    pixels = size * focal / distance
    # From the picture's middle, so that pixels do not depend on how wide it is.
    left = aside * focal / distance - pixels / 2 - 0.5
    top = (0.5 - middle) * focal / distance - pixels / 2 - 0.5
    level = _level(SIDE / pixels)
    length = SIDE >> level
    light = int(256 if texture >= PORTAL else _light(distance / 2))
    step = length / pixels
    first, last = max(int(np.ceil(top + height / 2)), 0), min(int(np.ceil(top + pixels + height / 2)), height)
    odd, half = 0.5 * (width % 2), width // 2
    begin, end = int(np.ceil(left + odd)) + half, int(np.ceil(left + pixels + odd)) + half
    for column in range(max(begin, 0), min(end, width)):
        if screen.depth[column] <= distance:
            continue
        start = texture * PYRAMID + STARTS[level]
        start += min(int(((2 * column - width) * 0.5 - left) * step), length - 1) * length
        for row in range(first, last):
            texel = _at(texels, start + min(int(((2 * row - height) * 0.5 - top) * step), length - 1))
            if texel:
                alpha = texel >> 24
                for channel in range(3):
                    under = np.int64(screen.picture[row, column, channel]) * (255 - alpha)
                    over = (texel >> (8 * channel) & 255) * light + FOG[channel] * alpha * (256 - light) // 255
                    screen.picture[row, column, channel] = min((under + 127) // 255 + (over >> 8), 255)


@jit
def draw(world, texels, screen):
    """The picture from where the agent is."""
    height, width, _ = screen.picture.shape
    focal = height / (2 * HALF_HEIGHT)  # distance of the picture from the eye, in pixels
    body = world.body
    along_x, along_y = np.cos(body[ANGLE]), np.sin(body[ANGLE])
    turn_x, turn_y = -along_y / focal, along_x / focal
    _prepare_rows(screen, focal)
    for column in range(width):
        aside = column + 0.5 - width / 2
        ray_x, ray_y = along_x + aside * turn_x, along_y + aside * turn_y
        _draw_column(world, texels, screen, column, body[X], body[Y], ray_x, ray_y, turn_x, turn_y, focal)
    count = 0
    for i in range(world.apples.size):
        if world.apples[i] >= 0:
            count = _add_sprite(
                world, screen, count, world.apples[i], APPLE, APPLE_SIZE, APPLE_MIDDLE, along_x, along_y
            )
    if world.counters[PORTAL_TILE] >= 0:
        texture = PORTAL + world.counters[FRAME] // FRAMES_A_PHASE % PHASES
        tile = world.counters[PORTAL_TILE]
        count = _add_sprite(world, screen, count, tile, texture, PORTAL_SIZE, PORTAL_MIDDLE, along_x, along_y)
    for place in range(count):
        _draw_sprite(texels, screen, place, focal)
