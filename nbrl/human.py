"""A person plays a maze in a terminal: keys in, pictures of coloured half blocks out.

A terminal tells which keys are pressed, but not when they are let go. So the maze waits for a key, and each key is one
agent step; a key that is held repeats itself, up to the maze's own speed.
"""

import contextlib
import os
import re
import select
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

import numpy as np

from nbrl import envs
from nbrl.envs.interface import TRUNCATED
from nbrl.registration import MAZES

STEPS_A_SECOND = 15
# What the keys send, and what they do: the number of an action, or something else.
PLAN, QUIT = -1, -2
KEYS = {
    b"\x1b[D": 0, b"\x1b[C": 1, b"\x1b[A": 2, b"\x1b[B": 3, b"w": 2, b"s": 3, b"a": 4, b"d": 5, b"m": PLAN, b"q": QUIT,
}  # fmt: skip
KEY = re.compile(rb"\x1b[\[O][ABCD]|[wsadmq]")
HELP = "arrows: go and turn  a d: sideways  m: map  q: end"
LEAST = 24, 8  # columns and lines of the smallest terminal
MOST_LINES = 70  # of a picture
WIDEST = 2  # a picture's width to its height
BLOCK = "\N{UPPER HALF BLOCK}"
BEGIN, END = "\x1b[?1049h\x1b[?25l", "\x1b[0m\x1b[?25h\x1b[?1049l"  # a screen of its own without a cursor, and back


@dataclass(frozen=True)
class Game:
    """How it went: the return, the agent steps, and whether the episode ended instead of being given up."""

    total_return: float
    length: int
    ended: bool


def play_human(environment: str, keyboard: TextIO, screen: TextIO, *, seed: int) -> Game:
    """Let a person play one episode of a maze.

    Parameters
    ----------
    environment : str
        One of `MAZES`.
    keyboard, screen : text files
        Terminals.
    seed : int

    Raises
    ------
    ValueError
        It is no maze, or there is no terminal that can show it.
    """
    if environment not in MAZES:
        raise ValueError(f"people can play {', '.join(MAZES)}: {environment} is none of them")
    for name, file in (("input", keyboard), ("output", screen)):
        if not file.isatty():
            raise ValueError(f"a person plays in a terminal, and the standard {name} is none")
    try:
        BLOCK.encode(screen.encoding)
    except UnicodeEncodeError:
        raise ValueError(f"the terminal must take UTF-8: half blocks are not in {screen.encoding}") from None
    _size(screen)
    with _single_keys(keyboard):
        screen.write(BEGIN)
        try:
            return _play(environment, keyboard.fileno(), screen, seed)
        finally:
            screen.write(END)
            screen.flush()


@contextlib.contextmanager
def _single_keys(keyboard: TextIO) -> Iterator[None]:
    """Get every key at once, and do not show it; Ctrl-C stays what it is."""
    try:
        import termios
        import tty
    except ImportError:
        raise ValueError("people can play where Python has termios: on Linux and macOS") from None
    before = termios.tcgetattr(keyboard)
    tty.setcbreak(keyboard)
    try:
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _play(environment: str, keyboard: int, screen: TextIO, seed: int) -> Game:
    from nbrl.envs.maze.environment import maze, state_of  # compiles
    from nbrl.envs.maze.pictures import eye, plan
    from nbrl.envs.maze.world import STEPS

    with contextlib.closing(envs.EnvStepper(maze(**MAZES[environment]))) as player:
        player.reset(seed)
        state = state_of(player.instance)
        total, length, status, with_plan = 0.0, 0, 0, False
        while True:
            height, width = _size(screen)
            side = min(height, width // 2) if with_plan else 0
            picture = np.zeros((height, min(width - side, WIDEST * height) + side, 3), np.uint8)
            picture[:, : picture.shape[1] - side] = eye(state, height, picture.shape[1] - side)
            if side:
                picture[:side, picture.shape[1] - side :] = plan(state, side)
            line = f"return {total:g}  {(STEPS - length) / STEPS_A_SECOND:.0f} s  {HELP}"[:width]
            screen.write(f"\x1b[H{half_blocks(picture)}\x1b[0m\x1b[K{line}\x1b[J")
            screen.flush()
            if status & TRUNCATED:
                return Game(total, length, ended=True)
            keys = _keys(keyboard, time.monotonic() + 1 / STEPS_A_SECOND)
            if QUIT in keys:
                return Game(total, length, ended=False)
            with_plan ^= keys.count(PLAN) % 2 == 1
            actions = [key for key in keys if key >= 0]
            if actions:
                _, reward, status = player.step(actions[-1])
                total, length = total + reward, length + 1


def _keys(keyboard: int, due: float) -> list[int]:
    """What the keys do that were pressed, once it is time and there is one; what is no key here does nothing."""
    time.sleep(max(0.0, due - time.monotonic()))
    select.select([keyboard], [], [])
    pressed = os.read(keyboard, 4096)
    if not pressed:  # the terminal is gone
        return [QUIT]
    return [KEYS[key.replace(b"O", b"[")] for key in KEY.findall(pressed)]


def _size(screen: TextIO) -> tuple[int, int]:
    """Height and width of what can be drawn, in half blocks; a line is left for words."""
    columns, lines = os.get_terminal_size(screen.fileno())
    if columns < LEAST[0] or lines < LEAST[1]:
        raise ValueError(f"the terminal is too small, {columns} x {lines} characters: {LEAST[0]} x {LEAST[1]} will do")
    return 2 * min(lines - 1, MOST_LINES), columns


def half_blocks(picture: np.ndarray) -> str:
    """A picture, uint8 (height, width, 3) of an even height, as lines of coloured characters of two pixels each."""
    text, colours = [], None
    for upper, lower in zip(picture[::2].tolist(), picture[1::2].tolist(), strict=True):
        for above, below in zip(upper, lower, strict=True):
            if (above, below) != colours:
                colours = above, below
                text.append("\x1b[38;2;{};{};{};48;2;{};{};{}m".format(*above, *below))
            text.append(BLOCK)
        text.append("\x1b[0m\x1b[K\r\n")
        colours = None
    return "".join(text)
