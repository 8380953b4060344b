"""Settings that change over a run: the factor at each moment, and what learning makes of it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loops import Loop
from toys import tiny

import nbrl
from nbrl import configure
from nbrl.config import Config
from nbrl.methods.driver import scheduled
from nbrl.settings import points

shares = st.lists(st.floats(0, 1), min_size=1, max_size=8, unique=True).map(sorted)


@st.composite
def tables(draw):
    """Points of a share and a factor, in order."""
    return tuple((share, draw(st.floats(0, 10))) for share in draw(shares))


@given(table=tables(), progress=st.floats(0, 1.5))
def test_between_points_a_schedule_is_straight(table, progress):
    x, y = np.array(table).T
    assert scheduled(points(table), progress) == pytest.approx(np.interp(progress, x, y), rel=1e-9, abs=1e-9)


@given(st.floats(0, 2))
def test_schedules_by_name(progress):
    done = min(progress, 1.0)
    assert scheduled(points("linear"), progress) == 1 - done  # to the bit: the paper's
    assert scheduled(points("constant"), progress) == 1
    assert scheduled(points("cosine"), progress) == pytest.approx((1 + math.cos(math.pi * done)) / 2, abs=2e-6)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("linear", (1, 0.75, 0.5, 0.25)),
        ("constant", (1, 1, 1, 1)),
        ([[0, 1], [0.5, 0.2]], (1, 0.6, 0.2, 0.2)),
        ("[[0, 0.5], [1, 1.5]]", (0.5, 0.75, 1, 1.25)),
    ],
)
def test_the_learning_rate_follows_its_schedule(schedule, factors):
    loop = Loop(tiny(steps=20, rollout_length=5, learning_rate=0.01, learning_rate_schedule=schedule), "Catch-v0")
    for factor in factors:
        assert loop.run.learning_rate == pytest.approx(0.01 * factor)
        loop.rollout()


def test_the_entropy_weight_follows_its_schedule():
    """With a weight that falls to nothing half-way, the second half's gradients are those of no weight at all."""
    weights = {"entropy_weight": 5.0, "entropy_schedule": [[0, 1], [0.49, 1], [0.5, 0]]}
    falls = Loop(tiny(steps=20, rollout_length=5, **weights), "Catch-v0")
    none = Loop(tiny(steps=20, rollout_length=5, entropy_weight=0.0), "Catch-v0")
    for rollout in range(4):
        none.run.shared.theta[:] = falls.run.shared.theta
        falls.rollout()
        none.rollout()
        equal = all((falls.dtheta[name] == none.dtheta[name]).all() for name in falls.dtheta)
        assert equal == (rollout >= 2)
        if rollout == 1:  # so that both act alike from here on
            none = Loop(tiny(steps=20, rollout_length=5, entropy_weight=0.0), "Catch-v0")
            falls_again = Loop(tiny(steps=20, rollout_length=5, **weights), "Catch-v0")
            for loop in (none, falls_again):
                loop.run.shared.steps[0, 0] = 10
            falls = falls_again


@pytest.mark.parametrize(
    "wrong", ["quadratic", "", "[[0, 1]", [], [[0, 1], [0, 2]], [[0.5, 1], [0.2, 1]], [[0, -1]], [[0, 1], [2, 1]],
              [[0]], [[0, "a"]], [[0, math.nan]], 3, [[True, 1]], "[" * 100_000],
)  # fmt: skip
def test_what_is_no_schedule(wrong):
    with pytest.raises(
        ValueError, match=r"learning_rate_schedule is .*: it must be linear, constant, cosine, or points"
    ):
        Config(environment="Catch-v0", learning_rate_schedule=wrong)


def test_schedules_are_kept_and_given_on_the_command_line(tmp_path, nbrl_command):
    config = configure("Catch-v0", entropy_schedule=[[0, 1], [1, 0.25]])
    assert Config.from_dict(config.to_dict()) == config
    words = ["train", "Catch-v0", "steps=300", "learning_rate_schedule=cosine", "entropy_schedule=[[0,1],[1,0.5]]"]
    ended = nbrl_command(*words, "--out", tmp_path / "run")
    assert ended.returncode == 0, ended.stderr
    kept = nbrl.metrics.RunDirectory.open(tmp_path / "run").config()
    assert (kept.learning_rate_schedule, kept.entropy_schedule) == ("cosine", ((0, 1), (1, 0.5)))


def test_the_rate_is_that_of_the_steps_of_all_threads():
    loop = Loop(tiny(steps=40, rollout_length=5, actors=2, threads=2, learning_rate=0.01), "Catch-v0")
    loop.rollout(2, worker=0)
    loop.rollout(1, worker=1)
    assert loop.run.workers[1].optimiser.learning_rate == pytest.approx(0.01 * (1 - 10 / 40))
