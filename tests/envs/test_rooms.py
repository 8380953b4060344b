"""Rooms: every step against a second telling of the rules in plain NumPy, and what a perfect player gets."""

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbrl import play
from nbrl.envs import EnvStepper, make
from nbrl.envs.interface import STEPPED, TERMINATED, TRUNCATED

TURN_LEFT, TURN_RIGHT, FORWARD = range(3)
FLOOR, WALL, GOAL = range(3)
AHEAD = ((0, 1), (1, 0), (0, -1), (-1, 0))  # right, down, left, up: a turn to the right is the next of them
SIDE = 11
SEEDS = st.integers(0, 2**64 - 1)
ACTIONS = st.lists(st.integers(0, 2), min_size=1, max_size=60)


@pytest.fixture(scope="module")
def player():
    return EnvStepper(make("Rooms-v0"))


class Rules:
    """Cells, the agent's place and direction, and the steps taken; read from a state, or given, and put into one."""

    def __init__(self, cells, place, direction, steps=0):
        self.cells, self.place, self.direction, self.steps = cells, place, direction, steps

    @classmethod
    def of(cls, player):
        row, column, direction, steps, *cells = np.frombuffer(player.instance.save(), np.int64).tolist()
        return cls(np.array(cells).reshape(SIDE, SIDE), (row, column), direction, steps)

    def put(self, player):
        numbers = [*self.place, self.direction, self.steps, *self.cells.reshape(-1)]
        player.instance.load(np.array(numbers, np.int64).tobytes())

    def after(self, place, direction, action):
        """Where an action leads."""
        if action != FORWARD:
            return place, (direction + (1 if action == TURN_RIGHT else -1)) % 4
        there = place[0] + AHEAD[direction][0], place[1] + AHEAD[direction][1]
        return (place if self.cells[there] == WALL else there), direction

    def step(self, action):
        """(reward, status)."""
        self.place, self.direction = self.after(self.place, self.direction, action)
        self.steps += 1
        if self.cells[self.place] == GOAL:
            return np.float32(1 - 0.9 * self.steps / 100), STEPPED | TERMINATED
        return 0, STEPPED | TRUNCATED if self.steps == 100 else STEPPED

    def view(self):
        """The whole plan, turned until the agent looks up; its part before the agent; the cells that it sees."""
        here = np.zeros((SIDE, SIDE), bool)
        here[self.place] = True
        turns = self.direction + 1  # against the clock
        plan = np.rot90(np.pad(self.cells, 6, constant_values=WALL), turns)
        [[row, column]] = np.argwhere(np.rot90(np.pad(here, 6), turns))
        part = plan[row - 6 : row + 1, column - 3 : column + 4]
        seen, todo = {(6, 3)}, [(6, 3)]
        while todo:
            y, x = todo.pop()
            if part[y, x] != WALL:
                around = {(y, x - 1), (y, x + 1), (y - 1, x - 1), (y - 1, x), (y - 1, x + 1)}
                new = {(v, w) for v, w in around - seen if v >= 0 and 0 <= w < 7}
                seen |= new
                todo += new
        observation = np.zeros((3, 7, 7), np.float32)
        for y, x in seen:
            observation[part[y, x], y, x] = 1
        return observation

    def best_actions(self):
        """A shortest way to the goal, by breadth-first search over places and directions; None where there is none."""
        ways, todo = {(self.place, self.direction): []}, deque([(self.place, self.direction)])
        while todo:
            at = todo.popleft()
            if self.cells[at[0]] == GOAL:
                return ways[at]
            for action in (FORWARD, TURN_LEFT, TURN_RIGHT):
                there = self.after(*at, action)
                if there not in ways:
                    ways[there] = [*ways[at], action]
                    todo.append(there)
        return None


@st.composite
def situations(draw):
    """Any plan within the outer walls, any open cell that is not the goal, any direction, any number of steps."""
    density, rng = draw(st.floats(0, 0.6)), np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cells = np.full((SIDE, SIDE), WALL)
    cells[1:-1, 1:-1] = np.where(rng.random((SIDE - 2, SIDE - 2)) < density, WALL, FLOOR)
    goal, place = rng.permutation((SIDE - 2) ** 2)[:2]
    cells[1 + goal // (SIDE - 2), 1 + goal % (SIDE - 2)] = GOAL
    place = int(1 + place // (SIDE - 2)), int(1 + place % (SIDE - 2))
    cells[place] = FLOOR
    return Rules(cells, place, draw(st.integers(0, 3)), draw(st.integers(0, 99)))


@settings(max_examples=400, deadline=None)
@given(rules=situations(), action=st.integers(0, 2))
def test_one_step_in_any_situation(player, rules, action):
    rules.put(player)
    observation, reward, status = player.step(action)
    assert (reward, status) == rules.step(action)
    now = Rules.of(player)
    assert (now.place, now.direction, now.steps) == (rules.place, rules.direction, rules.steps)
    np.testing.assert_array_equal(now.cells, rules.cells)
    np.testing.assert_array_equal(observation, rules.view())


@settings(deadline=None)
@given(seed=SEEDS, actions=ACTIONS)
def test_episodes_follow_the_rules(player, seed, actions):
    observation = player.reset(seed)
    rules = Rules.of(player)
    assert rules.steps == 0
    np.testing.assert_array_equal(observation, rules.view())
    for action in actions:
        observation, reward, status = player.step(action)
        assert (reward, status) == rules.step(action)
        np.testing.assert_array_equal(observation, rules.view())
        assert set(np.unique(observation)) <= {0, 1}
        assert observation.sum(axis=0).max() == 1
        assert not observation[WALL, 6, 3]
        if status != STEPPED:
            with pytest.raises(RuntimeError, match="status 0"):
                player.step(action)
            return


@given(seed=SEEDS)
def test_the_rooms(player, seed):
    player.reset(seed)
    rules = Rules.of(player)
    for horizontal in (rules.cells == WALL, rules.cells.T == WALL):
        assert horizontal[[0, 10]].all()
        assert horizontal[5, [0, 5, 10]].all()
        assert horizontal[5, 1:5].sum() == horizontal[5, 6:10].sum() == 3  # a doorway in either half
    inside = np.ones((SIDE, SIDE), bool)
    inside[[0, 5, 10]] = inside[:, [0, 5, 10]] = False
    assert not (rules.cells[inside] == WALL).any()
    assert (rules.cells == GOAL).sum() == 1
    assert rules.cells[rules.place] == FLOOR
    assert 0 <= rules.direction < 4


def test_starts_are_everywhere(player):
    draws = []
    for seed in range(4000):
        player.reset(seed)
        draws.append(Rules.of(player))
    directions = np.bincount([rules.direction for rules in draws], minlength=4)
    assert np.abs(directions - 1000).max() < 5 * np.sqrt(4000 * 0.25 * 0.75)
    inside = np.ones((SIDE, SIDE), bool)
    inside[[0, 5, 10]] = inside[:, [0, 5, 10]] = False
    starts, goals = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE))
    for rules in draws:
        starts[rules.place] += 1
        goals += rules.cells == GOAL
    doorways = sum(rules.cells != WALL for rules in draws)[5]
    for counts in (starts[inside], goals[inside]):  # of 68 floor cells
        assert np.abs(counts - 4000 / 68).max() < 5 * np.sqrt(4000 / 68)
    assert np.abs(doorways[[1, 2, 3, 4, 6, 7, 8, 9]] - 1000).max() < 5 * np.sqrt(4000 * 0.25 * 0.75)


def test_a_perfect_player_reaches_every_goal(player):
    returns = []
    for seed in range(300):
        player.reset(seed)
        actions = Rules.of(player).best_actions()
        *on_the_way, last = [player.step(action)[1:] for action in actions]
        assert on_the_way == [(0, STEPPED)] * (len(actions) - 1)
        assert last == (np.float32(1 - 0.9 * len(actions) / 100), STEPPED | TERMINATED)
        returns.append(last[0])
    assert np.mean(returns) == pytest.approx(0.914, abs=0.01)


def test_an_episode_is_truncated_after_100_steps(player):
    player.reset(3)
    steps = [player.step(TURN_LEFT)[1:] for _ in range(100)]
    assert steps == [(0, STEPPED)] * 99 + [(0, STEPPED | TRUNCATED)]
    with pytest.raises(RuntimeError, match="status 0"):
        player.step(TURN_LEFT)


def test_a_goal_reached_with_the_last_step_ends_the_episode(player):
    player.reset(3)
    rules = Rules.of(player)
    *before, last = rules.best_actions()
    for action in before:
        player.step(action)
    rules = Rules.of(player)
    rules.steps = 99
    rules.put(player)
    assert player.step(last)[1:] == (np.float32(0.1), STEPPED | TERMINATED)


@given(seed=SEEDS, actions=ACTIONS, at=st.integers(0, 60))
def test_a_restored_state_goes_on_alike(player, seed, actions, at):
    other = EnvStepper(make("Rooms-v0"))
    observation, again = player.reset(seed), other.reset(seed)
    np.testing.assert_array_equal(observation, again)
    assert player.instance.save() == other.instance.save()
    for step, action in enumerate(actions):
        if step == at:
            other.reset(seed // 2)
            other.instance.load(player.instance.save())
        observation, reward, status = player.step(action)
        again, *others = other.step(action)
        np.testing.assert_array_equal(observation, again)
        assert others == [reward, status]
        if status != STEPPED:
            return


@settings(max_examples=40, deadline=None)
@given(rules=situations())
def test_the_picture(player, rules):
    rules.put(player)
    observation = rules.view()
    picture = player.instance.picture(observation)
    assert (picture.shape, picture.dtype) == ((352, 352, 3), np.uint8)
    # Cells by a pixel near their corner, which the agent does not cover; those that are seen are lighter.
    corners = picture[3::32, 3::32].astype(int)
    plain = np.array([(58, 61, 74), (128, 132, 146), (96, 190, 110)])[rules.cells]
    lighter = (corners > plain).all(axis=2)
    np.testing.assert_array_equal(corners[~lighter], plain[~lighter])
    assert lighter.sum() == observation.sum()
    for kind in range(3):
        assert (rules.cells[lighter] == kind).sum() == observation[kind].sum()
    # The agent is in its cell, with more of it behind than before the middle.
    row, column = rules.place
    agent = np.argwhere((picture == (245, 190, 80)).all(axis=2)) - (32 * row + 16, 32 * column + 16)
    assert len(agent) > 100
    assert np.abs(agent).max() < 14
    along = agent @ AHEAD[rules.direction]
    assert along.max() == pytest.approx(10, abs=1)
    assert along.min() == pytest.approx(-9, abs=1)
    assert along.mean() < -2
    assert (agent @ AHEAD[(rules.direction + 1) % 4]).mean() == pytest.approx(0, abs=1)


def test_an_episode_can_be_drawn(tmp_path):
    pytest.importorskip("PIL")
    from toys import policy_for

    played = play(policy_for("Rooms-v0"), path=tmp_path / "play.gif", seed=2)
    assert played.shown == played.length > 1
