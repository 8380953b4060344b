import json
import math
import time
from functools import partial

import numpy as np
import pytest
from policies import observed
from toys import Broken, Picture, Walks, explode, our_threads, tiny

from nbrl import Conv, Dense, Lstm, bench, cli
from nbrl.config import Config
from nbrl.learner import Learner
from nbrl.nets.network import Network

PARTS = ["environment", "acting", "learning", "copy", "update", "rest"]
SECONDS = 0.05


def layer_flops(network, samples):
    """(forward, backward) of all layers, in their order."""
    found = [bench.layer_flops(plan, samples) for plan in network.plans]
    return [list(counts) for counts in zip(*found, strict=True)]


def check(result, layers):
    assert [part.name for part in result.parts] == PARTS
    assert [layer.name for layer in result.layers] == layers
    assert math.isclose(sum(part.share for part in result.parts), 1)
    assert math.isclose(sum(part.together for part in result.parts), result.whole)
    assert math.isclose(result.whole * result.steps_per_second, 1e6 * result.config.threads)
    for part in result.parts[:-1]:
        assert part.alone > 0
        assert math.isclose(part.share, part.together / result.whole)
        assert part.share > 0
    assert result.parts[-1].alone is None
    assert result.peak > 0
    assert all(layer.forward > 0 and layer.backward > 0 for layer in result.layers)
    assert our_threads() == []


@pytest.mark.parametrize("threads", [1, 2])
def test_shares_add_up_on_a_native_environment(threads):
    words = []
    config = tiny(threads=threads, actors=4, envs_per_batch=2)
    result = bench.benchmark(config, seconds=SECONDS, on_progress=words.append)
    check(result, ["dense1", "policy", "value"])
    assert result.config == config
    assert result.parameters == Learner(config).network.layout.size
    assert set(PARTS[:-1]) <= set(words)
    if threads == 1:
        assert all(part.alone == part.together for part in result.parts[:-1])

    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert Config.from_dict(values["config"]) == config
    assert [part["name"] for part in values["parts"]] == PARTS
    assert values["whole"] == result.whole
    table = result.table()
    assert all(f"\n  {name} " in table for name in [*PARTS, "whole", "dense1", "policy", "value"])
    assert "Catch-v0, a3c: 4 actors" in table
    assert "100.0%" in table


@pytest.mark.parametrize("method", ["ppo", "pqn"])
def test_passes_in_minibatches_are_one_part(method):
    config = tiny(method=method, actors=4, envs_per_batch=2, epochs=2, minibatches=2, rollout_length=8)
    result = bench.benchmark(config, seconds=SECONDS)
    assert [part.name for part in result.parts] == ["environment", "acting", "learning", "rest"]
    assert all(part.alone > 0 for part in result.parts[:-1])
    assert sum(part.share for part in result.parts) == pytest.approx(1)


def test_pictures_from_gymnasium():
    config = tiny(Picture, network=(Conv(8, 3, 2, "relu"), Dense(16, "relu")))
    check(bench.benchmark(config, Picture, seconds=SECONDS), ["conv1", "dense2", "policy", "value"])


def test_continuous_actions():
    config = tiny("Pendulum-v1", actors=4, envs_per_batch=2)
    result = bench.benchmark(config, seconds=SECONDS)
    assert [part.name for part in result.parts] == PARTS
    assert all(part.alone > 0 for part in result.parts[:-1])
    assert [layer.name for layer in result.layers] == ["dense1", "value_dense1", "mean", "variance", "value"]
    # A constant variance has no products.
    speeds = {layer.name: (layer.forward > 0, layer.backward > 0) for layer in result.layers}
    assert speeds == {name: (name != "variance",) * 2 for name in speeds}
    assert "Pendulum-v1, a3c: 4 actors" in result.table()
    json.dumps(result.to_dict(), allow_nan=False)


def test_operations_of_separate_networks():
    network = Network(
        (Dense(3),), observed((4,)), {"mean": 2, "variance": 2, "value": 1}, separate=True, constant=("variance",)
    )
    forward, backward = layer_flops(network, 7)
    # Both first layers read the observation, which needs no gradient.
    assert forward == [7 * 24, 7 * 24, 7 * 12, 0, 7 * 6]
    assert backward == [7 * 24, 7 * 24, 2 * 7 * 12, 0, 2 * 7 * 6]


def test_every_environment_is_closed():
    walks = Walks()
    walks.probes = 3  # configure, and the learners of the parts and of the training
    bench.benchmark(tiny(walks, threads=2, actors=4), walks, seconds=SECONDS)
    assert len(walks.made) == 8
    assert {id(walk) for walk in walks.made} == {id(walk) for walk in walks.closed}


@pytest.mark.parametrize("call", [("reset", 0), ("step", 3)])
def test_an_environment_s_error_is_raised(call):
    walks = Walks({1: {"faults": {call: explode}}})
    with pytest.raises(Broken):
        bench.benchmark(tiny(walks, threads=2), walks, seconds=SECONDS)
    assert {id(walk) for walk in walks.made} == {id(walk) for walk in walks.closed}


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, "10", None, True])
def test_seconds_that_are_none_are_refused(seconds):
    with pytest.raises(ValueError, match="it must be a finite number above 0"):
        bench.benchmark(tiny(), seconds=seconds)


def test_groups_of_calls_are_timed_in_turn():
    began = []

    def call(name, repeats):
        began.append(name)
        time.sleep(1e-3 * repeats)

    one, two, three = (partial(call, name) for name in "abc")
    found = bench.seconds_in_turn([[one], [two, three]], SECONDS)
    assert all(spent >= 1e-3 for spent in found)
    last = began[-3 * bench.ROUNDS :]
    assert last[::3] == ["a"] * bench.ROUNDS
    assert all({*pair} == {"b", "c"} for pair in zip(last[1::3], last[2::3], strict=True))


def test_the_environments_take_the_steps_that_are_timed():
    walks = Walks()
    with bench.Parts(Learner(tiny(walks, actors=6, envs_per_batch=2, rollout_length=5), walks)) as parts:
        parts.run("environment", 0, 4)  # groups of 2 actors in turn: 0, 1, 2, 0
    assert [walk.calls["step"] for walk in walks.made] == [10, 10, 5, 5, 5, 5]
    assert [walk.calls["reset"] for walk in walks.made] == [1, 1, 1, 1, 1, 1]


def test_the_parts_are_timed_on_a_network_that_stays_as_it_is():
    learner = Learner(tiny(learning_rate=bench.NO_LEARNING))
    before = learner.shared.theta.copy()
    with bench.Parts(learner) as parts:
        for part in bench.KERNELS:
            parts.run(part, 0, 50)
    work = learner.workers[0].work
    np.testing.assert_array_equal(work.theta, learner.shared.theta)
    np.testing.assert_allclose(learner.shared.theta, before, rtol=0, atol=1e-9)
    assert np.any(work.dtheta)
    assert learner.shared.updates[0] == 50


def test_operations_of_the_paper_s_network():
    layers = (Conv(16, 8, 4, "relu"), Conv(32, 4, 2, "relu"), Dense(256, "relu"))
    network = Network(layers, observed((4, 84, 84)), {"policy": 6, "value": 1})
    # Output pixels x weights of a filter x filters, times 2: 20 x 20 of 4 x 8 x 8, then 9 x 9 of 16 x 4 x 4.
    one = [2 * 400 * 256 * 16, 2 * 81 * 256 * 32, 2 * 2592 * 256, 2 * 256 * 6, 2 * 256 * 1]
    assert one == [3_276_800, 1_327_104, 1_327_104, 3_072, 512]
    forward, backward = layer_flops(network, 1)
    assert forward == one
    assert backward == [one[0], *(2 * count for count in one[1:])]
    forward, backward = layer_flops(network, 3)
    assert forward == [3 * count for count in one]
    assert sum(backward) == 3 * (3_276_800 + 2 * (1_327_104 + 1_327_104 + 3_072 + 512))


def test_operations_of_an_lstm():
    network = Network((Dense(3), Lstm(5)), observed((4,)), {"q": 2})
    # Inputs and outputs of the step before, each times 4 gates of 5 units; twice that backward, to weights and inputs.
    lstm = 2 * (3 * 20 + 5 * 20)
    forward, backward = layer_flops(network, 7)
    assert forward == [7 * 24, 7 * lstm, 7 * 20]
    assert backward == [7 * 24, 2 * 7 * lstm, 2 * 7 * 20]
    first = Network((Lstm(5),), observed((4,)), {"q": 2})  # needs no gradient of the observation
    assert layer_flops(first, 1)[1] == [2 * (4 * 20 + 2 * 5 * 20), 2 * 20]


def test_both_heads_read_the_observation_where_there_is_no_layer():
    network = Network((), observed((4,)), {"policy": 2, "value": 1})
    forward, backward = layer_flops(network, 5)
    assert forward == backward == [5 * 2 * 4 * 2, 5 * 2 * 4]


def test_the_machine_is_named():
    machine = bench.machine()
    assert json.loads(json.dumps(machine)) == machine
    assert machine["vector_bits"] in (128, 256, 512)
    line = bench.machine_line(machine)
    assert machine["processor"] in line
    assert f"numpy {np.__version__}" in line


def test_the_command_prints_a_table_or_json(nbrl_command):
    words = ["bench", "CartPole-v1", "method=a3c", "--seconds", "0.1", "--set", "actors=2", "--threads", "1"]
    ended = nbrl_command(*words)
    assert ended.returncode == 0, ended.stderr
    assert "CartPole-v1, a3c: 2 actors, 1 thread" in ended.stdout
    ended = nbrl_command(*words, "--json", "--preset", "paper")
    assert ended.returncode == 0, ended.stderr
    values = json.loads(ended.stdout)
    assert values["config"]["network"] == [["dense", 200, "relu"]]
    assert sum(part["share"] for part in values["parts"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--seconds", "0"], "seconds is 0: it must be a finite number above 0"),
        (["--seconds", "long"], "seconds is 'long'"),
        (["--threads", "0"], "threads is 0"),
        (["--preset", "papre"], "unknown preset 'papre'"),
        (["--set", "actors"], "it must be field=value"),
        (["--set", "actors=0"], "actors is 0"),
        (["--set", "method=dpg"], "dpg has no parts to time"),
        (["--steps", "5"], "unknown option --steps: a setting is written steps=5"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(capsys, words, sentence):
    try:
        code = cli.main(["bench", "CartPole-v1", *words])
    except SystemExit as end:
        code = end.code
    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "")
    assert printed.err.startswith("nbrl: ")
    assert sentence in printed.err.splitlines()[-1]
