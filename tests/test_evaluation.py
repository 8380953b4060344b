"""Scores of policies: whole episodes, each from its own seed, and the numbers made from their returns."""

import math

import numpy as np
import pytest
from oracles import gaussian_variance
from toys import (
    RECURRENT,
    Broken,
    Picture,
    Walk,
    continuous_policy,
    corridor,
    cue_policy,
    deterministic_policy,
    explode,
    policy_for,
)

import nbrl
from nbrl import envs
from nbrl.envs import EnvStepper
from nbrl.envs.interface import TERMINATED, TRUNCATED
from nbrl.evaluation import STREAM, Evaluation, evaluate
from nbrl.kernels.random import ROW, next_uint64, normal, seed_row

# The numbers


def test_the_standard_error_by_hand():
    # Mean 5; squared deviations 9 + 1 + 1 + 9 = 20, over 3 degrees of freedom; over 4 episodes.
    evaluation = Evaluation("CartPole-v1", [2.0, 4.0, 6.0, 8.0], [2, 4, 6, 8], greedy=False)
    assert evaluation.mean_return == 5
    assert evaluation.standard_error == pytest.approx(math.sqrt(20 / 3 / 4))
    assert evaluation.to_dict() == {
        "environment": "CartPole-v1", "mean_return": 5.0, "standard_error": evaluation.standard_error, "episodes": 4,
        "greedy": False, "returns": [2.0, 4.0, 6.0, 8.0], "lengths": [2, 4, 6, 8],
    }  # fmt: skip


def test_one_episode_has_no_standard_error():
    assert Evaluation("x", [3.0], [1], greedy=True).to_dict()["standard_error"] is None


@pytest.mark.parametrize(
    ("name", "mean", "score"),
    [("ALE/Pong-v5", 14.6, 100.0), ("ALE/Pong-v5", -20.7, 0.0), ("CartPole-v1", 500.0, None), ("Pong", 14.6, None)],
)
def test_only_atari_games_have_human_normalised_scores(name, mean, score):
    evaluation = Evaluation(name, [mean, mean], [1, 1], greedy=False)
    assert evaluation.human_normalised == score
    assert evaluation.to_dict().get("human_normalised", None) == score
    assert ("human_normalised" in evaluation.to_dict()) == (score is not None)


# The episodes


KINDS = [{}, {"layers": RECURRENT}, {"values": True}, {"layers": RECURRENT, "values": True}]


@pytest.mark.parametrize("environment", ["CartPole-v1", "Catch-v0", Picture], ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=["plain", "recurrent", "values", "recurrent values"])
@pytest.mark.parametrize("greedy", [False, True])
def test_the_number_of_threads_changes_nothing(environment, kind, greedy):
    agent = policy_for(environment, **kind)
    results = [
        evaluate(agent, environment, episodes=9, greedy=greedy, threads=threads, seed=4) for threads in (1, 2, 5, 20)
    ]
    assert results[1:] == results[:-1]
    assert len(results[0].returns) == len(results[0].lengths) == 9
    assert evaluate(agent, environment, episodes=9, greedy=greedy, seed=4) == results[0]
    # The first episodes of a longer evaluation are the same.
    assert evaluate(agent, environment, episodes=11, greedy=greedy, seed=4).returns[:9] == results[0].returns


@pytest.mark.parametrize("greedy", [False, True])
def test_another_seed_gives_other_episodes(greedy):
    agent = policy_for("CartPole-v1")
    first, other = (evaluate(agent, episodes=9, greedy=greedy, seed=seed).lengths for seed in (1, 2**63 - 1))
    assert first != other


def test_episodes_differ():
    evaluation = evaluate(policy_for("CartPole-v1"), episodes=30)
    assert len(set(evaluation.returns)) > 5
    assert evaluation.returns == evaluation.lengths, "CartPole gives 1 a step"
    assert evaluation.environment == "CartPole-v1"


def test_actions_are_sampled_or_the_most_likely():
    # Walk and its action's reward: action 1 has probability 3/4.
    class Paid(Walk):
        def step(self, action):
            observation, _, *ends = super().step(action)
            return observation, float(action), *ends

    agent = policy_for(Paid, logits=[0.0, math.log(3)])
    assert evaluate(agent, Paid, episodes=5, greedy=True).returns == [10.0] * 5
    returns = evaluate(agent, Paid, episodes=200).returns
    assert np.mean(returns) == pytest.approx(7.5, abs=5 * math.sqrt(10 * 3 / 16 / 200))


def test_an_episode_by_an_independent_player():
    # Greedy actions on a deterministic environment: the player needs the first observation alone.
    agent, lengths = policy_for("CartPole-v1", seed=3), []
    player = EnvStepper(envs.make("CartPole-v1"))
    for seed in range(200):
        observation, status, length = player.reset(seed), 0, 0
        while not status & (TERMINATED | TRUNCATED):
            observation, _, status = player.step(agent.act(observation, greedy=True))
            length += 1
        lengths.append(length)
    found = evaluate(agent, episodes=200, greedy=True).lengths
    assert np.mean(found) == pytest.approx(np.mean(lengths), rel=0.1)


@pytest.mark.parametrize("kind", KINDS, ids=["plain", "recurrent", "values", "recurrent values"])
def test_every_episode_by_hand(kind):
    # Each has a seed of its own and begins with an empty memory; greedy actions need no more.
    agent, lengths = policy_for("CartPole-v1", seed=5, **kind), []
    player, row = EnvStepper(envs.make("CartPole-v1")), np.zeros(ROW, np.uint64)
    for episode in range(20):
        seed_row(row, np.uint64(4), np.uint64(STREAM + episode))
        observation, status, state = player.reset(next_uint64(row)), 0, agent.initial_state()
        lengths.append(0)
        while not status & (TERMINATED | TRUNCATED):
            observation, _, status = player.step(agent.act(observation, state, greedy=True))
            lengths[-1] += 1
    assert len(set(lengths)) > 1
    assert evaluate(agent, episodes=20, greedy=True, threads=2, seed=4).lengths == lengths


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("options", [{}, {"layers": RECURRENT, "separate": True}], ids=["plain", "recurrent"])
def test_every_episode_of_continuous_actions_by_hand(options, greedy):
    # Chance is drawn from the row that gives the episode its seed, one normal number for each part of an action.
    agent, totals = continuous_policy("Pendulum-v1", seed=2, **options), []
    player, row, numbers = EnvStepper(envs.make("Pendulum-v1")), np.zeros(ROW, np.uint64), agent.to_numpy()
    for episode in range(4):
        seed_row(row, np.uint64(4), np.uint64(STREAM + episode))
        observation, status, state = player.reset(next_uint64(row)), 0, agent.initial_state()
        totals.append(0.0)
        while not status & (TERMINATED | TRUNCATED):
            noise = normal(row)
            outputs = numbers.outputs(observation, state)
            deviation = 0 if greedy else np.sqrt(gaussian_variance(outputs["variance"]))
            action = np.clip(2 * (outputs["mean"] + deviation * noise), -2, 2)
            observation, reward, status = player.step(action)
            totals[-1] += reward
    found = [evaluate(agent, episodes=4, greedy=greedy, threads=threads, seed=4) for threads in (1, 3)]
    assert found[0] == found[1]
    assert found[0].lengths == [200] * 4
    # Rounding grows along 200 steps of a pendulum, but not to another episode.
    assert found[0].returns == pytest.approx(totals, rel=0.05)


def test_every_episode_of_a_deterministic_policy_by_hand():
    agent, totals = deterministic_policy("Pendulum-v1", seed=2), []
    player, row, numbers = EnvStepper(envs.make("Pendulum-v1")), np.zeros(ROW, np.uint64), agent.to_numpy()
    for episode in range(4):
        seed_row(row, np.uint64(4), np.uint64(STREAM + episode))
        observation, status = player.reset(next_uint64(row)), 0
        totals.append(0.0)
        while not status & (TERMINATED | TRUNCATED):
            observation, reward, status = player.step(2 * numbers.outputs(observation)["action"])
            totals[-1] += reward
    found = [evaluate(agent, episodes=4, greedy=greedy, threads=2, seed=4) for greedy in (False, True)]
    assert found[0].returns == found[1].returns
    assert found[0].returns == pytest.approx(totals, rel=0.05)


def test_actions_of_another_kind_are_refused():
    class Six(Walk):
        action_space = envs.gymnasium.spaces.Box(-1, 1, (2, 3), np.float32)

    agent = continuous_policy("Pendulum-v1")
    with pytest.raises(
        ValueError, match=r"the policy chooses among actions of shape \(1,\), Six takes actions of shape \(2, 3\)"
    ):
        evaluate(agent, Six)
    with pytest.raises(ValueError, match=r"the policy chooses among actions of shape \(1,\), Walk takes 2 actions"):
        evaluate(agent, Walk)
    with pytest.raises(ValueError, match=r"the policy chooses among 2 actions, Six takes actions of shape"):
        evaluate(policy_for(Walk), Six)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("greedy", [False, True])
def test_nothing_is_remembered_from_the_episode_before(greedy, threads):
    # Of sampled actions one in e^30 would be another.
    assert evaluate(cue_policy(), episodes=60, greedy=greedy, threads=threads).returns == [1.0] * 60


def test_values_are_followed_but_for_one_action_in_a_hundred():
    agent = cue_policy(values=True)
    assert evaluate(agent, episodes=60, greedy=True).returns == [1.0] * 60
    # One action decides, any with probability 0.01: it is wrong with 0.005.
    count = 2000
    wrong = evaluate(agent, episodes=count).returns.count(-1.0)
    assert 0 < wrong < count * 0.005 + 5 * math.sqrt(count * 0.005)


def test_truncated_episodes_end_too():
    agent = policy_for("CartPole-v1")

    def short():
        return Walk({("step", 2): lambda walk: {"truncated": True}})

    assert evaluate(policy_for(short), short, episodes=1).lengths == [3]
    with pytest.raises(ValueError, match="the policy takes float32 vectors of 4, short gives float32 vectors of 3"):
        evaluate(agent, short)


def test_rewards_are_raw(tmp_path):
    environment = corridor(tmp_path)
    evaluation = evaluate(policy_for(environment), environment, episodes=10)
    for total, length in zip(evaluation.returns, evaluation.lengths, strict=True):
        assert total == pytest.approx(1.1 - 0.1 * length if length < 50 else -5, abs=1e-5) or length == 50


def test_progress_is_told():
    told = []
    evaluation = evaluate(
        policy_for("Catch-v0"), episodes=12, threads=3, on_episode=lambda *values: told.append(values)
    )
    assert [done for done, _, _ in told] == list(range(1, 13))
    assert sorted(total for _, total, _ in told) == sorted(evaluation.returns)
    assert {length for _, _, length in told} == {9}


def test_a_trained_policy_without_its_environment_s_name():
    agent = nbrl.train("Catch-v0", steps=200, threads=1, seed=1)
    assert evaluate(agent, episodes=3).environment == "Catch-v0"


# What cannot be evaluated


def test_an_environment_of_another_kind_is_refused():
    agent = policy_for("CartPole-v1")
    with pytest.raises(ValueError, match=r"the policy takes float32 vectors of 4, Catch-v0 gives"):
        evaluate(agent, "Catch-v0")
    with pytest.raises(ValueError, match='unknown environment "Nowhere-v3"'):
        evaluate(agent, "Nowhere-v3")
    with pytest.raises(ValueError, match="unknown environment"):
        evaluate(policy_for("CartPole-v1", name="my_function"))

    # What a file names must not run code, and what no file can hold is asked for.
    with pytest.raises(ValueError, match=r'"os:Catch-v0", which would import the module os: .*--env os:Catch-v0'):
        evaluate(policy_for("Catch-v0", name="os:Catch-v0"))
    assert evaluate(policy_for("Catch-v0", name="os:Catch-v0"), "Catch-v0", episodes=1).lengths == [9]
    with pytest.raises(ValueError, match="the Python object <Walk>, which settings and files cannot hold"):
        evaluate(policy_for("CartPole-v1", name="<Walk>"))

    class Three(Walk):
        action_space = envs.gymnasium.spaces.Discrete(3)

    with pytest.raises(ValueError, match="the policy chooses among 2 actions, Three takes 3 actions"):
        evaluate(policy_for(Walk), Three)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"episodes": 0}, "episodes is 0: it must be a whole number of at least 1"),
        ({"episodes": 2.5}, "episodes is 2.5: it must"),
        ({"max_episode_steps": 0}, "max_episode_steps is 0: it must"),
        ({"episodes": True}, "episodes is True: it must"),
        ({"threads": 0}, "threads is 0: it must be a whole number of at least 1"),
        ({"threads": -1}, "threads is -1: it must"),
        ({"seed": -1}, "seed is -1: it must be a whole number of at least 0"),
        ({"seed": 2**64}, "seed is 18446744073709551616: it must"),
        ({"seed": "1"}, "seed is '1': it must"),
    ],
)
def test_numbers_that_are_none(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        evaluate(policy_for("Catch-v0"), **settings)


@pytest.mark.parametrize("fault", [("reset", 0), ("reset", 1), ("step", 0), ("step", 13)])
@pytest.mark.parametrize("threads", [1, 3])
def test_an_environment_s_exception_reaches_the_host(fault, threads, capfd):
    closed = []

    def faulty():
        return Walk({fault: explode}, on_close=closed.append)

    agent = policy_for(faulty)
    closed.clear()
    with pytest.raises(Broken, match="out of the walk") as caught:
        evaluate(agent, faulty, episodes=12, threads=threads)
    assert caught.traceback[-1].name == "explode"
    assert len(closed) == 1 + threads, "the one whose spaces are read, and each thread's"
    assert capfd.readouterr() == ("", "")


def test_an_environment_that_cannot_be_made(capfd):
    made = []

    def third():
        made.append(Walk())
        if len(made) > 3:
            raise Broken("no third one")
        return made[-1]

    agent = policy_for(third)
    with pytest.raises(Broken, match="no third one"):
        evaluate(agent, third, episodes=4, threads=3)
    assert capfd.readouterr() == ("", "")


def test_an_environment_that_cannot_be_closed(capfd):
    made = []

    def second():
        made.append(Walk(on_close=explode if len(made) > 1 else None))
        return made[-1]

    agent = policy_for(second)
    with pytest.raises(Broken):
        evaluate(agent, second, episodes=4, threads=2)
    assert capfd.readouterr() == ("", "")


def test_numbers_that_are_not_finite_are_refused():
    def faulty():
        return Walk({("step", 4): lambda walk: {"observation": [0, math.nan, 0]}})

    with pytest.raises(FloatingPointError, match="an observation of faulty has a number that is not finite"):
        evaluate(policy_for(faulty), faulty)


def test_an_exception_of_the_callback_reaches_the_host():
    def on_episode(done, total, length):
        if done == 3:
            explode(None)

    with pytest.raises(Broken):
        evaluate(policy_for("Catch-v0"), episodes=10**6, threads=2, on_episode=on_episode)
