"""`make` and `names`."""

import gymnasium
import pytest

from nbrl import envs
from nbrl.envs import atari
from nbrl.envs.gym import GymEnvironment
from nbrl.registration import NATIVE


def test_make_takes_ids_functions_and_descriptions():
    assert isinstance(envs.make("CartPole-v1"), envs.NativeEnvironment)
    assert isinstance(envs.make("Catch-v0"), envs.NativeEnvironment)
    assert isinstance(envs.make("MountainCar-v0"), GymEnvironment)
    own = envs.make(lambda: gymnasium.make("CartPole-v1"))
    assert isinstance(own, GymEnvironment)
    assert envs.make(own) is own


def test_make_hands_on_the_settings_of_atari():
    pytest.importorskip("ale_py")
    game = envs.make("ALE/Pong-v5", sticky_actions=0.25, cut_on_life_loss=True, seed_every_reset=True)
    assert isinstance(game, atari.AtariEnvironment)
    assert (game.sticky_actions, game.cut_on_life_loss, game.seed_every_reset) == (0.25, True, True)


@pytest.mark.parametrize("thing", [3, None, ["CartPole-v1"]])
def test_make_refuses_other_things(thing):
    with pytest.raises(ValueError, match=r"an environment is an id, a function .*, not "):
        envs.make(thing)


def test_sticky_actions_are_for_atari():
    with pytest.raises(ValueError, match=r"sticky_actions is for Atari .* CartPole-v1 is none: leave it at 0"):
        envs.make("CartPole-v1", sticky_actions=0.25)
    assert envs.make("CartPole-v1", cut_on_life_loss=True).name == "CartPole-v1"


def test_names_can_be_made():
    groups = envs.names()
    assert set(groups["native"]) == set(NATIVE)
    assert "MountainCar-v0" in groups["gymnasium"]
    assert "CartPole-v1" not in groups["gymnasium"]
    assert not any(name.startswith("ALE/") for name in groups["gymnasium"])
    for name in groups["native"]:
        assert envs.make(name).name == name


def test_names_without_ale(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ale_py", None)
    assert envs.names()["atari"] == []


# Whose environment an id means


class Mine(gymnasium.Env):
    """Somebody's own."""

    observation_space = gymnasium.spaces.Box(0, 1, (3,))
    action_space = gymnasium.spaces.Discrete(5)


@pytest.fixture
def registered():
    """Registers `Mine` under an id for one test, in place of what was there."""
    before = dict(gymnasium.registry)

    def register(name, entry_point=Mine, **options):
        gymnasium.registry.pop(name, None)
        gymnasium.register(name, entry_point, **options)

    yield register
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


@pytest.mark.parametrize("name", ["Catch-v0", "CartPole-v1", "Pendulum-v1", "Ant-v5", "ALE/Mine-v5", "Rooms-v0"])
def test_a_program_s_own_environment_is_used_under_its_id(name, registered):
    registered(name)
    spec = envs.make(name)
    assert isinstance(spec, GymEnvironment)
    assert (spec.name, spec.actions.counts) == (name, (5,))
    assert name in envs.names()["gymnasium"]
    assert name not in envs.names()["native"]
    if not name.startswith("ALE/"):
        assert isinstance(envs.make(f"nbrl/{name}"), envs.NativeEnvironment)


@pytest.mark.parametrize(
    "options", [{"max_episode_steps": 100}, {"max_episode_steps": 500, "kwargs": {"sutton_barto_reward": True}}]
)
def test_another_registration_of_what_is_mirrored_is_somebody_s_own(options, registered):
    original = NATIVE["CartPole-v1"].mirrors
    registered("CartPole-v1", original, **options)
    assert isinstance(envs.make("CartPole-v1"), GymEnvironment)
    registered("CartPole-v1", original, max_episode_steps=500)
    assert isinstance(envs.make("CartPole-v1"), envs.NativeEnvironment)


def test_what_is_mirrored_is_what_gymnasium_has():
    for name, native in NATIVE.items():
        if native.mirrors:
            theirs = gymnasium.registry[name]
            assert (theirs.entry_point, theirs.max_episode_steps) == (native.mirrors, native.max_episode_steps)
        else:
            assert name.startswith("nbrl/") or name not in gymnasium.registry


def test_a_program_s_own_id_leaves_nbrl_s_to_nbrl(registered):
    registered("CartPole-v1")
    with gymnasium.make("nbrl/CartPole-v1") as environment:
        assert environment.observation_space.shape == (4,)


@pytest.mark.parametrize("name", ["ALE/Pong-v5", "Bricks-v0", "nbrl/Maze-v0"])
def test_a_layout_that_compiled_functions_do_not_write_is_refused(name):
    if name.startswith("ALE/"):
        pytest.importorskip("ale_py")
    with pytest.raises(
        ValueError, match="observation_layout is 'vector', but its compiled functions write uint8 images"
    ):
        envs.make(name, observation_layout="vector")
    assert envs.make(name, observation_layout="HWC").observations.layout == "HWC"


def test_a_native_stack_of_frames_is_refused():
    catch = envs.make("Catch-v0")
    stack = gymnasium.spaces.Box(0, 255, (2, 9, 9, 3), gymnasium.spaces.Box(0, 255, (1,), "uint8").dtype)
    with pytest.raises(ValueError, match=r"it must be a Box of float32, or of uint8 for images$"):
        envs.NativeEnvironment(
            catch._functions["reset"], catch._functions["step"], state_size=8, observation_space=stack,
            action_space=gymnasium.spaces.Discrete(3),
        )  # fmt: skip
