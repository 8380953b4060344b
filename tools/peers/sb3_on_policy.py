"""Time Stable-Baselines3's A2C or PPO: prints frames/s once it has settled.

    python -m venv peers && peers/bin/pip install torch==2.13.0 stable-baselines3 ale-py opencv-python-headless mujoco
    peers/bin/pip install imageio packaging
    peers/bin/python tools/peers/sb3_on_policy.py Pong|CartPole|HalfCheetah ENVIRONMENTS T_MAX THREADS SECONDS
        [EPOCHS BATCH_SIZE]

With the same network as ours (on HalfCheetah that is its own default); environments in one process, which is faster
here than a process for each. With epochs and the size of a minibatch it is PPO.
"""

import sys
import time

import ale_py
import gymnasium
import torch
from networks import body
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

UPDATES = 25  # of A2C between two looks at the clock


class Body(BaseFeaturesExtractor):
    """The layers under the heads."""

    def __init__(self, observation_space: gymnasium.Space, game: str) -> None:
        layers, features = body(game)
        super().__init__(observation_space, features)
        self.layers = layers

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.layers(observations)


def environments(game: str, count: int) -> VecEnv:
    if game != "Pong":
        return make_vec_env({"CartPole": "CartPole-v1", "HalfCheetah": "HalfCheetah-v5"}[game], n_envs=count)
    gymnasium.register_envs(ale_py)
    return VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=count), 4)


def main() -> None:
    game, (count, t_max, threads), seconds = sys.argv[1], map(int, sys.argv[2:5]), float(sys.argv[5])
    passes = [int(word) for word in sys.argv[6:]]
    torch.set_num_threads(threads)
    policy, kind = {}, "MlpPolicy"
    if game != "HalfCheetah":
        policy = {"features_extractor_class": Body, "features_extractor_kwargs": {"game": game}, "net_arch": []}
    if game == "Pong":
        kind = "CnnPolicy"
    common = {"n_steps": t_max, "ent_coef": 0.01, "policy_kwargs": policy, "device": "cpu"}
    model: BaseAlgorithm
    if passes:
        model = PPO(kind, environments(game, count), n_epochs=passes[0], batch_size=passes[1], **common)
    else:
        if game == "Pong":
            policy |= {"optimizer_class": torch.optim.RMSprop, "optimizer_kwargs": {"eps": 1e-5}}
        model = A2C(kind, environments(game, count), vf_coef=0.25, use_rms_prop=game != "CartPole", **common)
    updates = 1 if passes else UPDATES
    model.learn(updates * t_max * count)
    began, steps = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        model.learn(updates * t_max * count, reset_num_timesteps=False)
        steps += updates * t_max * count
    print(f"{steps * (4 if game == 'Pong' else 1) / spent:.0f}")


if __name__ == "__main__":
    main()
