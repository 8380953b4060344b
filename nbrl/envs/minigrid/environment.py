"""MiniGrid's DoorKey, KeyCorridor and MultiRoom as environments, and their picture."""

from typing import Any

import numpy as np
from gymnasium import spaces

from nbrl.envs.interface import NativeEnvironment, name_with
from nbrl.envs.minigrid.rules import (
    ACTIONS,
    BALL,
    CARRIED,
    CELLS,
    COLOUR,
    COLOUR_BIT,
    COLOURS,
    DIRECTION,
    DOOR,
    DX,
    DY,
    EMPTY,
    FIRST,
    GOAL,
    GOAL_KIND,
    HALF,
    HEIGHT,
    KEY,
    KIND,
    LOCKED,
    MAX_STEPS,
    OPEN,
    SECOND,
    STATE_BIT,
    STATES,
    VIEW,
    WALL,
    WALL_KIND,
    WANTED,
    WIDTH,
    X,
    Y,
    look,
    step,
)
from nbrl.envs.minigrid.worlds import (
    COLUMNS,
    CORRIDOR_ROWS,
    SMALLEST,
    door_key_reset,
    key_corridor_reset,
    multi_room_reset,
)
from nbrl.settings import Setting

GROUND = 25  # cells of the side that several rooms are drawn on
PIXELS = 24  # of a cell's side in the picture
TINTS = np.array([(214, 69, 65), (96, 190, 110), (66, 121, 209), (142, 68, 173), (235, 205, 60), (128, 132, 146)])
FLOOR, AGENT = (40, 43, 54), (245, 120, 60)
THINGS = [0, *(kind | colour << COLOUR_BIT for kind in (KEY, BALL) for colour in range(COLOURS))]  # that are carried
KNOWN = np.array(
    [EMPTY, WALL, GOAL, *THINGS[1:]]
    + [DOOR | colour << COLOUR_BIT | state << STATE_BIT for colour in range(COLOURS) for state in range(STATES)]
)


class MiniGrid(NativeEnvironment):
    """A task of the worlds that `reset` draws, on a ground of so many cells; see `rules.py` for the others."""

    def __init__(self, name: str, reset: Any, width: int, height: int, max_steps: int, **task: int) -> None:
        self.header = np.zeros(CELLS, np.int64)
        self.header[[WIDTH, HEIGHT, MAX_STEPS]] = width, height, max_steps
        self.header[[WANTED, FIRST, SECOND]] = task.get("wanted", 0), task.get("first", 0), task.get("second", 0)
        super().__init__(
            reset,
            step,
            state_size=8 * (CELLS + width * height),
            begins_with=self.header,
            observation_space=spaces.Box(0, 10, (VIEW, VIEW, 3), np.uint8),
            action_space=spaces.Discrete(ACTIONS),
            name=name,
            possible=self._possible,
            state_picture=minigrid_picture,
        )

    def _possible(self, state: np.ndarray) -> bool:
        """Whether it is of this task, the agent on the ground, and the episode is not over."""
        words = state.view(np.int64)
        width, height = int(words[WIDTH]), int(words[HEIGHT])
        if not (words[:X] == self.header[:X]).all() or not np.isin(words[CELLS:], KNOWN).all():
            return False
        x, y, direction, steps, carried, over = words[X:CELLS].tolist()
        if not (0 <= x < width and 0 <= y < height and 0 <= direction < 4 and 0 <= steps < words[MAX_STEPS]):
            return False
        under = int(words[CELLS + y * width + x])
        return carried in THINGS and not over and (under == EMPTY or (under & KIND, under >> STATE_BIT) == (DOOR, OPEN))


def minigrid_picture(state: np.ndarray) -> np.ndarray:
    """The rooms from above, lighter where the agent looks, which is a triangle; what it carries is drawn on it."""
    words = state.view(np.int64)
    width, height, x, y, direction, carried = (int(words[i]) for i in (WIDTH, HEIGHT, X, Y, DIRECTION, CARRIED))
    cells = words[CELLS:].reshape(height, width)
    view = np.zeros((VIEW, VIEW, 3), np.uint8)
    look(words, view)
    light = np.zeros((height, width))
    for i, j in np.argwhere(view[:, :, 0] > 0):
        ahead, aside = VIEW - 1 - j, i - HALF
        column, row = (
            x + ahead * DX[direction] - aside * DY[direction],
            y + ahead * DY[direction] + aside * DX[direction],
        )
        if 0 <= row < height and 0 <= column < width:
            light[row, column] = 0.2
    picture = np.zeros((height * PIXELS, width * PIXELS, 3))
    for row in range(height):
        for column in range(width):
            tile = _tile(int(cells[row, column]))
            tile += light[row, column] * (255 - tile)
            tile[0] = tile[:, 0] = np.array(FLOOR) / 2  # the lines between cells
            picture[row * PIXELS : (row + 1) * PIXELS, column * PIXELS : (column + 1) * PIXELS] = tile
    tile = picture[y * PIXELS : (y + 1) * PIXELS, x * PIXELS : (x + 1) * PIXELS]
    down, right = np.mgrid[:PIXELS, :PIXELS] - PIXELS / 2
    along, across = right * DX[direction] + down * DY[direction], right * DY[direction] - down * DX[direction]
    tile[(along > -8) & (np.abs(across) < (9 - along) / 2)] = AGENT
    if carried:
        tile[np.hypot(down, right) < 4] = TINTS[carried >> COLOUR_BIT & COLOUR]
    return np.rint(picture).astype(np.uint8)


def _tile(what: int) -> np.ndarray:
    """The picture of what a cell holds, float64 (PIXELS, PIXELS, 3)."""
    kind, door = what & KIND, what >> STATE_BIT
    tint = TINTS[what >> COLOUR_BIT & COLOUR]
    tile = np.zeros((PIXELS, PIXELS, 3)) + (tint if kind in (WALL_KIND, GOAL_KIND) else FLOOR)
    down, right = np.mgrid[:PIXELS, :PIXELS] - PIXELS / 2 + 0.5
    edge = np.maximum(np.abs(down), np.abs(right))
    if kind == DOOR:
        tile[edge > (9 if door != OPEN else 10)] = tint
        if door != OPEN:
            tile[edge <= 8] = tint * (0.45 if door == LOCKED else 0.75)
            tile[np.hypot(down, right - 4) < 2] = tint if door == LOCKED else FLOOR
    elif kind == BALL:
        tile[np.hypot(down, right) < 8] = tint
    elif kind == KEY:
        ring = np.hypot(down + 5, right)
        tile[(ring < 5) & (ring > 2)] = tint
        tile[(down > -1) & (down < 9) & (np.abs(right) < 1.5)] = tint
        tile[((np.abs(down - 4) < 1) | (np.abs(down - 7) < 1)) & (right > 0) & (right < 5)] = tint
    return tile


def door_key(size: int = 8) -> MiniGrid:
    """A ground of size x size cells, parted by a wall with a locked door; 10 size^2 steps."""
    size = Setting(8, "", least=5, most=100).checked("size", size)
    name = name_with("nbrl/DoorKey-8x8-v0", size=(size, 8))
    return MiniGrid(name, door_key_reset, size, size, 10 * size**2)


def key_corridor(size: int = 3, rows: int = 3) -> MiniGrid:
    """Three columns of `rows` rooms of size x size cells, walls included; 30 size^2 steps."""
    size = Setting(3, "", least=3, most=30).checked("size", size)
    rows = Setting(3, "", least=1, most=CORRIDOR_ROWS).checked("rows", rows)
    name = name_with("nbrl/KeyCorridorS3R3-v0", size=(size, 3), rows=(rows, 3))
    width, height = (size - 1) * COLUMNS + 1, (size - 1) * rows + 1
    return MiniGrid(name, key_corridor_reset, width, height, 30 * size**2, wanted=BALL, first=size, second=rows)


def multi_room(rooms: int = 7, size: int = 4) -> MiniGrid:
    """A chain of rooms of up to size x size cells, walls included; 20 steps a room."""
    rooms = Setting(7, "", least=1, most=12).checked("rooms", rooms)
    size = Setting(4, "", least=SMALLEST, most=10).checked("size", size)
    name = name_with("nbrl/MultiRoom-N7-S4-v0", rooms=(rooms, 7), size=(size, 4))
    return MiniGrid(name, multi_room_reset, GROUND, GROUND, 20 * rooms, first=rooms, second=size)
