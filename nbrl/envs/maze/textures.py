"""Everything painted: walls, floor, ceiling, apple and portal, made of noise and a little geometry.

A texture is a pyramid: the picture of SIDE x SIDE texels, then halved again and again, so that what is far away does
not glitter. Texels are uint32, red in the lowest byte, and alpha in the highest. They are kept column by column, since
walls are drawn so. All numbers come from hashes, so that every machine paints the same.
"""

from collections.abc import Callable

import numpy as np

from nbrl.kernels.compile import computed_once

SIDE = 128  # texels of a texture's side; a power of 2
LEVELS = SIDE.bit_length()  # pictures of a pyramid, of side 128, 64, ... 1
STARTS = tuple(sum((SIDE >> i) ** 2 for i in range(level)) for level in range(LEVELS))  # where each begins
PYRAMID = STARTS[-1] + 1  # texels of a pyramid

# Textures in their order.
WALLS = 5
FLOOR, CEILING, LAMP, APPLE, PORTAL = range(WALLS, WALLS + 5)
PHASES = 8  # of the portal, which turns
TEXTURES = PORTAL + PHASES

# Shadows in corners: the light that reaches a point of a tile's floor, in 128ths, by which of the eight tiles around
# are walls. Bit i of the mask is neighbour AROUND[i].
AROUND = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
SHADOW = 16  # points of a tile's side
TEXELS = TEXTURES * PYRAMID + 256 * SHADOW * SHADOW  # all of it

Array = np.ndarray


def _hash(*numbers: Array | int) -> Array:
    """Whole numbers to even ones in [0, 1)."""
    mixed = np.zeros(np.broadcast_shapes(*(np.shape(number) for number in numbers)), np.uint64)
    for number in numbers:
        mixed = (mixed ^ np.asarray(number, np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(32)
    return (mixed >> np.uint64(40)).astype(np.float64) / (1 << 24)


def _grid() -> tuple[Array, Array]:
    """Rows and columns of the texels' middles, from 0 to 1."""
    v, u = (np.mgrid[:SIDE, :SIDE] + 0.5) / SIDE
    return v, u


def _smooth(low: float, high: float, x: Array) -> Array:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _noise(seed: int, waves: int, octaves: int = 4) -> Array:
    """Clouds between 0 and 1 that go on over the edges: `waves` of them along a side, and finer ones on top."""
    v, u = _grid()
    total, weight = np.zeros_like(v), 0.0
    for octave in range(octaves):
        n = waves << octave
        y, x = v * n, u * n
        top, left = y.astype(int), x.astype(int)
        fy, fx = (t * t * (3 - 2 * t) for t in (y - top, x - left))
        heights = _hash(seed + octave, *np.mgrid[:n, :n])
        corners = [[heights[(top + i) % n, (left + j) % n] for j in (0, 1)] for i in (0, 1)]
        upper, lower = (a + fx * (b - a) for a, b in corners)
        total += (upper + fy * (lower - upper)) / 2**octave
        weight += 1 / 2**octave
    return total / weight


def _masonry(
    seed: int, rows: int, columns: int, colour: tuple[float, ...], joint: tuple[float, ...], *,
    shift: float = 0.5, gap: float = 0.02, spread: float = 0.25, rough: float = 0.35, bevel: float = 0.25,
) -> tuple[Array, Array]:  # fmt: skip
    """Blocks in rows, every other row shifted, each of a colour a little its own: the picture, and where joints are."""
    v, u = _grid()
    clouds, grain = _noise(seed, 4), _noise(seed + 50, 32, 2)
    wobble = 0.012 * (clouds - 0.5)
    y, x = ((v + wobble) % 1) * rows, (u + wobble.T) % 1
    row = y.astype(int)
    x = x * columns + shift * (row % 2)
    column = x.astype(int) % columns
    y, x = y - row, x - np.floor(x)
    down, across = np.minimum(y, 1 - y) / rows, np.minimum(x, 1 - x) / columns
    edge = np.minimum(down, across)
    block = _smooth(gap * 0.5, gap * 1.1, edge)
    light = 1 + spread * (_hash(seed, row, column) - 0.5) * 2 + rough * (0.6 * clouds + 0.4 * grain - 0.5)
    # The light comes from above on the left.
    near = _smooth(3.0 * gap, gap, edge)
    side = np.where(down < across, np.where(y < 0.5, 1.0, -1.0), np.where(x < 0.5, 0.6, -0.6))
    light = light + bevel * near * side
    tint = (_hash(seed + 7, row, column) - 0.5)[..., None] * np.array([0.05, 0.0, -0.05])
    stones = (np.array(colour) + tint) * light[..., None]
    mortar = np.array(joint) * (0.8 + 0.5 * grain)[..., None]
    return mortar + block[..., None] * (stones - mortar), block


def _standing(picture: Array) -> Array:
    """Darker towards floor and ceiling, as a wall is."""
    v, _ = _grid()
    return picture * (1 - 0.38 * np.exp(-v / 0.09) - 0.5 * np.exp(-(1 - v) / 0.11))[..., None]


def _brick() -> Array:
    picture, _ = _masonry(11, 8, 4, (0.66, 0.29, 0.21), (0.50, 0.45, 0.40), spread=0.22)
    return _standing(picture)


def _stone() -> Array:
    picture, _ = _masonry(23, 4, 2, (0.53, 0.54, 0.58), (0.24, 0.24, 0.27), gap=0.022, rough=0.6, bevel=0.3)
    return _standing(picture)


def _moss() -> Array:
    picture, block = _masonry(37, 5, 3, (0.46, 0.49, 0.42), (0.15, 0.19, 0.12), gap=0.024, rough=0.6)
    v, _ = _grid()
    clouds, grain = _noise(41, 3), _noise(43, 24, 3)
    grown = _smooth(0.42, 0.68, clouds + 0.35 * (v - 0.5) + 0.12 * (1 - block))
    leaves = np.array([0.27, 0.47, 0.16]) * (0.45 + 1.1 * grain)[..., None]
    return _standing(picture + grown[..., None] * (leaves - picture))


def _sandstone() -> Array:
    picture, _ = _masonry(53, 3, 2, (0.80, 0.66, 0.42), (0.44, 0.34, 0.21), gap=0.016, spread=0.12, rough=0.25)
    v, _ = _grid()
    layers = _noise(59, 2, 3)
    picture *= (1 + 0.10 * np.sin(2 * np.pi * (12 * v + 2.0 * layers)))[..., None]
    return _standing(picture)


def _tiles() -> Array:
    picture, block = _masonry(
        67, 6, 6, (0.16, 0.42, 0.58), (0.62, 0.66, 0.66), shift=0.0, gap=0.012, spread=0.28, rough=0.12, bevel=0.2
    )
    v, u = _grid()
    y, x = (v * 6) % 1, (u * 6) % 1
    shine = np.exp(-((x - 0.3) ** 2 + (y - 0.28) ** 2) / 0.012)
    return _standing(picture + 0.30 * (shine * block)[..., None])


def _floor() -> Array:
    picture, _ = _masonry(
        71, 2, 2, (0.50, 0.46, 0.42), (0.20, 0.18, 0.17), shift=0.0, gap=0.012, spread=0.10, rough=0.5, bevel=0.12
    )
    return picture


def _ceiling() -> Array:
    v, u = _grid()
    edge = np.minimum(np.minimum(u, 1 - u), np.minimum(v, 1 - v))
    wood = 0.75 + 0.5 * _noise(83, 3) + 0.12 * np.sin(2 * np.pi * (8 * u + 1.2 * _noise(89, 2)))
    beam = _smooth(0.10, 0.085, edge)
    light = wood * (0.62 + 0.55 * beam - 0.4 * np.exp(-np.abs(edge - 0.095) / 0.012))
    return np.array([0.36, 0.28, 0.22]) * light[..., None]


def _lamp() -> Array:
    v, u = _grid()
    picture = _ceiling()
    far = np.hypot(u - 0.5, v - 0.5)
    rim, glass = _smooth(0.25, 0.235, far), _smooth(0.205, 0.19, far)
    picture = picture * (1 + 0.9 * np.exp(-far / 0.16))[..., None]
    picture += rim[..., None] * (np.array([0.30, 0.24, 0.16]) - picture)
    bulb = np.array([1.0, 0.90, 0.66]) * (1.08 - 1.3 * far)[..., None]
    return picture + glass[..., None] * (bulb - picture)


def _apple() -> Array:
    """Colour times alpha, and alpha, with the soft shadow below it."""
    v, u = _grid()
    shadow = 0.55 * np.exp(-(((u - 0.5) / 0.26) ** 2 + ((v - 0.93) / 0.045) ** 2))
    picture, alpha = np.zeros((SIDE, SIDE, 3)), shadow
    x, y = (u - 0.5) / 0.34, (v - 0.59) / 0.33
    x = x * (1 + 0.10 * y)  # narrower below
    dent = 0.20 * np.exp(-((x / 0.32) ** 2)) * (y < 0) + 0.07 * np.exp(-((x / 0.25) ** 2)) * (y > 0)
    distance = np.hypot(x, y) + dent
    body = _smooth(1.03, 0.97, distance)
    z = np.sqrt(np.clip(1 - x * x - y * y, 0, 1))
    shade = np.clip(0.34 + 0.85 * (-0.45 * x - 0.55 * y + 0.70 * z), 0.12, None)
    streaks = 0.10 * np.sin(9 * np.arctan2(x, y + 1.6) + 3 * x)
    skin = np.stack([0.86 + streaks, 0.11 + 0.12 * np.clip(-y, 0, 1) + streaks, 0.09 + 0 * x], axis=2)
    gleam = np.exp(-(((x + 0.36) / 0.20) ** 2 + ((y + 0.42) / 0.15) ** 2))
    colour = skin * shade[..., None] + 0.75 * gleam[..., None]
    stem = _smooth(0.020, 0.008, np.abs(u - 0.5 - 0.25 * (0.34 - v) ** 2 / 0.2)) * (v > 0.17) * (v < 0.36)
    lx, ly = (u - 0.63) * 0.86 + (v - 0.215) * -0.5, (u - 0.63) * 0.5 + (v - 0.215) * 0.86
    leaf = _smooth(1.05, 0.9, (lx / 0.135) ** 2 + (ly / (0.055 * (1.15 - np.abs(lx) / 0.16))) ** 2)
    green = np.array([0.30, 0.62, 0.16]) * (1.1 - 5.5 * (ly + 0.02))[..., None].clip(0.5, 1.4)
    for shape, paint in ((stem, np.array([0.36, 0.23, 0.12]) + 0 * colour), (body, colour), (leaf, green)):
        picture = picture * (1 - shape[..., None]) + np.clip(paint, 0, 1) * shape[..., None]
        alpha = alpha * (1 - shape) + shape
    return np.dstack([picture, alpha])


def _portal(phase: int) -> Array:
    """A wheel of light: colour to be added, and an alpha that hides what is behind it."""
    v, u = _grid()
    x, y = (u - 0.5) / 0.36, (v - 0.5) / 0.46
    far, angle = np.hypot(x, y), np.arctan2(y, x)
    turn = np.pi * phase / PHASES  # two arms, so half a turn is a whole one
    arms = 0.5 + 0.5 * np.cos(2 * (angle - turn) + 5.5 * np.log(far + 0.12))
    inside = _smooth(0.93, 0.80, far)
    ring = np.exp(-(((far - 0.84) / 0.075) ** 2))
    halo = np.clip(np.exp(-np.clip(far - 0.84, 0, None) / 0.13) - 0.06, 0, 1) * (far > 0.84)
    heart = np.exp(-((far / 0.28) ** 2))
    rim = _smooth(1.36, 1.0, far)  # nothing is left at the sprite's edge
    violet, cyan, white = np.array([0.40, 0.12, 0.85]), np.array([0.18, 0.75, 1.0]), np.array([1.0, 1.0, 1.0])
    light = (
        (inside * (0.12 + 0.75 * arms * (1 - 0.3 * far)))[..., None] * (violet + (0.55 * arms * far)[..., None] * cyan)
        + (0.95 * ring)[..., None] * cyan
        + (0.45 * ring**3 + 0.95 * heart)[..., None] * white
        + (0.50 * halo * rim)[..., None] * (0.5 * violet + 0.6 * cyan)
    )
    return np.dstack([np.clip(light, 0, 1), np.clip(0.92 * inside + 0.8 * ring, 0, 1)])


def _pyramid(picture: Array) -> Array:
    """The texels of one texture, from colours between 0 and 1, with or without alpha."""
    picture = np.clip(picture, 0, 1)
    if picture.shape[2] == 3:
        picture = np.dstack([picture, np.ones(picture.shape[:2])])
    levels = []
    while True:
        channels = np.rint(255 * picture).astype(np.uint32).transpose(1, 0, 2).reshape(-1, 4)
        levels.append(channels @ np.array([1, 1 << 8, 1 << 16, 1 << 24], np.uint32))
        if len(picture) == 1:
            return np.concatenate(levels)
        picture = (picture[::2, ::2] + picture[1::2, ::2] + picture[::2, 1::2] + picture[1::2, 1::2]) / 4


def _shadows() -> Array:
    """See SHADOW: uint32 (256 * SHADOW * SHADOW,)."""
    y, x = (np.mgrid[:SHADOW, :SHADOW] + 0.5) / SHADOW
    reach = []
    for down, right in AROUND:
        away_y = {-1: y, 0: 0 * y, 1: 1 - y}[down]
        away_x = {-1: x, 0: 0 * x, 1: 1 - x}[right]
        reach.append(np.exp(-np.hypot(away_y, away_x) / 0.16))
    masks = np.arange(256)
    dark = np.zeros((256, SHADOW, SHADOW))
    for bit, one in enumerate(reach):
        dark = np.maximum(dark, ((masks >> bit) & 1)[:, None, None] * one)
    return np.rint(128 * (1 - 0.5 * dark)).astype(np.uint32).reshape(-1)


@computed_once
def texels() -> Array:
    """All textures, then the shadows: uint32 (TEXELS,)."""
    painters: list[Callable[[], Array]] = [_brick, _stone, _moss, _sandstone, _tiles, _floor, _ceiling, _lamp, _apple]
    pictures = [paint() for paint in painters] + [_portal(phase) for phase in range(PHASES)]
    return np.concatenate([_pyramid(picture) for picture in pictures] + [_shadows()])
