"""What is compiled here, made by gymnasium."""

import warnings

import gymnasium
import numpy as np
import pytest
from doors import DOORS, Doors
from gymnasium.utils.env_checker import check_env

from nbrl import envs
from nbrl.envs import mujoco
from nbrl.envs.interface import TERMINATED, TRUNCATED, EnvStepper
from nbrl.envs.native_env import NativeEnv
from nbrl.registration import MAZES, MUJOCO, NATIVE

NAMES = [
    name.removeprefix("nbrl/")
    for name, native in NATIVE.items()
    if name not in MAZES and not native.several_agents and (name not in MUJOCO or mujoco.works())
]


@pytest.mark.parametrize("name", NAMES)
def test_gymnasium_s_checks(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        environment = gymnasium.make(f"nbrl/{name}", render_mode="rgb_array")
        for advice in ("infinity", "symmetric and normalized"):  # which gymnasium's own do not follow either
            warnings.filterwarnings("ignore", message=f".*{advice}")
        check_env(environment.unwrapped, skip_render_check=True)
    environment.close()


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_gives_one_episode_natively_and_through_gymnasium(name):
    native, environment = EnvStepper(envs.make(f"nbrl/{name}")), gymnasium.make(f"nbrl/{name}", render_mode="rgb_array")
    for seed in (0, 2**63 + 5):
        seen = environment.reset(seed=seed)[0]
        assert native.reset(seed).tobytes() == seen.tobytes()
        environment.action_space.seed(7)
        for _ in range(300):
            assert environment.observation_space.contains(seen)
            action = environment.action_space.sample()
            there, reward_there, status = native.step(action)
            seen, reward, terminated, truncated, info = environment.step(action)
            assert there.tobytes() == seen.tobytes()
            assert (reward, terminated, truncated) == (
                reward_there,
                bool(status & TERMINATED),
                bool(status & TRUNCATED),
            )
            assert info == {}
            if terminated or truncated:
                break
    if name in MUJOCO:
        with pytest.raises(gymnasium.error.Error, match=f"{name} has no picture: make it without a render_mode"):
            environment.render()
    else:
        picture = environment.render()
        assert (picture.dtype, picture.ndim, picture.shape[2]) == (np.uint8, 3, 3)


def test_masks_are_told_as_sample_takes_them():
    environment, native = NativeEnv(Doors()), EnvStepper(Doors())
    _, info = environment.reset(seed=3)
    native.reset(3)
    for _ in range(10):
        mask = info["action_mask"]
        assert (mask.dtype, mask.tolist()) == (np.int8, native.mask.tolist())
        action = environment.action_space.sample(mask)
        assert mask[action] == 1
        native.step(action)
        info = environment.step(action)[4]
    assert mask.shape == (DOORS,)
