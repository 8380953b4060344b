"""Bricks: known moments by hand, and whole games against a second telling of the rules in plain Python."""

import numpy as np

from nbrl.envs import EnvStepper, make
from nbrl.envs.bricks import WALL
from nbrl.envs.interface import STEPPED, TERMINATED, TRUNCATED

LEFT, STAY, RIGHT = range(3)
BRICK, FULL = 110, 255


class Rules:
    """The game as a set of bricks, a ball and a paddle; begins from a picture of a first observation."""

    def __init__(self, frame):
        cells = frame[::4, ::4]
        self.bricks = {(int(y), int(x)) for y, x in np.argwhere(cells == BRICK)}
        [[self.y, self.x]] = np.argwhere(cells[:9] == FULL).tolist()
        [_, [self.paddle], _] = np.argwhere(cells[9] == FULL).tolist()
        self.down, self.right = 1, 0  # to be seen from the second observation

    def step(self, action):
        """(reward, lost)."""
        self.paddle = int(np.clip(self.paddle + action - 1, 1, 8))
        if self.x + self.right in (-1, 10):
            self.right *= -1
        if self.y + self.down == -1:
            self.down = 1
        y, x = self.y + self.down, self.x + self.right
        if (y, x) in self.bricks:
            self.bricks.remove((y, x))
            self.down *= -1
            return 1, False
        if y == 9 and x in (self.paddle - 1, self.paddle, self.paddle + 1):
            self.down, y = -1, 8
            self.right = {self.paddle - 1: -1, self.paddle: self.right, self.paddle + 1: 1}[x]
            self.bricks = self.bricks or {(row, column) for row in (1, 2, 3) for column in range(10)}
        self.y, self.x = y, x
        return 0, y == 9

    def picture(self):
        cells = np.zeros((10, 10), np.uint8)
        for brick in self.bricks:
            cells[brick] = BRICK
        cells[9, self.paddle - 1 : self.paddle + 2] = FULL
        cells[self.y, self.x] = FULL
        return np.kron(cells, np.ones((4, 4), np.uint8))


def follow(rules):
    """The action that brings the paddle under a ball that comes down, most of the time."""
    column = rules.x + rules.right
    column = column if 0 <= column <= 9 else rules.x - rules.right
    return 1 + int(np.sign(column - rules.paddle))


def test_a_first_observation():
    player = EnvStepper(make("Bricks-v0"))
    before, frame = player.reset(7)
    assert np.array_equal(before, frame)
    cells = frame[::4, ::4]
    assert np.array_equal(np.kron(cells, np.ones((4, 4), np.uint8)), frame)
    assert (cells[1:4] == BRICK).all()
    assert np.flatnonzero(cells[9]).tolist() == [4, 5, 6]
    assert np.count_nonzero(cells[4] == FULL) == 1
    assert not cells[[0, 5, 6, 7, 8]].any()


def test_whole_games_follow_the_rules():
    player, rng, ends, returns = EnvStepper(make("Bricks-v0")), np.random.default_rng(0), [], []
    for seed in range(60):
        observation, total, status, length = player.reset(seed), 0.0, STEPPED, 0
        rules = Rules(observation[1])
        while status == STEPPED:
            action = int(rng.integers(3)) if length < 3 or rng.random() < 0.1 else follow(rules)
            shown, reward, status = player.step(action)
            if length == 0:  # which way the ball set out
                here, there = (np.argwhere(frame[:36:4, ::4] == FULL)[0] for frame in shown)
                rules.right = int(there[1] - here[1])
            expected = rules.step(action)
            length, total = length + 1, total + reward
            assert (reward, bool(status & TERMINATED)) == expected
            assert np.array_equal(shown[0], observation[1])
            assert np.array_equal(shown[1], rules.picture())
            observation = shown
        ends.append(status)
        returns.append(total)
    assert STEPPED | TERMINATED in ends
    assert max(returns) > 4


def test_a_game_that_is_not_lost_ends_at_its_limit():
    player, lengths = EnvStepper(make("Bricks-v0")), {}
    for seed in range(400):
        observation, status, length = player.reset(seed), STEPPED, 0
        rules = Rules(observation[1])
        while status == STEPPED:
            action = STAY if length == 0 else follow(rules)
            observation, _, status = player.step(action)
            if length == 0:
                here, there = (np.argwhere(frame[:36:4, ::4] == FULL)[0] for frame in observation)
                rules.right = int(there[1] - here[1])
            rules.step(action)
            length += 1
        lengths.setdefault(status, set()).add(length)
        if status & TRUNCATED:
            break
    assert lengths[STEPPED | TRUNCATED] == {1000}
    assert all(length < 1000 for length in lengths.get(STEPPED | TERMINATED, ()))


def test_a_wall_that_is_gone_stands_again_when_the_ball_is_met():
    player = EnvStepper(make("Bricks-v0"))
    player.reset(0)
    state = np.frombuffer(player.instance.save(), np.int64).copy()
    fields = state.reshape(2, -1)
    fields[0, :5] = 8, 4, 1, 1, 5  # ball in row 8, column 4, on its way down and right; the paddle under it
    fields[0, WALL:] = 0
    player.instance.load(state.tobytes())
    observation, reward, status = player.step(STAY)
    assert (reward, status) == (0, STEPPED)
    before, now = observation[:, ::4, ::4]
    assert not before[1:4].any()
    assert (now[1:4] == BRICK).all()
    assert now[8, 5] == FULL  # it goes up from there


def test_the_same_seed_and_actions_give_the_same_game():
    games = []
    for _ in range(2):
        player, rng = EnvStepper(make("Bricks-v0")), np.random.default_rng(5)
        frames = [player.reset(11)]
        status = STEPPED
        while status == STEPPED:
            observation, _, status = player.step(int(rng.integers(3)))
            frames.append(observation)
        games.append(np.array(frames))
    assert np.array_equal(*games)


def test_the_state_is_flat():
    player = EnvStepper(make("Bricks-v0"))
    player.reset(2)
    player.step(STAY)
    saved = player.instance.save()
    first = [player.step(action)[0] for action in (RIGHT, LEFT, STAY)]
    player.instance.load(saved)
    again = [player.step(action)[0] for action in (RIGHT, LEFT, STAY)]
    assert np.array_equal(first, again)
