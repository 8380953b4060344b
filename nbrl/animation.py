"""An episode to look at: a policy plays, and its pictures become an animated GIF, by Pillow (the extra ``plot``), or a
film, by moviepy as in gymnasium (the extra ``video``)."""

import contextlib
import importlib.util
import io
import math
import numbers
import os
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nbrl.agent import Agent, chosen, draw_action, said
from nbrl.checkpoint import replace_file
from nbrl.envs.interface import TERMINATED, TRUNCATED, EnvSpec, EnvStepper
from nbrl.evaluation import STREAM, check_seed, environment_for, not_finite
from nbrl.kernels.random import ROW, next_uint64, seed_row

SHORTEST = 3  # seconds: a shorter episode is shown slower, so that it can be followed
SLOWEST = 0.5  # seconds a frame
LAST = 1.5  # seconds for which the last frame stays before the picture begins anew
SIZE = 420  # pixels of the longer side: small pictures are enlarged by a whole number, large ones shrunk
BAR = 24  # pixels under the picture, for the return so far
COLOURS = 255  # one is left for "as in the frame before"
SAMPLED = 32  # frames that the palette is made from


@dataclass(frozen=True)
class Played:
    """An episode that was played, and how much of it the picture shows."""

    total_return: float  # sum of the raw rewards
    length: int  # agent steps
    shown: int  # of these steps, from the first on


def play(
    agent: Agent,
    environment: Any = None,
    path: str | os.PathLike = "play.gif",
    *,
    environment_arguments: Mapping[str, Any] | None = None,
    seed: int = 0,
    greedy: bool = False,
    seconds: float = 60,
    on_step: Callable[[int, float], None] | None = None,
) -> Played:
    """Play one episode, the first that `nbrl.evaluate` plays with the same seed, and write it as a GIF or an MP4.

    Atari is shown at its own speed, 15 steps a second, anything else at 30.

    Parameters
    ----------
    agent : Agent
    environment : str, callable or EnvSpec, optional
        By default what the policy was trained on.
    path : str or path, optional
        The picture, which is replaced if it is there: an animated GIF, or an MP4 film if it ends so.
    environment_arguments
        As for `nbrl.evaluate`.
    seed : int, optional
    greedy : bool, optional
        Take the most likely action instead of sampling one.
    seconds : float, optional
        Of the episode in the picture at most: what comes later is played, but not shown.
    on_step : callable, optional
        Called with the number of steps done and the return so far.

    Raises
    ------
    ValueError
        Pillow, or moviepy for a film, is not installed, seconds is not above 0, the environment cannot be drawn, the
        policy does not fit it, or the picture cannot be written.
    BaseException
        What the environment raised.
    """
    try:
        import PIL  # noqa: F401 - before a long episode is played in vain
    except ImportError as error:
        raise ValueError('pictures need Pillow: pip install "nbrl[plot]"') from error
    path = Path(path)
    if path.suffix.lower() not in (".gif", ".mp4") or not path.parent.is_dir():
        raise ValueError(
            f"the picture {path} cannot be written: it must end in .gif or .mp4, in a folder that is there"
        )
    if path.suffix.lower() == ".mp4" and importlib.util.find_spec("moviepy") is None:
        raise ValueError('films need moviepy: pip install "nbrl[video]"')
    check_seed(seed)
    _check_seconds(seconds)
    spec = environment_for(agent, environment, arguments=environment_arguments, pictures=True)
    rate = 15 if spec.frames_per_step > 1 else 30  # as an Atari console: 60 frames a second, 4 a step
    frames: list[_Frame] = []
    total, length, status = 0.0, 0, 0
    with contextlib.closing(EnvStepper(spec)) as player:
        (policy, actor), row = agent.actor(), np.zeros(ROW, np.uint64)
        state = agent.initial_state().reshape(spec.agents, -1)
        seed_row(row, np.uint64(seed), np.uint64(STREAM))
        observation = player.reset(next_uint64(row))
        while True:
            if len(frames) < seconds * rate:
                frames.append(_frame(spec, player.instance.picture(observation), total))
            if status & (TERMINATED | TRUNCATED):
                break
            actor.alive[:] = player.alive
            if player.mask.size:
                actor.mask[:] = player.mask
            rows = observation.reshape(spec.agents, -1).view(np.uint8)
            if not draw_action(policy, actor, rows, state, greedy, row):
                raise not_finite(spec, rows)
            chosen(policy)
            if agent.network.passes_together:
                player.instance.says = said(agent.network, actor)
            taken = [policy.taken(0, agent) for agent in range(spec.agents)]
            observation, reward, status = player.step(taken)
            total, length = total + reward, length + 1
            if on_step:
                on_step(length, total)
    try:
        replace_file(path, [_film(frames, rate) if path.suffix.lower() == ".mp4" else _gif(frames, rate)])
    except OSError as error:
        raise ValueError(f"the picture {path} cannot be written: {error.strerror or error}") from error
    return Played(total, length, len(frames) - 1)


def _check_seconds(seconds: Any) -> None:
    number = isinstance(seconds, numbers.Real) and not isinstance(seconds, bool)
    if not number or not 0 < seconds < math.inf:
        raise ValueError(f"seconds is {seconds!r}: it must be a number above 0")


class _Frame(NamedTuple):
    """A picture, compressed until the palette is known, and the return up to it."""

    pixels: bytes
    width: int
    height: int
    total: float


def _frame(spec: EnvSpec, picture: np.ndarray | None, total: float) -> _Frame:
    if picture is None:
        raise ValueError(
            f'{spec.name} cannot be drawn: it has no render_mode "rgb_array", and its observations are no images'
        )
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(
            f"{spec.name} cannot be drawn: its picture is of {picture.dtype} with shape {picture.shape}, "
            "not uint8 (height, width, 3)"
        )
    return _Frame(zlib.compress(picture.tobytes(), 1), picture.shape[1], picture.shape[0], total)


def _drawn(frame: _Frame) -> Any:
    """A frame as an image of Pillow's, with the return so far under it."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.frombytes("RGB", (frame.width, frame.height), zlib.decompress(frame.pixels))
    larger = max(1, SIZE // max(picture.size))
    picture = picture.resize((larger * frame.width, larger * frame.height), Image.Resampling.NEAREST)
    picture.thumbnail((SIZE, SIZE))
    whole = Image.new("RGB", (picture.width, picture.height + BAR), (24, 24, 28))
    whole.paste(picture)
    line, font = f"return {frame.total:,.4g}", ImageFont.load_default(14)
    ImageDraw.Draw(whole).text((8, whole.height - BAR // 2), line, (200, 200, 196), font, anchor="lm")
    return whole


def _pause(frames: Sequence[_Frame], rate: int) -> float:
    """Seconds for which a frame stays."""
    return min(max(1 / rate, SHORTEST / len(frames)), SLOWEST)


def _gif(frames: Sequence[_Frame], rate: int) -> bytes:
    """An animated GIF of the frames, with one palette for all of them."""
    from PIL import Image

    some = [_drawn(frame) for frame in frames[:: -(-len(frames) // SAMPLED)]]
    width, height = some[0].size
    sheet = Image.new("RGB", (width, height * len(some)))
    for place, image in enumerate(some):
        sheet.paste(image, (0, place * height))
    palette = sheet.quantize(COLOURS, kmeans=1, dither=Image.Dither.NONE)
    images = (_drawn(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    stay = [_pause(frames, rate)] * (len(frames) - 1) + [LAST]
    pauses = [10 * round(100 * seconds) for seconds in stay]  # a GIF counts in 10 ms
    file = io.BytesIO()
    next(images).save(file, "GIF", save_all=True, append_images=images, duration=pauses, loop=0, optimize=True)
    return file.getvalue()


def _film(frames: Sequence[_Frame], rate: int) -> bytes:
    """An MP4 of the frames; its sides are even, as most players want them."""
    from moviepy.video.VideoClip import VideoClip

    pause = _pause(frames, rate)

    def at(seconds: float) -> np.ndarray:
        picture = np.asarray(_drawn(frames[min(int(seconds / pause + 0.5), len(frames) - 1)]))
        return np.pad(picture, [(0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)], mode="edge")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        clip = VideoClip(at, duration=pause * (len(frames) - 1) + LAST)
        clip.write_videofile(str(path), fps=1 / pause, codec="libx264", audio=False, logger=None)
        return path.read_bytes()
