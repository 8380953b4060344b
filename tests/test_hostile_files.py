"""Files that were made to do harm: each is refused in a sentence, or does none. The long run is tools/fuzz_files.py."""

import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from toys import corridor, tiny

import nbrl
from nbrl import Agent, CheckpointError, NumpyPolicy, Trainer, configure, envs, snapshot
from nbrl.checkpoint import write_tensors
from nbrl.envs.interface import ResetFunction
from nbrl.learner import Learner
from nbrl.metrics import RunDirectory, read_metrics
from nbrl.nets.layers import Dense
from nbrl.policy_file import read_policy


@pytest.fixture(scope="module")
def policy():
    agent = nbrl.train("CartPole-v1", network=[["dense", 8], ["dense", 4]], steps=100, threads=1, seed=1)
    return agent.arrays(), agent.metadata()


def refused(arrays, metadata, folder, words):
    """Both engines refuse a policy, in the same sentence of a length that a person reads."""
    path = folder / "policy.safetensors"
    write_tensors(path, arrays, metadata)
    messages = []
    for kind in (Agent, NumpyPolicy):
        with pytest.raises(CheckpointError, match=words) as error:
            kind.load(path)
        messages.append(str(error.value))
    assert len(set(messages)) == 1
    assert len(messages[0]) <= 300
    assert "\n" not in messages[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": "{}"}, "no kind of policy has the heads"),
        ({"heads": '{"policy": 2, "value": 3}'}, "its heads do not fit one another"),
        ({"network": "[" * 100_000}, "the file holds no policy that can be used"),
        ({"network": "[]"}, "its network has no layer"),
        ({"network": '[["dense", 8, "sigmoid"], ["dense", 4, "relu"]]'}, "a layer has activation 'sigmoid'"),
        (
            {"network": '[["lstm", 8589934592]]'},
            "its network has more than 16,777,216 numbers for what is observed at once",
        ),
        ({"network": '[["conv", 8, 2, 1, "relu"]]'}, "a convolution of 2x2 cannot follow what has shape"),
        ({"network": '[["dense", true, "relu"]]'}, "a layer has units True"),
        ({"format": "nbrl policy 9"}, "its format is 'nbrl policy 9'"),
        ({"sticky_actions": "NaN"}, "its sticky_actions is no probability"),
        ({"actions": "{}"}, "a space of the kind None"),
        ({"environment_arguments": "[1]"}, "its environment_arguments are no keywords"),
        ({"network": json.dumps([["dense", "x" * 20_000, "relu"]])}, "a layer has units 'xxx"),
    ],
)
def test_metadata_that_no_policy_has(policy, tmp_path, changes, words):
    arrays, metadata = policy
    refused(arrays, metadata | changes, tmp_path, words)


def test_arrays_that_no_policy_has(policy, tmp_path):
    arrays, metadata = policy
    for name, array in arrays.items():
        rest = {other: value for other, value in arrays.items() if other != name}
        refused(rest, metadata, tmp_path, f"it lacks '{name}'")
        refused(rest | {name: array.astype(np.float64)}, metadata, tmp_path, f"{name} has shape .* of float64")
        refused(rest | {name: array.reshape(1, *array.shape)}, metadata, tmp_path, f"{name} has shape")
        refused(rest | {name: array * np.nan}, metadata, tmp_path, f"a parameter of {name} is not finite")
    swapped = arrays | {"dense1/weights": arrays["dense2/weights"], "dense2/weights": arrays["dense1/weights"]}
    refused(swapped, metadata, tmp_path, "dense1/weights has shape")


def test_a_network_that_would_take_all_memory(policy, tmp_path):
    """Few parameters, and a picture of each of a billion pixels: known before any memory is taken."""
    arrays, metadata = policy
    space = {"kind": "Box", "shape": [4000, 4000], "dtype": "uint8", "low": 0, "high": 255}
    format_ = {"layout": "HW", "shape": [4000, 4000], "dtype": "uint8"}
    changes = {
        "network": '[["conv", 500, 1, 1, "relu"]]',
        "observations": json.dumps({"space": space, "format": format_}),
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError):
        read_policy(arrays, metadata | changes)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024


@pytest.mark.filterwarnings("ignore:.*encountered in")
def test_parameters_that_overflow_are_told_by_both_engines(policy):
    arrays, metadata = policy
    huge = {name: np.full_like(array, 3e38) for name, array in arrays.items()}
    for kind in (Agent, NumpyPolicy):
        with pytest.raises(ValueError, match="the policy's outputs are not finite: its parameters are too large"):
            kind.from_tensors(huge, metadata).act(np.ones(4))


# States of environments


def states_of(name):
    spec = envs.make(name)
    instance = spec.make()
    observation = np.zeros(spec.agents * spec.observations.bytes + 64, np.uint8)
    mask, alive = np.zeros(spec.agents * spec.mask_size + 1, np.uint8), np.zeros(spec.agents, np.uint8)
    addresses = [array.ctypes.data for array in (observation, mask, alive)]
    ResetFunction(instance.reset_address)(instance.state_address, 3, *addresses)
    return spec, instance, instance.save()


NATIVE = envs.names()["native"]


@pytest.mark.parametrize("name", NATIVE)
def test_every_native_environment_knows_its_states(name):
    spec, instance, saved = states_of(name)
    assert spec.checks_states
    spec.check_state(saved)
    for wrong in (saved[:-1], saved + b"\0", b""):
        with pytest.raises(ValueError, match="bytes"):
            spec.check_state(wrong)
    rng, found = np.random.default_rng(1), 0
    for _ in range(50):
        wrong = bytearray(saved)
        at = 8 * int(rng.integers(len(wrong) // 8))
        wrong[at : at + 8] = np.array(rng.integers(-(2**62), 2**62), np.int64).tobytes()
        try:
            spec.check_state(bytes(wrong))
        except ValueError:
            found += 1
    assert found > 0
    instance.close()


def test_a_checkpoint_with_an_impossible_state_is_refused(tmp_path):
    config = tiny("Rooms-v0", actors=1)
    learner = Learner(config)
    learner.attach(0)
    learner.loop(0, 3)
    arrays, metadata = snapshot.take(learner)
    arrays["states"] = arrays["states"].copy()
    arrays["states"].view(np.int64)[0] = 10**9  # the agent's row
    path = tmp_path / "checkpoint.safetensors"
    write_tensors(path, arrays, metadata)
    with pytest.raises(CheckpointError, match="Rooms-v0 can never be in a state that is saved"):
        snapshot.restore(Learner(config), path)


def test_states_of_an_own_environment_without_a_check_are_trusted_and_that_is_said(tmp_path, caplog):
    environment = corridor(tmp_path)
    config = tiny(environment, actors=1)
    learner = Learner(config, environment)
    learner.attach(0)
    learner.loop(0, 1)
    path = tmp_path / "checkpoint.safetensors"
    write_tensors(path, *snapshot.take(learner))
    snapshot.restore(Learner(config, environment), path)
    assert "does not say which states are possible: those of the checkpoint are trusted" in caplog.text


def test_an_episode_of_atari_is_its_seed_and_its_actions():
    pytest.importorskip("ale_py")
    spec = envs.make("ALE/Breakout-v5")
    spec.check_state(bytes(8) + bytes([0, 3, 2]))
    for wrong in (b"", bytes(7), bytes(8) + bytes([4]), bytes(8 + 27_000)):
        with pytest.raises(ValueError, match="is saved as a seed and fewer than 27,000 of its actions"):
            spec.check_state(wrong)


# Metadata and run folders


@pytest.mark.parametrize(
    ("key", "value"),
    [("updates", str(2**63 - 1)), ("updates", "-1"), ("steps", "9" * 5000), ("seconds", "nan"), ("seconds", "inf"),
     ("seconds", "-1"), ("steps", "many"), ("recent_returns", "3"), ("recent_returns", "[1, NaN]"),
     ("recent_returns", "[" * 100_000), ("recent_returns", '{"a": 1}')],
)  # fmt: skip
def test_counts_that_no_run_has(tmp_path, key, value):
    nbrl.train("Catch-v0", steps=300, threads=1, actors=1, directory=tmp_path / "run")
    [*_, newest] = sorted((tmp_path / "run" / "checkpoints").iterdir())
    arrays, metadata = nbrl.checkpoint.read_tensors(newest)
    write_tensors(newest, arrays, metadata | {key: value})
    with pytest.raises(CheckpointError):
        Trainer.from_run(tmp_path / "run", steps=600)


def test_folders_and_links_in_place_of_files(tmp_path, nbrl_command):
    assert nbrl_command("train", "Catch-v0", "steps=300", "rollout_length=5", "--out", "run").returncode == 0
    run = tmp_path / "run"
    for name in ("metrics.jsonl", "policy.safetensors"):
        kept = (run / name).read_bytes()
        (run / name).unlink()
        for make in (Path.mkdir, lambda path: os.symlink(path.name, path)):
            make(run / name)
            ended = nbrl_command("resume", "run", "--steps", "600")
            assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
            assert f"{name} is no file, but a run writes one there: move it away" in ended.stderr
            (run / name).rmdir() if (run / name).is_dir() else (run / name).unlink()
        (run / name).write_bytes(kept)
    assert nbrl_command("resume", "run", "--steps", "600").returncode == 0


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "null", "[]", "3", '{"environment": 3}', '{"environment": "Catch-v0", "steps": "x"}',
     '{"environment": "Catch-v0", "network": [["dense", 1e400]]}', '{"environment": "' + "x" * 20_000, "\0\xff"],
)  # fmt: skip
def test_settings_that_are_none(tmp_path, text):
    run = RunDirectory.create(tmp_path / "run", configure("Catch-v0"))
    run.config_file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"config.json cannot be") as error:
        run.config()
    assert len(str(error.value)) <= 300


def test_a_network_in_the_settings_that_is_not_the_checkpoint_s(tmp_path):
    """Ten to the twelfth weights are refused before they are made."""
    nbrl.train("Catch-v0", steps=300, network=[["dense", 4]], directory=tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    run.write_config(run.config().replace(network=(Dense(10**6), Dense(10**6))))
    with pytest.raises(ValueError, match="has another network than"):
        Trainer.from_run(tmp_path / "run", steps=600)


@pytest.mark.parametrize("name", ["steps", "charts/episodic_return", "losses/entropy", "own/metric"])
@pytest.mark.parametrize("value", ['"7"', "[]", "true", "1e400", "NaN", "{}", "9" * 5000])
def test_lines_of_metrics_with_a_wrong_number_are_passed_over(tmp_path, make_report, name, value):
    good = json.dumps(make_report(metrics={"own/metric": 1.0}).to_dict())
    values = json.loads(good)
    bad = good.replace(f'"{name}": {json.dumps(values[name])}', f'"{name}": {value}')
    assert bad != good
    (tmp_path / "metrics.jsonl").write_text(f"{good}\n{bad}\n" + "[" * 100_000 + f"\n{good}\n")
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2


# The long run's tool, for a short while


@pytest.mark.slow
def test_four_hundred_mutated_files(tool):
    fuzz = tool("fuzz_files")
    corpus = fuzz.Corpus()
    outcomes = [fuzz.outcome(corpus, number) for number in range(400)]
    corpus.folder.cleanup()
    assert not [words for words in outcomes if "NOT DOCUMENTED" in words]
    assert len(set(outcomes)) > 8
