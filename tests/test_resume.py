"""A run that was stopped and goes on equals one that was not, bit for bit, with one thread."""

import hashlib
import json
import logging
import time

import numpy as np
import pytest
from toys import tiny

import nbrl
from nbrl import CheckpointError, Conv, Dense, Trainer
from nbrl.checkpoint import newest, read_metadata, read_tensors, write_tensors
from nbrl.methods.replay import contents
from nbrl.methods.state import Actors
from nbrl.metrics import read_metrics
from nbrl.nets.layers import Lstm
from nbrl.nets.table import outputs

ADAM = {"optimiser": "shared_adam", "learning_rate": 1e-3}
SMALL = (Conv(4, 8, 4), Dense(8))
REMEMBERS = {"network": (Dense(8, "tanh"), Lstm(6))}
VALUES = {"target_interval": 700, "epsilon_steps": 4000}
DPG = {
    "method": "dpg",
    "target_interval": 700,
    "tau": None,
    "learning_starts": 200,
    "batch_size": 8,
    "rollout_length": 1,
}
CASES = {
    "catch": ("Catch-v0", {}),
    "lockstep, adam": ("Catch-v0", {"envs_per_batch": 2, "actors": 6} | ADAM),
    "cart pole": ("CartPole-v1", {"actors": 3, "rollout_length": 7} | ADAM),
    "bricks": ("Bricks-v0", {"network": SMALL, "gae_lambda": 0.9}),
    "maze": ("nbrl/Maze-v0", {"network": SMALL, "steps": 1200}),
    "one-step Q": ("CartPole-v1", {"method": "one_step_q", "actors": 3} | VALUES | ADAM),
    "one-step Sarsa": ("CartPole-v1", {"method": "one_step_sarsa", "actors": 3} | VALUES | ADAM),
    "n-step Q": ("Catch-v0", {"method": "n_step_q", "envs_per_batch": 2} | VALUES),
    "n-step Q, bricks": ("Bricks-v0", {"method": "n_step_q", "network": SMALL, "steps": 3000} | VALUES),
    "momentum of each actor": ("Catch-v0", {"method": "one_step_q", "optimiser": "momentum_sgd"} | VALUES),
    "mean squares of each of two groups": ("CartPole-v1", {"envs_per_batch": 2, "optimiser": "rmsprop"}),
    "LSTM": ("Cue-v0", REMEMBERS),
    "LSTM, pictures": ("Bricks-v0", {"network": (*SMALL, Lstm(6)), "steps": 3000, "envs_per_batch": 2}),
    "LSTM, one-step Q": ("Cue-v0", {"method": "one_step_q"} | VALUES | REMEMBERS),
    "LSTM, one-step Sarsa": ("Cue-v0", {"method": "one_step_sarsa", "envs_per_batch": 2} | VALUES | REMEMBERS),
    "LSTM, n-step Q": (
        "Cue-v0",
        {"method": "n_step_q", "optimiser": "rmsprop", "envs_per_batch": 2} | VALUES | REMEMBERS,
    ),
    "continuous actions": ("Pendulum-v1", {"envs_per_batch": 2} | ADAM),
    "continuous actions, LSTM": ("Pendulum-v1", {"envs_per_batch": 1, "gae_lambda": 1.0} | REMEMBERS),
    "continuous actions, MuJoCo": ("InvertedPendulum-v5", {"steps": 3000, "actors": 2, "envs_per_batch": 1}),
    "bonuses": ("CartPole-v1", {"bonus": "count+episodic", "actors": 3, "normalise_rewards": True}),
    "bonuses that learn": (
        "CartPole-v1",
        {"bonus": "rnd+novelty+icm", "method": "ppo", "envs_per_batch": 2, "rollout_length": 16, "epochs": 2} | ADAM,
    ),
    "bonuses that learn, LSTM": ("Cue-v0", {"bonus": "icm+rnd"} | REMEMBERS),
    "normalised": ("CartPole-v1", {"normalise_observations": True, "normalise_rewards": True}),
    "pictures, normalised": ("Bricks-v0", {"network": SMALL, "steps": 3000, "normalise_observations": True}),
    "n-step Q, normalised": ("CartPole-v1", {"method": "n_step_q", "normalise_observations": True} | VALUES),
    "deterministic, a memory": ("Pendulum-v1", DPG | {"buffer_size": 1100, "save_replay": True, "envs_per_batch": 2}),
    "deterministic, half an update a step": (
        "Pendulum-v1",
        DPG
        | {"buffer_size": 3000, "save_replay": True, "updates_per_step": 0.3, "tau": 0.1, "rollout_length": 3}
        | ADAM,
    ),
    "deterministic, normalised": (
        "Pendulum-v1",
        DPG | {"buffer_size": 3000, "save_replay": True, "normalise_observations": True, "normalise_rewards": True},
    ),
    "deterministic, no memory": ("Pendulum-v1", DPG | {"buffer_size": 0, "envs_per_batch": 2} | ADAM),
    "ppo": ("CartPole-v1", {"method": "ppo", "envs_per_batch": 2, "rollout_length": 16, "epochs": 2} | ADAM),
    "ppo, LSTM": (
        "Cue-v0",
        {"method": "ppo", "envs_per_batch": 2, "rollout_length": 8, "epochs": 2, "minibatches": 2} | REMEMBERS,
    ),
    "ppo, continuous actions": ("Pendulum-v1", {"method": "ppo", "envs_per_batch": 2, "rollout_length": 16}),
    "pqn": ("Catch-v0", {"method": "pqn", "envs_per_batch": 2, "rollout_length": 16, "minibatches": 2}),
    "atari": ("ALE/Pong-v5", {"network": SMALL, "steps": 1200, "sticky_actions": 0.25}),
    "atari, lives": ("ALE/Breakout-v5", {"network": SMALL, "steps": 1200, "actors": 2, "envs_per_batch": 2}),
}


def settings(environment, more):
    return tiny(environment, **{"steps": 6000, "actors": 4, "threads": 1, "seed": 5, "report_interval": 1e-3} | more)


def digest(trainer):
    learner = trainer._run.learner
    shared, worker = learner.shared, learner.workers[0]
    actors = worker.actors
    arrays = [shared.theta, shared.target, shared.optimiser, actors.random, actors.state, actors.next_action]
    arrays += [worker.statistics.own, actors.discounted, shared.bonuses]
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest(), learner.steps


def whole(config):
    trainer = Trainer(config)
    trainer.start()
    trainer.join()
    return digest(trainer)


def stopped(config, directory, after, restore=None):
    """Train until some steps have been taken, and return the last checkpoint."""
    trainer = Trainer(
        config,
        directory=directory,
        restore=restore,
        on_report=lambda report: report.steps >= after and trainer.stop(),
    )
    learner = trainer._run.learner
    loop = learner.loop

    def slowly(thread, rollouts):
        if learner.steps >= after:
            time.sleep(1e-3)
        return loop(thread, rollouts)

    with pytest.MonkeyPatch.context() as patch:
        # The engine takes thousands of steps between two reports: here it waits for them, a rollout a call.
        patch.setattr("nbrl.run.CALL_SECONDS", 0.0)
        learner.loop = slowly
        trainer.start()
        assert trainer.join()
    assert after <= trainer.steps < config.steps
    return newest(directory / "checkpoints")


def halfway_within_episodes(config, directory):
    """A checkpoint of the second half at which all that is kept matters; where a run stops depends on time."""
    saved = stopped(config, directory, config.steps // 2)
    while True:
        arrays, metadata = read_tensors(saved)
        # Episodes of one length end together, and actions already chosen may all be the first.
        chosen = config.method != "one_step_sarsa" or arrays["actors/next_action"].any()
        if arrays["actors/begun"].all() and chosen:
            return saved
        saved = stopped(config, directory, int(metadata["steps"]) + 1, restore=saved)


def gone_on(config, directory, saved):
    trainer = Trainer(config, directory=directory, restore=saved)
    trainer.start()
    trainer.join()
    return digest(trainer)


@pytest.mark.parametrize(("environment", "more"), CASES.values(), ids=CASES)
def test_a_run_that_goes_on_equals_one_that_never_stopped(environment, more, tmp_path):
    config = settings(environment, more)
    saved = stopped(config, tmp_path / "run", config.steps // 4)
    saved = stopped(config, tmp_path / "run", config.steps // 2, restore=saved)
    assert gone_on(config, tmp_path / "run", saved) == whole(config)


@pytest.fixture(scope="module")
def halfway(tmp_path_factory):
    """(settings, a checkpoint of the middle of the run, how the run ends), of a run that needs all that is kept."""
    config = settings(
        "CartPole-v1",
        {"method": "one_step_sarsa", "actors": 6, "envs_per_batch": 2, "steps": 6000, "normalise_rewards": False}
        | ADAM
        | VALUES
        | REMEMBERS,
    )
    saved = halfway_within_episodes(config, tmp_path_factory.mktemp("halfway") / "run")
    return config, saved, whole(config)


FIELDS = [
    "m/dense1/weights",
    "v/dense1/weights",
    "m/lstm2/recurrent",
    "target/lstm2/recurrent",
    "target/q/bias",
    "turn",
    "states",
    "actors/state_size",
    *(f"actors/{name}" for name in Actors.make(np.arange(1), 0, observation_bytes=0, mask_size=0, state_size=0).kept()),
]


@pytest.mark.parametrize("name", [*FIELDS, "steps", "updates"])
def test_nothing_can_be_left_out_of_a_checkpoint(name, halfway, tmp_path):
    config, saved, _ = halfway
    arrays, metadata = read_tensors(saved)
    (metadata if name in metadata else arrays).pop(name)
    write_tensors(tmp_path / "cut.safetensors", arrays, metadata)
    with pytest.raises(CheckpointError, match="cannot resume from"):
        Trainer(config, restore=tmp_path / "cut.safetensors")


@pytest.mark.parametrize("name", [*(name for name in FIELDS if name != "actors/state_size"), "steps", "updates"])
def test_every_field_of_a_checkpoint_matters(name, halfway, tmp_path):
    config, saved, end = halfway
    arrays, metadata = read_tensors(saved)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    path = tmp_path / "run" / "checkpoints" / saved.name
    # These count for the reports alone, and this run does not normalise.
    learns = not name.startswith("actors/episode_") and name != "actors/discounted"
    if name in metadata:
        metadata[name] = str(int(metadata[name]) // 2)
    elif name == "turn":
        arrays[name] = (arrays[name] + 1) % 3
    elif name == "states":
        arrays[name] = np.roll(arrays[name], arrays["actors/state_size"][0])
    elif name == "actors/begun":
        arrays[name][:] = False
    elif name == "actors/random":
        arrays[name] = arrays[name][::-1].copy()
    else:
        arrays[name] = np.zeros_like(arrays[name])
    write_tensors(path, arrays, metadata)
    assert (gone_on(config, tmp_path / "run", path) == end) == (not learns)


@pytest.fixture(scope="module")
def halfway_normalised(tmp_path_factory):
    """As `halfway`, of continuous actions."""
    config = settings("Pendulum-v1", {"envs_per_batch": 2} | ADAM)
    assert config.normalise_observations
    assert config.normalise_rewards
    saved = halfway_within_episodes(config, tmp_path_factory.mktemp("halfway") / "run")
    return config, saved, whole(config)


@pytest.mark.parametrize("name", ["moments", "actors/discounted", "states", "actors/random", "v/variance/bias"])
def test_what_normalisation_needs_is_in_the_checkpoint(name, halfway_normalised, tmp_path):
    config, saved, end = halfway_normalised
    arrays, metadata = read_tensors(saved)
    kept = arrays.pop(name)
    path = tmp_path / "run" / "checkpoints" / saved.name
    path.parent.mkdir(parents=True)
    write_tensors(path, arrays, metadata)
    with pytest.raises(CheckpointError, match="cannot resume from"):
        Trainer(config, restore=path)
    others = kept[::-1] if name == "actors/random" else np.roll(kept, 24) if name == "states" else np.zeros_like(kept)
    for changed in (kept, others):
        write_tensors(path, arrays | {name: np.ascontiguousarray(changed)}, metadata)
        assert (gone_on(config, tmp_path / "run", path) == end) == (changed is kept)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("moments", lambda array: array[:, 1:]),
        ("moments", lambda array: array.astype(np.float32)),
        ("moments", lambda array: array * np.nan),
        ("moments", lambda array: array - [[1e9], [0], [0]]),
        ("moments", lambda array: array - [[0], [0], [1e9]]),
        ("actors/discounted", lambda array: array[1:]),
        ("actors/discounted", lambda array: array * np.inf),
        ("actors/next_action", lambda array: array + 1),
    ],
)
def test_statistics_that_cannot_be_are_refused(name, damage, halfway_normalised, tmp_path):
    config, saved, _ = halfway_normalised
    arrays, metadata = read_tensors(saved)
    with np.errstate(invalid="ignore"):
        arrays[name] = np.ascontiguousarray(damage(arrays[name]))
    write_tensors(tmp_path / "wrong.safetensors", arrays, metadata)
    with pytest.raises(CheckpointError, match=f"cannot resume from: {name} has"):
        Trainer(config, restore=tmp_path / "wrong.safetensors")


def test_statistics_of_several_threads_go_on_as_one(tmp_path):
    config = settings("Pendulum-v1", {"threads": 2, "envs_per_batch": 1})
    saved = stopped(config, tmp_path / "run", 3000)
    arrays, metadata = read_tensors(saved)
    assert (arrays["moments"][0] == int(metadata["steps"])).all()
    trainer = Trainer(config, directory=tmp_path / "run", restore=saved)
    np.testing.assert_array_equal(trainer.snapshot().normal, arrays["observations/normal"])
    trainer.start()
    trainer.join()
    assert (trainer._run.learner.statistics()[0] == trainer.steps).all()


def test_counts_of_an_episode_go_on(tmp_path):
    # No episode of CartPole is as long as its return where a part of either was lost.
    config, reports = settings("CartPole-v1", CASES["cart pole"][1]), []
    saved = stopped(config, tmp_path / "run", 3000)
    trainer = Trainer(config, directory=tmp_path / "run", restore=saved, on_report=reports.append)
    learner = trainer._run.learner
    assert learner.workers[0].actors.episode_length.sum() > 0
    np.testing.assert_array_equal(learner.workers[0].actors.episode_length, learner.workers[0].actors.episode_return)
    trainer.start()
    trainer.join()
    told = [report for report in reports if report.episodes]
    assert told
    assert all(report.return_mean == pytest.approx(report.length_mean) for report in told)


def test_a_turn_that_is_none_is_refused(halfway, tmp_path):
    config, saved, _ = halfway
    arrays, metadata = read_tensors(saved)
    for turn in (-1, 3):
        arrays["turn"][0] = turn
        write_tensors(tmp_path / "wrong.safetensors", arrays, metadata)
        with pytest.raises(CheckpointError, match=f"turn has {turn}"):
            Trainer(config, restore=tmp_path / "wrong.safetensors")


def test_states_of_another_size_are_refused(halfway, tmp_path):
    config, saved, _ = halfway
    arrays, metadata = read_tensors(saved)
    assert arrays["actors/state_size"].tolist() == [40] * 6
    arrays["actors/state_size"][0] -= 1
    write_tensors(tmp_path / "wrong.safetensors", arrays, metadata)
    with pytest.raises(CheckpointError, match="the sizes of its environments' states do not add up"):
        Trainer(config, restore=tmp_path / "wrong.safetensors")
    arrays["states"] = arrays["states"][1:]
    write_tensors(tmp_path / "wrong.safetensors", arrays, metadata)
    with pytest.raises(CheckpointError, match="a state of CartPole-v1 has 40 bytes, not 39"):
        Trainer(config, restore=tmp_path / "wrong.safetensors")


def test_an_environment_that_cannot_be_saved_begins_anew_and_the_run_says_so(tmp_path, caplog):
    config = tiny("Acrobot-v1", steps=4000, actors=2, threads=1, report_interval=1e-3)
    saved = stopped(config, tmp_path / "run", 1000)
    assert not read_tensors(saved)[0]["actors/begun"].any()
    with caplog.at_level(logging.INFO):
        trainer = Trainer(config, directory=tmp_path / "run", restore=saved)
    assert "0 of 2 actors go on with their episodes, 2 begin new ones" in caplog.text
    trainer.start()
    assert trainer.join()
    assert trainer.steps == config.steps


def test_several_threads_go_on_with_their_counts_and_random_numbers(tmp_path):
    config = settings("Catch-v0", {"threads": 2, "actors": 6})
    saved = stopped(config, tmp_path / "run", 3000)
    arrays, metadata = read_tensors(saved)
    learner = Trainer(config, directory=tmp_path / "run", restore=saved)._run.learner
    assert learner.steps == int(metadata["steps"])
    assert int(learner.shared.updates[0]) == int(metadata["updates"])
    for worker, actors in zip(learner.workers, learner.actors, strict=True):
        np.testing.assert_array_equal(worker.actors.random, arrays["actors/random"][actors])
    assert arrays["actors/begun"].any()


def test_a_policy_is_read_from_a_checkpoint_with_episodes(halfway):
    _, saved, _ = halfway
    assert nbrl.Agent.load(saved).environment == "CartPole-v1"


# A replay memory


@pytest.fixture(scope="module")
def halfway_with_memory(tmp_path_factory):
    """As `halfway`, of a deterministic policy."""
    config = settings("Pendulum-v1", DPG | {"buffer_size": 1000, "save_replay": True} | ADAM)
    saved = halfway_within_episodes(config, tmp_path_factory.mktemp("halfway") / "run")
    return config, saved, whole(config)


def test_a_memory_is_saved_the_oldest_step_first(halfway_with_memory, tmp_path):
    config, saved, end = halfway_with_memory
    arrays, metadata = read_tensors(saved)
    assert arrays["replay"].shape == (1000, 2 + 3 + 1 + 3)
    assert arrays["replay_sizes"].tolist() == [1000]
    # Turned around, the draws are others.
    path = tmp_path / "run" / "checkpoints" / saved.name
    path.parent.mkdir(parents=True)
    for changed in (arrays["replay"], arrays["replay"][::-1].copy()):
        write_tensors(path, arrays | {"replay": changed}, metadata)
        assert (gone_on(config, tmp_path / "run", path) == end) == (changed is arrays["replay"])


@pytest.mark.parametrize(
    ("name", "damage", "sentence"),
    [
        ("replay", None, "'replay'"),
        ("replay_sizes", None, "'replay_sizes'"),
        ("replay", lambda array: array[1:], "replay has shape"),
        ("replay", lambda array: array[:, 1:], "replay has shape"),
        ("replay", lambda array: array.reshape(-1), "replay has shape"),
        ("replay", lambda array: array[0, 0], "replay has shape"),
        ("replay", lambda array: array.astype(np.float64), "replay has shape"),
        ("replay", lambda array: array * np.float32(np.nan), "replay has a number that is not finite"),
        ("replay_sizes", lambda array: array + 1, "replay_sizes has a size that no memory has"),
        ("replay_sizes", lambda array: array - 2000, "replay_sizes has a size that no memory has"),
        ("replay_sizes", lambda array: array - 1, "replay has shape"),
        ("replay_sizes", lambda array: np.repeat(array, 2), "replay_sizes has shape"),
    ],
)
def test_a_memory_that_cannot_be_is_refused(name, damage, sentence, halfway_with_memory, tmp_path):
    config, saved, _ = halfway_with_memory
    arrays, metadata = read_tensors(saved)
    array = arrays.pop(name)
    if damage is not None:
        arrays[name] = np.ascontiguousarray(damage(array))
    write_tensors(tmp_path / "wrong.safetensors", arrays, metadata)
    with pytest.raises(CheckpointError, match=f"cannot resume from: {sentence}"):
        Trainer(config, restore=tmp_path / "wrong.safetensors")


def test_memories_of_several_threads_go_on(tmp_path):
    more = {"buffer_size": 500, "save_replay": True, "threads": 2, "steps": 3000}
    config = settings("Pendulum-v1", DPG | more)
    saved = stopped(config, tmp_path / "run", 1500)
    arrays, _ = read_tensors(saved)
    assert arrays["replay_sizes"].tolist() == [250, 250]
    learner = Trainer(config, directory=tmp_path / "run", restore=saved)._run.learner
    found = [
        contents(method.replay, worker.rollout.reward.size)
        for method, worker in zip(learner.methods, learner.workers, strict=True)
    ]
    np.testing.assert_array_equal(np.concatenate(found), arrays["replay"])
    assert not np.array_equal(*found)


def test_a_memory_that_was_not_saved_fills_anew_with_the_policy_s_steps(tmp_path, caplog):
    config = settings("Pendulum-v1", DPG | {"buffer_size": 1000, "noise_std": 0.0})
    saved = stopped(config, tmp_path / "run", 3000)
    assert "replay" not in read_tensors(saved)[0]
    with caplog.at_level(logging.INFO):
        trainer = Trainer(config, directory=tmp_path / "run", restore=saved)
    assert "the replay memory was not saved: learning goes on after 200 steps that fill it anew" in caplog.text
    learner = trainer._run.learner
    learner.attach(0)
    worker, before = learner.workers[0], int(learner.shared.updates[0])
    for step in range(1, 203):
        learner.loop(0, 1)
        assert int(learner.shared.updates[0]) - before == max(step - 199, 0)
        if step <= 199:  # it acts by what it has learnt, and not at random
            mu = outputs(worker.work, learner.network.head("action"), 0, 1)[0]
            np.testing.assert_array_equal(learner.policies[0].action[0, 0], mu)


def test_every_thread_knows_at_once_what_all_had_seen(tmp_path):
    """Whichever thread goes on first: the statistics of a checkpoint are those of its first rollout."""
    config = settings("CartPole-v1", {"threads": 2, "normalise_observations": True, "normalise_rewards": True})
    saved = stopped(config, tmp_path / "run", 2000)
    moments = read_tensors(saved)[0]["moments"]
    learner = Trainer(config, restore=saved)._run.learner
    learner.attach(1)
    learner.loop(1, 1)
    np.testing.assert_array_equal(learner.workers[1].statistics.total, moments)
    assert moments[0].min() >= 2000


def test_the_last_hundred_episodes_are_those_of_the_whole_run(tmp_path):
    settings = {"threads": 1, "actors": 2, "seed": 3, "report_interval": 0.05}
    nbrl.train("Catch-v0", steps=5000, directory=tmp_path / "run", **settings)
    before = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1].recent_return
    returns = json.loads(read_metadata(newest(tmp_path / "run" / "checkpoints"))["recent_returns"])
    assert len(returns) == 100
    assert np.mean(returns) == pytest.approx(before)
    reports = []
    trainer = Trainer.from_run(tmp_path / "run", steps=5400, on_report=reports.append)
    trainer.start(wait=True)
    episodes = sum(report.episodes for report in reports)
    sums = sum(report.return_mean * report.episodes for report in reports if report.episodes)
    assert 0 < episodes < 100
    assert reports[-1].recent_return == pytest.approx((sum(returns[episodes:]) + sums) / 100)
