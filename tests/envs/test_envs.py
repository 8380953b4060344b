"""`make` and `names`."""

import gymnasium
import pytest

from nbrl import envs
from nbrl.envs import atari, mujoco
from nbrl.envs.gym import GymEnvironment
from nbrl.registration import MAZES


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
    assert set(groups["native"]) - set(mujoco.NAMES) == {*envs.NATIVE, *MAZES}
    assert "MountainCar-v0" in groups["gymnasium"]
    assert "CartPole-v1" not in groups["gymnasium"]
    assert not any(name.startswith("ALE/") for name in groups["gymnasium"])
    for name in groups["native"]:
        assert envs.make(name).name == name


def test_names_without_ale(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ale_py", None)
    assert envs.names()["atari"] == []
