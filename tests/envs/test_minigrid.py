"""DoorKey, KeyCorridor and MultiRoom beside the package minigrid: rules step by step, and what worlds are like."""

from collections import Counter, deque

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nbrl
from nbrl.envs import EnvStepper, make
from nbrl.envs.interface import STEPPED, TERMINATED, TRUNCATED
from nbrl.envs.minigrid import rules
from nbrl.envs.minigrid.rules import (
    BALL,
    CARRIED,
    CELLS,
    CLOSED,
    COLOUR,
    COLOUR_BIT,
    DIRECTION,
    DOOR,
    EMPTY,
    FIRST,
    GOAL,
    HEIGHT,
    KEY,
    KIND,
    LOCKED,
    OPEN,
    OVER,
    SECOND,
    STATE_BIT,
    STEPS,
    WALL,
    WIDTH,
    X,
    Y,
)

minigrid = pytest.importorskip("minigrid", reason="minigrid is in the extra dev")
from minigrid.envs import DoorKeyEnv, KeyCorridorEnv, MultiRoomEnv  # noqa: E402 - after the check that it is there

THEIRS = {
    "nbrl/DoorKey-8x8-v0": lambda: DoorKeyEnv(size=8),
    "nbrl/KeyCorridorS3R3-v0": lambda: KeyCorridorEnv(room_size=3, num_rows=3),
    "nbrl/MultiRoom-N7-S4-v0": lambda: MultiRoomEnv(minNumRooms=7, maxNumRooms=7, maxRoomSize=4),
}
NAMES = sorted(THEIRS)
STEPS_TOLD = 10_000
AHEAD = ((1, 0), (0, 1), (-1, 0), (0, -1))


def number(thing):
    """What a cell of theirs is here."""
    if thing is None:
        return EMPTY
    kind, colour, state = thing.encode()
    return kind | colour << COLOUR_BIT | state << STATE_BIT


def copy_world(theirs, player):
    """Let a player's state be the package's; its task stays."""
    words = np.frombuffer(player.instance.save(), np.int64).copy()
    assert (theirs.width, theirs.height) == (words[WIDTH], words[HEIGHT])
    words[[X, Y]] = theirs.agent_pos
    words[[DIRECTION, STEPS, OVER]] = theirs.agent_dir, theirs.step_count, 0
    words[CARRIED] = 0 if theirs.carrying is None else number(theirs.carrying)
    words[CELLS:] = [number(thing) for thing in theirs.grid.grid]
    player.instance.load(words.tobytes())


@pytest.mark.parametrize("name", NAMES)
def test_every_step_is_minigrid_s(name):
    """10,000 steps, at random but for half of those that a plan would take, since chance opens no doors."""
    theirs, player, rng = THEIRS[name](), EnvStepper(make(name)), np.random.default_rng(0)
    seen, done = Counter(), True
    for _ in range(STEPS_TOLD):
        if done:
            theirs.reset(seed=int(rng.integers(2**31)))
            player.reset(0)
            copy_world(theirs, player)
            plan = deque(solution(np.frombuffer(player.instance.save(), np.int64)))
            followed = rng.random() < 0.7
        if followed and plan and rng.random() < 0.97:
            action = plan.popleft()
        else:
            action, followed = int(rng.integers(7)), False
        expected, reward, terminated, truncated, _ = theirs.step(action)
        observation, found, status = player.step(np.array([action], np.int32))
        assert np.array_equal(observation, expected["image"])
        assert found == np.float32(reward)
        assert status == STEPPED | TERMINATED * terminated | TRUNCATED * truncated
        words = np.frombuffer(player.instance.save(), np.int64)
        assert words[CELLS:].tolist() == [number(thing) for thing in theirs.grid.grid]
        assert (words[X], words[Y], words[DIRECTION]) == (*theirs.agent_pos, theirs.agent_dir)
        done = terminated or truncated
        seen["solved"] += bool(terminated)
        seen["late"] += bool(truncated)
        seen["carries"] += theirs.carrying is not None
        seen["opened"] += int(((words[CELLS:] & KIND == DOOR) & (words[CELLS:] >> STATE_BIT == OPEN)).any())
    assert min(seen["solved"], seen["late"], seen["opened"]) >= 10
    assert seen["carries"] > 100 or name == "nbrl/MultiRoom-N7-S4-v0"


def test_a_success_at_the_limit_is_both():
    theirs, player = THEIRS["nbrl/DoorKey-8x8-v0"](), EnvStepper(make("nbrl/DoorKey-8x8-v0"))
    theirs.reset(seed=1)
    theirs.agent_pos, theirs.agent_dir, theirs.step_count = (6, 5), 1, theirs.max_steps - 1
    theirs.grid.set(6, 5, None)
    player.reset(0)
    copy_world(theirs, player)
    _, reward, terminated, truncated, _ = theirs.step(2)
    _, found, status = player.step(np.array([2], np.int32))
    assert (found, status) == (np.float32(reward), STEPPED | TERMINATED | TRUNCATED)
    assert (terminated, truncated) == (True, True)
    assert found == np.float32(0.1)
    with pytest.raises(RuntimeError):
        player.step(np.array([2], np.int32))


# Worlds


def solution(words):
    """The actions of a shortest way to the end, by breadth first; it never drops what it carries but for the ball."""
    words = words.copy()
    width, wanted = int(words[WIDTH]), int(words[rules.WANTED])
    start = (int(words[X]), int(words[Y]), int(words[DIRECTION]), int(words[CARRIED]), (), ())
    cells = words[CELLS:].tolist()
    ways, queue = {start: None}, deque([start])

    def back(place, action):
        actions = [action]
        while ways[place] is not None:
            place, action = ways[place]
            actions.append(action)
        return actions[::-1]

    while queue:
        place = queue.popleft()
        x, y, direction, carried, opened, taken = place
        there = x + AHEAD[direction][0], y + AHEAD[direction][1]
        at = there[1] * width + there[0]
        what = EMPTY if at in taken else cells[at]
        kind, colour, state = what & KIND, what >> COLOUR_BIT & COLOUR, OPEN if at in opened else what >> STATE_BIT
        following = [
            (rules.LEFT, (x, y, (direction + 3) % 4, *place[3:])),
            (rules.RIGHT, (x, y, (direction + 1) % 4, *place[3:])),
        ]
        if what == GOAL:
            return back(place, rules.FORWARD)
        if kind == EMPTY or (kind == DOOR and state == OPEN):
            following.append((rules.FORWARD, (*there, *place[2:])))
        if kind == DOOR and (state == CLOSED or (state == LOCKED and carried == (KEY | colour << COLOUR_BIT))):
            following.append((rules.TOGGLE, (*place[:4], tuple(sorted({*opened, at})), taken)))
        if kind == KEY and not carried:
            following.append((rules.PICK_UP, (*place[:3], what, opened, (*taken, at))))
        if kind == BALL and kind == wanted and not carried:
            return back(place, rules.PICK_UP)
        if kind == EMPTY and carried and any(cells[door] >> STATE_BIT == LOCKED for door in opened):
            following.append((rules.DROP, (*place[:3], 0, opened, taken)))  # which is in nobody's way then
        for action, after in following:
            if after not in ways:
                ways[after] = (place, action)
                queue.append(after)
    return None


@given(st.sampled_from(NAMES), st.integers(0, 2**63 - 1))
@settings(max_examples=60)
def test_every_world_can_be_solved(name, seed):
    player = EnvStepper(make(name))
    player.reset(seed)
    words = np.frombuffer(player.instance.save(), np.int64)
    actions = solution(words)
    assert actions
    assert len(actions) <= words[rules.MAX_STEPS]
    for action in actions:
        _, reward, status = player.step(np.array([action], np.int32))
    assert status & TERMINATED
    assert reward == np.float32(1 - 0.9 * len(actions) / words[rules.MAX_STEPS])


def measures(words):
    """What two worlds may differ in, as small numbers."""
    width, height = int(words[WIDTH]), int(words[HEIGHT])
    cells = words[CELLS:].reshape(height, width)
    kinds, found = cells & KIND, {"direction": int(words[DIRECTION])}
    doors = np.argwhere(kinds == DOOR)
    found["doors"] = len(doors)
    found["first door"] = int(doors[0][0] * width + doors[0][1]) // (1 if width < 20 else 64)
    found["door's colour"] = int(cells[tuple(doors[0])] >> COLOUR_BIT & COLOUR)
    found["agent"] = int(words[Y] * width + words[X]) // (1 if width < 20 else 64)
    found["walls"] = int((cells == WALL).sum()) // (1 if width < 20 else 4)
    for kind in (KEY, BALL, rules.GOAL_KIND):
        places = np.flatnonzero(kinds == kind)
        if len(places):
            found[f"place of {kind}"] = int(places[0]) // (1 if width < 20 else 64)
            found[f"colour of {kind}"] = int(cells.reshape(-1)[places[0]] >> COLOUR_BIT & COLOUR)
    found["colours of doors"] = len({int(cells[tuple(door)] >> COLOUR_BIT & COLOUR) for door in doors})
    found["ahead"] = int(kinds[words[Y] + AHEAD[words[DIRECTION]][1], words[X] + AHEAD[words[DIRECTION]][0]])
    return found


@pytest.mark.parametrize("name", NAMES)
def test_worlds_are_drawn_by_minigrid_s_chances(name):
    """Twice 1,500 worlds: of each measure the two shares of every value, by chi-square.

    About 14 measures a task: a limit of 5 deviations lets one test of 100,000 fail by luck.
    """
    count, theirs, player = 1500, THEIRS[name](), EnvStepper(make(name))
    ours, package = [], []
    for seed in range(count):
        player.reset(seed)
        ours.append(measures(np.frombuffer(player.instance.save(), np.int64)))
        theirs.reset(seed=seed)
        copy_world(theirs, player)
        package.append(measures(np.frombuffer(player.instance.save(), np.int64)))
    for measure in ours[0]:
        a, b = Counter(one[measure] for one in ours), Counter(one[measure] for one in package)
        common = [value for value in a | b if a[value] + b[value] >= 10]
        rare = [sum(each[value] for value in a | b if value not in common) for each in (a, b)]
        pairs = [(a[value], b[value]) for value in common] + ([rare] if sum(rare) >= 10 else [])
        chi_square = sum((x - y) ** 2 / (x + y) for x, y in pairs)
        freedom = len(pairs) - 1
        assert chi_square <= freedom + 5 * np.sqrt(2 * freedom) + 10, (measure, a, b)


# As environments


@pytest.mark.parametrize("name", NAMES)
def test_gymnasium_has_them_too(name):
    environment = gymnasium.make(name, render_mode="rgb_array")
    observation, _ = environment.reset(seed=3)
    assert observation.shape == (7, 7, 3)
    assert environment.observation_space.contains(observation)
    assert environment.action_space == gymnasium.spaces.Discrete(7)
    picture = environment.render()
    assert picture.dtype == np.uint8
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 5
    assert name in nbrl.envs.names()["native"]


def test_keywords_and_their_limits():
    corridor = make("nbrl/KeyCorridorS3R3-v0", arguments={"size": 6, "rows": 2})
    assert corridor.name == "nbrl/KeyCorridorS3R3-v0(size=6, rows=2)"
    words = np.frombuffer(EnvStepper(corridor).instance.save(), np.int64)
    assert words[[WIDTH, HEIGHT, rules.MAX_STEPS, FIRST, SECOND]].tolist() == [16, 11, 1080, 6, 2]
    for arguments, sentence in (
        ({"size": 4}, "size is 4"),
        ({"size": "8"}, "size is '8'"),
        ({"rooms": 2}, "does not take"),
    ):
        with pytest.raises(ValueError, match=sentence):
            make("nbrl/DoorKey-8x8-v0", arguments=arguments)


def test_states_that_are_none_are_refused():
    spec = make("nbrl/MultiRoom-N7-S4-v0")
    player = EnvStepper(spec)
    player.reset(1)
    good = np.frombuffer(player.instance.save(), np.int64)
    spec.check_state(good.tobytes())
    for place, value in (
        (WIDTH, 3),
        (FIRST, 40),
        (X, 25),
        (Y, -1),
        (DIRECTION, 4),
        (STEPS, 140),
        (CARRIED, 9),
        (OVER, 1),
        (CELLS, 77),
    ):
        bad = good.copy()
        bad[place] = value
        with pytest.raises(ValueError, match="state"):
            spec.check_state(bad.tobytes())
    outside = good.copy()  # on the empty ground, which no wall bounds
    outside[[X, Y]] = 24, 24
    outside[CELLS + 24 * 25 + 24] = EMPTY
    player.instance.load(outside.tobytes())
    for action in (0, 2, 1, 2, 1, 2, 1, 2, 5, 3, 4):
        player.step(np.array([action], np.int32))
