"""DeepSea beside a slow reference, written from bsuite's rules."""

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbrl.envs
from nbrl import envs
from nbrl.envs import EnvStepper
from nbrl.envs.deep_sea import AT_COLUMN, AT_ROW, BAD, CELLS, deep_sea
from nbrl.envs.interface import STEPPED, TERMINATED

STATE = np.int64


class Reference:
    """The deterministic sea."""

    def __init__(self, size, mapping_seed):
        self.size, self.row, self.column, self.bad = size, 0, 0, False
        self.mapping = np.random.RandomState(mapping_seed).binomial(1, 0.5, [size, size])

    def look(self):
        seen = np.zeros((self.size, self.size), np.float32)
        if self.row < self.size:
            seen[self.row, self.column] = 1
        return seen

    def step(self, action):
        reward = 0.0
        if action == self.mapping[self.row, self.column]:
            reward += 1.0 * (self.column == self.size - 1)
            reward -= 0.01 / self.size
            self.column = min(self.column + 1, self.size - 1)
        else:
            self.bad |= self.row == self.column
            self.column = max(self.column - 1, 0)
        self.row += 1
        return self.look(), reward, self.row == self.size


def state_of(player):
    return np.frombuffer(player.instance.save(), STATE)


@given(st.integers(1, 12), st.integers(0, 2**32 - 1), st.data())
def test_it_is_the_reference_s(size, mapping_seed, data):
    player, reference = EnvStepper(deep_sea(size, mapping_seed=mapping_seed)), Reference(size, mapping_seed)
    np.testing.assert_array_equal(player.reset(0), reference.look())
    for step in range(size):
        action = data.draw(st.integers(0, 1))
        seen, reward, status = player.step(action)
        expected, its_reward, ended = reference.step(action)
        np.testing.assert_array_equal(seen, expected)
        assert reward == pytest.approx(its_reward, abs=1e-7)
        assert status == STEPPED | (TERMINATED if ended else 0)
        assert ended == (step == size - 1)
        assert state_of(player)[[AT_ROW, AT_COLUMN, BAD]].tolist() == [reference.row, reference.column, reference.bad]
    with pytest.raises(RuntimeError, match="status 0"):
        player.step(0)
    player.close()


@pytest.mark.parametrize("size", [1, 10, 50])
def test_right_all_the_way_is_the_best_there_is(size):
    env = gymnasium.make("nbrl/DeepSea-v0", size=size)
    mapping = np.random.RandomState(42).binomial(1, 0.5, [size, size])
    total, _ = 0.0, env.reset(seed=1)
    for row in range(size):
        _, reward, terminated, _, _ = env.step(int(mapping[row, row]))
        total += reward
    assert terminated
    assert total == pytest.approx(0.99)
    env.close()


def test_currents_and_noise():
    size, ends, moved, rights = 5, [], 0, 0
    sea = deep_sea(size, stochastic=True)
    player, mapping = EnvStepper(sea), sea.header[CELLS:].reshape(size, size)
    for seed in range(4000):
        player.reset(seed)
        column = 0
        for row in range(size):
            seen, reward, _ = player.step(int(mapping[row, column]))
            if row < size - 1:
                assert reward == pytest.approx(-0.01 / size)
                now = int(seen[row + 1].argmax())
                moved, rights = moved + (now > column), rights + 1
                column = now
            elif column in (0, size - 1):
                ends.append(reward - 1.0 * (column == size - 1) + 0.01 / size)
            else:
                assert reward == pytest.approx(-0.01 / size)
    # 16,000 moves right succeed 4 of 5 times, with a deviation of 0.0032; 5 of them are one in a million.
    assert moved / rights == pytest.approx(0.8, abs=0.016)
    # About 1,600 ends, whose noise is normal: their mean has a deviation of 0.025, their deviation of 0.018.
    assert len(ends) > 1000
    assert np.mean(ends) == pytest.approx(0, abs=0.13)
    assert np.std(ends) == pytest.approx(1, abs=0.1)
    player.close()


def test_states_that_a_sea_cannot_be_in():
    sea = deep_sea(4)
    player = EnvStepper(sea)
    player.reset(3)
    player.step(0)
    saved = state_of(player)
    sea.check_state(saved.tobytes())
    for place, number in ((AT_ROW, 4), (AT_ROW, -1), (AT_COLUMN, 2), (BAD, 2), (CELLS, 2), (0, 5)):
        wrong = saved.copy()
        wrong[place] = number
        with pytest.raises(ValueError, match="can never be in a state"):
            sea.check_state(wrong.tobytes())
    player.close()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"size": 0}, "size is 0: it must be a whole number of at least 1"),
        ({"size": 2.5}, r"size is 2\.5"),
        ({"stochastic": 1}, "stochastic is 1: it must be true or false"),
        ({"mapping_seed": -1}, "mapping_seed is -1"),
        ({"sizes": 3}, "which nbrl/DeepSea-v0 does not take"),
    ],
)
def test_seas_that_cannot_be(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        envs.make("nbrl/DeepSea-v0", arguments=arguments)


def test_names_and_pictures():
    assert deep_sea().name == "nbrl/DeepSea-v0"
    assert deep_sea(20, stochastic=True).name == "nbrl/DeepSea-v0(size=20, stochastic=True)"
    env = gymnasium.make("nbrl/DeepSea-v0", render_mode="rgb_array", size=3)
    env.reset(seed=1)
    first = env.render()
    env.step(0)
    assert first.shape == (48, 48, 3)
    assert (first != env.render()).any()
    env.close()
    assert "nbrl/DeepSea-v0" in nbrl.envs.names()["native"]
