"""Atari on the real emulator: what the networks see, how games begin and end, and which numbers are reported.

Each test runs on both paths to the emulator: ale-py's public vector environment, and compiled calls. What looks into
the vector environment is for the public path alone; test_ale_direct.py is for the other.
"""

import sys

import numpy as np
import pytest
from screens import area_resampled

from nbrl import envs
from nbrl.envs import atari
from nbrl.envs.interface import CUT, STEPPED, TERMINATED, TRUNCATED, EnvStepper

ale_py = pytest.importorskip("ale_py", reason="ale-py is not installed")

from nbrl.envs import ale_direct  # noqa: E402 - not before it is known that ale-py is there

WORKS = ale_direct.works


@pytest.fixture
def public(monkeypatch):
    """Games are played through the public vector environment."""
    monkeypatch.setattr(ale_direct, "works", lambda game: False)


@pytest.fixture(params=["public", "compiled"])
def path(request, monkeypatch):
    """Games are played through one of the two paths."""
    if request.param == "compiled" and not WORKS("pong"):
        pytest.skip("this build of ale-py is played through its public interface")
    monkeypatch.setattr(ale_direct, "works", lambda game: request.param == "compiled")
    return request.param


def play(player, seed, steps, rng_seed=0):
    """Random actions for `steps` steps or to the end: stacked observations, rewards, statuses."""
    rng = np.random.default_rng(rng_seed)
    observations, rewards, statuses = [player.reset(seed)], [], []
    while len(statuses) < steps and not (statuses and statuses[-1] & (TERMINATED | TRUNCATED)):
        observation, reward, status = player.step(rng.integers(player.actions))
        observations.append(observation)
        rewards.append(reward)
        statuses.append(status)
    return np.stack(observations), rewards, statuses


def player_of(name, **settings):
    environment = atari.AtariEnvironment(name, **settings)
    player = EnvStepper(environment)
    player.actions = environment.actions.outputs
    return player


@pytest.fixture
def starts(public, monkeypatch):
    """The numbers of no-ops of all games begun since."""
    counts = []

    class Recorded(ale_py.AtariVectorEnv):
        def reset(self, **settings):
            observation, info = super().reset(**settings)
            counts.append(int(info["episode_frame_number"][0]))
            return observation, info

    monkeypatch.setattr(ale_py, "AtariVectorEnv", Recorded)
    return counts


def test_description():
    environment = envs.make("ALE/Pong-v5")
    assert environment.name == "ALE/Pong-v5"
    assert environment.observations.shape == (4, 84, 84)
    assert environment.observations.dtype == np.uint8
    assert (environment.observations.layout, environment.actions.outputs, environment.frames_per_step) == ("CHW", 6, 4)
    assert atari.AtariEnvironment("ALE/Breakout-v5").actions.counts == (4,)
    assert environment.make().saved_size == 0


def raw_emulator(cartridge):
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    emulator = ale_py.ALEInterface()
    emulator.setFloat("repeat_action_probability", 0.0)
    emulator.loadROM(ale_py.roms.get_rom_path(cartridge))
    emulator.reset_game()
    return emulator


@pytest.mark.parametrize("game", ["Breakout", "Pong", "SpaceInvaders"])
def test_screens_against_the_emulator_alone(game, path, monkeypatch):
    # An oracle of its own: four frames an action, the maximum of the last two, averaged over areas, the last four kept.
    monkeypatch.setattr(atari, "MAX_NOOPS", 0)
    player = player_of(f"ALE/{game}-v5")
    observation = player.reset(3)
    emulator = raw_emulator({"SpaceInvaders": "space_invaders"}.get(game, game.lower()))
    actions = emulator.getMinimalActionSet()
    expected = area_resampled(emulator.getScreenGrayscale(), 84, 84)
    assert not observation[:3].any(), "there were no screens before the first"
    rng = np.random.default_rng(0)
    for _ in range(40):
        # Pixels of equal halves may be rounded to either side.
        assert np.abs(observation[-1] - expected).max() <= 1
        action = int(rng.integers(player.actions))
        earlier = observation
        observation, reward, status = player.step(action)
        frames, total = [], 0
        for _ in range(4):
            total += emulator.act(actions[action])
            frames.append(emulator.getScreenGrayscale())
        expected = area_resampled(np.maximum(frames[-2], frames[-1]), 84, 84)
        np.testing.assert_array_equal(observation[:3], earlier[1:])
        assert (reward, status) == (total, STEPPED)
    assert not player.reset(0)[:3].any(), "nor does a new game show the old one"


def test_no_ops_come_before_the_first_screen(starts):
    player = player_of("ALE/Breakout-v5")
    for seed in (3, 4, 5):
        observation, emulator = player.reset(seed), raw_emulator("breakout")
        for _ in range(starts[-1]):
            emulator.act(0)
        assert np.abs(observation[-1] - area_resampled(emulator.getScreenGrayscale(), 84, 84)).max() <= 1


def test_rewards_are_raw(path):
    _, rewards, _ = play(player_of("ALE/MsPacman-v5"), seed=1, steps=120)
    assert max(rewards) >= 10


def test_lost_lives_cut_the_return_while_the_game_goes_on(path):
    cut = play(player_of("ALE/Breakout-v5", cut_on_life_loss=True), seed=1, steps=10**4)
    whole = play(player_of("ALE/Breakout-v5"), seed=1, steps=10**4)
    np.testing.assert_array_equal(cut[0], whole[0])
    assert cut[1] == whole[1]
    assert whole[2] == [STEPPED] * (len(whole[2]) - 1) + [STEPPED | TERMINATED]
    assert [status & ~CUT for status in cut[2]] == whole[2]
    assert sum(bool(status & CUT) for status in cut[2]) == 4, "five lives: four cuts, then the end"
    assert not cut[2][-1] & CUT


def test_a_seed_gives_a_game(path):
    first, again, other = (play(player_of("ALE/Pong-v5"), seed, 60) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first[0], again[0])
    assert first[1:] == again[1:]
    assert not np.array_equal(first[0], other[0])


def test_later_games_follow_from_the_first_seed(starts):
    for _ in range(2):
        player = player_of("ALE/Pong-v5")
        for seed in (5, 6, 7):
            player.reset(seed)
    player = player_of("ALE/Pong-v5")
    for seed in (5, 0, 0):
        player.reset(seed)
    assert starts[:3] == starts[3:6] == starts[6:]
    assert len(set(starts)) > 1


def test_every_game_from_its_own_seed(starts):
    player = player_of("ALE/Pong-v5", seed_every_reset=True)
    seeds = [0, 1, 2**31 - 1, 2**63, 2**64 - 1]
    for seed in seeds + seeds[::-1]:
        player.reset(seed)
    assert starts[:5] == starts[:4:-1]
    assert len(set(starts)) > 1


def test_no_ops_at_the_start_are_0_to_30_and_all_occur(starts):
    player = player_of("ALE/Pong-v5")
    for _ in range(400):
        player.reset(1)
    assert set(starts) == set(range(31))


def test_a_new_game_after_the_end_is_whole(path):
    player = player_of("ALE/Breakout-v5", seed_every_reset=True)
    once = play(player, seed=1, steps=10**4)
    assert once[2][-1] & TERMINATED
    again = play(player, seed=1, steps=10**4)
    np.testing.assert_array_equal(once[0], again[0])
    assert once[1:] == again[1:]


def test_sticky_actions_change_games(path):
    plain, sticky, again = (
        play(player_of("ALE/Pong-v5", sticky_actions=sticky), seed=5, steps=80)[0] for sticky in (0.0, 0.25, 0.25)
    )
    assert not np.array_equal(plain, sticky)
    np.testing.assert_array_equal(sticky, again)


def idle_until_the_end(player):
    player.reset(1)
    status = steps = 0
    while not status & (TERMINATED | TRUNCATED):
        status = player.step(0)[2]
        steps += 1
    return steps, status


def test_the_limit_counts_frames_and_truncates(path, monkeypatch):
    monkeypatch.setattr(atari, "MAX_FRAMES", 400)
    player = player_of("ALE/Breakout-v5", cut_on_life_loss=True)
    assert idle_until_the_end(player) == (100, STEPPED | TRUNCATED)
    assert idle_until_the_end(player) == (100, STEPPED | TRUNCATED)


@pytest.mark.slow
def test_games_end_after_108000_frames(path):
    assert idle_until_the_end(player_of("ALE/Breakout-v5")) == (27_000, STEPPED | TRUNCATED)


def test_the_public_path_shows_its_newest_screen(public):
    player = player_of("ALE/Pong-v5")
    player.reset(1)
    for _ in range(20):
        observation, _, _ = player.step(2)
        np.testing.assert_array_equal(
            player.instance.picture(observation), observation[3][:, :, None].repeat(3, axis=2)
        )


def test_nothing_is_printed(path, capfd):
    play(player_of("ALE/Pong-v5"), seed=1, steps=5)
    assert capfd.readouterr() == ("", "")


def test_a_game_must_begin_with_a_reset(path):
    with pytest.raises(AttributeError if path == "public" else RuntimeError):
        player_of("ALE/Pong-v5").step(0)


def test_a_closed_game_says_so(path):
    player = player_of("ALE/Pong-v5")
    player.reset(1)
    player.close()
    with pytest.raises(RuntimeError, match="this game is closed"):
        player.reset(1)


def test_errors_are_kept(path, monkeypatch):
    def fail(*arguments, **settings):
        raise MemoryError("no room")

    player = player_of("ALE/Pong-v5")
    monkeypatch.setattr(*((ale_py, "AtariVectorEnv") if path == "public" else (ale_direct, "emulator")), fail)
    for _ in range(2):
        with pytest.raises(MemoryError, match="no room"):
            player.reset(1)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("ALE/Pon-v5", 'unknown Atari game "ALE/Pon-v5"; did you mean ALE/Pong-v5'),
        ("ALE/Pong", 'unknown environment "ALE/Pong"; did you mean ALE/Pong-v5'),
        ("ALE/ms_pacman-v5", "did you mean ALE/MsPacman-v5"),
        ("ALE/Combat-v5", 'unknown Atari game "ALE/Combat-v5"'),
        ("ALE/", 'unknown Atari game "ALE/"$'),
    ],
)
def test_unknown_games(name, sentence):
    with pytest.raises(ValueError, match=sentence):
        envs.make(name)


@pytest.mark.parametrize("probability", [-0.1, 1.0, float("nan")])
def test_sticky_actions_must_be_a_probability(probability):
    with pytest.raises(ValueError, match="sticky_actions must be a probability, at least 0 and under 1, not"):
        envs.make("ALE/Pong-v5", sticky_actions=probability)


def test_without_ale_py(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(ValueError, match=r'^Atari needs ale-py: pip install "nbrl\[atari\]"$'):
        envs.make("ALE/Pong-v5")


def test_human_normalised_scores():
    assert atari.human_normalised("ALE/Pong-v5", 14.6) == 100.0
    assert atari.human_normalised("ALE/Pong-v5", -20.7) == 0.0
    assert atari.human_normalised("ALE/Breakout-v5", 1.7 + 2 * 28.8) == pytest.approx(200.0)
    assert atari.human_normalised("CartPole-v1", 500.0) is None
    assert atari.human_normalised("ALE/Tetris-v5", 500.0) is None


def test_the_57_games_have_scores():
    scored = [name for name in atari.names() if atari.human_normalised(name, 0.0) is not None]
    assert len(scored) == 57
