"""Mazes: how they are made, what happens in them, and that training and evaluation never see the same one."""

import dataclasses
import warnings

import gymnasium
import numpy as np
import pytest
from guide import distances, next_action
from gymnasium.utils.env_checker import check_env
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from toys import TINY, policy_for

from nbrl import Trainer, configure, envs, evaluate, play
from nbrl.envs import EnvStepper, make
from nbrl.envs.interface import STEPPED, TERMINATED, TRUNCATED
from nbrl.envs.maze import Settings, maze
from nbrl.envs.maze.environment import MazeEnvironment, state_of
from nbrl.envs.maze.making import MILLION, WALL, carve, furnish, is_for_evaluation, open_dead_ends
from nbrl.envs.maze.world import ANGLE, CELLS, FRAME, HEADER, PORTAL_TILE, RADIUS, STEP, X, Y, side_of, world_at
from nbrl.kernels.random import seed_row
from nbrl.registration import MAZES

TURN_LEFT, TURN_RIGHT, FORWARD, BACK, STRAFE_LEFT, STRAFE_RIGHT = range(6)
SEEDS = st.integers(0, 2**64 - 1)
SIZES = st.integers(3, 13)
OPENNESS = st.floats(0, 1)
ACTIONS = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 12)), min_size=1, max_size=12)  # and how often each


def opened(**options):
    """A player of a small maze, and the world that it plays in."""
    player = EnvStepper(maze(**{"height": 8, "width": 8} | options))
    return player, world_at(state_of(player.instance))


@pytest.fixture(scope="module")
def small():
    return opened()


def random_row(seed):
    row = np.zeros(4, np.uint64)
    seed_row(row, np.uint64(seed), np.uint64(9))
    return row


def built(n, seed, openness):
    """A maze of n x n cells before and after dead ends are opened: bool arrays, true where a tile is open."""
    tiles, row = np.zeros((2 * n + 1) ** 2, np.uint16), random_row(seed)
    carve(tiles, n, row)
    before = (tiles < WALL).reshape(2 * n + 1, 2 * n + 1)
    open_dead_ends(tiles, n, round(openness * MILLION), row)
    assert set(np.unique(tiles)) == {0, WALL}
    return before, (tiles < WALL).reshape(2 * n + 1, 2 * n + 1)


def sides(plan):
    """How many sides of each cell are open, int (n, n)."""
    return (
        plan[:-1:2, 1::2][: len(plan) // 2].astype(int)
        + plan[2::2, 1::2]
        + plan[1::2, :-1:2][:, : len(plan) // 2]
        + plan[1::2, 2::2]
    )


def is_whole(plan):
    """Whether there is a way from every cell to every other."""
    filled, todo = np.zeros_like(plan), [(1, 1)]
    while todo:
        y, x = todo.pop()
        if plan[y, x] and not filled[y, x]:
            filled[y, x] = True
            todo += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
    return (filled == plan).all()


# The plan


@given(n=SIZES, seed=SEEDS, openness=OPENNESS)
def test_a_maze_is_a_tree_whose_dead_ends_are_opened(n, seed, openness):
    tree, plan = built(n, seed, openness)
    for one in (tree, plan):
        assert one[1::2, 1::2].all()  # cells
        assert not one[::2, ::2].any()  # posts
        assert not one[[0, -1]].any()
        assert not one[:, [0, -1]].any()
        assert is_whole(one)
    assert tree.sum() == n * n + n * n - 1  # passages of a tree
    ends = sides(tree) == 1
    wanted = int(np.floor(ends.sum() * round(openness * MILLION) / MILLION + 0.5))
    away = plan & ~tree
    assert (plan | ~tree).all()
    # Each wall that is gone opened one dead end that was wanted, and perhaps another.
    assert away.sum() <= wanted <= (ends & (sides(plan) > 1)).sum() <= 2 * away.sum()
    for y, x in np.argwhere(away):
        beside = [(y - 1, x), (y + 1, x)] if x % 2 else [(y, x - 1), (y, x + 1)]
        assert any(ends[(row - 1) // 2, (column - 1) // 2] for row, column in beside)


def backtracked(n, rng):
    """The recursive backtracker as it is told: from a cell to a random new neighbour, back where there is none."""
    plan = np.zeros((2 * n + 1, 2 * n + 1), bool)
    way = [tuple(int(number) for number in 1 + 2 * rng.integers(n, size=2))]
    plan[way[0]] = True
    while way:
        y, x = way[-1]
        steps = [(a, b) for a, b in ((-2, 0), (2, 0), (0, -2), (0, 2)) if 0 < y + a < 2 * n and 0 < x + b < 2 * n]
        steps = [(a, b) for a, b in steps if not plan[y + a, x + b]]
        if not steps:
            way.pop()
            continue
        a, b = steps[rng.integers(len(steps))]
        plan[y + a // 2, x + b // 2] = plan[y + a, x + b] = True
        way.append((y + a, x + b))
    return plan


def test_mazes_are_those_of_the_recursive_backtracker():
    rng = np.random.default_rng(3)
    ours = [built(11, seed, 0)[0] for seed in range(600)]
    others = [backtracked(11, rng) for _ in range(600)]
    for number in (1, 3):  # of dead ends and of junctions, about 10% of the cells
        a, b = (np.array([(sides(plan) == number).sum() for plan in plans]) for plans in (ours, others))
        assert abs(a.mean() - b.mean()) < 5 * np.sqrt((a.var() + b.var()) / 600)
    a, b = (np.mean(plans, axis=0) for plans in (ours, others))  # where passages are
    assert np.abs(a - b).max() < 5 * np.sqrt(2 * 0.25 / 600)


def test_all_wall_textures_and_the_masks_of_floors():
    seen = set()
    for seed in range(20):
        _, plan = built(11, seed, 0.3)
        tiles = np.where(plan, 0, WALL).astype(np.uint16).reshape(-1)
        furnish(tiles, 23, random_row(seed))
        tiles = tiles.reshape(23, 23)
        np.testing.assert_array_equal(tiles < WALL, plan)
        seen |= set(tiles[~plan].tolist())
        around = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
        for y, x in np.argwhere(plan):
            assert tiles[y, x] == sum(int(not plan[y + a, x + b]) << bit for bit, (a, b) in enumerate(around))
    assert seen == {WALL + texture for texture in range(5)}


# Training and evaluation


def plan_of(world):
    return (world.tiles < WALL).tobytes()


@given(seed=SEEDS, other=SEEDS, size=st.sampled_from([3, 4, 11]), openness=OPENNESS)
def test_a_maze_for_training_is_none_for_evaluation(seed, other, size, openness):
    (trained, here), (evaluated, there) = (
        opened(size=size, openness=openness, apples=0, evaluation=evaluation) for evaluation in (False, True)
    )
    trained.reset(seed)
    evaluated.reset(other)
    assert not is_for_evaluation(here.tiles)  # a matter of the plan alone: so none is both
    assert is_for_evaluation(there.tiles)
    assert plan_of(here) != plan_of(there)


def test_half_of_all_mazes_are_for_evaluation():
    kinds = []
    for seed in range(1000):
        tiles, row = np.zeros(23 * 23, np.uint16), random_row(seed)
        carve(tiles, 11, row)
        open_dead_ends(tiles, 11, 300_000, row)
        kinds.append(is_for_evaluation(tiles))
        furnish(tiles, 23, row)
        assert is_for_evaluation(tiles) == kinds[-1]  # textures do not count
    assert abs(np.mean(kinds) - 0.5) < 5 * 0.5 / np.sqrt(1000)


class Watched(MazeEnvironment):
    """A maze whose instances are remembered."""

    def __init__(self, options, made):
        super().__init__(options)
        self.made = made

    def make(self):
        instance = super().make()
        self.made.append((self.settings.evaluation, instance))
        return instance

    def for_evaluation(self):
        return Watched(dataclasses.replace(self.settings, evaluation=True), self.made)


@pytest.mark.slow
def test_the_engine_trains_and_evaluates_in_different_mazes(tmp_path):
    made = []
    watched = Watched(Settings(size=3, apples=1, height=36, width=36), made)
    trainer = Trainer(configure(watched, **TINY | {"steps": 3000, "actors": 4}), watched)
    trainer.start()
    trainer.join()
    assert len(made) == 4
    agent = policy_for(watched)
    evaluate(agent, watched, episodes=5, threads=2)
    if pytest.importorskip("PIL"):
        play(agent, watched, tmp_path / "play.gif")
    assert [evaluation for evaluation, _ in made] == [False] * 4 + [True] * 3
    for evaluation, instance in made:
        world = world_at(state_of(instance))
        assert plan_of(world) != bytes(49)
        assert is_for_evaluation(world.tiles) == evaluation


def test_evaluation_by_id_is_in_mazes_for_evaluation():
    for name in MAZES:
        seen = envs.make(name)
        assert not seen.settings.evaluation
        assert seen.for_evaluation().settings == dataclasses.replace(seen.settings, evaluation=True)
        assert seen.for_evaluation().name == name
    assert envs.make("CartPole-v1").for_evaluation().name == "CartPole-v1"


# An episode's beginning


def test_the_variants():
    for name, number, portal in (
        ("nbrl/Maze-v0", 10, True),
        ("nbrl/MazeApples-v0", 10, False),
        ("nbrl/MazePortal-v0", 0, True),
        ("nbrl/MazeFixed-v0", 10, True),
    ):
        environment = make(name)
        assert (environment.name, environment.observations.shape, environment.observations.dtype) == (
            name, (84, 84, 3), np.uint8,
        )  # fmt: skip
        assert (environment.actions.outputs, environment.frames_per_step) == (6, 4)
        player = EnvStepper(environment)
        worlds = []
        for seed in (3, 4):
            player.reset(seed)
            world = world_at(state_of(player.instance))
            assert world.tiles.size == 23 * 23
            assert (len(world.apples), world.counters[PORTAL_TILE] >= 0) == (number, portal)
            worlds.append(tuple(bytes(part) for part in (world.tiles, world.apples, world.counters, world.body)))
        tiles, apples, counters, body = (a == b for a, b in zip(*worlds, strict=True))
        fixed = name == "nbrl/MazeFixed-v0"
        assert (tiles, apples) == (fixed, fixed or number == 0)
        assert counters == (fixed or not portal)
        assert not body


def test_the_fixed_maze_is_the_same_in_evaluation():
    worlds = []
    for environment in (make("nbrl/MazeFixed-v0"), make("nbrl/MazeFixed-v0").for_evaluation()):
        player = EnvStepper(environment)
        player.reset(5)
        worlds.append(world_at(state_of(player.instance)))
    for name in ("tiles", "apples", "counters", "body"):
        np.testing.assert_array_equal(*(getattr(world, name) for world in worlds))


@given(
    seeds=st.lists(SEEDS, min_size=1, max_size=3),
    size=SIZES,
    fewer=st.none() | st.integers(0, 10),
    apples=st.integers(0, 7),
    portal=st.booleans(),
    openness=OPENNESS,
)
def test_everything_lies_on_a_cell_of_its_own_and_can_be_reached(seeds, size, fewer, apples, portal, openness):
    smallest = None if fewer is None else max(size - fewer, 3)
    player, world = opened(size=size, smallest=smallest, apples=apples, portal=portal, openness=openness)
    for seed in seeds:  # the last one is looked at: nothing is left of the mazes before it
        player.reset(seed)
    side, (x, y) = side_of(world), world.body[[X, Y]]
    assert (smallest or size) <= world.counters[CELLS] <= size
    here = int(y) * side + int(x)
    assert (x % 1, y % 1) == (0.5, 0.5)
    things = [*world.apples.tolist(), here] + ([int(world.counters[PORTAL_TILE])] if portal else [])
    assert len(set(things)) == len(things)
    assert all(tile // side % 2 == tile % side % 2 == 1 for tile in things)
    away = distances(world, [here])
    assert (away[world.tiles[: side * side] < WALL] >= 0).all()
    assert (world.tiles[side * side :] == WALL).all()
    ahead = int(y + np.rint(np.sin(world.body[ANGLE]))) * side + int(x + np.rint(np.cos(world.body[ANGLE])))
    assert world.tiles[ahead] < WALL


def test_mazes_of_every_size_come_up_alike():
    player, world = opened(size=6, smallest=3, apples=2)
    counts = np.zeros(7)
    for seed in range(2000):
        player.reset(seed)
        counts[world.counters[CELLS]] += 1
        cells = world.tiles[: side_of(world) ** 2].reshape(side_of(world), -1)[1::2, 1::2]
        assert (cells < WALL).all()
    assert counts[:3].sum() == 0
    assert np.abs(counts[3:] - 500).max() < 5 * np.sqrt(500)


def test_starts_and_things_are_everywhere(small):
    player, world = small
    counts = np.zeros((3, 23, 23))
    for seed in range(3000):
        player.reset(seed)
        counts[0, int(world.body[Y]), int(world.body[X])] += 1
        counts[1].flat[world.counters[PORTAL_TILE]] += 1
        counts[2].flat[world.apples] += 1
    cells = counts[:, 1::2, 1::2]
    assert cells.sum() == counts.sum() == 3000 * 12
    for one in cells:
        assert np.abs(one - one.mean()).max() < 5.5 * np.sqrt(one.mean())


# Motion


def wall_distance(world, x, y):
    """From a place to the nearest wall of all, in float64."""
    side = int(np.sqrt(world.tiles.size))
    rows, columns = np.divmod(np.flatnonzero(world.tiles >= WALL), side)
    away_x = np.maximum(np.maximum(columns - x, x - columns - 1), 0)
    away_y = np.maximum(np.maximum(rows - y, y - rows - 1), 0)
    return np.hypot(away_x, away_y).min()


@settings(max_examples=200)
@given(seed=SEEDS, openness=OPENNESS, size=st.integers(3, 6), actions=ACTIONS)
def test_the_agent_never_enters_a_wall(seed, openness, size, actions):
    player, world = opened(openness=openness, size=size, apples=3)
    player.reset(seed)
    steps = 0
    for action, times in actions:
        for _ in range(times):
            before = world.body[[X, Y]]
            _, reward, status = player.step(action)
            x, y = world.body[[X, Y]]
            steps += 1
            assert wall_distance(world, x, y) >= RADIUS - 1e-9
            assert reward in (0, 1, 2, 10, 11, 12)
            assert status == STEPPED
            if reward < 10:
                assert np.hypot(*(world.body[[X, Y]] - before)) <= 0.4 + 1e-9
            np.testing.assert_array_equal(world.path[steps], (x, y))
            assert (world.counters[FRAME], world.counters[STEP]) == (4 * steps, steps)
    assert not world.path[steps + 1 :].any()


def corridor(player, world, length=20):
    """Make it a maze of one long corridor along the row y = 1, with the agent at its left end, looking right."""
    player.reset(0)
    tiles = world.tiles.reshape(23, 23)
    tiles[:] = WALL
    tiles[1, 1 : 1 + length] = 0
    world.apples[:] = -1
    world.counters[PORTAL_TILE] = -1
    world.body[:] = 0
    world.body[[X, Y]] = 1.5, 1.5
    return tiles


def test_speed_grows_and_fades(small):
    player, world = small
    corridor(player, world)
    speed, x = 0.0, 1.5
    for action, push in [(FORWARD, 1)] * 20 + [(STRAFE_LEFT, 0)] * 4 + [(BACK, -1)] * 5:
        for _ in range(4):
            speed = 0.88 * speed + 0.12 * 0.1 * push
            x += speed
        player.step(action)
        assert world.body[X] == pytest.approx(x, abs=1e-9)
    assert world.body[Y] == pytest.approx(1 + RADIUS, abs=1e-9)


def test_turning(small):
    player, world = small
    for action, way in ((TURN_RIGHT, 1), (TURN_LEFT, -1)):
        corridor(player, world)
        angle = turning = 0.0
        for pushed in [1] * 7 + [0] * 20:
            for _ in range(4):
                turning = 0.8 * turning + 0.2 * np.pi / 48 * pushed
                angle += turning
            player.step(action if pushed else FORWARD)
            assert np.cos(world.body[ANGLE] - way * angle) == pytest.approx(1, abs=1e-12)
        assert np.degrees(angle) == pytest.approx(7 * 15)  # 15 degrees for each action, gliding included


@pytest.mark.parametrize(
    ("action", "along"), [(FORWARD, 0), (STRAFE_RIGHT, 1), (BACK, 2), (STRAFE_LEFT, 3)]
)  # fmt: skip
def test_the_four_ways_to_go(small, action, along):
    player, world = small
    corridor(player, world)
    world.body[X] = 10.5
    world.tiles.reshape(23, 23)[1:22, 1:22] = 0  # a hall
    world.body[Y] = 10.5
    player.step(action)
    moved = 0.1 * sum(1 - 0.88**n for n in range(1, 5))
    way = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)][along])
    np.testing.assert_allclose(world.body[[X, Y]], 10.5 + moved * way, atol=1e-12)


def test_it_slides_along_walls_and_around_corners(small):
    player, world = small
    corridor(player, world)
    world.body[ANGLE] = np.pi / 4
    for _ in range(30):
        player.step(FORWARD)
    assert world.body[Y] == pytest.approx(2 - RADIUS, abs=1e-9)
    assert world.body[3] == pytest.approx(0.1 * np.sqrt(0.5), rel=1e-3)  # what the wall leaves of the top speed
    # Into a doorway on the right that it does not stand right before: its corner pushes the agent aside.
    tiles = corridor(player, world)
    tiles[2:10, 5] = 0
    world.body[[X, Y, ANGLE]] = 5.85, 1.6, np.pi / 2
    for _ in range(12):
        player.step(FORWARD)
    assert world.body[Y] > 4
    assert 5 + RADIUS < world.body[X] < 6 - RADIUS


# Rewards, and the end


def test_a_player_that_knows_the_plan_takes_all_of_it():
    """Apple by apple, then the portal, which brings the apples back: 10 + number of apples, round after round."""
    for seed in range(5):
        player, world = opened(size=4, apples=5)
        player.reset(seed)
        plan, places, portal = plan_of(world), world.apples.copy(), world.counters[PORTAL_TILE]
        rounds, eaten = 0, 0
        for step in range(900):
            before = (world.apples >= 0).sum()
            at = world.body[[X, Y]]
            _, reward, status = player.step(next_action(world))
            assert status == (STEPPED | TRUNCATED if step == 899 else STEPPED)
            if reward >= 10:
                reward -= 10
                rounds += 1
                np.testing.assert_array_equal(world.apples, places)
                assert np.hypot(*(at - world.body[[X, Y]])) > 1
                eaten = 0
            else:
                assert before - (world.apples >= 0).sum() == reward
                eaten += reward
            assert (plan_of(world), world.counters[PORTAL_TILE]) == (plan, portal)
        assert rounds >= 3


def test_who_goes_sideways_has_more_of_an_episode_than_who_turns():
    """At a corner the one takes six steps to turn, in which speed fades, and the other none."""
    tiles, scores = np.zeros(2), np.zeros(2)
    for seed in range(10):
        for sideways in (0, 1):
            player, world = opened()
            player.reset(seed)
            scores[sideways] += sum(player.step(next_action(world, sideways))[1] for _ in range(900)) / 10
            steps = np.hypot(*np.diff(world.path, axis=0).T)
            tiles[sideways] += steps[steps < 1].sum() / 10  # but for those through the portal
    assert 150 < tiles[0] < 220
    assert 280 < tiles[1] < 360  # 60 seconds at top speed
    assert scores[1] > 1.4 * scores[0]


@given(seed=SEEDS)
def test_rewards_come_within_reach(small, seed):
    """An apple and the portal side by side, taken from just within 0.5 tiles and not from just beyond."""
    player, world = small
    for distance in (0.51, 0.49):
        for thing in ("apple", "portal"):
            player.reset(seed)
            side, tile = 23, int(world.apples[0])
            world.counters[PORTAL_TILE] = tile if thing == "portal" else -1
            world.apples[:] = -1
            if thing == "apple":
                world.apples[0] = tile
            for angle in np.arange(8) * np.pi / 4:
                x, y = tile % side + 0.5 + distance * np.cos(angle), tile // side + 0.5 + distance * np.sin(angle)
                if world.tiles[int(y) * side + int(x)] < WALL and wall_distance(world, x, y) > RADIUS:
                    break
            else:
                assume(False)
            world.body[:] = 0
            world.body[[X, Y]] = x, y
            _, reward, _ = player.step(TURN_LEFT)
            assert reward == (0 if distance > 0.5 else 1 if thing == "apple" else 10)


def test_an_episode_is_truncated_after_60_seconds(small):
    player, world = small
    player.reset(3)
    statuses = [player.step(TURN_LEFT)[2] for _ in range(900)]
    assert statuses == [STEPPED] * 899 + [STEPPED | TRUNCATED]
    assert world.counters[FRAME] == 3600
    with pytest.raises(RuntimeError, match="status 0"):
        player.step(TURN_LEFT)
    player.reset(3)
    assert player.step(TURN_LEFT)[2] == STEPPED


def test_what_cannot_be_done_fails():
    player, _ = opened()
    with pytest.raises(RuntimeError, match="status 0"):
        player.step(FORWARD)
    player.reset(0)
    for action in (-1, 6, 2**31 - 1):
        with pytest.raises(RuntimeError, match="status 0"):
            player.step(action)
    assert player.step(FORWARD)[2] == STEPPED


# States


@given(seed=SEEDS, actions=ACTIONS, at=st.integers(0, 40))
def test_a_restored_state_goes_on_alike(small, seed, actions, at):
    player, _ = small
    other, _ = opened()
    observation, again = player.reset(seed), other.reset(seed)
    np.testing.assert_array_equal(observation, again)
    assert player.instance.save() == other.instance.save()
    for step, action in enumerate(action for action, times in actions for _ in range(times)):
        if step == at:
            other.reset(seed // 2)
            other.instance.load(player.instance.save())
        observation, *others = player.step(action)
        again, *again_others = other.step(action)
        np.testing.assert_array_equal(observation, again)
        assert others == again_others
    assert player.instance.save() == other.instance.save()


def test_states_of_other_settings_are_refused(small):
    player, _ = small
    player.reset(1)
    for options in ({"openness": 0.4}, {"portal": False}, {"evaluation": True}, {"fixed": True}, {"width": 16}):
        other, _ = opened(**options)
        other.reset(1)
        with pytest.raises(RuntimeError, match="could not load"):
            other.instance.load(player.instance.save())
    fresh, _ = opened()
    with pytest.raises(RuntimeError, match="could not load"):
        player.instance.load(fresh.instance.save())


@settings(max_examples=300)
@given(data=st.data(), seed=st.integers(0, 9))
def test_a_damaged_state_is_refused_or_can_be_played(small, data, seed):
    player, _ = small
    player.reset(seed)
    for _ in range(seed):
        player.step(FORWARD)
    saved = bytearray(player.instance.save())
    tiles = len(saved) - 23 * 23 * 2 - 6
    for _ in range(data.draw(st.integers(1, 3))):
        start, end = data.draw(st.sampled_from([(8 * HEADER, 300), (tiles, len(saved))]))
        place = data.draw(st.integers(start, end - 1)) // 8 * 8
        saved[place : place + 8] = data.draw(st.binary(min_size=8, max_size=8))[: len(saved) - place]
    before = player.instance.save()
    try:
        player.instance.load(bytes(saved))
    except RuntimeError:
        assert player.instance.save() == before
        return
    player.instance.picture(np.zeros(0))
    for action in range(6):
        if player.step(action)[2] != STEPPED:
            return


@pytest.mark.parametrize(
    ("part", "index", "value"),
    [
        ("body", X, np.nan), ("body", X, 1e18), ("body", Y, -3.0), ("body", Y, 1.1), ("body", ANGLE, np.inf),
        ("body", 3, 5.0), ("body", 5, -1.0), ("apples", 0, 10**6), ("apples", 0, 22), ("apples", 2, -(10**12)),
        ("counters", PORTAL_TILE, 23 * 23), ("counters", STEP, 901), ("counters", STEP, -1), ("counters", FRAME, 2),
        ("counters", CELLS, 12), ("counters", CELLS, 10), ("counters", CELLS, -1),
        ("tiles", 0, 0), ("tiles", 22, 0), ("tiles", 23 * 10, 0), ("tiles", 24, WALL + 5), ("path", (3, 0), np.nan),
    ],
)  # fmt: skip
def test_states_that_cannot_be_are_refused(part, index, value):
    player, world = opened()
    player.reset(4)
    good = player.instance.save()
    getattr(world, part)[index] = value
    bad = player.instance.save()
    player.reset(5)
    with pytest.raises(RuntimeError, match="could not load"):
        player.instance.load(bad)
    player.instance.load(good)


# Settings


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": 2}, "size is 2: it must be a whole number from 3 to 50"),
        ({"size": 11.0}, "size is 11.0: it must be a whole number from 3 to 50"),
        ({"smallest": 2}, "smallest is 2: it must be a whole number from 3 to 11"),
        ({"size": 5, "smallest": 6}, "smallest is 6: it must be a whole number from 3 to 5"),
        ({"smallest": 4, "apples": 15}, "apples is 15: it must be a whole number from 0 to 14"),
        ({"apples": 120}, "apples is 120: it must be a whole number from 0 to 119"),
        ({"apples": True}, "apples is True: it must be a whole number"),
        ({"openness": 1.5}, "openness is 1.5: it must be a number from 0 to 1"),
        ({"openness": float("nan")}, "openness is nan: it must be a number from 0 to 1"),
        ({"height": 7}, "height is 7: it must be a whole number from 8 to 1024"),
        ({"width": 10**6}, "width is 1000000: it must be a whole number from 8 to 1024"),
        ({"portal": 1}, "portal is 1: it must be true or false"),
    ],
)
def test_settings_that_cannot_be(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        maze(**options)


def test_settings_and_names():
    environment = maze(size=5, apples=3, height=20, width=30)
    assert environment.name == "nbrl/Maze-v0(size=5, apples=3, height=20, width=30)"
    assert environment.observations.shape == (20, 30, 3)
    assert maze(apples=0).name == "nbrl/MazePortal-v0"
    assert maze(evaluation=True).name == "nbrl/Maze-v0"
    assert maze(smallest=4).name == "nbrl/Maze-v0(smallest=4)"
    crowded, world = opened(size=3, apples=7)
    crowded.reset(1)
    assert len({*world.apples.tolist(), int(world.counters[PORTAL_TILE])}) == 8
    assert envs.description(environment, environment.name) == f"<{environment.name}>"
    assert envs.description(maze(), "nbrl/Maze-v0") == "nbrl/Maze-v0"


# gymnasium


@pytest.mark.parametrize("name", MAZES)
def test_gymnasium_s_checks(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        environment = gymnasium.make(name, render_mode="rgb_array", view="both", render_height=40, render_width=30)
        check_env(environment.unwrapped)
    environment.close()


@pytest.mark.parametrize("name", MAZES)
def test_one_seed_gives_one_episode_natively_and_through_gymnasium(name):
    native, environment = EnvStepper(make(name)), gymnasium.make(name)
    for seed in (0, 7, 2**63 + 5):
        actions = np.random.default_rng(seed).integers(6, size=900)
        pictures = [native.reset(seed), environment.reset(seed=seed)[0]]
        assert pictures[0].tobytes() == pictures[1].tobytes()
        for action in actions:
            picture, reward, status = native.step(action)
            other, gained, terminated, truncated, info = environment.step(action)
            assert picture.tobytes() == other.tobytes()
            assert (reward, status) == (gained, STEPPED | TERMINATED * terminated | TRUNCATED * truncated)
            assert info == {}
            if status != STEPPED:
                break
        assert truncated or "Sparse" in name


def test_gymnasium_draws_seeds_of_its_own():
    environment = gymnasium.make("nbrl/Maze-v0")
    first = [environment.reset(seed=3)[0], *(environment.reset()[0] for _ in range(3))]
    again = [environment.reset(seed=3)[0], *(environment.reset()[0] for _ in range(3))]
    np.testing.assert_array_equal(first, again)
    assert len({picture.tobytes() for picture in first}) == 4


def test_gymnasium_takes_settings():
    environment = gymnasium.make("nbrl/MazePortal-v0", size=5, height=30, width=50, evaluation=True)
    player = EnvStepper(maze(size=5, apples=0, height=30, width=50, evaluation=True))
    assert environment.observation_space.shape == (30, 50, 3)
    np.testing.assert_array_equal(environment.reset(seed=9)[0], player.reset(9))
    for options, sentence in (
        ({"size": 1}, "size is 1"),
        ({"view": "side"}, "view is 'side': it must be one of eye, plan, both"),
        ({"render_height": 4}, "render_height is 4: it must be a whole number from 8"),
    ):
        with pytest.raises(ValueError, match=sentence):
            gymnasium.make("nbrl/Maze-v0", **options)
