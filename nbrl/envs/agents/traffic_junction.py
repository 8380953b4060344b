"""Cars that must not meet at junctions they cannot see across (Sukhbaatar et al., 2016; Singh et al., 2019), in numba.

Cars arrive by chance where roads enter the grid, while there are fewer than so many, each with a route. Each step a car
goes on a cell (gas) or stays (brake); at the end of its route it leaves. A step costs a car 0.01 for each step since it
arrived, and 10 where another car is in its cell. Without vision a car sees its last action, its route and its own cell,
so it must hear from others where they are. After a fixed number of steps the episode is cut off.

Each of the agents is a place for a car: alive while it has one, new where another has come in its place. Rules and
numbers are those of IC3Net's traffic junction, whose cars can also see the cells around them.
"""

import numpy as np
from gymnasium import spaces
from numba import carray

from nbrl.envs.agents.roads import LEVELS, cells, routes
from nbrl.envs.interface import STEPPED, TRUNCATED, NativeEnvironment, name_with
from nbrl.kernels.compile import cfunction, jit
from nbrl.kernels.random import ROW, integer, seed_row, uniform
from nbrl.settings import Setting
from nbrl.spaces import NEW, PRESENT

GAS, BRAKE, ACTIONS = range(3)
WAITING, CRASH = -0.01, -10.0

# State, int64. The level: cars, the grid's side, steps, places of arrival, routes of each, the longest route, cells of
# the road, how far a car sees, steps until the traffic is full, and the rates of arrival as float64; then the run and
# the episode; of each car whether it is there, its route, its place on it, its last action and its age; then of each
# cell of the grid its number among the road's or -1, and of each route its length and its cells. ALL_STEPS counts those
# of all episodes.
(
    CARS, SIDE, LIMIT, ARRIVALS, ROUTES, LONGEST, ROAD, VISION, CURRICULUM, FIRST_RATE, RATE, ALL_STEPS, STEP, CRASHES,
    THROUGH, RANDOM,
) = range(16)  # fmt: skip
FIRST_CAR = RANDOM + ROW
THERE, ROUTE, PLACE, LAST, AGE, CAR = range(6)

SIGHT = Setting(0, "", least=0, most=5)
GROWTH = Setting(0, "", least=0, most=10**9)

PIXELS = 20  # of a cell's side in the picture
GROUND, TARMAC, MOVING, BRAKING, CRASHED = (28, 30, 38), (64, 68, 82), (96, 190, 110), (245, 190, 80), (200, 80, 70)


@jit
def _state(pointer):
    head = carray(pointer, FIRST_CAR)
    n, routes_in_all = head[CARS], head[ARRIVALS] * head[ROUTES]
    return carray(pointer, FIRST_CAR + n * CAR + head[SIDE] * head[SIDE] + routes_in_all * (1 + head[LONGEST]))


@jit
def _car(state, i):
    """The numbers of car i."""
    return state[FIRST_CAR + i * CAR : FIRST_CAR + (i + 1) * CAR]


@jit
def _route(state, route):
    """The length of a route, and then its cells, numbers in the grid row by row."""
    begin = FIRST_CAR + state[CARS] * CAR + state[SIDE] * state[SIDE] + route * (1 + state[LONGEST])
    return state[begin : begin + 1 + state[LONGEST]]


@jit
def _cell(state, car):
    """Where a car is, a number in the grid."""
    return _route(state, car[ROUTE])[1 + car[PLACE]]


@jit
def _rate(state):
    """The probability of an arrival now."""
    rates = state[FIRST_RATE : RATE + 1].view(np.float64)
    if state[CURRICULUM] == 0:
        return rates[1]
    return rates[0] + (rates[1] - rates[0]) * min(state[ALL_STEPS] / state[CURRICULUM], 1.0)


@jit
def _cars_in(state, cell):
    """How many cars are in a cell."""
    count = 0
    for i in range(state[CARS]):
        car = _car(state, i)
        count += car[THERE] and _cell(state, car) == cell
    return count


@jit
def _look(state, observation_pointer):
    """Of each car its last action, its route, and of each cell in sight which of the road it is, and its cars."""
    n, side, vision, road = state[CARS], state[SIDE], state[VISION], state[ROAD]
    wide, grid = 2 * vision + 1, FIRST_CAR + state[CARS] * CAR
    kinds = road + 2  # each cell of the road, off the road, and how many cars are there
    size = 2 + wide * wide * kinds
    observation = carray(observation_pointer, n * size)
    observation[:] = 0
    for i in range(n):
        car, row = _car(state, i), observation[i * size : (i + 1) * size]
        if car[THERE]:
            row[0] = car[LAST]
            row[1] = car[ROUTE] / (state[ARRIVALS] * state[ROUTES] - 1)
            cell = _cell(state, car)
            for y in range(wide):
                for x in range(wide):
                    at_row, at_column = cell // side + y - vision, cell % side + x - vision
                    seen = row[2 + (y * wide + x) * kinds : 2 + (y * wide + x + 1) * kinds]
                    number = -1
                    if 0 <= at_row < side and 0 <= at_column < side:
                        number = state[grid + at_row * side + at_column]
                    seen[number if number >= 0 else road] = 1
                    if number >= 0:
                        seen[road + 1] = _cars_in(state, at_row * side + at_column)


@jit
def _arrive(state, alive):
    """Let cars arrive, in any place that is free."""
    n, random = state[CARS], state[RANDOM:FIRST_CAR].view(np.uint64)
    free = 0
    for i in range(n):
        free += 1 - _car(state, i)[THERE]
    for arrival in range(state[ARRIVALS]):
        if free > 0 and uniform(random) <= _rate(state):
            chosen = integer(random, free)
            for i in range(n):
                car = _car(state, i)
                if not car[THERE]:
                    if chosen == 0:
                        car[THERE], car[PLACE], car[LAST], car[AGE] = 1, 0, GAS, 0
                        car[ROUTE] = arrival * state[ROUTES] + integer(random, state[ROUTES])
                        alive[i] = PRESENT | NEW
                        break
                    chosen -= 1
            free -= 1


@cfunction("int32(CPointer(int64), uint64, CPointer(float32), CPointer(uint8), CPointer(uint8))")
def traffic_reset(state_pointer, seed, observation_pointer, mask_pointer, alive_pointer):
    """Empty roads."""
    state = _state(state_pointer)
    seed_row(state[RANDOM:FIRST_CAR].view(np.uint64), seed, np.uint64(0))
    state[STEP] = state[CRASHES] = state[THROUGH] = 0
    state[FIRST_CAR : FIRST_CAR + state[CARS] * CAR] = 0
    carray(alive_pointer, state[CARS])[:] = 0
    _look(state, observation_pointer)
    return STEPPED


@cfunction(
    "int32(CPointer(int64), CPointer(int32), CPointer(float32), CPointer(float32), CPointer(uint8), CPointer(uint8))"
)
def traffic_step(state_pointer, action_pointer, observation_pointer, reward_pointer, mask_pointer, alive_pointer):
    """All cars move, then others arrive. It fails after an end."""
    state = _state(state_pointer)
    n = state[CARS]
    actions, reward, alive = carray(action_pointer, n), carray(reward_pointer, n), carray(alive_pointer, n)
    if state[STEP] >= state[LIMIT]:
        return 0
    state[STEP] += 1
    state[ALL_STEPS] += 1
    for i in range(n):
        car = _car(state, i)
        alive[i] = reward[i] = 0
        if car[THERE]:
            alive[i] = PRESENT
            car[AGE] += 1
            car[LAST] = actions[i]
            if actions[i] == GAS:
                car[PLACE] += 1
                if car[PLACE] == _route(state, car[ROUTE])[0]:
                    car[THERE], alive[i] = 0, 0
                    state[THROUGH] += 1
    _arrive(state, alive)
    for i in range(n):
        car = _car(state, i)
        if car[THERE]:
            crashed = _cars_in(state, _cell(state, car)) > 1
            state[CRASHES] += crashed
            if not alive[i] & NEW:
                reward[i] = WAITING * car[AGE] + (CRASH if crashed else 0.0)
    _look(state, observation_pointer)
    return STEPPED | TRUNCATED if state[STEP] == state[LIMIT] else STEPPED


def crashes_and_cars_through(state: bytes) -> tuple[int, int]:
    """Of a state's episode until now: in how many steps a car was where another was, summed over cars, and how many
    cars came to the end of their routes."""
    words = np.frombuffer(state, np.int64)
    return int(words[CRASHES]), int(words[THROUGH])


class TrafficJunction(NativeEnvironment):
    """See the top of this file."""

    def __init__(self, level: str, vision: int, curriculum: int) -> None:
        if level not in LEVELS:
            raise ValueError(f"level is {level!r}: it must be one of {', '.join(LEVELS)}")
        self._made_with = level, SIGHT.checked("vision", vision), GROWTH.checked("curriculum", curriculum)
        rules, ways, road = LEVELS[level], routes(LEVELS[level]), cells(LEVELS[level])
        longest = max(len(route) for own in ways for route in own)
        head = np.zeros(FIRST_CAR + rules.agents * CAR, np.int64)
        head[: CURRICULUM + 1] = (
            rules.agents, rules.side, rules.steps, len(ways), len(ways[0]), longest, len(road), vision, curriculum
        )  # fmt: skip
        head[FIRST_RATE : RATE + 1].view(np.float64)[:] = rules.first_rate, rules.rate
        grid = np.full((rules.side, rules.side), -1)
        for number, cell in enumerate(road):
            grid[cell] = number
        table = np.zeros((len(ways) * len(ways[0]), 1 + longest), np.int64)
        for row, route in zip(table, (route for own in ways for route in own), strict=True):
            row[0] = len(route)
            row[1 : 1 + len(route)] = [y * rules.side + x for y, x in route]
        self.header = np.concatenate([head, grid.reshape(-1), table.reshape(-1)])
        super().__init__(
            traffic_reset,
            traffic_step,
            state_size=self.header.nbytes,
            begins_with=self.header,
            observation_space=spaces.Box(
                0.0, float(rules.agents), (2 + (2 * vision + 1) ** 2 * (len(road) + 2),), np.float32
            ),
            action_space=spaces.Discrete(ACTIONS),
            agents=rules.agents,
            agents_come_and_go=True,
            name=name_with(
                "nbrl/TrafficJunction-v0", level=(level, "easy"), vision=(vision, 0), curriculum=(curriculum, 0)
            ),
            possible=self._possible,
            state_picture=traffic_picture,
        )

    def for_evaluation(self) -> "TrafficJunction":
        """The same in full traffic."""
        level, vision, _ = self._made_with
        return TrafficJunction(level, vision, 0)

    def _possible(self, state: np.ndarray) -> bool:
        """Whether it is of this level, within an episode, and each car on its route."""
        words, head = state.view(np.int64), self.header
        first, last = FIRST_CAR, FIRST_CAR + head[CARS] * CAR
        fixed = [*range(RATE + 1), *range(last, len(head))]
        cars = words[first:last].reshape(-1, CAR)
        table = head[last + head[SIDE] ** 2 :].reshape(-1, 1 + head[LONGEST])
        if not ((words[fixed] == head[fixed]).all() and words[RANDOM:FIRST_CAR].any() and (cars >= 0).all()):
            return False
        there = cars[cars[:, THERE] == 1]
        return bool(
            0 <= words[STEP] < head[LIMIT]
            and (words[[ALL_STEPS, CRASHES, THROUGH]] >= 0).all()
            and (cars[:, THERE] <= 1).all()
            and (cars[:, ROUTE] < len(table)).all()
            and (cars[:, LAST] < ACTIONS).all()
            and (cars[:, AGE] <= words[STEP]).all()
            and (there[:, PLACE] < table[there[:, ROUTE], 0]).all()
        )


def traffic_picture(state: np.ndarray, says: np.ndarray | None = None) -> np.ndarray:
    """The roads from above: cars that move are green, that brake yellow, that have met red; in them what they said."""
    words = state.view(np.int64)
    n, side = int(words[CARS]), int(words[SIDE])
    last = FIRST_CAR + n * CAR
    grid = words[last : last + side * side].reshape(side, side)
    table = words[last + side * side :].reshape(-1, 1 + int(words[LONGEST]))
    colours = np.where(grid[:, :, None] >= 0, np.array(TARMAC), np.array(GROUND)).astype(np.uint8)
    picture = colours.repeat(PIXELS, axis=0).repeat(PIXELS, axis=1)
    cars = {i: car for i, car in enumerate(words[FIRST_CAR:last].reshape(n, CAR)) if car[THERE]}
    at = [int(table[car[ROUTE], 1 + car[PLACE]]) for car in cars.values()]
    for (i, car), cell in zip(cars.items(), at, strict=True):
        y, x = (PIXELS * place for place in divmod(cell, side))
        colour = CRASHED if at.count(cell) > 1 else BRAKING if car[LAST] == BRAKE else MOVING
        picture[y + 3 : y + PIXELS - 3, x + 3 : x + PIXELS - 3] = colour
        if says is not None and says[i].any():
            picture[y + 7 : y + PIXELS - 7, x + 7 : x + PIXELS - 7] = says[i]
    return picture


def traffic_junction(level: str = "easy", vision: int = 0, curriculum: int = 0) -> TrafficJunction:
    """Traffic of a level, easy, medium or hard. Cars see so many cells around them; in training the traffic grows over
    so many steps of each environment, of `curriculum`, from little to full."""
    return TrafficJunction(level, vision, curriculum)
