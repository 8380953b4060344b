"""Process replay: short runs of every method, whose numbers a committed table holds, so that big steps are safe.

Each case is a run by one thread from a fixed seed, in the table process_replay.json: what differs from the table's
common settings, which spell out every field, so that a new default changes no case. Two things are compared:

- after one update, the norm and the first numbers of every array of parameters, within 1e-5, on every machine;
- after the whole run, hashes of the parameters and of the checkpoint's arrays, whatever these are named, on machines
  with the processor and the packages that the table was made on.

The runs are made in a process that only loads compiled code, as a second training run would: what a process has just
compiled may round differently, since a function that was not inlined is then the copy that was optimised first.

A change that is meant to alter a case makes the table anew, and its commit says why:

    python tests/test_process_replay.py write
"""

import hashlib
import importlib.metadata
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import gymnasium
import llvmlite.binding as llvm
import numpy as np
import pytest
from gymnasium import spaces

from nbrl import Agent, Trainer, checkpoint
from nbrl.config import Config

TABLE = Path(__file__).with_name("process_replay.json")
FIRST = 3  # numbers of each array


class Parcels(gymnasium.Env):
    """Observations of several kinds, discrete actions; episodes end or are cut short at random."""

    observation_space = spaces.Dict({"place": spaces.Discrete(3), "load": spaces.Box(-2.0, 2.0, (4,), np.float32)})
    action_space = spaces.Discrete(3, start=1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.look(), {}

    def look(self):
        load = self.np_random.integers(-64, 65, 4).astype(np.float32) / 32
        self.seen = {"place": int(self.np_random.integers(3)), "load": load}
        return self.seen

    def reward(self, action):
        return float(self.seen["load"][action])

    def step(self, action):
        reward, chance = self.reward(action), self.np_random.integers(16)
        return self.look(), reward, bool(chance == 0), bool(chance == 1), {}


class Levers(Parcels):
    """The same with two continuous actions, one of them without bounds."""

    action_space = spaces.Box(np.array([-1.5, -np.inf], np.float32), np.array([0.5, np.inf], np.float32))

    def reward(self, action):
        return float(self.seen["load"][0] * np.float32(action[0]) - np.abs(action).sum())


class Sliders(Levers):
    """The same with bounds for both, as dpg needs them."""

    action_space = spaces.Box(np.array([-1.5, -2], np.float32), np.array([0.5, 4], np.float32))


OWN = {"<Parcels>": Parcels, "<Levers>": Levers, "<Sliders>": Sliders}


def table():
    return json.loads(TABLE.read_text())


def digest(arrays):
    """One for the contents of several arrays, whatever their names and order."""
    parts = sorted(hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest() for array in arrays)
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def trained(config, folder):
    """The path of the checkpoint at a run's end."""
    trainer = Trainer(config, OWN.get(config.environment), directory=folder)
    trainer.start(wait=True)
    return checkpoint.newest(Path(folder) / "checkpoints")


def begins(path):
    """The norm and the first numbers of every array of parameters."""
    agent = Agent.load(path)
    return {
        name: [float(np.linalg.norm(array.astype(float))), *array.reshape(-1)[:FIRST].astype(float).tolist()]
        for name, array in agent.network.layout.views(agent.parameters).items()
    }


def replayed(case, folder):
    """What the table holds of a case, besides its settings."""
    config = Config.from_dict(case)
    one = config.rollout_length * config.envs_per_batch
    first = trained(Config.from_dict(case | {"steps": one}), Path(folder) / "one")
    last = trained(config, Path(folder) / "all")
    arrays, _ = checkpoint.read_tensors(last)
    return {
        "first update": begins(first),
        "parameters": digest([Agent.load(last).parameters]),
        "checkpoint": digest(arrays.values()),
    }


def machine():
    """What the last bit of a sum depends on."""
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "numba", "llvmlite", "gymnasium")}
    features = ",".join(sorted(name for name, on in llvm.get_host_cpu_features().items() if on))
    return {"processor": llvm.get_host_cpu_name(), "features": digest([np.array(features)]), **versions}


def replay(cases):
    """Every case as `replayed` finds it, by name."""
    found = {}
    for name, case in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = replayed(case, folder)
    return found


@pytest.fixture(scope="module")
def found(environment_variables):
    """What the cases are now, from a second process; the first one compiles."""
    for _ in range(2):
        command = [sys.executable, __file__]
        done = subprocess.run(command, env=environment_variables, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", table()["cases"])
def test_runs_are_what_they_were(name, found):
    held = table()
    now, case = found[name], held["cases"][name]
    assert now["first update"].keys() == case["first update"].keys()
    for array, numbers in case["first update"].items():
        np.testing.assert_allclose(now["first update"][array], numbers, rtol=1e-5, atol=1e-5 * numbers[0])
    if machine() == held["machine"]:
        assert (now["parameters"], now["checkpoint"]) == (case["parameters"], case["checkpoint"])


def test_every_pair_of_choices_is_in_the_table():
    held = table()
    cases = [held["common"] | case["settings"] for case in held["cases"].values()]
    for case in cases:
        assert case.keys() == Config.from_dict(case).to_dict().keys()
    methods = {case["method"] for case in cases}
    assert {(case["method"], case["optimiser"]) for case in cases} == {
        (method, optimiser) for method in methods for optimiser in {case["optimiser"] for case in cases}
    }
    for field in ("normalise_observations", "normalise_rewards"):
        assert {(case["method"], case[field]) for case in cases} == {(m, on) for m in methods for on in (False, True)}
    recurrent = {case["method"] for case in cases if any(layer[0] == "lstm" for layer in case["network"])}
    assert recurrent == methods - {"dpg"}
    assert {case["buffer_size"] > 0 for case in cases if case["method"] == "dpg"} == {False, True}


if __name__ == "__main__":
    made = table()
    now = replay({name: made["common"] | case["settings"] for name, case in made["cases"].items()})
    if sys.argv[1:] == ["write"]:
        made["machine"] = machine()
        for name, case in made["cases"].items():
            case.update(now[name])
        TABLE.write_text(json.dumps(made, indent=1) + "\n")
    else:
        print(json.dumps(now))
