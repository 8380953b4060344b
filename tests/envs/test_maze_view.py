"""Pictures of mazes: rays against a slow exact caster, what stands where, and what is drawn from above."""

import itertools

import gymnasium
import numpy as np
import pytest
from guide import next_action
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from toys import policy_for

from nbrl import play
from nbrl.animation import BAR
from nbrl.envs import EnvStepper
from nbrl.envs.maze.environment import maze, state_of
from nbrl.envs.maze.making import WALL
from nbrl.envs.maze.pictures import both, eye, paint, plan, screen_at, screen_bytes
from nbrl.envs.maze.textures import APPLE, LEVELS, PORTAL, PYRAMID, SIDE, STARTS, TEXELS, TEXTURES, texels
from nbrl.envs.maze.view import HALF_HEIGHT, cast, draw
from nbrl.envs.maze.world import ANGLE, PORTAL_TILE, STEP, X, Y, room, world_at

FORWARD = 2
SEEDS = st.integers(0, 2**64 - 1)
ANGLES = st.one_of(st.floats(0, 2 * np.pi), st.integers(0, 8).map(lambda turns: turns * np.pi / 4))
PARTS = st.one_of(st.floats(0.0, 0.999), st.just(0.5))


class Scene:
    """A maze, whose agent can be put anywhere."""

    def __init__(self, **options):
        self.player = EnvStepper(maze(**options))
        self.state = state_of(self.player.instance)
        self.world = world_at(self.state)

    def put(self, x, y, angle):
        self.world.body[:] = 0
        self.world.body[[X, Y, ANGLE]] = x, y, angle

    def clear(self):
        """No apple and no portal."""
        self.world.apples[:] = -1
        self.world.counters[PORTAL_TILE] = -1

    def hall(self, size=23, texture=0):
        """One room with nothing in it, the agent in its middle."""
        self.player.reset(0)
        self.clear()
        tiles = self.world.tiles.reshape(size, size)
        tiles[:] = WALL + texture
        tiles[1:-1, 1:-1] = 0
        self.put(size / 2, size / 2, 0.0)
        return tiles

    def picture(self, height=84, width=84):
        """As the agent sees it."""
        picture = np.zeros((height, width, 3), np.uint8)
        paint(self.state, np.zeros(screen_bytes(height, width, len(self.world.apples)), np.uint8), texels(), picture)
        return picture

    def depth(self, height, width):
        """The distances that a picture is drawn with."""
        picture = np.zeros((height, width, 3), np.uint8)
        memory = np.zeros(screen_bytes(height, width, len(self.world.apples)), np.uint8)
        screen = screen_at(memory, len(self.world.apples), picture)
        draw(self.world, texels(), screen)
        return screen.depth


@pytest.fixture(scope="module")
def scene():
    return Scene()


def exact(tiles, x, y, ray_x, ray_y):
    """Distance in lengths of the ray, side, place and tile, by meeting the ray with every side of every wall."""
    side = int(np.sqrt(tiles.size))
    rows, columns = np.divmod(np.flatnonzero(tiles >= WALL), side)
    best = np.inf, 0, 0.0, 0
    for face, (at, along, start, slope, other, other_slope) in enumerate(
        ((columns, rows, x, ray_x, y, ray_y), (rows, columns, y, ray_y, x, ray_x))
    ):
        if slope == 0:
            continue
        for edge in (at, at + 1):
            with np.errstate(over="ignore", invalid="ignore"):  # with a ray that is almost along this side
                distance = (edge - start) / slope
                place = other + distance * other_slope
            met = (distance > 0) & (place >= along) & (place <= along + 1)
            if met.any():
                first = np.argmin(np.where(met, distance, np.inf))
                if distance[first] < best[0]:
                    tile = int(rows[first] * side + columns[first])
                    best = float(distance[first]), face, float(place[first] % 1), tile
    return best


@settings(max_examples=400)
@given(seed=SEEDS, size=st.integers(3, 12), where=st.integers(0), part_x=PARTS, part_y=PARTS, angle=ANGLES)
def test_rays_against_a_slow_exact_caster(seed, size, where, part_x, part_y, angle):
    scene = Scene(size=size, apples=0, height=8, width=8)
    scene.player.reset(seed)
    tiles, side = scene.world.tiles, 2 * size + 1
    tile = np.flatnonzero(tiles < WALL)
    tile = int(tile[where % len(tile)])
    x, y = tile % side + part_x, tile // side + part_y
    assume(room(tiles, side, x, y) > 1e-3)
    ray_x, ray_y = np.cos(angle), np.sin(angle)
    distance, face, place, texture = cast(tiles, side, x, y, ray_x, ray_y)
    wanted, wanted_face, wanted_place, wanted_tile = exact(tiles, x, y, ray_x, ray_y)
    assume(min(wanted_place, 1 - wanted_place) > 1e-6)  # along an edge or into a corner either side is right
    assert distance == pytest.approx(wanted, abs=1e-4)
    assert distance == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    assert face == wanted_face
    assert place == pytest.approx(wanted_place, abs=1e-6)
    assert texture == tiles[wanted_tile] - WALL


@settings(max_examples=60)
@given(seed=SEEDS, steps=st.integers(0, 60), angle=ANGLES, height=st.integers(8, 50), width=st.integers(8, 70))
def test_the_columns_of_a_picture_against_the_slow_caster(scene, seed, steps, angle, height, width):
    """A column's ray goes through its middle, and its distance is along the direction of view."""
    scene.player.reset(seed)
    for _ in range(steps):
        scene.player.step(next_action(scene.world))
    x, y = scene.world.body[[X, Y]]
    scene.put(x, y, angle)
    for column, distance in enumerate(scene.depth(height, width)):
        aside = (column + 0.5 - width / 2) * 2 * HALF_HEIGHT / height
        ray = np.cos(angle) - aside * np.sin(angle), np.sin(angle) + aside * np.cos(angle)
        wanted, _, place, _ = exact(scene.world.tiles, x, y, *ray)
        if min(place, 1 - place) > 1e-6:
            assert distance == pytest.approx(wanted, abs=1e-4)


def test_rays_along_the_lines_between_tiles(scene):
    scene.hall()
    for x, y in ((5.0, 5.0), (5.5, 5.0), (5.0, 5.5)):
        for (ray_x, ray_y), wanted in (((1, 0), 22 - x), ((-1, 0), x - 1), ((0, 1), 22 - y), ((0, -1), y - 1)):
            assert cast(scene.world.tiles, 23, x, y, float(ray_x), float(ray_y))[0] == wanted


# What a picture shows


def test_the_observation_is_the_picture(scene):
    observation = scene.player.reset(5)
    np.testing.assert_array_equal(observation, scene.picture())
    observation, _, _ = scene.player.step(FORWARD)
    np.testing.assert_array_equal(observation, scene.picture())


@given(seed=SEEDS, height=st.integers(8, 40), extra=st.integers(0, 20))
def test_a_wider_picture_shows_more_of_the_same(scene, seed, height, extra):
    scene.player.reset(seed)
    narrow, wide = scene.picture(height, height), scene.picture(height, height + 2 * extra)
    np.testing.assert_array_equal(wide[:, extra : extra + height], narrow)


def test_walls_are_as_high_as_they_are_near(scene):
    """A wall of one tile's height fills height / (2 * HALF_HEIGHT * distance) of the picture, around its middle."""
    for distance in (1.0, 2.0, 3.0, 6.0):
        scene.hall(texture=4)  # blue tiles, unlike floor and ceiling
        scene.put(22 - distance, 11.58, 0.0)
        column = scene.picture(200, 200)[:, 100].astype(int)
        blue = np.flatnonzero(column[:, 2] - column[:, 0] > 12)
        tall = 200 / (2 * HALF_HEIGHT * distance)
        assert blue.min() == pytest.approx(100 - tall / 2, abs=2)
        assert blue.max() == pytest.approx(99 + tall / 2, abs=2)


def test_it_gets_darker_with_distance(scene):
    for texture in range(5):
        scene.hall(texture=texture)
        levels = []
        for distance in (1, 3, 6, 12, 20):
            scene.put(22 - distance, 11.5, 0.0)
            part = round(50 / (2 * HALF_HEIGHT * distance))  # the same quarter of the same tile
            levels.append(scene.picture(200, 200)[100 - part : 100 + part, 100 - part : 100 + part].mean())
        assert all(near > 1.1 * far for near, far in itertools.pairwise(levels))


def test_walls_have_their_own_textures(scene):
    pictures = []
    for texture in range(5):
        scene.hall(texture=texture)
        scene.put(20.5, 11.5, 0.0)
        pictures.append(scene.picture()[30:54].mean(axis=(0, 1)))
    red, grey, green, yellow, blue = pictures
    assert red.argmax() == 0 and red[0] > 1.5 * red[1]  # noqa: PT018
    assert np.ptp(grey) < 0.1 * grey.mean() + 3
    assert green.argmax() == 1
    assert yellow[2] < 0.8 * yellow[1] < yellow[0]
    assert blue.argmax() == 2


def red_pixels(picture):
    picture = picture.astype(int)
    return np.argwhere((picture[..., 0] > 100) & (picture[..., 1] < 60) & (picture[..., 2] < 60))


def test_an_apple_is_where_it_lies(scene):
    scene.hall(texture=1)
    scene.world.apples[0] = 11 * 23 + 14  # its middle is (14.5, 11.5), 3 tiles ahead
    sizes = []
    for turn in (-0.3, 0.0, 0.3):  # to the left, so that it is on the right; ahead; to the right
        scene.put(11.5, 11.5, turn)
        red = red_pixels(scene.picture(200, 200))
        sizes.append(len(red))
        middle = 100 - np.tan(turn) * 100 / HALF_HEIGHT
        assert red[:, 1].mean() == pytest.approx(middle, abs=4)
        assert red[:, 0].min() > 100  # below the eye
    assert min(sizes) > 50
    nearer = scene.picture(200, 200)
    scene.put(12.5, 11.5, 0.0)
    assert len(red_pixels(scene.picture(200, 200))) > 1.5 * len(red_pixels(nearer))


def test_what_is_behind_a_wall_or_behind_the_agent_is_not_seen(scene):
    tiles = scene.hall(texture=1)
    tiles[11, 13] = WALL + 1
    without = scene.picture()
    for tile in (11 * 23 + 15, 11 * 23 + 9):
        scene.world.apples[0] = tile
        scene.world.counters[PORTAL_TILE] = tile
        np.testing.assert_array_equal(scene.picture(), without)
    scene.world.apples[0] = 13 * 23 + 14  # beside the wall
    scene.world.counters[PORTAL_TILE] = -1
    assert (scene.picture() != without).any()


def test_the_nearer_covers_the_farther(scene):
    scene.hall(texture=1)
    scene.world.apples[1] = 11 * 23 + 13
    near = scene.picture(200, 200)
    y, x = red_pixels(near).mean(axis=0).astype(int)
    scene.world.apples[0] = 11 * 23 + 18
    both_apples = scene.picture(200, 200)
    assert (both_apples != near).any()
    np.testing.assert_array_equal(both_apples[y : y + 8, x - 6 : x + 6], near[y : y + 8, x - 6 : x + 6])
    scene.world.apples[:2] = scene.world.apples[1::-1].copy()
    again = scene.picture(200, 200)
    scene.world.apples[:2] = scene.world.apples[1::-1].copy()
    np.testing.assert_array_equal(scene.picture(200, 200), again)  # whatever their order


def test_the_portal_shines_in_the_dark_and_turns(scene):
    scene.hall(texture=1)
    dark = scene.picture().astype(int)
    scene.world.counters[PORTAL_TILE] = 11 * 23 + 20  # 9 tiles ahead
    bright = scene.picture().astype(int)
    assert (bright - dark).max() > 120
    pictures = set()
    for frame in range(0, 64, 4):
        scene.world.counters[0] = frame
        pictures.add(scene.picture(200, 200).tobytes())
    assert len(pictures) == 8


def test_textures_are_painted_alike_at_every_size():
    painted = texels()
    assert (painted.shape, painted.dtype) == ((TEXELS,), np.uint32)
    assert STARTS[-1] + 1 == PYRAMID
    for texture in range(TEXTURES):
        pyramid = painted[texture * PYRAMID : (texture + 1) * PYRAMID].view(np.uint8).reshape(-1, 4).astype(float)
        means = [pyramid[STARTS[level] :][: (SIDE >> level) ** 2].mean(axis=0) for level in range(LEVELS)]
        assert np.abs(np.array(means) - means[0]).max() < 1
        if texture < APPLE:
            assert (pyramid[:, 3] == 255).all()
        else:
            edge = pyramid[: SIDE**2].reshape(SIDE, SIDE, 4)[[0, -1]]
            assert edge.max() < 30  # sprites fade before they end
            assert 40 < means[0][3] < 200
    assert PORTAL > APPLE


# Pictures for people


def test_pictures_for_people(scene):
    scene.player.reset(2)
    smooth = eye(scene.state, 100, 150)
    assert (smooth.shape, smooth.dtype) == ((100, 150, 3), np.uint8)
    # The mean over four pixels of one twice as large.
    large = scene.picture(200, 300).reshape(100, 2, 150, 2, 3).mean(axis=(1, 3))
    assert np.abs(smooth - large).max() <= 0.5
    together = both(scene.state, 100, 150)
    assert together.shape == (100, 250, 3)
    np.testing.assert_array_equal(together[:, :150], smooth)
    np.testing.assert_array_equal(together[:, 150:], plan(scene.state, 100))


def test_the_plan(scene):
    """Every tile, thing and place of the path has its colour at its place."""
    scene.player.reset(6)
    for _ in range(120):
        scene.player.step(next_action(scene.world))
    scene.world.apples[3:] = -1
    scale = 10
    picture = plan(scene.state, 23 * scale).astype(int)
    middles = picture[scale // 2 :: scale, scale // 2 :: scale]
    walls = scene.world.tiles.reshape(23, 23)
    colours = np.array([(176, 86, 66), (140, 143, 156), (96, 134, 72), (204, 170, 110), (62, 124, 162)])
    portal = int(scene.world.counters[PORTAL_TILE])
    for y, x in np.argwhere(walls >= WALL):
        if np.hypot(y - portal // 23, x - portal % 23) < 1.5:
            continue  # in its glow
        assert np.abs(middles[y, x] - colours[walls[y, x] - WALL]).max() <= 2
    steps = int(scene.world.counters[STEP])
    path = scene.world.path[: steps + 1]
    agent, things = path[-1], [int(tile) for tile in scene.world.apples if tile >= 0]
    things.append(portal)
    old, new = np.array((96, 62, 190)), np.array((255, 206, 84))
    for step in range(1, steps, 7):
        x, y = path[step]
        away = [np.hypot(x - tile % 23 - 0.5, y - tile // 23 - 0.5) for tile in things]
        later = np.hypot(*(path[step + 8 :] - path[step]).T) if step + 8 < steps else np.array([9.0])
        if min(away) > 1.3 and np.hypot(*(agent - path[step])) > 1 and later.min() > 0.4:
            pixel = picture[int(y * scale), int(x * scale)]
            age = (step / steps) ** 2
            assert np.abs(pixel - (old + age * (new - old))).max() < 25
    for tile in things[:-1]:
        assert np.abs(middles[tile // 23, tile % 23] - (232, 52, 44)).max() <= 30
    assert middles[things[-1] // 23, things[-1] % 23].min() > 200
    x, y = (agent * scale).astype(int)
    assert picture[y, x].min() > 200


def test_the_plan_lights_what_the_agent_sees(scene):
    tiles = scene.hall()
    tiles[9:14, 14] = WALL  # a wall across the view
    picture = plan(scene.state, 230).astype(int).sum(axis=2)
    assert picture[115, 130] > 1.5 * picture[115, 165]  # before the wall, behind it
    assert picture[115, 100] == picture[115, 165]  # behind the agent
    assert picture[65, 118] == picture[115, 165]  # beside it


def test_a_path_through_the_portal_is_broken(scene):
    scene.hall()
    scene.world.path[:3] = (3.5, 3.5), (3.7, 3.5), (3.9, 3.5)
    scene.world.path[3:5] = (12.5, 3.5), (12.7, 3.5)
    scene.world.counters[STEP] = 4
    picture = plan(scene.state, 230).astype(int)
    coloured = (picture[35] - picture[60]).any(axis=1)
    assert coloured[36:39].all()
    assert coloured[126]
    assert not coloured[45:120].any()


@pytest.mark.parametrize(("view", "shape"), [("eye", (60, 90, 3)), ("plan", (60, 60, 3)), ("both", (60, 150, 3))])
def test_what_gymnasium_renders(view, shape):
    environment = gymnasium.make("nbrl/Maze-v0", render_mode="rgb_array", view=view, render_height=60, render_width=90)
    with pytest.raises(gymnasium.error.ResetNeeded):
        environment.unwrapped.render()
    environment.reset(seed=4)
    before = environment.render()
    environment.step(FORWARD)
    after = environment.render()
    assert (before.shape, before.dtype) == (shape, np.uint8)
    assert (before != after).any()
    silent = gymnasium.make("nbrl/Maze-v0").unwrapped
    silent.reset(seed=4)
    assert silent.render() is None


def test_an_episode_can_be_drawn(tmp_path):
    image = pytest.importorskip("PIL.Image")
    played = play(policy_for("nbrl/Maze-v0"), path=tmp_path / "play.gif", seed=2, seconds=1)
    assert (played.length, played.shown) == (900, 14)  # 15 pictures a second
    with image.open(tmp_path / "play.gif") as file:
        assert (file.n_frames, file.size) == (15, (420, 210 + BAR))
