"""Surroundings that people bring: environments that are odd, full disks, closed terminals, words of other libraries."""

import logging
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction

import gymnasium
import numba
import numpy as np
import pytest
from gymnasium import spaces
from toys import LONG, Picture, Walks, in_time, tiny, wait_until

import nbrl
from nbrl import Agent, NativeEnvironment, OnlineLearner, Trainer, checkpoint, configure, envs, evaluate, train
from nbrl.envs.interface import STEPPED, EnvStepper
from nbrl.metrics import RunDirectory, progress_line


class Line(gymnasium.Env):
    """Five steps; action 1 pays `reward`."""

    observation_space, action_space = spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(2)
    pays = 1.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(3, np.float32), self.pays, self.t == 5, False, {}


def trained(environment, **settings):
    return train(environment, **{"threads": 1, "actors": 1, "seed": 1, "steps": 100} | settings)


# One environment for all actors


def test_one_and_the_same_environment_serves_one_actor_alone():
    made = Line()
    with pytest.raises(ValueError, match=r"in use already: each call must make a new one, or one actor .*actors=1"):
        trained(lambda: made, actors=2)
    with pytest.raises(ValueError, match="in use already"):
        trained(lambda: made, actors=2, threads=2)
    for _ in range(2):  # it is given back at the end
        agent = trained(lambda: made)
    assert evaluate(agent, lambda: made, threads=1).returns == [5.0] * 30


# Environments that belong to a thread


class Homebound(Line):
    """May be used only in the thread that made it."""

    def __init__(self):
        self.home = threading.get_ident()

    def check(self):
        assert threading.get_ident() == self.home, "used in another thread"

    def reset(self, **options):
        self.check()
        return super().reset(**options)

    def step(self, action):
        self.check()
        return super().step(action)

    def close(self):
        self.check()


@pytest.mark.parametrize("threads", [1, 2])
def test_an_environment_is_made_used_and_closed_in_one_thread(threads):
    agent = trained(Homebound, actors=4, threads=threads, steps=400)
    assert evaluate(agent, Homebound, episodes=4, threads=2).returns == [5.0] * 4


def test_environments_are_built_side_by_side():
    barrier = threading.Barrier(2, timeout=30)

    class Slow(Line):
        probes = 2

        def __init__(self):
            if Slow.probes:
                Slow.probes -= 1
            else:
                barrier.wait()  # two at once, or never

    trained(Slow, actors=4, threads=2)


def test_where_only_one_may_exist_the_error_says_so():
    class Port(Line):
        taken = False

        def __init__(self):
            if Port.taken:
                raise OSError("address already in use")
            Port.taken = True

        def close(self):
            Port.taken = False

    with pytest.raises(OSError, match="already in use") as caught:
        trained(Port, actors=2)
    assert caught.value.__notes__ == [
        "raised while the environment of actor 1 was made; where only one may exist, set actors=1"
    ]
    trained(Port)


# Refusals of Python environments


def changed(**methods):
    return type("Odd", (Line,), methods)


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        (
            changed(step=lambda self, action: (np.zeros(3), 0.0, False, {})),
            r"^Odd.step returned 4 values: it must return five values, an observation, a reward, terminated, truncated",
        ),
        (changed(step=lambda self, action: None), "^Odd.step returned one NoneType: it must return five values"),
        (
            changed(reset=lambda self, *, seed=None, options=None: np.zeros(3)),
            "^Odd.reset returned one ndarray: it must return an observation and a dict",
        ),
        (changed(reset=lambda self, **_: (np.zeros(3), 5)), "^Odd.reset returned 2 values: it must return an obs"),
        (changed(reset=lambda self: (np.zeros(3), {})), r"^Odd.reset takes no seed: it must be reset\(self, \*, seed="),
        (
            changed(reset=lambda self, *, seed=None, options=None: (np.zeros(4), {})),
            r"^Odd.reset: the observation has shape \(4,\), but its space says \(3,\)",
        ),
        (
            changed(step=lambda self, action: (np.zeros(3), 0.0, None, False, {})),
            "^terminated, as Odd.step gave it, is None: it must be true or false",
        ),
    ],
)
def test_what_gymnasium_s_interface_is_not(environment, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        trained(environment)
    assert "\n" not in str(caught.value)


class Bare(Line):
    """Its reset gives the observation alone, which has two parts, like what it should give."""

    observation_space = spaces.Tuple([spaces.Discrete(3), spaces.Discrete(3)])

    def reset(self, *, seed=None, options=None):
        return 0, 1


def test_an_observation_of_two_parts_is_no_pair():
    with pytest.raises(ValueError, match=r"Bare.reset returned 2 values: it must return an observation and a dict"):
        trained(Bare)


@pytest.mark.parametrize(
    "reward", [np.array([1.0]), np.array(1.0), np.array([[1.0]]), 1, True, np.int64(1), np.float16(1), Fraction(1, 1)]
)
def test_rewards_that_are_numbers(reward):
    agent = trained(changed(pays=reward))
    assert evaluate(agent, changed(pays=reward), episodes=1).returns == [5.0]


@pytest.mark.parametrize("reward", [np.array([1.0, 2.0]), [1.0], None, "1", {"a": 1.0}, 1j, 1e300, -1e39])
def test_rewards_that_are_none(reward):
    with pytest.raises(ValueError, match=r"^the reward that Odd.step gave is .*: it must be"):
        trained(changed(pays=reward))
    learner = OnlineLearner({"seed": 1}, Line.observation_space, Line.action_space)
    learner.step(np.zeros(3))
    with pytest.raises(ValueError, match=r"^the reward is .*: it must be"):
        learner.step(np.zeros(3), reward=reward)
    assert learner.step(np.zeros(3), reward=1.0) in (0, 1)


# Pictures of one's own


def test_rewards_of_one_s_own_pictures_are_not_clipped():
    config = configure(Picture)
    assert (config.reward_clip, config.normalise_rewards) == (None, True)
    assert configure(Picture, preset="paper").reward_clip is None


@pytest.mark.parametrize(
    ("shape", "first"), [((10, 10, 4), "conv"), ((7, 7, 3), "conv"), ((8, 8, 111), "conv"), ((2, 2), "dense")]
)
def test_small_pictures_have_a_network_that_they_enter(shape, first):
    class Small(Line):
        observation_space = spaces.Box(0, 1, shape, np.uint8)

        def reset(self, *, seed=None, options=None):
            return self.observation_space.sample(), {}

        def step(self, action):
            return self.observation_space.sample(), 1.0, False, True, {}

    config = configure(Small)
    assert config.to_dict()["network"][0][0] == first
    assert config.normalise_observations
    trained(Small)


# Nothing can come of it


class Endless(Line):
    def step(self, action):
        return np.zeros(3, np.float32), 1.0, False, False, {}


def test_episodes_that_never_end_are_told_of_and_can_be_limited():
    reports = []
    trained(Endless, steps=2000, report_interval=0.01, on_report=reports.append)
    assert "(no episode yet)" in progress_line(reports[-1])
    agent = trained(Endless, steps=2000, max_episode_steps=50, on_report=reports.append)
    assert reports[-1].recent_return == 50
    assert evaluate(agent, Endless, episodes=3, max_episode_steps=70).lengths == [70] * 3


def test_a_limit_bootstraps_as_a_truncation_does():
    """Rewards of 1 for ever, at a discount of 0.9, are worth 10 wherever an episode is cut off."""
    agent = trained(
        Endless, steps=30_000, max_episode_steps=3, discount=0.9, normalise_rewards=False, learning_rate=3e-3
    )
    assert agent.to_numpy().outputs(np.zeros(3))["value"][0] == pytest.approx(10, abs=1.5)


def test_a_run_is_saved_though_one_environment_is_stuck_and_another_worker_has_learnt(tmp_path):
    go_on = threading.Event()
    walks = Walks({1: {"faults": {("step", 40): lambda walk: {} if go_on.wait(60) else None}}}, pause=0.0)
    trainer = Trainer(tiny(walks, steps=LONG, actors=2, threads=2), walks, directory=tmp_path / "run")
    trainer.start()
    wait_until(lambda: trainer.steps > 1000)  # by actor 0 alone
    try:
        assert not trainer.stop(5.0)
        assert (tmp_path / "run" / "policy.safetensors").exists()
    finally:
        go_on.set()
    assert in_time(trainer.join)


def test_a_policy_that_stays_uniform_is_told_of(caplog):
    words = "every action is still about as likely, at an entropy of 0.69 of 0.69 nats"
    with caplog.at_level(logging.WARNING):
        settings = {"method": "a3c", "initialisation": "orthogonal", "entropy_weight": 1.0}
        trained(changed(pays=0.0), steps=3000, report_interval=0.01, **settings)
    assert caplog.text.count(words) == 1
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        trained(changed(), steps=30_000, report_interval=0.01, learning_rate=0.01)
    assert words not in caplog.text


def test_rewards_too_small_to_learn_from_are_told_of(caplog):
    with caplog.at_level(logging.WARNING):
        trained(changed(pays=1e-4), steps=3000, report_interval=0.01)
        assert caplog.text.count("the last 100 returns are all below 0.01 in size, which is hardly learnt") == 1
        caplog.clear()
        trained(changed(pays=1e-1), steps=3000, report_interval=0.01)
        trained(changed(pays=0.0), steps=3000, report_interval=0.01)
    assert "hardly learnt" not in caplog.text


@pytest.mark.parametrize("settings", [{}, {"steps": None}])
def test_a_host_s_learner_learns_for_life(settings):
    learner = OnlineLearner(settings | {"seed": 1}, Line.observation_space, Line.action_space)
    for _ in range(1000):
        learner.step(np.zeros(3))
    assert not learner.finished
    inner = learner._learner
    assert inner.learning_rate == pytest.approx(inner.config.learning_rate, rel=1e-9)
    assert inner.config.learning_rate == configure(Line).learning_rate


def test_dpg_refuses_actions_without_bounds():
    class Free(Line):
        action_space = spaces.Box(np.array([-1, 0], np.float32), np.array([1, np.inf], np.float32))

    with pytest.raises(ValueError, match=r"dpg takes actions with two bounds each, and Free has some without"):
        trained(Free, method="dpg")


def test_a_stop_does_not_wait_longer_than_it_is_told():
    inside, go_on = threading.Event(), threading.Event()

    def step(self, action):
        if threading.current_thread().name.startswith("nbrl worker"):  # not in the trial before training
            inside.set()
            go_on.wait(30)
        return Line.step(self, action)

    stuck = changed(step=step)
    trainer = Trainer(tiny(stuck, steps=LONG), stuck)
    trainer.start()
    assert inside.wait(30)
    try:
        assert trainer.stop(timeout=0.05) is False
        assert trainer.running
    finally:
        go_on.set()
    assert in_time(trainer.stop) is True


# A run's folder


def test_a_run_folder_is_held_by_one_process(tmp_path, environment_variables):
    trainer = Trainer(tiny(steps=LONG), directory=tmp_path / "run")
    trainer.start()
    wait_until(lambda: trainer.steps > 0)
    with pytest.raises(ValueError, match="is in use: this process trains in it"):
        Trainer.from_run(tmp_path / "run")
    words = [sys.executable, "-m", "nbrl", "resume", str(tmp_path / "run")]
    second = subprocess.run(words, env=environment_variables, capture_output=True, text=True, timeout=100)
    assert (second.returncode, second.stderr) == (
        2, f"nbrl: {tmp_path / 'run'} is in use: process {os.getpid()} trains in it\n",
    )  # fmt: skip
    trainer.stop()
    Trainer.from_run(tmp_path / "run").stop()
    assert not (tmp_path / "run" / "lock").exists()


def test_a_lock_dies_with_its_process(tmp_path, environment_variables):
    program = (
        "import os, sys; sys.path.insert(0, 'tests/support'); from toys import tiny; from nbrl import Trainer\n"
        f"trainer = Trainer(tiny(steps=10**9), directory={str(tmp_path / 'run')!r}); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program], env=environment_variables, check=True, timeout=100)
    assert (tmp_path / "run" / "lock").exists()
    trainer = Trainer.from_run(tmp_path / "run")  # killed before its first step, and gone on with
    trainer.start()
    wait_until(lambda: trainer.steps > 100)
    trainer.stop()


def test_a_finished_run_is_given_more_steps(tmp_path, caplog):
    train("Catch-v0", directory=tmp_path / "run", steps=2000, threads=1, actors=1, seed=1)
    with pytest.raises(ValueError, match=r"has nothing left to do: it has taken 2,0\d\d of its 2,000 steps; steps"):
        Trainer.from_run(tmp_path / "run")
    with caplog.at_level(logging.INFO):
        trainer = Trainer.from_run(tmp_path / "run", steps=4000)
    assert "the run goes on to 4,000 steps, at a learning rate of 0.000" in caplog.text
    trainer.start(wait=True)
    assert trainer.steps >= 4000
    assert RunDirectory(tmp_path / "run").config().steps == 4000
    assert Agent.load(tmp_path / "run").parameters.tobytes() == trainer.snapshot().parameters.tobytes()


# Ends


def test_a_failure_in_the_background_is_known_before_join(caplog):
    def fail(self, action):
        raise ConnectionResetError("the simulator hung up")

    odd = changed(step=fail)
    trainer = Trainer(tiny(odd, steps=LONG), odd)
    with caplog.at_level(logging.ERROR):
        trainer.start()
        wait_until(lambda: not trainer.running)
    assert isinstance(trainer.error, ConnectionResetError)
    assert "the run ended with an error: ConnectionResetError: the simulator hung up" in caplog.text


def test_a_close_that_fails_does_not_cost_the_agent():
    def hang_up(self):
        if hasattr(self, "t"):  # not those that only tell their spaces
            raise ConnectionResetError("the simulator hung up")

    assert isinstance(trained(changed(close=hang_up)), Agent)


@pytest.fixture
def train_for_ever(tmp_path, environment_variables):
    """Starts ``nbrl train``, and returns its process once it trains."""
    started = []

    def start(*before):
        words = [*before, sys.executable, "-m", "nbrl", "train", "Catch-v0", "--steps", "1e12", "--out", "a run"]
        process = subprocess.Popen(
            words, env=environment_variables, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # which who runs the tests may ignore
        )  # fmt: skip
        started.append(process)
        wait_until(lambda: (tmp_path / "a run/metrics.jsonl").exists())
        time.sleep(1.5)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no terminals that close")
def test_a_closed_terminal_saves_the_run(tmp_path, train_for_ever):
    process = train_for_ever()
    process.send_signal(signal.SIGHUP)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGHUP
    assert "nbrl resume 'a run'" in said  # as it can be pasted
    newest = checkpoint.newest(tmp_path / "a run" / "checkpoints")
    assert newest != checkpoint.checkpoint_path(newest.parent, 0)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no terminals that close")
def test_a_run_that_shall_outlive_its_terminal_does(train_for_ever):
    process = train_for_ever("nohup")
    process.send_signal(signal.SIGHUP)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM


def test_the_command_finds_modules_in_its_folder(tmp_path, environment_variables):
    (tmp_path / "mine.py").write_text(
        "import numpy as np, gymnasium\nfrom gymnasium import spaces\n"
        "class Line(gymnasium.Env):\n"
        "    observation_space, action_space = spaces.Discrete(2), spaces.Discrete(2)\n"
        "    def reset(self, *, seed=None, options=None):\n        self.t = 0\n        return 0, {}\n"
        "    def step(self, action):\n        self.t += 1\n"
        "        if action > 1: raise ZeroDivisionError('never')\n"
        "        return 1, 1.0, self.t == 5, False, {}\n"
        "class Bad(Line):\n    def step(self, action):\n        raise ZeroDivisionError('in my own code')\n"
    )

    def command(*words):
        return subprocess.run(
            [sys.executable, "-m", "nbrl", *words],
            env=environment_variables, cwd=tmp_path, capture_output=True, text=True, timeout=100,
        )  # fmt: skip

    ended = command("train", "mine:Line", "--steps", "500", "--threads", "1", "--out", "run")
    assert ended.returncode == 0, ended.stderr
    (line,) = [line for line in ended.stdout.splitlines() if "evaluate it" in line]
    words = shlex.split(line.partition("nbrl ")[2])
    assert words == ["eval", "run", "--env", "mine:Line"]
    evaluated = command(*words)
    assert evaluated.returncode == 0, evaluated.stderr
    assert evaluated.stdout == "mean return 5 (standard error 0) over 30 episodes\n"

    bad = command("train", "mine:Bad", "--steps", "500", "--threads", "1", "--out", "bad")
    assert bad.returncode == 1
    assert "mine.py" in bad.stderr
    assert "nbrl: ZeroDivisionError: in my own code" in bad.stderr
    assert "nbrl/run.py" not in bad.stderr


# Words


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("lr", "learning_rate"), ("gamma", "discount"), ("ent_coef", "entropy_weight"), ("total_timesteps", "steps"),
        ("num_envs", "actors"), ("n_steps", "rollout_length"), ("max_grad_norm", "gradient_clip"),
    ],
)  # fmt: skip
def test_other_libraries_words_are_told_ours(name, ours):
    with pytest.raises(ValueError, match=f"^unknown setting '{name}': here it is '{ours}'$"):
        configure("CartPole-v1", **{name: 1})


@pytest.mark.parametrize(
    "name", ["PongNoFrameskip-v4", "Pong-ram-v0", "Pong", "pong", "ale_py:PongNoFrameskip-v4", "PongDeterministic-v0"]
)
def test_old_names_of_games_are_told_today_s(name):
    pytest.importorskip("ale_py")
    more = " with --env-arg obs_type=ram" if "-ram" in name else ""
    with pytest.raises(ValueError, match=f'^unknown environment "{name}"; did you mean ALE/Pong-v5{more}\\?$'):
        configure(name)


@pytest.mark.filterwarnings("ignore:.*out of date.*")
def test_an_old_version_is_told_the_newest():
    with pytest.raises(ValueError, match=r"^HalfCheetah-v2 cannot be made any more: HalfCheetah-v5 is its newest"):
        configure("HalfCheetah-v2")


def test_whole_numbers_may_be_written_as_such():
    assert configure("CartPole-v1", steps=1e4, actors=np.int64(4)).steps == 10_000
    agent = trained(Line)
    assert len(evaluate(agent, Line, episodes=np.int64(3)).returns) == 3


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: evaluate("runs/pong"), "the agent is 'runs/pong': it must be an Agent, as nbrl.Agent.load"),
        (lambda: Trainer("CartPole-v1"), "config is 'CartPole-v1': it must be a Config, as nbrl.configure"),
        (
            lambda: Trainer(configure(Line)),
            "the environment is the Python object <Line>, which settings and files cannot hold",
        ),
        (lambda: Agent.load("tests"), "tests has no readable checkpoint and no policy.safetensors"),
    ],
)
def test_arguments_of_another_kind_are_told_what_they_should_be(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_what_cannot_be_imported_says_why(environment_variables):
    variables = {**environment_variables, "NUMBA_DISABLE_JIT": "1"}
    words = [sys.executable, "-c", "from nbrl import train"]
    ended = subprocess.run(words, env=variables, capture_output=True, text=True, timeout=100)
    assert ended.stderr.rstrip().endswith(
        "ImportError: NUMBA_DISABLE_JIT is set, but everything here is compiled: unset it"
    )


def test_names_that_are_shown():
    assert dir(nbrl) == sorted([*nbrl.__all__, "__version__"])
    trainer = Trainer(configure("Catch-v0", steps=1000, threads=1))
    assert repr(trainer) == "Trainer('Catch-v0', new, 0 of 1,000 steps)"
    assert repr(trainer.snapshot()) == "Agent('Catch-v0', float32 vectors of 50, 3 actions)"
    assert repr(evaluate(trained(Line), Line, episodes=2)) == (
        "Evaluation('Line', mean return 5 (standard error 0), 2 episodes)"
    )


# Statuses and states of native code


def native(step):
    @numba.cfunc("int32(CPointer(int64), uint64, CPointer(float32))")
    def reset(state, seed, observation):
        observation[0] = 0
        return STEPPED

    return NativeEnvironment(
        reset,
        step,
        state_size=8,
        observation_space=spaces.Box(-1, 1, (1,)),
        action_space=spaces.Discrete(2),
        name="odd",
    )


@numba.cfunc("int32(CPointer(int64), CPointer(int32), CPointer(float32), CPointer(float32))")
def minus_one(state, action, observation, reward):
    return -1


@numba.cfunc("int32(CPointer(int64), CPointer(int32), CPointer(float32), CPointer(float32))")
def thirty_two_more(state, action, observation, reward):
    return 32 + STEPPED


@numba.cfunc("int32(CPointer(int64), CPointer(int32), CPointer(float32), CPointer(float32))")
def poisoned(state, action, observation, reward):
    state[0] += 1
    reward[0] = 0
    observation[0] = math.nan if state[0] > 60 else 0
    return STEPPED


@pytest.mark.parametrize("step", [minus_one, thirty_two_more])
def test_unknown_bits_of_a_status_are_a_failure(step):
    with pytest.raises(RuntimeError, match="the environment odd reported a failure in actor 0"):
        trained(native(step))
    player = EnvStepper(native(step))
    player.reset(0)
    with pytest.raises(RuntimeError, match="the environment failed with status"):
        player.step(0)


def test_an_episode_that_cannot_go_on_is_not_saved(tmp_path):
    environment = native(poisoned)
    trainer = Trainer(tiny(environment, steps=LONG), environment, directory=tmp_path / "run")
    with pytest.raises(FloatingPointError, match="an observation has a number that is not finite"):
        trainer.start(wait=True)
    again = Trainer.from_run(tmp_path / "run", environment)
    assert not again._run.learner.saved_environments
    with pytest.raises(FloatingPointError):
        again.start(wait=True)  # it fails anew, after steps of its own
    assert again.steps > trainer.steps


def test_a_save_that_fails_costs_an_episode_and_nothing_else(tmp_path, caplog):
    @numba.cfunc("int32(int64, int64)")
    def refused(state, buffer):
        return 0

    catch = envs.make("Catch-v0")
    functions = catch._functions
    environment = NativeEnvironment(
        functions["reset"], functions["step"], state_size=catch._state_size, save=refused, load=refused, saved_size=8,
        observation_space=spaces.Box(0.0, 1.0, (50,), np.float32), action_space=spaces.Discrete(3), name="kept",
    )  # fmt: skip
    trainer = Trainer(tiny(environment, steps=LONG), environment, directory=tmp_path / "run")
    trainer.start()
    wait_until(lambda: trainer.steps > 100)
    trainer.pause()
    while not trainer._run.learner.workers[0].actors.begun[0]:  # an episode has just ended
        trainer.resume()
        trainer.pause()
    with caplog.at_level(logging.WARNING):
        trainer.stop()
    assert trainer.error is None
    assert "the episode of actor 0 could not be saved" in caplog.text
    assert Agent.load(tmp_path / "run").act(np.zeros(50)) in (0, 1, 2)


def test_a_value_error_of_one_s_own_is_training_s_and_says_where():
    def broken(self, action):
        return np.zeros(3) + np.zeros(4)

    with pytest.raises(ValueError, match="could not be broadcast") as error:
        trained(changed(step=broken))
    assert any("raised in actor 0" in note for note in error.value.__notes__)


def test_an_episode_that_cannot_be_loaded_begins_anew(tmp_path, caplog, monkeypatch):
    pytest.importorskip("ale_py")
    train("ALE/Breakout-v5", steps=200, actors=2, threads=1, directory=tmp_path / "run")
    monkeypatch.setattr("nbrl.envs.ale_direct.works", lambda game: False)  # as on another machine
    trainer = Trainer.from_run(tmp_path / "run", steps=400)
    trainer.start(wait=True)
    assert "begins anew, since it could not be loaded" in caplog.text
