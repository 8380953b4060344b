"""Pictures of any size from the bytes of a state: the agent's own for the observation, and others for people."""

import numpy as np

from nbrl.envs.maze.plan import draw_plan
from nbrl.envs.maze.textures import texels
from nbrl.envs.maze.view import Screen, draw
from nbrl.envs.maze.world import APPLES, HEADER, world_at
from nbrl.kernels.compile import jit


def screen_bytes(height: int, width: int, apples: int) -> int:
    """What `screen_at` takes."""
    return 8 * width + 32 * height + 40 * (apples + 1)


@jit
def screen_at(memory, apples, picture):
    """A screen over a picture, uint8 (height, width, 3), and bytes enough."""
    height, width, _ = picture.shape
    rows = 8 * width
    shades = rows + 8 * height
    sprites = shades + 24 * height
    textures = sprites + 32 * (apples + 1)
    return Screen(
        picture,
        memory[:rows].view(np.float64),
        memory[rows:shades].view(np.float64),
        memory[shades:sprites].view(np.int64).reshape(height, 3),
        memory[sprites:textures].view(np.float64).reshape(apples + 1, 4),
        memory[textures : textures + 8 * (apples + 1)].view(np.int64),
    )


@jit
def paint(state, memory, painted, picture):
    """Draw what the agent of a state sees into a picture of any size."""
    world = world_at(state)
    draw(world, painted, screen_at(memory, world.settings[APPLES], picture))


def eye(state: np.ndarray, height: int, width: int) -> np.ndarray:
    """What the agent of a state sees, with smooth edges: uint8 (height, width, 3)."""
    large = np.empty((2 * height, 2 * width, 3), np.uint8)
    apples = int(state[: 8 * HEADER].view(np.int64)[APPLES])
    paint(state, np.empty(screen_bytes(2 * height, 2 * width, apples), np.uint8), texels(), large)
    pixels = large.astype(np.uint16)
    return ((pixels[::2, ::2] + pixels[1::2, ::2] + pixels[::2, 1::2] + pixels[1::2, 1::2] + 2) // 4).astype(np.uint8)


def plan(state: np.ndarray, size: int) -> np.ndarray:
    """The maze of a state from above, with the agent's path, uint8 (size, size, 3)."""
    picture = np.empty((size, size, 3), np.uint8)
    draw_plan(world_at(state), picture)
    return picture


def both(state: np.ndarray, height: int, width: int) -> np.ndarray:
    """First `eye`, and on its right `plan`: uint8 (height, width + height, 3)."""
    return np.hstack([eye(state, height, width), plan(state, height)])
