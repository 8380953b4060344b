"""What threads share and own, without threads: the loop is called here, one worker after the other."""

import math

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from oracles import TERMINATED, TRUNCATED
from scripted import Scripted
from told import Told
from toys import tiny

from nbrl import CheckpointError, Dense, NativeEnvironment, snapshot
from nbrl.checkpoint import write_tensors
from nbrl.envs.interface import ResetFunction, StepFunction
from nbrl.learner import Learner
from nbrl.methods import state
from nbrl.methods.driver import ABANDONED, FINISHED, PAUSED
from nbrl.methods.running_statistics import scale_of
from nbrl.methods.state import ABANDON
from nbrl.nets.layers import Lstm

REMEMBERS = (Dense(8, "tanh"), Lstm(5))


class Run:
    """A learner with its environments, of settings like those of `tiny`."""

    def __init__(self, environment="Catch-v0", **settings):
        self.learner = Learner(tiny(environment, **settings), environment)
        self.instances = [self.learner.attach(worker) for worker in range(len(self.learner.workers))]

    def __call__(self, count=1, worker=0):
        learner = self.learner
        return learner.loop(worker, count)


@given(
    st.integers(1, 4).flatmap(
        lambda k: st.tuples(st.just(k), st.integers(1, 8)).flatmap(
            lambda sizes: st.tuples(st.just(sizes[0]), st.just(sizes[1]), st.integers(1, sizes[1]))
        )
    )
)
def test_every_actor_has_one_thread_and_whole_groups(sizes):
    k, groups, threads = sizes
    learner = Learner(tiny(actors=k * groups, envs_per_batch=k, threads=threads))
    assert sorted(np.concatenate(learner.actors)) == list(range(k * groups))
    counts = [actors.size for actors in learner.actors]
    assert max(counts) - min(counts) <= k
    for worker, policy, actors in zip(learner.workers, learner.policies, learner.actors, strict=True):
        assert all(group.tolist() == list(range(group[0], group[0] + k)) for group in actors.reshape(-1, k))
        assert group_starts(actors, k) % k == 0
        assert worker.actors.begun.shape == actors.shape
        assert worker.rollout.reward.shape == (5, k)
        assert policy.action.shape == (5, k, 1)


def group_starts(actors, k):
    return actors.reshape(-1, k)[0, 0]


def test_an_actor_s_random_numbers_do_not_depend_on_the_threads():
    rows = {}
    for threads in (1, 2, 6):
        learner = Learner(tiny(actors=6, threads=threads))
        for worker, actors in zip(learner.workers, learner.actors, strict=True):
            for row, actor in zip(worker.actors.random, actors, strict=True):
                assert rows.setdefault(int(actor), row.tolist()) == row.tolist()
    assert len({tuple(row) for row in rows.values()}) == 6
    other = Learner(tiny(actors=6, seed=2)).workers[0].actors.random
    assert not np.array_equal(other, list(rows.values()))


def test_a_seed_gives_the_first_parameters():
    first, again, other = (Learner(tiny(seed=seed)).shared.theta for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert Learner(tiny(seed=0)).config.seed == 0
    assert np.any(Learner(tiny(seed=0)).shared.theta)
    drawn = {Learner(tiny(seed=None)).config.seed for _ in range(3)}
    assert len(drawn) == 3
    assert None not in drawn


def test_what_threads_write_lies_in_cache_lines_of_their_own():
    learner = Learner(tiny(actors=3, threads=3))
    starts = [learner.shared.steps[thread:].ctypes.data for thread in range(3)]
    assert all(start % 64 == 0 for start in starts)
    assert len({start // 64 for start in starts}) == 3
    for array in (learner.shared.theta, learner.shared.optimiser, learner.shared.control, learner.shared.updates):
        assert array.ctypes.data % 64 == 0
    ends = learner.workers[0].episodes.ends
    assert {(ends.ctypes.data + 8 * end) % 64 for end in (state.WRITTEN, state.READ, state.DROPPED)} == {0}


@pytest.mark.parametrize("method", ["one_step_q", "one_step_sarsa", "n_step_q"])
def test_continuous_actions_are_not_for_methods_of_values(method):
    environment = NativeEnvironment(
        ResetFunction(lambda *_: 1),
        StepFunction(lambda *_: 1),
        state_size=0,
        observation_space=spaces.Box(0, 1, (2,), np.float32),
        action_space=spaces.Box(-1, 1, (1,), np.float32),
        name="Pole",
    )
    sentence = f"Pole has continuous actions: {method} takes an environment with discrete ones"
    with pytest.raises(ValueError, match=sentence):
        Learner(tiny(environment, method=method, envs_per_batch=1), environment)


@pytest.mark.parametrize("policy_variance", ["constant", "softplus"])
def test_continuous_actions_begin_with_their_deviation(policy_variance):
    settings = {"policy_variance": policy_variance, "initialisation": "orthogonal"}
    named = [
        learner.network.layout.views(learner.shared.theta)
        for learner in (Learner(tiny("Pendulum-v1", initial_std=wide, **settings)) for wide in (None, 0.5, 2.0))
    ]
    assert [float(one["variance/bias"][0]) for one in named] == pytest.approx(
        [0, math.log(math.exp(0.25 - 1e-4) - 1), math.log(math.exp(4 - 1e-4) - 1)], rel=1e-6
    )
    # Nothing else is any different.
    for name in named[0].keys() - {"variance/bias"}:
        assert np.array_equal(named[0][name], named[1][name])
        assert np.array_equal(named[0][name], named[2][name])


NORMALISED = {"envs_per_batch": 1, "threads": 2, "actors": 2}


def test_a_run_begins_with_a_policy_and_what_it_normalises_by():
    trained = Run("Pendulum-v1", **NORMALISED)
    for worker in (0, 1, 0):
        trained(20, worker)
    agent = trained.learner.agent()
    assert (np.abs(agent.normal - [[0], [1]]) > 1e-3).all()
    run = Run("Pendulum-v1", **NORMALISED | {"seed": 2, "learning_rate": 1e-12})
    snapshot.begin_from(run.learner, agent)
    np.testing.assert_array_equal(run.learner.agent().parameters, agent.parameters)
    np.testing.assert_allclose(run.learner.agent().normal, agent.normal, rtol=1e-6)
    for worker in (1, 0):  # each thread normalises by it from its first rollout on
        run(1, worker)
        np.testing.assert_allclose(run.learner.workers[worker].work.normal, agent.normal, rtol=1e-2)


def test_small_rewards_are_never_made_larger():
    run, found = Run("Catch-v0", normalise_rewards=True), set()
    worker = run.learner.workers[0]
    for _ in range(40):
        run()
        found |= set(worker.rollout.reward[:, 0])
    assert scale_of(worker.statistics.total, worker.statistics.total.shape[1] - 1) > 2
    assert found == {-1, 0, 1}


def test_pictures_count_by_the_picture_beside_what_a_policy_normalises_by():
    settings = {"network": (Dense(4),), "normalise_observations": True}
    run = Run("Bricks-v0", **settings)
    agent = run.learner.agent()
    agent.normal = np.array([[0.5], [3]], np.float32)  # far from what Bricks' pictures have
    snapshot.begin_from(run.learner, agent)
    run(10)
    np.testing.assert_allclose(run.learner.workers[0].work.normal, agent.normal, rtol=0.01)
    assert (run.learner.workers[0].work.normal != agent.normal).all()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"normalise_observations": False}, "takes observations normalised, the run has them as they are"),
        ({"separate_networks": False}, "has another separate_networks or policy_variance than the run"),
        ({"policy_variance": "softplus"}, "has another separate_networks or policy_variance than the run"),
    ],
)
def test_a_policy_of_other_settings_is_no_beginning(settings, sentence):
    one, other = (Learner(tiny("Pendulum-v1", **NORMALISED | more)) for more in ({}, settings))
    with pytest.raises(ValueError, match=sentence):
        snapshot.begin_from(other, one.agent())
    if "normalised" in sentence:
        sentence = "takes observations as they are, the run has them normalised: set normalise_observations"
    with pytest.raises(ValueError, match=sentence):
        snapshot.begin_from(one, other.agent())


# The loop's codes and counts


def test_steps_are_counted_over_workers_and_the_loop_finishes():
    run = Run(actors=2, threads=2, steps=20)
    assert [run(1, 0), run(2, 1)] == [PAUSED] * 2
    assert (run.learner.steps, int(run.learner.shared.updates[0])) == (15, 3)
    assert run.learner.shared.steps[:, 0].tolist() == [5, 10]
    assert [run(9, 0), run(9, 1)] == [FINISHED] * 2
    assert run.learner.steps == 20


def test_groups_take_turns():
    environment = Scripted()
    run = Run(environment, actors=6, envs_per_batch=2, steps=10**6)
    taken = []
    for _ in range(4):
        before = [len(environment.records(instance)) for instance in run.instances[0]]
        assert run() == PAUSED
        after = [len(environment.records(instance)) for instance in run.instances[0]]
        taken.append([b > a for a, b in zip(before, after, strict=True)])
    turns = [[group == actor // 2 for actor in range(6)] for group in (0, 1, 2, 0)]
    assert taken == turns


def test_a_parked_loop_changes_nothing():
    run = Run()
    run(3)
    run.learner.shared.control[0] = state.PARK
    before = snapshot.take(run.learner)
    assert run(10) == PAUSED
    assert_same_snapshot(snapshot.take(run.learner), before)


def assert_same_snapshot(one, other):
    assert one[1] == other[1]
    assert one[0].keys() == other[0].keys()
    for name, array in one[0].items():
        np.testing.assert_array_equal(array, other[0][name], err_msg=name)


def test_an_abandoned_rollout_teaches_nothing():
    # The environment itself sets the control word, in the third step of the second rollout.
    calls = []

    @StepFunction
    def step(state, *_):
        calls.append(state)
        if len(calls) == 8:
            run.learner.shared.control[0] = ABANDON
        return 1

    environment = NativeEnvironment(
        ResetFunction(lambda *_: 1), step, state_size=8,
        observation_space=spaces.Box(0, 1, (2,), np.float32), action_space=spaces.Discrete(2),
    )  # fmt: skip
    run = Run(environment, normalise_rewards=False)  # whose statistics are of every step that was played
    assert run(1) == PAUSED
    before = snapshot.take(run.learner)
    assert run(9) == ABANDONED
    assert len(calls) == 8
    after = snapshot.take(run.learner)
    for arrays in (before[0], after[0]):  # actions were drawn, and steps taken
        for name in [name for name in arrays if name.startswith("actors/") or name in ("turn", "states")]:
            del arrays[name]
    assert_same_snapshot(after, before)
    assert run.learner.steps == 5


# Episodes


def test_episodes_come_out_once_and_in_order():
    script = [(float(number), TERMINATED if number % 3 else TRUNCATED) for number in range(15)]
    run = Run(Told(script), rollout_length=5)
    run(1)
    assert run.learner.new_episodes().tolist() == [[number, 1, 0, number + 1] for number in range(5)]
    assert run.learner.new_episodes().shape == (0, state.EPISODE)
    run(2)
    assert run.learner.new_episodes().tolist() == [[number, 1, 0, number + 1] for number in range(5, 15)]
    assert run.learner.dropped_episodes() == 0


def test_a_full_ring_drops_the_newest_and_counts_them():
    script = [(float(number), TERMINATED) for number in range(16)]
    run = Run(Told(script), rollout_length=16, steps=10**9)
    rollouts = state.RING_SIZE // 16
    run(rollouts + 2)
    assert run.learner.dropped_episodes() == 32
    episodes = run.learner.new_episodes()
    np.testing.assert_array_equal(episodes[:, state.RETURN], np.tile(np.arange(16.0), rollouts))
    run(3)  # around the ring's end
    np.testing.assert_array_equal(run.learner.new_episodes()[:, state.RETURN], np.tile(np.arange(16.0), 3))
    assert run.learner.dropped_episodes() == 32


def test_episodes_of_all_workers():
    run = Run(Told([(2.0, TERMINATED)] * 16), actors=4, threads=2)
    run(2, 0)
    run(1, 1)
    assert run.learner.new_episodes().shape == (15, state.EPISODE)
    assert run.learner.sums()[[state.UPDATES, state.SAMPLES]].tolist() == [3, 15]


# Statistics of the optimisers


@pytest.mark.parametrize("optimiser", ["momentum_sgd", "rmsprop"])
def test_each_group_of_actors_has_statistics_of_its_own(optimiser):
    # Six groups of two, dealt to two threads in turn.
    run = Run(actors=12, envs_per_batch=2, threads=2, optimiser=optimiser)
    statistics = run.learner.shared.optimiser
    assert statistics.shape == (6, 1, run.learner.network.layout.size)
    assert [worker.owners.tolist() for worker in run.learner.workers] == [[0, 2, 4], [1, 3, 5]]
    for worker, turns in ((1, (1, 3, 5, 1)), (0, (0, 2, 4, 0, 2))):
        for group in turns:
            before = statistics.copy()
            assert run(1, worker) == PAUSED
            changed = (statistics != before).any(axis=(1, 2))
            assert np.flatnonzero(changed).tolist() == [group]
    assert np.unique(statistics.astype(float).sum(axis=(1, 2))).size == 6


@pytest.mark.parametrize(("optimiser", "arrays"), [("shared_rmsprop", 1), ("shared_adam", 2)])
def test_all_threads_share_the_statistics_of_a_shared_optimiser(optimiser, arrays):
    run = Run(actors=4, threads=2, optimiser=optimiser)
    statistics = run.learner.shared.optimiser
    assert statistics.shape == (1, arrays, run.learner.network.layout.size)
    for worker in (0, 1, 1, 0):
        before = statistics.copy()
        assert run(1, worker) == PAUSED
        assert (statistics != before).any(axis=(0, 2)).all()


# Agents and files


def test_an_agent_is_one_moment_s_copy():
    run = Run()
    agent = run.learner.agent()
    before = agent.parameters.copy()
    run(5)
    np.testing.assert_array_equal(agent.parameters, before)
    assert not np.array_equal(run.learner.agent().parameters, before)


@pytest.mark.parametrize(
    "more",
    [
        {"optimiser": "shared_rmsprop"},
        {"optimiser": "shared_adam"},
        {"optimiser": "rmsprop", "method": "n_step_q"},
        {"optimiser": "momentum_sgd", "envs_per_batch": 2},
        {"optimiser": "shared_adam", "method": "one_step_q", "network": REMEMBERS},
        {"optimiser": "momentum_sgd", "method": "one_step_sarsa", "network": REMEMBERS},
    ],
    ids=lambda more: ", ".join(value for value in more.values() if isinstance(value, str)),
)
def test_a_snapshot_restores_and_the_next_updates_are_the_same(more, tmp_path):
    # Every rollout of the script is whole episodes, so that what follows depends on the snapshot alone. The target
    # network is copied before the snapshot, at step 20, and after it, at step 40.
    settings = {"rollout_length": 4, "actors": 2, "steps": 10**4, "target_interval": 20} | more
    environment = Told([(1.0, 0), (2.0, TERMINATED), (3.0, 0), (-1.0, TRUNCATED)] * 4)
    first = Run(environment, **settings)
    size = 4 * settings.get("envs_per_batch", 1)
    first(24 // size)
    path = tmp_path / "step.safetensors"
    write_tensors(path, *snapshot.take(first.learner))
    second = Run(environment, **settings)
    assert snapshot.restore(second.learner, path).items() >= {"steps": "24", "updates": str(24 // size)}.items()
    assert_same_snapshot(snapshot.take(second.learner), snapshot.take(first.learner))
    third = Run(environment, **settings)
    snapshot.restore(third.learner, path)
    target = third.learner.shared.target.copy()
    second(32 // size)
    third(32 // size)
    assert_same_snapshot(snapshot.take(second.learner), snapshot.take(third.learner))
    assert third.learner.steps == 56
    assert np.array_equal(third.learner.shared.target, target) == ("method" not in more)


def test_what_each_actor_remembers_and_does_next_is_in_the_snapshot_by_its_number(tmp_path):
    # Actors 0, 1, 4 and 5 belong to the first thread. No episode ends within the first five steps.
    settings = {"method": "one_step_sarsa", "network": REMEMBERS, "actors": 8, "envs_per_batch": 2, "threads": 2}
    run = Run("CartPole-v1", **settings)
    for worker in (0, 1):
        run(2, worker)
    arrays, metadata = snapshot.take(run.learner)
    assert arrays["actors/state"].shape == (8, 10)
    assert np.unique(arrays["actors/state"], axis=0).shape[0] == 8
    assert set(arrays["actors/next_action"].tolist()) == {0, 1}
    path = tmp_path / "step.safetensors"
    write_tensors(path, arrays, metadata)
    learner = Learner(tiny("CartPole-v1", **settings))
    snapshot.restore(learner, path)
    for one, other, actors in zip(learner.workers, run.learner.workers, learner.actors, strict=True):
        assert set(actors.tolist()) in ({0, 1, 4, 5}, {2, 3, 6, 7})
        for name in ("state", "next_action"):
            np.testing.assert_array_equal(getattr(one.actors, name), getattr(other.actors, name))
            np.testing.assert_array_equal(getattr(one.actors, name), arrays[f"actors/{name}"][actors])


@pytest.mark.parametrize("optimiser", ["momentum_sgd", "rmsprop"])
def test_statistics_of_each_group_are_in_the_snapshot_by_its_number(optimiser, tmp_path):
    run = Run(actors=6, envs_per_batch=2, threads=2, optimiser=optimiser)
    run(3, 0)
    run(1, 1)
    path = tmp_path / "step.safetensors"
    write_tensors(path, *snapshot.take(run.learner))
    name = {"momentum_sgd": "m", "rmsprop": "g"}[optimiser]
    saved = snapshot.take(run.learner)[0][f"{name}/dense1/weights"]
    assert saved.shape == (3, *run.learner.network.shapes()["dense1/weights"])
    assert saved.any(axis=(1, 2)).all()
    learner = Learner(tiny(actors=6, envs_per_batch=2, threads=2, optimiser=optimiser))
    snapshot.restore(learner, path)
    np.testing.assert_array_equal(learner.shared.optimiser, run.learner.shared.optimiser)


@pytest.mark.parametrize(
    "damage",
    [
        lambda arrays, metadata: arrays.pop("actors/random"),
        lambda arrays, metadata: arrays.pop("g/value/bias"),
        lambda arrays, metadata: metadata.pop("steps"),
        lambda arrays, metadata: metadata.update(steps="many"),
        lambda arrays, metadata: metadata.update(steps="-5"),
        lambda arrays, metadata: metadata.update(updates="1e3"),
        lambda arrays, metadata: arrays.update({"actors/random": arrays["actors/random"][:1]}),
        lambda arrays, metadata: arrays.update({"actors/random": arrays["actors/random"][:, :3]}),
        lambda arrays, metadata: arrays.update({"actors/random": arrays["actors/random"].astype(np.float32)}),
        lambda arrays, metadata: arrays.update({"actors/random": np.zeros_like(arrays["actors/random"])}),
        lambda arrays, metadata: arrays.update({"g/value/bias": np.zeros((2,), np.float32)}),
        lambda arrays, metadata: arrays.update({"g/policy/bias": np.zeros((1,), np.float32)}),
        lambda arrays, metadata: arrays.update({"g/value/bias": np.full((1,), math.nan, np.float32)}),
        lambda arrays, metadata: arrays.update({"value/bias": np.full((1,), math.inf, np.float32)}),
    ],
    ids=lambda damage: str(damage.__code__.co_firstlineno),
)
def test_a_checkpoint_that_does_not_fit_is_refused(damage, tmp_path):
    run = Run(actors=2)
    run(2)
    arrays, metadata = snapshot.take(run.learner)
    damage(arrays, metadata)
    path = tmp_path / "step.safetensors"
    write_tensors(path, arrays, metadata)
    with pytest.raises(CheckpointError):
        snapshot.restore(Learner(tiny(actors=2)), path)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("target/q/weights", None),
        ("target/q/weights", lambda array: array[:, :1]),
        ("target/q/weights", lambda array: array * math.nan),
        ("target/lstm2/recurrent", lambda array: array.astype(np.float64)),
        ("actors/state", None),
        ("actors/state", lambda array: array[:, 1:]),
        ("actors/state", lambda array: array + np.float32(math.inf)),
        ("actors/next_action", None),
        ("actors/next_action", lambda array: array - 3),
        ("actors/next_action", lambda array: array + 4),
        ("actors/next_action", lambda array: array.astype(np.int64)),
        ("m/lstm2/bias", lambda array: array[:1]),
        ("m/lstm2/bias", lambda array: array * math.nan),
    ],
)
def test_a_checkpoint_of_sarsa_with_memory_that_does_not_fit_is_refused(name, damage, tmp_path):
    settings = {"actors": 2, "method": "one_step_sarsa", "network": REMEMBERS, "optimiser": "momentum_sgd"}
    run = Run(**settings)
    run(2)
    arrays, metadata = snapshot.take(run.learner)
    path = tmp_path / "step.safetensors"
    write_tensors(path, arrays, metadata)
    snapshot.restore(Learner(tiny(**settings)), path)  # as it is, it fits
    array = arrays.pop(name)
    if damage is not None:
        arrays[name] = np.ascontiguousarray(damage(array))
    write_tensors(path, arrays, metadata)
    with pytest.raises(CheckpointError, match="cannot resume from"):
        snapshot.restore(Learner(tiny(**settings)), path)
