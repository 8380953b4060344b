"""Environments of other packages, as they come: Box2D, MiniGrid, and what they have in common with one's own."""

import warnings

import gymnasium
import pytest

import nbrl
from nbrl import configure, envs


def minigrid():
    """MiniGrid's way to see a picture without the mission's text."""
    minigrid = pytest.importorskip("minigrid", reason="minigrid is in the extra dev")
    return minigrid.wrappers.ImgObsWrapper(gymnasium.make("MiniGrid-Empty-5x5-v0"))


@pytest.fixture(autouse=True)
def quiet():
    """These packages warn of each other's age."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_what_minigrid_shows_is_a_picture():
    """The page beside nbrl/envs learns it: of 16 seeds all ended between 0.930 and 0.937."""
    assert configure(minigrid).normalise_observations
    assert str(envs.make(minigrid).observations) == "uint8 images of 7x7x3, channels last, up to 255"


@pytest.mark.slow
def test_lunar_lander_learns_something():
    """A random policy ends at about -180. Of 6 seeds the worst ended at 8, their mean is 28 and their deviation 16."""
    pytest.importorskip("Box2D", reason="Box2D is in the extra dev")
    agent = nbrl.train("LunarLander-v3", steps=100_000, seed=1)
    assert nbrl.evaluate(agent, episodes=20).mean_return > -100


@pytest.mark.slow
def test_car_racing_is_trained_from_its_pixels():
    pytest.importorskip("Box2D", reason="Box2D is in the extra dev")
    settings = {"steps": 300, "actors": 2, "environment_arguments": {"continuous": False}}
    agent = nbrl.train("CarRacing-v3", seed=1, **settings)
    assert str(agent.network.observations) == "uint8 images of 96x96x3, channels last, up to 255"
    env = gymnasium.make("CarRacing-v3", continuous=False)
    seen, _ = env.reset(seed=1)
    for _ in range(5):
        seen, *_ = env.step(agent.act(seen))
    env.close()


def test_a_package_that_is_not_there():
    with pytest.raises(ValueError, match="needs a package that is not installed"):
        configure("no_such_package:Task-v0")


@pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
def test_wrappers_of_gymnasium_are_taken(several):
    def build():
        env = gymnasium.make("MountainCar-v0", max_episode_steps=50)
        return gymnasium.wrappers.RescaleObservation(env, -1, 1)

    def vector():
        return gymnasium.wrappers.vector.RecordEpisodeStatistics(gymnasium.vector.SyncVectorEnv([build] * 4))

    agent = nbrl.train(vector if several else build, steps=500, seed=1)
    assert nbrl.evaluate(agent, build, episodes=2).lengths == [50, 50]
