"""The compiled path to the emulator against the public one, an oracle of its own, and every way it may be refused."""

import ctypes
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from screens import area_resampled

from nbrl.envs import atari
from nbrl.envs.interface import CUT, STEPPED, TERMINATED, TRUNCATED, EnvStepper

pytest.importorskip("ale_py", reason="ale-py is not installed")

from nbrl.envs import ale_direct

ActFunction = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_float)
IntFunction = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
OverFunction = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool)
PointerFunction = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)


def player_of(game, **settings):
    environment = atari.AtariEnvironment(f"ALE/{game}-v5", **settings)
    player = EnvStepper(environment)
    player.actions = environment.actions.outputs
    return player


@pytest.fixture
def known_build():
    if not ale_direct.works("pong"):
        pytest.skip("this build of ale-py is played through its public interface")


@pytest.fixture
def direct(known_build, monkeypatch):
    """Makes players of the compiled path."""
    monkeypatch.setattr(ale_direct, "works", lambda game: True)

    def make(game, **settings):
        player = player_of(game, **settings)
        assert is_direct(player)
        return player

    return make


@pytest.fixture
def fresh_check():
    """The remembered results of `works` are forgotten, before and after."""
    ale_direct.works.cache_clear()
    yield
    ale_direct.works.cache_clear()


def is_direct(player):
    return player.instance.step_address == ale_direct.step_game.address


def play(player, seed, steps, rng_seed=0):
    """Random actions for `steps` steps or to the end: observations (n + 1, ...), rewards, statuses."""
    rng = np.random.default_rng(rng_seed)
    observations, rewards, statuses = [player.reset(seed)], [], []
    while len(statuses) < steps and not (statuses and statuses[-1] & (TERMINATED | TRUNCATED)):
        observation, reward, status = player.step(rng.integers(player.actions))
        observations.append(observation)
        rewards.append(reward)
        statuses.append(status)
    return np.stack(observations), rewards, statuses


def assert_same_play(one, other):
    np.testing.assert_array_equal(one[0], other[0])
    assert one[1:] == other[1:]


@pytest.mark.parametrize("game", ["Pong", "Breakout", "SpaceInvaders", "MsPacman"])
def test_whole_games_equal_the_public_path(game, direct, monkeypatch):
    monkeypatch.setattr(atari, "MAX_NOOPS", 0)
    ours = direct(game, cut_on_life_loss=True)
    monkeypatch.setattr(ale_direct, "works", lambda game: False)
    public = player_of(game, cut_on_life_loss=True)
    assert not is_direct(public)
    scores = set()
    for seed in (1, 2):  # the second game follows the first one's end
        observations, rewards, statuses = play(ours, seed, 10**5, rng_seed=seed)
        expected = play(public, seed, 10**5, rng_seed=seed)
        assert rewards == expected[1]
        scores |= set(rewards)
        assert statuses == expected[2]
        assert statuses[-1] == STEPPED | TERMINATED
        # Areas that end on half a grey level may be rounded to either side. The public path leaves its screens as they
        # are when a game ends between two of the four frames: the very last one, which no value is taken of, differs.
        differences = np.stack([abs(a.astype(int) - b) for a, b in zip(observations, expected[0], strict=True)])
        assert differences[:-1].max() <= 1
        assert differences[-1, :-1].max() <= 1
        assert game == "Pong" or any(status & CUT for status in statuses)
    assert len(scores) > 1


@pytest.mark.parametrize("game", ["Pong", "MsPacman"])
def test_pictures_are_the_last_two_screens_in_colour_and_change_nothing(game, direct, monkeypatch):
    monkeypatch.setattr(atari, "MAX_NOOPS", 0)
    player, unseen, public = direct(game), direct(game), ale_direct.emulator(game.lower().replace("msp", "ms_p"))
    minimal, rng = public.getMinimalActionSet(), np.random.default_rng(0)
    for _ in range(2):
        observation = player.reset(1)
        unseen.reset(1)
        public.reset_game()
        np.testing.assert_array_equal(player.instance.picture(observation), public.getScreenRGB())
        for _ in range(60):
            action = int(rng.integers(player.actions))
            observation, reward, _ = player.step(action)
            screens, rewards = [], 0
            for _ in range(4):
                rewards += public.act(minimal[action])
                screens.append(public.getScreenRGB())
            picture = player.instance.picture(observation)
            np.testing.assert_array_equal(picture, np.maximum(screens[2], screens[3]))
            assert (picture.dtype, reward) == (np.uint8, rewards)
            np.testing.assert_array_equal(unseen.step(action)[0], observation)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), changes=st.lists(st.integers(0, 20_000), min_size=1, max_size=4))
def test_shrinking_is_the_mean_over_areas_whatever_changed_since(seed, changes):
    rng = np.random.default_rng(seed)
    grey = rng.integers(0, 256, 256, np.uint8)
    before, screen = rng.integers(0, 256, (2, 210, 160), np.uint8)
    kept, lines = np.stack([before, ~screen]), np.zeros((210, 160), np.int32)
    last = out = np.zeros((84, 84), np.uint8)
    for count in [0, *changes]:
        for pixels in (before, screen):
            at = rng.integers(0, pixels.size, count // 2)
            pixels.reshape(-1)[at] = rng.integers(0, 256, at.size, np.uint8)
        last, out = out, np.zeros((84, 84), np.uint8)
        ale_direct.shrink(before, screen, grey, kept, lines, last, out)
        exact = area_resampled(np.maximum(grey[before], grey[screen]), 84, 84)
        assert np.abs(out - exact).max() <= 0.5 + 1e-9


@pytest.fixture
def emulators(monkeypatch):
    """The public objects of all emulators made since, by the compiled path."""
    made, make = [], ale_direct.emulator

    def recorded(game):
        made.append(make(game))
        return made[-1]

    monkeypatch.setattr(ale_direct, "emulator", recorded)
    return made


def test_no_ops_at_the_start_are_0_to_30_by_the_seed(direct, emulators):
    player, counts = direct("Pong"), {}
    for seed in range(300):
        player.reset(seed)
        counts[seed] = emulators[-1].getEpisodeFrameNumber()
    assert set(counts.values()) == set(range(31))
    for seed in (250, 7, 2**64 - 1, 7):
        player.reset(seed)
        assert emulators[-1].getEpisodeFrameNumber() == counts.setdefault(seed, emulators[-1].getEpisodeFrameNumber())
    assert len(emulators) == 1


@pytest.fixture
def sent_actions(monkeypatch):
    """The actions that any emulator was told since, one a frame."""
    actions, addresses = [], dict(ale_direct._addresses())
    real = ActFunction(addresses["act"])

    @ActFunction
    def act(emulator, action, strength):
        assert strength == 1.0
        actions.append(action)
        return real(emulator, action, strength)

    monkeypatch.setattr(ale_direct, "_addresses", lambda: addresses | {"act": ctypes.cast(act, ctypes.c_void_p).value})
    yield actions
    assert act  # alive until here


def frames_of(player, actions, seed, steps=600):
    """(wanted, sent), int (steps, 4): every step wants another action than the step before."""
    player.reset(seed)
    actions.clear()
    rng, wanted, action = np.random.default_rng(seed), [], 0
    for _ in range(steps):
        action = int(action + rng.integers(1, player.actions)) % player.actions
        wanted.append(action)
        if player.step(action)[2] & TERMINATED:
            break
    return np.repeat(np.array(wanted)[:, None], 4, axis=1), np.array(actions).reshape(-1, 4)


@pytest.mark.parametrize("probability", [0.25, 0.5])
def test_each_frame_repeats_the_action_before_with_the_probability_given(probability, direct, sent_actions):
    player = direct("Pong", sticky_actions=probability)
    minimal = np.array([0, 1, 3, 4, 11, 12])
    wanted, sent = frames_of(player, sent_actions, seed=1)
    wanted, sent = minimal[wanted].ravel(), sent.ravel()
    before = np.concatenate([[0], sent[:-1]])
    assert np.all((sent == wanted) | (sent == before))
    differ = wanted != before  # elsewhere both give the same
    repeated = (sent == before)[differ]
    # 600 draws or more: five standard deviations are a tenth at most.
    assert repeated.size > 600
    assert repeated.mean() == pytest.approx(probability, abs=0.1)
    # The draws of two frames are independent: a frame after a repeated one of the same step is repeated as often.
    again = (differ.reshape(-1, 4)[:, 1:] & (sent == before).reshape(-1, 4)[:, :-1])[:, :2]
    assert (sent == before).reshape(-1, 4)[:, 1:3][again].mean() == pytest.approx(probability, abs=0.15)


def test_without_stickiness_every_frame_gets_its_action(direct, sent_actions):
    wanted, sent = frames_of(direct("Pong"), sent_actions, seed=1, steps=50)
    np.testing.assert_array_equal(np.array([0, 1, 3, 4, 11, 12])[wanted], sent)


def test_stickiness_is_drawn_from_the_seed(direct, sent_actions):
    players = direct("Pong", sticky_actions=0.25), direct("Pong", sticky_actions=0.25)
    first, other, again = (
        frames_of(player, sent_actions, seed, 60)[1] for player, seed in zip(players * 2, (3, 4, 3), strict=False)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("game", ["Pong", "SpaceInvaders", "MsPacman"])
def test_an_episode_depends_on_its_own_seed_alone(game, direct):
    player = direct(game, sticky_actions=0.25)
    first = play(player, 5, 80)
    play(player, 6, 40, rng_seed=1)  # abandoned in the middle
    play(player, 7, 1)
    assert_same_play(play(player, 5, 80), first)
    assert_same_play(play(direct(game, sticky_actions=0.25), 5, 80), first)
    assert not np.array_equal(play(player, 6, 80)[0][-1], first[0][-1])


def test_after_the_end_of_a_game_a_seed_gives_the_same_game(direct):
    player = direct("Breakout", sticky_actions=0.25)
    whole = play(player, 1, 10**4)
    assert whole[2][-1] & TERMINATED
    assert_same_play(play(player, 1, 10**4), whole)


def test_instances_play_at_once_on_threads_of_their_own(direct):
    games = [("Pong", 1), ("Breakout", 2), ("Pong", 3), ("SpaceInvaders", 4)]
    expected = [play(direct(game), seed, 150) for game, seed in games]
    players = [direct(game) for game, _ in games]
    found = [None] * len(games)
    together = threading.Barrier(len(games))

    def run(number):
        together.wait()
        found[number] = play(players[number], games[number][1], 150)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(games))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(found, expected, strict=True):
        assert_same_play(one, other)


@pytest.mark.parametrize("action", [-1, 6, 2**31 - 1])
def test_an_action_that_the_game_has_not_fails(action, direct):
    player = direct("Pong")
    player.reset(1)
    with pytest.raises(RuntimeError, match="failed"):
        player.step(action)


def test_a_closed_game_fails(direct):
    player = direct("Pong")
    player.reset(1)
    player.close()
    with pytest.raises(RuntimeError):
        player.step(0)
    for closed in (player, direct("Pong")):
        closed.close()
        with pytest.raises(RuntimeError, match="this game is closed"):
            closed.reset(1)


def test_an_unknown_build_is_played_through_the_public_path(monkeypatch, fresh_check, caplog):
    monkeypatch.setattr(ale_direct, "KNOWN", {("0.0.1", "linux", "x86_64")})
    with caplog.at_level("INFO", logger="nbrl"):
        players = [player_of("Pong") for _ in range(2)]
    assert [is_direct(player) for player in players] == [False] * 2
    assert len(caplog.records) == 1
    assert "public interface" in caplog.text
    assert play(players[0], 1, 3)[2] == [STEPPED] * 3


def shown(rows, columns):
    """A C++ screen object of zeros, and what it points to."""
    pixels = np.zeros(210 * 160, np.uint8)
    screen = np.zeros(3, np.int64)
    screen[:1].view(np.int32)[:] = rows, columns
    screen[1:] = pixels.ctypes.data, pixels.ctypes.data + pixels.size
    return screen, pixels


@pytest.mark.parametrize(
    ("symbol", "prototype", "kind"),
    [
        ("act", ActFunction, "rewards"),
        ("lives", IntFunction, "lives"),
        ("game_over", OverFunction, "the end of a game"),
        ("get_screen", PointerFunction, "screens"),
        ("get_screen", PointerFunction, "the size of the screen"),
    ],
    ids=["act", "lives", "game_over", "get_screen", "size"],
)
def test_a_difference_leads_to_the_public_path(symbol, prototype, kind, known_build, fresh_check, monkeypatch, caplog):
    addresses = dict(ale_direct._addresses())
    real = prototype(addresses[symbol])
    screen, _pixels = shown(*((210, 160) if kind == "screens" else (250, 160)))
    wrong = {
        "act": lambda emulator, action, strength: real(emulator, action, strength) + 1,
        "lives": lambda emulator: real(emulator) + 1,
        "game_over": lambda emulator, with_truncation: True,
        "get_screen": lambda emulator: screen.ctypes.data,
    }
    function = prototype(wrong[symbol])
    address = ctypes.cast(function, ctypes.c_void_p).value
    monkeypatch.setattr(ale_direct, "_addresses", lambda: addresses | {symbol: address})
    with caplog.at_level("INFO", logger="nbrl"):
        players = [player_of("Pong") for _ in range(2)]
    assert [is_direct(player) for player in players] == [False] * 2
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().endswith(f"compiled calls differ in {kind}")
    assert play(players[0], 1, 3)[2] == [STEPPED] * 3


def test_the_check_compares_two_emulators(known_build, fresh_check, monkeypatch, caplog):
    # One of them is some frames ahead of the other, and the ball with it.
    make, made = ale_direct.emulator, []

    def ahead(game):
        made.append(make(game))
        for _ in range(40 * (len(made) - 1)):
            made[-1].act(0)
        return made[-1]

    monkeypatch.setattr(ale_direct, "emulator", ahead)
    assert not ale_direct.works("pong")
    assert "differ in" in caplog.text
    assert len(made) == 2
