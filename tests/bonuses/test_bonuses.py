"""What is given for what is new: by hand, beside slow tables, and through whole runs."""

import json
import logging
import math

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from oracles import CUT, TERMINATED, TRUNCATED
from told import told
from toys import tiny

import nbrl
from nbrl import Trainer, configure
from nbrl.bonuses.cells import PROBES, Cells, cell_of, table_size
from nbrl.bonuses.count import visit
from nbrl.bonuses.episodic import KNOWN, LOST, NEW, look_up
from nbrl.checkpoint import newest, read_tensors
from nbrl.methods.state import BONUS
from nbrl.spaces import Observations

PICTURE = Observations(spaces.Box(0, 255, (84, 84, 4), np.uint8))
COLOURS = Observations(spaces.Box(0, 255, (60, 80, 3), np.uint8))
SMALL = Observations(spaces.Box(0, 255, (7, 7, 3), np.uint8))
VECTOR = Observations(spaces.Box(np.array([-1.2, -np.inf], np.float32), np.array([0.6, np.inf], np.float32)))


def cell(observations, values, bins=20):
    row = np.ascontiguousarray(values, observations.dtype)
    return int(cell_of(Cells.make(observations, bins), row.view(np.uint8).reshape(-1)))


# By hand


def rewards(bonus, ends, rewards=(1.0, 2.0, 4.0, 8.0, 16.0), rollouts=1, **settings):
    """What learning sees of told steps, whose observations all differ but for what an end lets begin anew."""
    loop = told(ends, list(rewards), bonus=bonus, **settings)
    loop.rollout(rollouts)
    worker = loop.run.workers[0]
    return worker.rollout.reward[:, 0].tolist(), worker.sums[BONUS]


def test_places_that_nobody_has_been_in_are_worth_the_weight():
    found, total = rewards("count", [0] * 5, count_weight=0.5)
    assert found == [1.5, 2.5, 4.5, 8.5, 16.5]
    assert total == 2.5
    assert rewards("episodic", [0] * 5, episodic_weight=0.25)[0] == [1.25, 2.25, 4.25, 8.25, 16.25]
    assert rewards("episodic+count", [0] * 5, episodic_weight=0.25, count_weight=0.5)[0] == [
        1.75,
        2.75,
        4.75,
        8.75,
        16.75,
    ]
    assert rewards(None, [0] * 5) == ([1, 2, 4, 8, 16], 0)


def test_the_bonus_comes_after_the_clip_and_the_scale():
    assert rewards("count", [0] * 5, count_weight=0.5, reward_clip=1.0)[0] == [1.5] * 5
    plain, _ = rewards(None, [0] * 5, normalise_rewards=True, rollouts=2)
    found, _ = rewards("count", [0] * 5, count_weight=0.5, normalise_rewards=True, rollouts=2)
    assert found == pytest.approx(np.add(plain, 0.5))


def test_each_visit_is_worth_less_and_each_once_an_episode():
    """Cue's corridor looks the same each time, but for the cue: places 1 to 10, and the choice at the last."""
    settings = {"actors": 1, "envs_per_batch": 1, "threads": 1, "rollout_length": 11, "seed": 1, "reward_clip": None}
    for bonus, worth in (("count", lambda n: 1 / math.sqrt(n)), ("episodic", lambda n: 1.0)):
        config = configure(
            "Cue-v0",
            bonus=bonus,
            count_weight=1.0,
            episodic_weight=1.0,
            method="a3c",
            normalise_rewards=False,
            **settings,
        )
        learner = Trainer(config)._run.learner
        learner.attach(0)
        for n in (1, 2, 3, 4):  # episodes, each a rollout
            learner.loop(0, 1)
            found = learner.workers[0].rollout.reward[:, 0]
            # The last step stays at the junction, which the one before came to.
            last = {"count": 1 / math.sqrt(2 * n), "episodic": 0.0}[bonus]
            junction = {"count": 1 / math.sqrt(2 * n - 1), "episodic": 1.0}[bonus]
            assert found[:9] == pytest.approx([worth(n)] * 9)
            assert found[9] == pytest.approx(junction)
            assert abs(abs(found[10] - last) - 1) < 1e-6  # the reward of the choice is 1 or -1


def test_only_an_end_of_the_episode_begins_anew():
    for end, seen in ((0, 2), (CUT, 2), (TERMINATED, 3), (TRUNCATED, 3)):
        loop = told([0, end, 0, 0, 0], bonus="episodic")
        loop.rollout()
        assert loop.run.own_bonuses[0]["episodic"].visits.episode[0] == (1 if seen == 2 else 2)


# Cells


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=2), st.integers(1, 1000))
def test_numbers_in_the_same_bins_are_one_place(numbers, bins):
    numbers = np.array(numbers, np.float32)
    low, width = (
        np.array([np.float32(-1.2), -1.0]),
        np.array([np.float64(np.float32(0.6)) - np.float32(-1.2), 2.0]) / bins,
    )
    place = np.floor((numbers.astype(float) - low) / width)
    middle = ((place + 0.5) * width + low).astype(np.float32)
    inside = np.floor((middle.astype(float) - low) / width) == place  # not where a bin is below float32's own steps
    edge = np.abs((numbers - low) / width - np.round((numbers - low) / width)) < 1e-6
    if inside.all() and not edge.any():
        assert cell(VECTOR, numbers, bins) == cell(VECTOR, middle, bins)
        for i in range(2):
            other = middle.astype(float)
            other[i] += width[i]
            assert cell(VECTOR, other, bins) != cell(VECTOR, middle, bins)


def test_small_pictures_and_bytes_are_as_they_are():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, SMALL.shape).astype(np.uint8)
    places = {cell(SMALL, picture)}
    for _ in range(200):
        picture[tuple(rng.integers(SMALL.shape))] ^= np.uint8(1 << rng.integers(8))
        places.add(cell(SMALL, picture))
    assert len(places) == 201


def slow_cell(picture):
    """Means of 8 x 11 blocks of the newest frame, of every second pixel each way, in 8 levels."""
    height, width = picture.shape[:2]
    means = [
        picture[
            row * height // 8 : (row + 1) * height // 8 : 2, column * width // 11 : (column + 1) * width // 11 : 2
        ].mean()
        for row in range(8)
        for column in range(11)
    ]
    return tuple(np.floor(np.array(means) / 255 * 7 + 0.5))


@pytest.mark.parametrize("observations", [PICTURE, COLOURS], ids=["newest of four", "colours"])
def test_large_pictures_are_places_by_their_blocks(observations):
    rng, by_cell, by_blocks = np.random.default_rng(1), {}, {}
    picture = rng.integers(0, 256, observations.shape).astype(np.uint8)
    for _ in range(400):
        y, x = rng.integers(0, picture.shape[0] - 8), rng.integers(0, picture.shape[1] - 8)
        picture[y : y + 8, x : x + 8, -observations.newest :] = rng.integers(256)
        found, slow = cell(observations, picture), slow_cell(picture[:, :, -observations.newest :])
        assert by_cell.setdefault(found, slow) == slow
        assert by_blocks.setdefault(slow, found) == found
    assert len(by_blocks) > 10
    before = cell(PICTURE, np.zeros(PICTURE.shape))
    older = np.zeros(PICTURE.shape)
    older[:, :, :3] = 255  # frames before the newest do not matter
    assert cell(PICTURE, older) == before


# Tables


@given(st.lists(st.integers(1, 40), max_size=200))
def test_visits_are_counted(places):
    keys, visits, expected = np.zeros(table_size(40), np.uint64), np.zeros(table_size(40), np.int64), {}
    for place in places:
        key = np.uint64((place * 0x9E3779B97F4A7C15) % 2**64)
        expected[place] = expected.get(place, 0) + 1
        assert visit(keys, visits, key) == expected[place]


@given(st.lists(st.one_of(st.none(), st.integers(1, 40)), max_size=200))
def test_an_episode_s_places_are_known(places):
    keys, marked, episode, seen = np.zeros(table_size(40), np.uint64), np.zeros(table_size(40), np.int64), 1, set()
    for place in places:
        if place is None:
            episode, seen = episode + 1, set()
        else:
            key = np.uint64((place * 0x9E3779B97F4A7C15) % 2**64)
            assert look_up(keys, marked, key, episode) == (KNOWN if place in seen else NEW)
            seen.add(place)


def test_a_full_table_says_so():
    keys, visits, marked = np.zeros(PROBES, np.uint64), np.zeros(PROBES, np.int64), np.zeros(PROBES, np.int64)
    for place in range(1, PROBES + 1):
        assert visit(keys, visits, np.uint64(place)) == 1
    assert visit(keys, visits, np.uint64(PROBES + 1)) == 0
    assert visit(keys, visits, np.uint64(1)) == 2
    keys[:] = 0
    for place in range(1, PROBES + 1):
        assert look_up(keys, marked, np.uint64(place), 1) == NEW
    assert look_up(keys, marked, np.uint64(PROBES + 1), 1) == LOST
    assert look_up(keys, marked, np.uint64(PROBES + 1), 2) == NEW


# Runs


def test_what_is_reported_saved_and_warned_of(tmp_path, caplog):
    config = tiny(bonus="count", count_weight=0.5, steps=4000, report_interval=0.02)
    with caplog.at_level(logging.WARNING, "nbrl"):
        Trainer(config, directory=tmp_path / "run").start(wait=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {line["charts/episodic_return_max"] for line in lines if line.get("charts/episodic_return_count")} <= {-1, 1}
    assert 0 < lines[-1]["charts/bonus"] <= 0.5
    arrays, _ = read_tensors(newest(tmp_path / "run" / "checkpoints"))
    assert arrays["bonus/count/visits"].sum() == lines[-1]["steps"]
    policy, _ = read_tensors(tmp_path / "run" / "policy.safetensors")
    assert not [name for name in policy if name.startswith("bonus")]
    assert "table is full" not in caplog.text


def test_a_run_warns_of_a_full_table(caplog):
    with caplog.at_level(logging.WARNING, "nbrl"):
        nbrl.train("CartPole-v1", bonus="count", count_cells=1, bonus_bins=1000, steps=5000, threads=1, seed=1)
    assert caplog.text.count("a bonus's table is full") == 1
    assert "set count_cells, 1, higher" in caplog.text


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("counts", "unknown bonus 'counts': did you mean 'count'?"),
        ("count+count", "bonus is 'count\\+count': it must have no name twice"),
        ("count+", "unknown bonus ''"),
        (3, "bonus is 3: it must be a name"),
    ],
)
def test_names_that_are_none(value, sentence):
    with pytest.raises(ValueError, match=sentence):
        configure("Catch-v0", bonus=value)


def test_the_order_of_names_does_not_matter():
    assert configure("Catch-v0", bonus="episodic+count", seed=1) == configure(
        "Catch-v0", bonus="count+episodic", seed=1
    )
    assert configure("Catch-v0").bonus is None


def test_a_treasure_that_chance_hardly_finds():
    # One in 4096 episodes finds it by chance, of 5000. Of 24 seeds 22 learnt it: none of four in 1 of 20,000 cases.
    settings = {"environment_arguments": {"size": 12}, "threads": 1, "steps": 60_000}
    found = [nbrl.train("nbrl/DeepSea-v0", bonus="count", seed=seed, **settings) for seed in (1, 2, 3, 4)]
    returns = [nbrl.evaluate(agent, episodes=1, greedy=True).mean_return for agent in found]
    assert max(returns) == pytest.approx(0.99)
