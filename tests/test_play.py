"""Animated pictures of episodes: what they show, for how long, and what cannot be drawn."""

import re
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from toys import RECURRENT, Broken, Picture, Walk, continuous_policy, corridor, cue_policy, explode, policy_for

from nbrl import Agent, NativeEnvironment, evaluate, play
from nbrl.animation import BAR, SIZE
from nbrl.envs import EnvStepper, classic, make

Image = pytest.importorskip("PIL.Image", reason="pictures need Pillow")
ImageSequence = pytest.importorskip("PIL.ImageSequence")


class Drawn(Walk):
    """A walk that can be drawn: a white square moves right over a picture of many colours."""

    render_mode = "rgb_array"
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - as gymnasium has it

    def render(self):
        y, x = np.mgrid[:300, :700]
        picture = np.stack([y // 2, x // 3, (x + y) // 5], axis=2).astype(np.uint8)
        picture[100:150, 50 * self.place : 50 * self.place + 50] = 255
        return picture


@pytest.fixture
def path(tmp_path):
    return tmp_path / "play.gif"


def frames_of(path):
    """The frames as RGB arrays, and the milliseconds that each stands."""
    with Image.open(path) as file:
        assert (file.format, file.info["loop"]) == ("GIF", 0)
        frames = [(np.array(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(file)]
    return [pixels for pixels, _ in frames], [duration for _, duration in frames]


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("CartPole-v1", {}),
        ("Catch-v0", {}),
        ("CartPole-v1", {"layers": RECURRENT}),
        ("Catch-v0", {"layers": RECURRENT, "values": True}),
    ],
    ids=str,
)
def test_the_episode_is_the_first_of_an_evaluation(path, name, kind, greedy):
    agent, results = policy_for(name, **kind), set()
    for seed in (0, 1, 2, 2**63 - 1):
        evaluation = evaluate(agent, episodes=2, greedy=greedy, seed=seed)
        played = play(agent, path=path, seed=seed, greedy=greedy)
        assert (played.total_return, played.length) == (evaluation.returns[0], evaluation.lengths[0])
        assert len(frames_of(path)[0]) == played.shown + 1 == played.length + 1
        results.add((played.total_return, played.length, path.read_bytes()))
    assert len(results) > 1


@pytest.mark.parametrize("greedy", [False, True])
def test_an_episode_of_continuous_actions(path, greedy):
    agent = continuous_policy("Pendulum-v1", separate=True, constant=("variance",))
    evaluation = evaluate(agent, episodes=2, greedy=greedy, seed=3)
    played = play(agent, path=path, seed=3, greedy=greedy)
    assert (played.total_return, played.length) == (evaluation.returns[0], 200)
    frames, _ = frames_of(path)
    assert {frame.shape for frame in frames} == {(240 + BAR, 240, 3)}
    assert len({frame[:-BAR].tobytes() for frame in frames}) > 20


def test_a_cue_is_remembered_to_the_end_of_the_episode(path):
    agent = cue_policy()
    for seed in range(6):
        played = play(agent, path=path, seed=seed)
        assert (played.total_return, played.length, played.shown) == (1.0, 11, 11)


def test_a_game_of_catch_can_be_read_off_the_picture(path):
    for seed in range(5):
        played = play(policy_for("Catch-v0", seed=seed), path=path, seed=seed)
        frames, durations = frames_of(path)
        boards = [frame[16:320:32, 16::32].sum(axis=2) > 500 for frame in frames]
        assert {frame.shape for frame in frames} == {(320 + BAR, 160, 3)}
        (ball,) = np.flatnonzero(boards[0][0])
        paddles = []
        for row, board in enumerate(boards):
            assert board[row, ball]
            paddles.append(board[9].nonzero()[0].tolist())
            assert board.sum() == len(paddles[-1]) + (row < 9)
        assert paddles[0] == [2]
        assert played.total_return == (1 if paddles[-1] == [ball] else -1)
        # Ten frames are shown in three seconds, and the last one stays.
        assert durations == [300] * 9 + [1500]


def test_the_return_so_far_stands_under_the_picture(path):
    play(policy_for("Catch-v0"), path=path, seed=1)
    bars = [frame[-BAR:] for frame in frames_of(path)[0]]
    for bar in bars[:-1]:
        np.testing.assert_array_equal(bar, bars[0])
    assert not np.array_equal(bars[-1], bars[0])
    assert bars[0].max() > 150 > 2 * bars[0].mean()


def test_large_pictures_are_shrunk_and_keep_their_colours(path):
    agent = policy_for(Drawn)
    played = play(agent, Drawn, path)
    frames, durations = frames_of(path)
    assert (played.length, played.shown, played.total_return) == (10, 10, 10.0)
    assert {frame.shape for frame in frames} == {(180 + BAR, SIZE, 3)}
    walk = Drawn()
    for walk.place, frame in enumerate(frames):
        shrunk = np.array(Image.fromarray(walk.render()).resize((SIZE, 180)))
        assert np.abs(frame[:-BAR].astype(int) - shrunk).mean() < 8
    assert len(set(durations[:-1])) == 1


def test_image_observations_are_shown_themselves(path):
    played = play(policy_for(Picture), Picture, path)
    frames, _ = frames_of(path)
    assert {frame.shape for frame in frames} == {(420 + BAR, 420, 3)}
    assert played.shown == 10
    for frame in frames:
        bars = (frame[21:420:42, 21::42] == 255).all(axis=(0, 2))
        assert bars.sum() == 1


def test_long_episodes_are_played_to_the_end_and_shown_from_the_start(path):
    agent = policy_for("CartPole-v1", logits=[0.0, 0.0])
    steps = []
    long = next(seed for seed in range(100) if evaluate(agent, episodes=1, seed=seed).lengths[0] > 40)
    played = play(agent, path=path, seed=long, seconds=1, on_step=lambda *values: steps.append(values))
    frames, durations = frames_of(path)
    assert (len(frames), played.shown) == (30, 29)
    assert durations == [100] * 29 + [1500]
    assert steps == [(n, float(n)) for n in range(1, played.length + 1)]
    assert played.length > 40


def test_an_own_native_environment_is_drawn_by_its_own_function(path, tmp_path):
    environment = corridor(tmp_path)
    with pytest.raises(ValueError, match=r"^corridor cannot be drawn: it has no"):
        play(policy_for(environment), environment, path)

    def picture(observation):
        return np.repeat(np.uint8(255 * observation)[None, :, None], 3, axis=2)

    drawn = NativeEnvironment(
        classic.catch_reset, classic.catch_step, state_size=24, action_space=gymnasium.spaces.Discrete(3),
        observation_space=gymnasium.spaces.Box(0, 1, (50,)), picture=picture,
    )  # fmt: skip
    play(policy_for(drawn), drawn, path)
    frames, _ = frames_of(path)
    assert {frame.shape for frame in frames} == {(8 + BAR, 400, 3)}
    assert [int((frame[4, 4::8] == 255).all(axis=1).sum()) for frame in frames[:-1]] == [2] * 9


@pytest.mark.parametrize("compiled", [True, False])
def test_a_game_of_pong(path, monkeypatch, compiled):
    pytest.importorskip("ale_py")
    from nbrl.envs import ale_direct

    if compiled and not ale_direct.works("pong"):
        pytest.skip("this build of ale-py is played through its public interface")
    monkeypatch.setattr(ale_direct, "works", lambda game: compiled)
    agent = policy_for("ALE/Pong-v5")
    played = play(agent, path=path, seconds=4)
    frames, durations = frames_of(path)
    assert -21 <= played.total_return < 0
    assert played.length > 700
    assert played.shown == 59
    # A frame like the one before is not written again: its time is added.
    assert sum(durations) == 70 * 59 + 1500
    assert len(path.read_bytes()) < 400_000
    evaluation = evaluate(agent, episodes=1)
    assert (evaluation.returns[0], evaluation.lengths[0]) == (played.total_return, played.length)
    if compiled:
        assert {frame.shape for frame in frames} == {(420 + BAR, 320, 3)}
        colours = {tuple(colour) for frame in frames for colour in frame[:-BAR].reshape(-1, 3)[::3]}
        assert {(144, 72, 17), (236, 236, 236), (92, 186, 92)} <= colours  # the field, its edges, our paddle
        assert len(colours) < 12
    else:
        assert {frame.shape for frame in frames} == {(420 + BAR, 420, 3)}
        assert max(np.ptp(frame[:-BAR], axis=2).max() for frame in frames) < 5, "grey"


# What cannot be drawn


def test_what_has_no_picture_is_refused(path):
    sentence = 'Walk cannot be drawn: it has no render_mode "rgb_array", and its observations are no images'
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        play(policy_for(Walk), Walk, path)
    assert not path.exists()


@pytest.mark.parametrize(
    "picture", [np.zeros((5, 5)), np.zeros((5, 5, 3)), np.zeros((5, 5, 4), np.uint8), None, [1, 2]], ids=str
)
def test_a_picture_of_another_kind_is_refused(path, picture):
    class Odd(Drawn):
        def render(self):
            return picture

    with pytest.raises(ValueError, match=r"^Odd cannot be drawn: its picture is of"):
        play(policy_for(Odd), Odd, path)


def test_an_absent_package_is_named(path, monkeypatch):
    agent = policy_for("Acrobot-v1")
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(ValueError, match=r"^drawing Acrobot-v1 needs a package that is not installed: pygame"):
        play(agent, path=path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ValueError, match=r'^pictures need Pillow: pip install "nbrl\[plot\]"$'):
        play(agent, path=path)


def test_an_environment_is_made_to_be_drawn_only_for_that(path, monkeypatch):
    class ById(Drawn):
        def __init__(self, render_mode=None):
            super().__init__()
            self.render_mode = render_mode

    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    gymnasium.register("ById-v0", ById)
    for pictures, kind in ((False, type(None)), (True, np.ndarray)):
        player = EnvStepper(make("ById-v0", pictures=pictures))
        assert isinstance(player.instance.picture(player.reset(1)), kind)
    play(policy_for("ById-v0"), path=path)
    assert len(frames_of(path)[0]) == 11


@pytest.mark.parametrize("name", ["play.png", "play", "absent/play.gif"])
def test_a_place_that_cannot_be_written_is_refused_before_the_episode(tmp_path, name):
    steps = []
    with pytest.raises(
        ValueError, match=r"cannot be written: it must end in \.gif or \.mp4, in a folder that is there"
    ):
        play(policy_for("Catch-v0"), path=tmp_path / name, on_step=lambda *values: steps.append(values))
    assert steps == []
    (tmp_path / "folder.gif").mkdir()
    with pytest.raises(ValueError, match=r"folder\.gif cannot be written: "):
        play(policy_for("Catch-v0"), path=tmp_path / "folder.gif")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.gif"]


def test_what_an_evaluation_refuses(path):
    for seed in (-1, 2**63, "1", True):
        with pytest.raises(ValueError, match=r"seed is .*: it must be a whole number of at least 0"):
            play(policy_for("Catch-v0"), path=path, seed=seed)
    for seconds in (0, -1.0, "ten", True, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"seconds is .*: it must be a number above 0"):
            play(policy_for("Catch-v0"), path=path, seconds=seconds)
    with pytest.raises(ValueError, match=r"the policy takes float32 vectors of 4, Catch-v0 gives"):
        play(policy_for("CartPole-v1"), "Catch-v0", path)


def test_an_error_on_the_way_leaves_the_old_picture_and_closes_the_environment(path):
    closed = []

    def faulty():
        return Drawn({("step", 5): explode}, on_close=closed.append)

    def lost():
        return Drawn({("step", 5): lambda walk: {"observation": [0, np.nan, 0]}})

    agent = policy_for(faulty)
    closed.clear()
    path.write_text("the old picture")
    with pytest.raises(Broken, match="out of the walk"):
        play(agent, faulty, path)
    assert len(closed) == 2, "the one whose spaces are read, and the one that was played"
    with pytest.raises(FloatingPointError, match="an observation of lost has a number that is not finite"):
        play(agent, lost, path)
    assert path.read_text() == "the old picture"


# The command


def test_the_command(nbrl_command, tmp_path):
    assert nbrl_command("train", "Catch-v0", "--steps", "500", "--out", "run").returncode == 0
    first = nbrl_command("play", "run", "--seed", "3", "--greedy")
    assert (first.returncode, first.stderr) == (0, "")
    picture, result = first.stdout.splitlines()
    agent = Agent.load(tmp_path / "run" / "policy.safetensors")
    expected = evaluate(agent, episodes=1, seed=3, greedy=True).returns[0]
    assert (picture, result) == ("run/play.gif", f"return {expected:.4g} in 9 steps")
    before = (tmp_path / picture).read_bytes()
    assert nbrl_command("play", "run/policy.safetensors", "--seed", "3", "--greedy").stdout.startswith(
        "run/policy.gif\n"
    )
    assert (tmp_path / "run" / "policy.gif").read_bytes() == before
    assert nbrl_command("play", "run", "--out", "mine.gif").stdout.startswith("mine.gif\n")
    brief = nbrl_command("play", "run", "--out", "mine.gif", "--seconds", "0.2").stdout
    assert brief.endswith(" in 9 steps; the picture shows the first 5\n")
    refused = nbrl_command("play", "run", "--out", "mine.gif", "--seconds", "soon")
    assert (refused.returncode, refused.stderr) == (2, "nbrl: seconds is 'soon': it must be a number above 0\n")
    assert (tmp_path / "run" / "play.gif").read_bytes() == before


def test_a_film_has_the_frames_of_the_gif(tmp_path):
    pytest.importorskip("moviepy", reason="films need it: the extra video")
    program = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    agent, film = policy_for("Catch-v0"), tmp_path / "film.mp4"
    played = play(agent, path=film, seed=3)
    play(agent, path=tmp_path / "play.gif", seed=3)
    frames, pauses = frames_of(tmp_path / "play.gif")
    told = subprocess.run([program, "-i", film], capture_output=True, text=True).stderr
    assert re.search(r"Video: h264.*yuv420p", told)
    width, height = map(int, re.search(r", (\d+)x(\d+)[ ,]", told).groups())
    assert width % 2 == height % 2 == 0
    assert float(re.search(r"([\d.]+) fps", told)[1]) == pytest.approx(1000 / pauses[0], rel=0.05)
    words = [program, "-v", "error", "-i", film, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    pixels = np.frombuffer(subprocess.run(words, capture_output=True, check=True).stdout, np.uint8)
    shown = pixels.reshape(-1, height, width, 3)
    assert played.shown == len(frames) - 1
    assert len(shown) == pytest.approx(sum(pauses) / pauses[0], abs=2)
    for number, frame in enumerate(frames):
        # Compressing loses a little, most of it at edges.
        assert abs(shown[number][: frame.shape[0], : frame.shape[1]].astype(int) - frame).mean() < 4


def test_without_moviepy_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'^films need moviepy: pip install "nbrl\[video\]"$'):
        play(policy_for("Catch-v0"), path=tmp_path / "film.mp4")
    assert list(tmp_path.iterdir()) == []
