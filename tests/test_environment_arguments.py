"""Keywords that environments are made with: from Python, on the command line, and kept by runs and policies."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from toys import tiny

import nbrl
from nbrl import Agent, Trainer, configure, envs
from nbrl.envs.interface import EnvStepper
from nbrl.metrics import RunDirectory


class Long(gymnasium.Env):
    """Episodes of `length` steps."""

    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)

    def __init__(self, length=3, render_mode=None):
        self.length, self.render_mode = length, render_mode

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(2, np.float32), 1.0, self.t == self.length, False, {}


@pytest.fixture
def long_id():
    gymnasium.register("Long-v0", Long)
    yield "Long-v0"
    del gymnasium.registry["Long-v0"]


def test_they_reach_the_environment_and_are_kept(tmp_path, long_id):
    agent = nbrl.train(
        long_id, environment_arguments={"length": 9}, rollout_length=5, steps=200, directory=tmp_path / "run"
    )
    assert set(nbrl.evaluate(agent, episodes=3).lengths) == {9}
    assert set(nbrl.evaluate(agent, long_id, episodes=3).lengths) == {9}
    assert set(nbrl.evaluate(agent, environment_arguments={"length": 5}, episodes=3).lengths) == {5}
    assert set(nbrl.evaluate(Agent.load(tmp_path / "run"), episodes=3).lengths) == {9}
    trainer = Trainer.from_run(tmp_path / "run", steps=400)
    trainer.start(wait=True)
    assert set(nbrl.evaluate(trainer.snapshot(), episodes=3).lengths) == {9}


def test_on_the_command_line(tmp_path, nbrl_command):
    (tmp_path / "mine.py").write_text(
        "import gymnasium, numpy as np\n"
        "class Long(gymnasium.Env):\n"
        "    observation_space = gymnasium.spaces.Box(-1, 1, (2,))\n"
        "    action_space = gymnasium.spaces.Discrete(2)\n"
        "    def __init__(self, length, name='x', wide=False):\n"
        "        assert name == 'a=b' and wide is True\n"
        "        self.length = length\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        self.t = 0\n"
        "        return np.zeros(2, np.float32), {}\n"
        "    def step(self, action):\n"
        "        self.t += 1\n"
        "        return np.zeros(2, np.float32), 1.0, self.t == self.length, False, {}\n"
    )
    given = ["--env-arg", "length=4", "--env-arg", "name=a=b", "--env-arg", "wide=true"]
    ended = nbrl_command("train", "mine:Long", *given, "steps=300", "rollout_length=5", "--out", "run")
    assert ended.returncode == 0, ended.stderr
    config = RunDirectory.open(tmp_path / "run").config()
    assert config.environment_arguments == {"length": 4, "name": "a=b", "wide": True}
    ended = nbrl_command("eval", "run", "--env", "mine:Long", "--episodes", 2)
    assert "mean return 4 " in ended.stdout, ended.stderr
    ended = nbrl_command("resume", "run", "--env", "mine:Long", "--steps", 600)
    assert ended.returncode == 0, ended.stderr
    for words, sentence in [
        (["--env-arg", "length"], "--env-arg length: it must be key=value"),
        (["--env-arg", "length=1", "--env-arg", "length=2"], "--env-arg length is given twice"),
        (["--env-arg", "length=1", "environment_arguments={}"], "both given"),
    ]:
        ended = nbrl_command("train", "mine:Long", *words)
        assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
        assert sentence in ended.stderr


@pytest.mark.parametrize(
    ("environment", "arguments", "words"),
    [
        ("CartPole-v1", {"lenght": 3}, r"CartPole-v1 cannot be made with \{'lenght': 3\}: .*lenght"),
        ("Catch-v0", {"rows": 3}, "which Catch-v0 does not take: .*rows"),
        ("nbrl/CartPole-v1", {"sutton_barto_reward": True}, "which CartPole-v1 does not take"),
        ("ALE/Pong-v5", {"frameskip": 1}, r"has frameskip=1, but ALE/Pong-v5 takes obs_type .* full_action_space"),
        ("ALE/Pong-v5", {"obs_type": "rgb"}, r"has obs_type='rgb', but .* obs_type \('grayscale' or 'ram'\)"),
        ("ALE/Pong-v5", {"full_action_space": 1}, "has full_action_space=1, but"),
        (envs.make("Catch-v0"), {"rows": 3}, "is made already: leave them out"),
    ],
)
def test_what_an_environment_does_not_take(environment, arguments, words):
    with pytest.raises(ValueError, match=words):
        configure(environment, environment_arguments=arguments)


@pytest.mark.parametrize("wrong", [3, "length", [1], {3: 4}, {"a": {1, 2}}, {"a": float("nan")}, '["a"]'])
def test_what_are_no_arguments(wrong):
    with pytest.raises(ValueError, match=r"environment_arguments is .*: it must be keywords with values that JSON"):
        configure("Catch-v0", environment_arguments=wrong)


def test_a_native_twin_stands_for_what_it_mirrors_alone():
    native = envs.make("CartPole-v1")
    other = envs.make("CartPole-v1", arguments={"sutton_barto_reward": True})
    assert type(native) is not type(other)
    assert EnvStepper(other).reset(1).shape == (4,)
    rewards = EnvStepper(other)
    rewards.reset(1)
    assert rewards.step(0)[1] == 0  # as Sutton and Barto have it


def test_mazes_take_theirs():
    assert envs.make("nbrl/Maze-v0", arguments={"fixed": True}).name


# Atari


def test_all_actions():
    pytest.importorskip("ale_py")
    spec = envs.make("ALE/Pong-v5", arguments={"full_action_space": True})
    assert spec.actions.counts == (18,)
    player, minimal = EnvStepper(spec), EnvStepper(envs.make("ALE/Pong-v5"))
    # Right is number 3 of all and number 2 of those that Pong uses; left is 4 and 3.
    for action, same in [(3, 2), (4, 3), (0, 0), (1, 1)]:
        np.testing.assert_array_equal(player.reset(7), minimal.reset(7))
        for _ in range(30):
            seen, reward, status = player.step(action)
            right, reward_right, status_right = minimal.step(same)
            np.testing.assert_array_equal(seen, right)
            assert (reward, status) == (reward_right, status_right)
    player.close()
    minimal.close()


def test_the_memory_of_the_console():
    ale_py = pytest.importorskip("ale_py")
    spec = envs.make("ALE/Pong-v5", arguments={"obs_type": "ram"}, cut_on_life_loss=True)
    assert (spec.observations.shape, spec.observations.dtype) == ((128,), np.float32)
    player, again = EnvStepper(spec), EnvStepper(spec)
    rng, total, ended = np.random.default_rng(0), 0.0, 0
    seen = player.reset(3)
    np.testing.assert_array_equal(again.reset(3), seen)
    theirs = gymnasium.make(
        "ALE/Pong-v5", obs_type="ram", frameskip=4, repeat_action_probability=0.0, disable_env_checker=True
    )
    theirs.reset(seed=0)
    # As many no-ops as it drew bring ale-py's own to the same memory.
    raw = theirs.unwrapped.ale
    raw.reset_game()
    for _ in range(np.random.default_rng(3).integers(31)):
        raw.act(ale_py.Action.NOOP)
    np.testing.assert_array_equal(raw.getRAM(), seen)
    for _ in range(200):
        action = int(rng.integers(6))
        seen, reward, status = player.step(action)
        right, reward_right, *_ = theirs.step(action)
        np.testing.assert_array_equal(seen, right)
        np.testing.assert_array_equal(again.step(action)[0], right)
        assert reward == reward_right
        total, ended = total + reward, ended + (status > 1)
    assert total < 0
    assert ended == 0
    assert player.instance.picture(seen).shape == (210, 160, 3)
    for stepper in (player, again):
        stepper.close()
    theirs.close()


def test_a_policy_of_the_memory_is_trained_and_evaluated(tmp_path):
    pytest.importorskip("ale_py")
    arguments = {"obs_type": "ram", "full_action_space": True}
    agent = nbrl.train("ALE/Breakout-v5", environment_arguments=arguments, steps=2000, directory=tmp_path / "run")
    evaluation = nbrl.evaluate(Agent.load(tmp_path / "run"), episodes=2, max_episode_steps=300)
    assert len(evaluation.returns) == 2
    assert agent.action_space == spaces.Discrete(18)
    memory = np.arange(128, dtype=np.uint8)  # as gymnasium gives it
    assert agent.act(memory, greedy=True) == agent.to_numpy().act(memory, greedy=True)


def test_old_names_of_games_tell_how():
    pytest.importorskip("ale_py")
    with pytest.raises(ValueError, match="did you mean ALE/Pong-v5 with --env-arg obs_type=ram"):
        configure("Pong-ram-v0")
    with pytest.raises(ValueError, match="did you mean ALE/Pong-v5\\?"):
        configure("PongNoFrameskip-v4")


def test_a_learner_keeps_its_arguments():
    config = tiny("Catch-v0", environment_arguments=None)
    assert config.environment_arguments is None
    assert configure("Catch-v0", environment_arguments={}).environment_arguments is None


def test_a_class_is_evaluated_with_those_of_training():
    agent = nbrl.train(Long, environment_arguments={"length": 9}, steps=200)
    assert set(nbrl.evaluate(agent, Long, episodes=3).lengths) == {9}


def test_an_environment_s_own_words():
    class Named(Long):
        def __init__(self, name="x", render_mode=None):
            super().__init__(len(name))

    gymnasium.register("Named-v0", Named)
    try:
        agent = nbrl.train("Named-v0", environment_arguments={"name": "seven77"}, steps=100)
        assert nbrl.evaluate(agent, episodes=1).lengths == [7]
    finally:
        del gymnasium.registry["Named-v0"]


@pytest.mark.parametrize("game", ["Seaquest", "Kaboom", "TimePilot"])
def test_an_episode_of_atari_depends_on_its_seed_alone(game):
    """Also in games that draw from the emulator's own random numbers."""
    pytest.importorskip("ale_py")
    for arguments in ({}, {"obs_type": "ram"}):
        spec = envs.make(f"ALE/{game}-v5", arguments=arguments)
        used, fresh = EnvStepper(spec), EnvStepper(spec)
        for seed in (1, 2, 3):
            used.reset(seed)
            used.step(1)
        np.testing.assert_array_equal(used.reset(9), fresh.reset(9))
        rng = np.random.default_rng(0)
        for _ in range(150):
            action = int(rng.integers(spec.actions.outputs))
            np.testing.assert_array_equal(used.step(action)[0], fresh.step(action)[0])
        if not arguments and used.instance.save() is not None:
            again = EnvStepper(spec)
            for seed in (4, 5):
                again.reset(seed)
            again.instance.load(used.instance.save())
            for _ in range(50):
                action = int(rng.integers(spec.actions.outputs))
                np.testing.assert_array_equal(used.step(action)[0], again.step(action)[0])
            again.close()
        used.close()
        fresh.close()
