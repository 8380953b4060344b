"""People at a terminal: what is shown, what the keys do, and that the terminal is left as it was."""

import codecs
import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nbrl import human
from nbrl.envs import EnvStepper
from nbrl.envs.maze.environment import maze, state_of
from nbrl.envs.maze.pictures import eye, plan

pty = pytest.importorskip("pty", reason="a terminal needs POSIX")
termios = pytest.importorskip("termios", reason="a terminal needs POSIX")

UP, DOWN, RIGHT, LEFT = (b"\x1b[" + letter for letter in (b"A", b"B", b"C", b"D"))
COLOURS = re.compile(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m")


def pixels(text):
    """The picture in a text of coloured half blocks."""
    rows = []
    for line in text.removesuffix("\r\n").split("\r\n"):
        upper, lower, colours = [], [], None
        for part in re.findall(r"\x1b\[[0-9;]*[mK]|.", line):
            if match := COLOURS.fullmatch(part):
                colours = [int(number) for number in match.groups()]
            elif part == human.BLOCK:
                upper.append(colours[:3])
                lower.append(colours[3:])
        rows += [upper, lower]
    return np.array(rows, np.uint8)


@given(picture=st.tuples(st.integers(1, 6), st.integers(1, 9)).flatmap(
    lambda sides: hnp.arrays(np.uint8, (2 * sides[0], sides[1], 3), elements=st.sampled_from([0, 7, 255]))
))  # fmt: skip
def test_half_blocks_are_two_pixels_each(picture):
    np.testing.assert_array_equal(pixels(human.half_blocks(picture)), picture)


class Terminal:
    """``nbrl play`` at a terminal of its own."""

    def __init__(self, variables, *words, columns=60, lines=21):
        self.master, self.slave = pty.openpty()
        termios.tcsetwinsize(self.slave, (lines, columns))
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nbrl", "play", *words],
            stdin=self.slave, stdout=self.slave, stderr=subprocess.PIPE, env=variables, start_new_session=True,
            # A shell's background job ignores SIGINT, and so would what it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        os.set_blocking(self.master, False)
        self.decoder, self.shown = codecs.getincrementaldecoder("utf-8")(), ""

    def read(self, until, patience=240.0):
        """What has come since the last call, up to a mark."""
        end = time.monotonic() + patience
        while until not in self.shown:
            assert time.monotonic() < end, self.shown[-2000:]
            try:
                self.shown += self.decoder.decode(os.read(self.master, 1 << 16))
            except BlockingIOError:
                if self.process.poll() is not None:
                    raise AssertionError(self.process.stderr.read().decode() + self.shown[-500:]) from None
                time.sleep(0.01)
        found, _, self.shown = self.shown.partition(until)
        return found

    def frame(self):
        """The next picture, and the words below it."""
        picture, words = self.read("\x1b[J").split("\x1b[H")[-1].rsplit("\x1b[0m\x1b[K", 1)
        return pixels(picture), words

    def press(self, keys):
        os.write(self.master, keys)
        return self.frame()

    def end(self):
        """The exit code, once the terminal is as it was."""
        code = self.process.wait(60)
        assert termios.tcgetattr(self.slave) == self.before
        return code

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def at_terminal(environment_variables):
    with contextlib.ExitStack() as stack:
        yield lambda *words, **size: stack.enter_context(
            contextlib.closing(Terminal(environment_variables, *words, **size))
        )


def test_a_person_plays(at_terminal):
    terminal = at_terminal("--human", "nbrl/Maze-v0", "--seed", "7")
    player = EnvStepper(maze())
    player.reset(7)
    state = state_of(player.instance)
    assert "\x1b[?1049h\x1b[?25l" in terminal.read("\x1b[H")
    terminal.shown = "\x1b[H" + terminal.shown
    picture, words = terminal.frame()
    np.testing.assert_array_equal(picture, eye(state, 40, 60))
    assert words.startswith("return 0  60 s  ")
    total = 0.0
    for keys, action in (
        (UP, 2), (b"\x1bOA", 2), (RIGHT, 1), (LEFT, 0), (DOWN, 3), (b"w", 2), (b"s", 3), (b"a", 4), (b"d", 5),
        (b"x", None), (LEFT + RIGHT + UP, 2), (b"x\x1b[15~" + DOWN, 3),
    ):  # fmt: skip
        picture, words = terminal.press(keys)
        if action is not None:
            total += player.step(action)[1]
        np.testing.assert_array_equal(picture, eye(state, 40, 60))
        assert words.startswith(f"return {total:g}  ")
    picture, _ = terminal.press(b"m")
    np.testing.assert_array_equal(picture, np.pad(
        np.hstack([eye(state, 40, 30)[:30], plan(state, 30)]), ((0, 10), (0, 0), (0, 0))
    ) | np.pad(eye(state, 40, 30)[30:], ((30, 0), (0, 30), (0, 0))))  # fmt: skip
    picture, _ = terminal.press(b"m")
    np.testing.assert_array_equal(picture, eye(state, 40, 60))
    os.write(terminal.master, b"q")
    terminal.read("\x1b[0m\x1b[?25h\x1b[?1049l")
    last = terminal.read("--seed 7\r\n")
    assert f"return {total:g} in 11 steps, given up" in last
    assert terminal.end() == 0


def test_a_wide_terminal_is_not_filled(at_terminal):
    terminal = at_terminal("--human", "nbrl/MazeApples-v0", columns=100, lines=12)
    picture, _ = terminal.frame()
    assert picture.shape == (22, 44, 3)
    os.write(terminal.master, b"q")
    assert terminal.end() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_puts_the_terminal_back(at_terminal, number, code):
    terminal = at_terminal("--human", "nbrl/Maze-v0")
    terminal.frame()
    terminal.process.send_signal(number)
    terminal.read("\x1b[0m\x1b[?25h\x1b[?1049l")
    assert terminal.end() == code


@pytest.mark.parametrize(("columns", "lines"), [(23, 30), (80, 7), (0, 0)])
def test_a_small_terminal_is_refused(at_terminal, columns, lines):
    terminal = at_terminal("--human", "nbrl/Maze-v0", columns=columns, lines=lines)
    sentence = f"nbrl: the terminal is too small, {columns} x {lines} characters: 24 x 8 will do\n"
    assert terminal.process.stderr.read().decode() == sentence
    assert terminal.end() == 2


class Pretender(io.StringIO):
    """A text file that says that it is a terminal."""

    encoding = "latin-1"

    def isatty(self):
        return True


def test_what_is_no_terminal_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"^a person plays in a terminal, and the standard input is none$"):
        human.play_human("nbrl/Maze-v0", io.StringIO(), Pretender(), seed=0)
    with pytest.raises(ValueError, match=r"^a person plays in a terminal, and the standard output is none$"):
        human.play_human("nbrl/Maze-v0", Pretender(), io.StringIO(), seed=0)
    with pytest.raises(ValueError, match=r"^the terminal must take UTF-8: half blocks are not in latin-1$"):
        human.play_human("nbrl/Maze-v0", Pretender(), Pretender(), seed=0)
    monkeypatch.setattr(Pretender, "encoding", "utf-8")
    monkeypatch.setattr(human, "_size", lambda screen: (40, 60))
    monkeypatch.setitem(sys.modules, "termios", None)
    screen = Pretender()
    with pytest.raises(ValueError, match=r"^people can play where Python has termios: on Linux and macOS$"):
        human.play_human("nbrl/Maze-v0", Pretender(), screen, seed=0)
    assert screen.getvalue() == ""


def test_an_episode_ends_after_900_keys(monkeypatch):
    """Keys from a pipe instead of a terminal, which is always ready, and no waiting."""
    monkeypatch.setattr(human, "_size", lambda screen: (16, 24))
    monkeypatch.setattr(human, "STEPS_A_SECOND", 10**9)
    keyboard, writer = os.pipe()
    screen = io.StringIO()
    monkeypatch.setattr(human.os, "read", lambda file, size: b"\x1b[A")
    os.write(writer, b" ")
    game = human._play("nbrl/MazeApples-v0", keyboard, screen, 3)
    os.close(keyboard)
    os.close(writer)
    player = EnvStepper(maze(portal=False))
    player.reset(3)
    assert game == human.Game(sum(player.step(2)[1] for _ in range(900)), 900, True)
    assert screen.getvalue().count("\x1b[J") == 901
