"""Cue: its rules, what can be had with and without memory, and its picture."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbrl import play
from nbrl.envs import EnvStepper, make
from nbrl.envs.interface import STEPPED, TERMINATED

LEFT, RIGHT = range(2)
STEPS = 11  # of an episode
SEEDS = st.integers(0, 2**64 - 1)
ACTIONS = st.lists(st.integers(0, 1), min_size=STEPS, max_size=STEPS)


@pytest.fixture(scope="module")
def player():
    return EnvStepper(make("Cue-v0"))


def cue_of(observation):
    return int(np.flatnonzero(observation[:2])[0])


def seed_of(player, cue):
    return next(seed for seed in range(100) if cue_of(player.reset(seed)) == cue)


@given(seed=SEEDS, actions=ACTIONS)
def test_episodes_follow_the_rules(player, seed, actions):
    first = player.reset(seed)
    cue = cue_of(first)
    np.testing.assert_array_equal(first, [cue == LEFT, cue == RIGHT, 0, 0])
    for place, action in enumerate(actions, start=1):
        observation, reward, status = player.step(action)
        behind = np.float32(min(place, 10) / 10)
        np.testing.assert_array_equal(observation, np.array([0, 0, place >= 10, behind], np.float32))
        assert reward == (0 if place < STEPS else 1 if action == cue else -1)
        assert status == (STEPPED if place < STEPS else STEPPED | TERMINATED)
    with pytest.raises(RuntimeError, match="status 0"):
        player.step(LEFT)


@given(seed=SEEDS)
def test_the_seed_decides_the_cue(player, seed):
    np.testing.assert_array_equal(player.reset(seed), player.reset(seed))


def test_both_cues_are_as_frequent(player):
    cues = [cue_of(player.reset(seed)) for seed in range(2000)]
    assert abs(np.mean(cues) - 0.5) < 5 * 0.5 / np.sqrt(2000)


def test_who_remembers_the_cue_has_a_return_of_one(player):
    for seed in range(50):
        cue = cue_of(player.reset(seed))
        rewards = [player.step(cue)[1] for _ in range(STEPS)]
        assert sum(rewards) == 1


def test_no_policy_without_memory_has_a_mean_return_other_than_zero(player):
    # Every observation that there is, with each cue; then every function from these to the actions.
    seeds = [seed_of(player, cue) for cue in (LEFT, RIGHT)]
    seen = set()
    for seed in seeds:
        seen.add(player.reset(seed).tobytes())
        seen.update(player.step(LEFT)[0].tobytes() for _ in range(STEPS))
    assert len(seen) == 2 + 10
    for actions in itertools.product((LEFT, RIGHT), repeat=len(seen)):
        policy = dict(zip(seen, actions, strict=True))
        total = 0.0
        for seed in seeds:
            observation, status = player.reset(seed), STEPPED
            while status == STEPPED:
                observation, reward, status = player.step(policy[observation.tobytes()])
                total += reward
        assert total == 0


@given(seed=SEEDS, actions=ACTIONS, at=st.integers(0, STEPS))
def test_a_restored_state_goes_on_alike(player, seed, actions, at):
    player.reset(seed)
    for action in actions[:at]:
        player.step(action)
    saved, other = player.instance.save(), EnvStepper(make("Cue-v0"))
    other.instance.load(saved)
    for action in actions[at:]:
        for one, another in zip(player.step(action), other.step(action), strict=True):
            np.testing.assert_array_equal(one, another)
    assert player.instance.save() == other.instance.save()


@pytest.mark.parametrize("cue", [LEFT, RIGHT])
@pytest.mark.parametrize("choice", [LEFT, RIGHT])
def test_the_picture(player, cue, choice):
    observation = player.reset(seed_of(player, cue))
    sides = {LEFT: 1, RIGHT: 3}
    for place in range(STEPS + 1):
        picture = player.instance.picture(observation)
        assert (picture.shape, picture.dtype) == ((312, 120, 3), np.uint8)
        cells = picture[12::24, 12::24]
        agent = np.argwhere((cells == (245, 190, 80)).all(axis=2)).tolist()
        signs = np.argwhere((cells == (96, 190, 110)).all(axis=2)).tolist()
        assert agent == ([[11 - place, 2]] if place < STEPS else [[1, sides[choice]]])
        expected = [[1, sides[cue]]] + ([[11, sides[cue]]] if place == 0 else [])
        assert signs == [cell for cell in expected if cell not in agent]
        if place < STEPS:
            observation = player.step(choice)[0]


def test_an_episode_can_be_drawn(tmp_path):
    pytest.importorskip("PIL")
    from toys import policy_for

    played = play(policy_for("Cue-v0"), path=tmp_path / "play.gif", seed=1)
    assert (played.length, played.shown) == (STEPS, STEPS)
