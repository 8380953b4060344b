"""The riddle, the levers and the traffic beside slow references, written from their rules."""

import math
from itertools import pairwise

import numpy as np
import pytest
from oracles import Xoshiro

from nbrl import envs
from nbrl.envs.agents import switch_riddle, traffic_junction
from nbrl.envs.agents.roads import LEVELS, arrivals, cells, routes
from nbrl.envs.interface import EnvStepper
from nbrl.spaces import ALIVE, NEW, PRESENT

STEPPED, TERMINATED, TRUNCATED = 1, 2, 4
NAMES = ["nbrl/SwitchRiddle-v0", "nbrl/Lever-v0", "nbrl/TrafficJunction-v0"]


@pytest.mark.parametrize("agents", [2, 3, 4, 7])
def test_the_riddle(agents):
    player, rng, told, never = EnvStepper(switch_riddle.switch_riddle(agents)), np.random.default_rng(agents), 0, 0
    rooms = []
    for seed in range(300):
        seen, day, been = player.reset(seed), 0, set()
        while True:
            [[here]] = np.argwhere(seen[:, 0])
            assert seen[:, 0].tolist() == [float(agent == here) for agent in range(agents)]
            assert player.mask.tolist() == [[1, int(agent == here)] for agent in range(agents)]
            assert player.alive.tolist() == [PRESENT if agent == here else ALIVE for agent in range(agents)]
            been.add(int(here))
            rooms.append(int(here))
            actions = np.zeros(agents, int)
            actions[here] = tell = int(rng.random() < 0.1 or len(been) == agents)
            seen, reward, status = player.step(actions)
            day += 1
            right = len(been) == agents
            assert reward == (0 if not tell else 1 if right else -1)
            assert (player.rewards == reward).all()
            over = tell or day == 4 * agents - 6
            assert status == (STEPPED | TERMINATED if over else STEPPED)
            if over:
                told, never = told + tell, never + (not tell)
                break
        with pytest.raises(RuntimeError, match="failed"):
            player.step(np.zeros(agents, int))
    assert told > 20
    assert never > 0 or agents == 2
    # Every agent is as likely each day: chi-square of agents - 1 degrees of freedom, within 5 standard deviations.
    counts = np.bincount(rooms, minlength=agents)
    expected = len(rooms) / agents
    assert ((counts - expected) ** 2 / expected).sum() < agents - 1 + 5 * math.sqrt(2 * (agents - 1))


def test_the_levers():
    player, rng, totals, drawn = EnvStepper(envs.make("nbrl/Lever-v0")), np.random.default_rng(0), [], []
    for seed in range(2000):
        seen = player.reset(seed)
        assert seen.shape == (5, 500)
        assert (seen.sum(axis=1) == 1).all()
        names = seen.argmax(axis=1)
        assert len(set(names.tolist())) == 5
        drawn += names.tolist()
        levers = rng.integers(5, size=5)
        _, reward, status = player.step(levers)
        assert reward == (len(set(levers.tolist())) - 1) / 4
        assert (player.rewards == reward).all()
        assert status == STEPPED | TERMINATED
        totals.append(reward)
    with pytest.raises(RuntimeError, match="failed"):
        player.step(levers)
    # By chance 5 (1 - 0.8^5) levers are distinct; the standard error of 2,000 means is below 0.005.
    assert np.mean(totals) == pytest.approx((5 * (1 - 0.8**5) - 1) / 4, abs=0.02)
    assert len(set(drawn)) == 500  # 10,000 draws leave out one of 500 with a chance of 1e-6


# Traffic


def test_roads_and_routes():
    # Numbers of routes by the rules: two straight ones; straight, right and left from each of four places; with a
    # second turn, except where the first leads out, seven from each of eight.
    assert {name: [len(own) for own in routes(level)] for name, level in LEVELS.items()} == {
        "easy": [1, 1], "medium": [3] * 4, "hard": [7] * 8
    }  # fmt: skip
    assert {name: len(cells(level)) for name, level in LEVELS.items()} == {"easy": 13, "medium": 52, "hard": 128}
    assert routes(LEVELS["easy"]) == [[[(i, 3) for i in range(7)]], [[(3, i) for i in range(7)]]]
    # From below, in the right lane: straight on, right after one cell of the junction, left after three.
    up, right, left = ([(row, 7) for row in range(13, last - 1, -1)] for last in (0, 7, 6))
    assert routes(LEVELS["medium"])[1] == [
        up, right + [(7, column) for column in range(8, 14)], left + [(6, column) for column in range(6, -1, -1)]
    ]  # fmt: skip
    for level in LEVELS.values():
        for (start, _), own in zip(arrivals(level), routes(level), strict=True):
            assert len({tuple(route) for route in own}) == len(own)
            for route in own:
                assert route[0] == start
                assert set(route) <= set(cells(level))
                assert len(set(route)) == len(route)
                moves = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(route)]
                assert all(abs(y) + abs(x) == 1 for y, x in moves)
                assert sum(one != other for one, other in pairwise(moves)) <= 2
                assert any(place in (0, level.side - 1) for place in route[-1])
                out = route[-1][0] + moves[-1][0], route[-1][1] + moves[-1][1]
                assert not all(0 <= place < level.side for place in out)


class Car:
    def __init__(self, route, number):
        self.route, self.number, self.place, self.last, self.age, self.new = route, number, 0, 0, 0, True

    @property
    def cell(self):
        return self.route[self.place]


class Traffic:
    """The rules with lists and a grid of the road's cells by number."""

    def __init__(self, level, vision, random):
        self.level, self.vision, self.random, self.step_, self.rate = level, vision, random, 0, level.rate
        self.cars = [None] * level.agents
        self.numbers = {cell: number for number, cell in enumerate(cells(level))}
        self.ways = routes(level)
        self.crashes = self.through = 0

    def integer(self, n):
        return int(self.random.uniform() * n)

    def step(self, actions):
        rewards, alive = [0.0] * len(self.cars), [0] * len(self.cars)
        self.step_ += 1
        for i, car in enumerate(self.cars):
            if car is None:
                continue
            car.new, car.age, car.last, alive[i] = False, car.age + 1, int(actions[i]), PRESENT
            if actions[i] == 0:
                if car.place == len(car.route) - 1:
                    self.cars[i], alive[i] = None, 0
                    self.through += 1
                else:
                    car.place += 1
        for place, own in enumerate(self.ways):
            if None not in self.cars:
                break
            if self.random.uniform() <= self.rate:
                free = [i for i, car in enumerate(self.cars) if car is None]
                i, route = free[self.integer(len(free))], self.integer(len(own))
                self.cars[i], alive[i] = Car(own[route], place * len(own) + route), PRESENT | NEW
        at = [car.cell for car in self.cars if car]
        for i, car in enumerate(self.cars):
            if car:
                met = at.count(car.cell) > 1
                self.crashes += met
                if not car.new:
                    rewards[i] = -0.01 * car.age - 10 * met
        return self.look(), rewards, alive, self.step_ == self.level.steps

    def look(self):
        rows, at, v = [], [car.cell for car in self.cars if car], self.vision
        off, most = len(self.numbers), len(self.ways) * len(self.ways[0]) - 1
        for car in self.cars:
            windows = np.zeros((2 * v + 1, 2 * v + 1, off + 2))
            if car:
                for y in range(-v, v + 1):
                    for x in range(-v, v + 1):
                        cell = car.cell[0] + y, car.cell[1] + x
                        windows[y + v, x + v, self.numbers.get(cell, off)] = 1
                        windows[y + v, x + v, off + 1] = at.count(cell)
            told = [car.last, car.number / most] if car else [0, 0]
            rows.append([*told, *windows.reshape(-1)])
        return np.array(rows, np.float32)


def random_of(player):
    words = np.frombuffer(player.instance.save(), np.uint64)
    return Xoshiro(words[traffic_junction.RANDOM : traffic_junction.FIRST_CAR])


@pytest.mark.parametrize(("level", "vision"), [("easy", 0), ("easy", 2), ("medium", 0), ("medium", 1), ("hard", 0)])
def test_the_traffic(level, vision):
    spec = envs.make("nbrl/TrafficJunction-v0", arguments={"level": level, "vision": vision})
    player, rng, met, passed, replaced = EnvStepper(spec), np.random.default_rng(0), 0, 0, 0
    for seed in range(12):
        seen = player.reset(seed)
        reference = Traffic(LEVELS[level], vision, random_of(player))
        assert not seen.any()
        assert not player.alive.any()
        before = player.alive.copy()
        brakes = rng.random() < 0.5
        for _ in range(LEVELS[level].steps):
            actions = rng.integers(2, size=LEVELS[level].agents) * brakes
            seen, reward, status = player.step(actions)
            expected, rewards, alive, over = reference.step(actions)
            np.testing.assert_allclose(seen, expected, atol=1e-6)
            assert player.rewards == pytest.approx(rewards, abs=1e-5)
            assert reward == pytest.approx(np.mean(rewards), abs=1e-5)
            assert player.alive.tolist() == alive
            assert status == (STEPPED | TRUNCATED if over else STEPPED)
            replaced += ((before & ALIVE > 0) & (player.alive & NEW > 0)).sum()
            before = player.alive.copy()
            if not over:
                spec.check_state(player.instance.save())
        counted = traffic_junction.crashes_and_cars_through(player.instance.save())
        assert counted == (reference.crashes, reference.through)
        met, passed = met + counted[0], passed + counted[1]
        with pytest.raises(RuntimeError, match="failed"):
            player.step(actions)
    assert met > 0
    assert passed > 0
    assert replaced > 0 or level == "hard"


def test_the_traffic_grows_over_the_steps_of_training_and_is_full_in_evaluation():
    spec = envs.make("nbrl/TrafficJunction-v0", arguments={"curriculum": 4000})
    arrived = []
    for one in (spec, spec.for_evaluation()):
        player, places = EnvStepper(one), []
        for seed in range(1000):
            player.reset(seed)
            for _ in range(4):  # of which no car comes to its end, and five do not fill the places
                player.step(np.zeros(5))
            words = np.frombuffer(player.instance.save(), np.int64)
            cars = words[traffic_junction.FIRST_CAR :][: 5 * traffic_junction.CAR].reshape(5, -1)
            places.append(cars[:, traffic_junction.THERE].sum())
        arrived.append(places)
    # Two places of arrival and four steps: 0.8 cars at a rate of 0.1; at 0.3 it is 2.4, less a little for the fifth.
    first, last = np.mean(arrived[0][:100]), np.mean(arrived[0][-100:])
    assert first == pytest.approx(0.85, abs=0.35)  # the standard error is 0.09
    assert last == pytest.approx(2.4, abs=0.5)  # 0.13
    assert np.mean(arrived[1]) == pytest.approx(2.4, abs=0.2)  # 0.04


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_is_one_episode_and_a_state_goes_on(name):
    player, other, rng = EnvStepper(envs.make(name)), EnvStepper(envs.make(name)), np.random.default_rng(0)
    spec = envs.make(name)
    assert (player.reset(5) == other.reset(5)).all()
    if name == "nbrl/Lever-v0":
        return
    for _ in range(2):
        actions = np.zeros(spec.agents, int) if "Riddle" in name else rng.integers(2, size=spec.agents)
        player.step(actions)
        saved = player.instance.save()
        spec.check_state(saved)
        other.instance.load(saved)
        expected, found = player.step(actions), other.step(actions)
        assert (expected[0] == found[0]).all()
        assert expected[1:] == found[1:]


@pytest.mark.parametrize("name", NAMES)
def test_pictures(name):
    player = EnvStepper(envs.make(name))
    seen = player.reset(3)
    before = player.instance.picture(seen)
    assert (before.dtype, before.ndim, before.shape[2]) == (np.uint8, 3, 3)
    for _ in range(3):
        seen, _, status = player.step(np.zeros(len(seen), int))
        if status & (TERMINATED | TRUNCATED):
            break
    assert (player.instance.picture(seen) != before).any()


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("nbrl/SwitchRiddle-v0", {"agents": 1}, "agents is 1: it must be"),
        ("nbrl/TrafficJunction-v0", {"level": "heavy"}, "level is 'heavy': it must be one of easy, medium, hard"),
        ("nbrl/TrafficJunction-v0", {"vision": -1}, "vision is -1: it must be"),
        ("nbrl/TrafficJunction-v0", {"curriculum": "yes"}, "curriculum is 'yes'"),
        ("nbrl/Lever-v0", {"levers": 3}, "which nbrl/Lever-v0 does not take"),
    ],
)
def test_keywords_that_cannot_be(name, arguments, words):
    with pytest.raises(ValueError, match=words):
        envs.make(name, arguments=arguments)
