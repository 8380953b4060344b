import dataclasses
import json
import math

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbrl import envs
from nbrl.config import (
    DEFAULTS,
    PRESETS,
    SETTINGS,
    Config,
    available_cores,
    check_names,
    configure,
    describe,
)
from nbrl.methods import METHODS, dpg, method_class, ppo
from nbrl.methods.a3c import CONTINUOUS
from nbrl.methods.actor_critic import VARIANCES
from nbrl.methods.dpg import WITHOUT_REPLAY
from nbrl.methods.optimisers import OPTIMISERS
from nbrl.nets.layers import ACTIVATIONS, NETWORKS, Conv, Dense, LayerNorm, Lstm, layers_from_list, layers_to_list
from nbrl.settings import Task

counts = st.integers(1, 10**6)
positive = st.floats(1e-12, 1e12)
fractions = st.floats(0, 1, exclude_max=True)
layers = st.lists(
    st.builds(Dense, counts, st.sampled_from(sorted(ACTIVATIONS)))
    | st.builds(Conv, counts, counts, counts, st.sampled_from(sorted(ACTIVATIONS)))
    | st.builds(Lstm, counts),
    min_size=1,
).map(tuple)


@st.composite
def configs(draw):
    threads, lockstep = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    return draw(
        st.builds(
            Config,
            environment=st.text(min_size=1),
            method=st.sampled_from(sorted(METHODS)),
            network=layers,
            threads=st.just(threads),
            envs_per_batch=st.just(lockstep),
            actors=st.integers(threads, threads + 8).map(lambda batches: batches * lockstep),
            rollout_length=counts,
            steps=counts,
            discount=st.floats(0, 1),
            separate_networks=st.booleans(),
            central_value=st.booleans(),
            policy_variance=st.sampled_from(VARIANCES),
            initial_std=st.none() | st.floats(0.02, 10),
            normalise_observations=st.booleans(),
            normalise_rewards=st.booleans(),
            learning_rate=positive,
            optimiser=st.sampled_from(sorted(OPTIMISERS)),
            momentum=fractions,
            rmsprop_decay=fractions,
            rmsprop_epsilon=positive,
            adam_beta1=fractions,
            adam_beta2=fractions,
            adam_epsilon=positive,
            entropy_weight=st.floats(0, 10),
            value_weight=st.floats(0, 10),
            target_interval=counts,
            tau=st.none() | st.floats(1e-12, 1),
            epsilon_steps=counts,
            noise_std=st.floats(0, 10),
            updates_per_step=st.floats(1e-3, 1000),
            save_replay=st.booleans(),
            gradient_clip=positive,
            reward_clip=st.none() | positive,
            sticky_actions=fractions,
            cut_on_life_loss=st.booleans(),
            seed=st.none() | st.integers(0, 2**63 - 1),
            report_interval=positive,
            checkpoint_interval=positive,
        )
    )


@given(configs())
def test_config_survives_json(config):
    assert Config.from_dict(json.loads(json.dumps(config.to_dict(), allow_nan=False))) == config


@given(layers)
def test_layers_survive_json(table):
    assert layers_from_list(json.loads(json.dumps(layers_to_list(table)))) == table


def test_class_defaults_are_the_papers():
    config = Config(environment="ALE/Pong-v5")
    assert config.network == (Conv(16, 8, 4, "relu"), Conv(32, 4, 2, "relu"), Dense(256, "relu"))
    assert (config.actors, config.threads, config.envs_per_batch, config.rollout_length) == (16, 16, 1, 5)
    assert (config.steps, config.discount, config.learning_rate) == (80_000_000, 0.99, 7e-4)
    assert (config.optimiser, config.rmsprop_decay, config.rmsprop_epsilon) == ("shared_rmsprop", 0.99, 0.1)
    assert (config.entropy_weight, config.value_weight, config.reward_clip) == (0.01, 0.5, 1.0)
    assert config.cut_on_life_loss
    assert config.sticky_actions == 0


def test_numbers_of_other_types_become_pythons_own():
    config = Config(environment="x", steps=np.int64(7), learning_rate=1, discount=np.float32(0.5))
    assert type(config.steps) is int
    assert type(config.learning_rate) is float
    assert type(config.discount) is float
    assert config == Config(environment="x", steps=7, learning_rate=1.0, discount=0.5)


NUMBERS = [
    field.name
    for field in dataclasses.fields(Config)
    if field.type in (int, float, int | None, float | None)
]  # fmt: skip
MAY_BE_ZERO = {
    "discount", "gae_lambda", "momentum", "rmsprop_decay", "adam_beta1", "adam_beta2", "entropy_weight", "value_weight",
    "sticky_actions", "seed", "target_return", "noise_std", "buffer_size", "q_lambda", "final_epsilon",
    "exchange_interval", "outer_momentum",
}  # fmt: skip
MAY_BE_NEGATIVE = {"target_return"}
OPTIONAL = {
    "reward_clip",
    "max_episode_steps",
    "initial_std",
    "value_clip",
    "final_epsilon",
    "tau",
    "seed",
    "minutes",
    "target_return",
    "eval_interval",
    "exchange_updates",
}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, -1, -0.5, 0, True, "1", None, [1], pytest.param(10**400, id="huge")],
)
def test_impossible_numbers_are_refused_by_name(name, value):
    zero, negative = value == 0 and value is not False, value in (-1, -0.5)
    allowed = (zero and name in MAY_BE_ZERO) or (negative and name in MAY_BE_NEGATIVE)
    if allowed or (value is None and name in OPTIONAL):
        Config(environment="x", **{name: value})
        return
    with pytest.raises(ValueError, match=rf"^{name} is ") as caught:
        Config(environment="x", **{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"threads": 2.5}, "threads is 2.5: it must be a whole number of at least 1"),
        ({"discount": 1.5}, "discount is 1.5: it must be a finite number of at least 0 and at most 1"),
        ({"reward_clip": 0}, "reward_clip is 0: it must be a finite number above 0, or none"),
        ({"sticky_actions": 1}, "sticky_actions is 1: it must be a finite number of at least 0 and below 1"),
        ({"cut_on_life_loss": 1}, "cut_on_life_loss is 1: it must be true or false"),
        ({"separate_networks": 1}, "separate_networks is 1: it must be true or false"),
        ({"normalise_observations": None}, "normalise_observations is None: it must be true or false"),
        ({"normalise_rewards": "true"}, "normalise_rewards is 'true': it must be true or false"),
        ({"policy_variance": "const"}, "unknown policy_variance 'const': did you mean 'constant'?"),
        ({"policy_variance": 1}, "policy_variance is 1: it must be a name"),
        ({"environment": ""}, "environment is '': it must be a name"),
        ({"method": "a2c"}, "unknown method 'a2c': did you mean 'a3c'?"),
        ({"optimiser": "momentum"}, "unknown optimiser 'momentum': did you mean 'momentum_sgd'?"),
        (
            {"optimiser": "sgd"},
            "unknown optimiser 'sgd': it must be one of momentum_sgd, rmsprop, shared_rmsprop, shared_adam, "
            "shared_radam",
        ),
        (
            {"method": "x"},
            "unknown method 'x': it must be one of one_step_q, one_step_sarsa, n_step_q, a3c, ppo, pqn, dpg",
        ),
        ({"momentum": 1}, "momentum is 1: it must be a finite number of at least 0 and below 1"),
        (
            {"target_interval": 0},
            "target_interval is 0: it must be a whole number of at least 1 and at most 1000000000000000",
        ),
        (
            {"epsilon_steps": 1.5},
            "epsilon_steps is 1.5: it must be a whole number of at least 1 and at most 1000000000000000",
        ),
        ({"envs_per_batch": 3}, "envs_per_batch is 3: it must divide the number of actors, 16"),
        ({"threads": 17}, "threads is 17: it must be at most 16, the number of actors divided by envs_per_batch"),
        (
            {"threads": 5, "envs_per_batch": 4},
            "threads is 5: it must be at most 4, the number of actors divided by envs_per_batch",
        ),
        ({"network": ()}, "network has no layer: it needs at least one"),
        ({"network": 3}, "network is 3: it must be a table of layers such as (Dense(64), Dense(64))"),
        ({"network": [Dense(8), Dense(0)]}, "layer 2 of the network has units 0: it must be a whole number above 0"),
        (
            {"network": [["conv", 8, 3]]},
            "layer 1 of the network is ['conv', 8, 3]: it must be ['dense', units, activation] or "
            "['conv', filters, kernel, stride, activation] or ['lstm', units] or ['gru', units] or "
            "['layer_norm', activation] or ['communicate', units, activation] or ['channel', units, bits]",
        ),
        (
            {"network": [["lstm", 8, "tanh"]]},
            "layer 1 of the network is ['lstm', 8, 'tanh']: it must be ['dense', units, activation] or "
            "['conv', filters, kernel, stride, activation] or ['lstm', units] or ['gru', units] or "
            "['layer_norm', activation] or ['communicate', units, activation] or ['channel', units, bits]",
        ),
        (
            {"network": ["dense"]},
            "layer 1 of the network is 'dense': it must be a Dense or Conv or Lstm or Gru or LayerNorm or Communicate "
            "or Channel",
        ),
        ({"network": [Dense(8), Lstm(0)]}, "layer 2 of the network has units 0: it must be a whole number above 0"),
        ({"network": Lstm(8)}, "network is Lstm(units=8): it must be a table of layers such as (Dense(64), Dense(64))"),
        (
            {"network": "paper-lstn"},
            "network is 'paper-lstn': it must be one of paper, paper-lstm, paper-norm, dqn, dqn-lstm, dqn-norm, gamma, "
            "gamma-norm, small, mlp, mlp-norm, or a table of layers",
        ),
        (
            {"network": [Dense(8, "gelu")]},
            "layer 1 of the network has activation 'gelu': it must be one of none, relu, tanh",
        ),
    ],
)
def test_sentences(settings, sentence):
    with pytest.raises(ValueError, match=r"^") as caught:
        Config(**{"environment": "x", **settings})
    assert str(caught.value) == sentence


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_by_its_name_is_its_table(name):
    config = Config(environment="x", network=name)
    assert config == Config(environment="x", network=NETWORKS[name])
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.to_dict()["network"] == layers_to_list(NETWORKS[name])


def test_the_networks_with_a_name():
    paper = (Conv(16, 8, 4, "relu"), Conv(32, 4, 2, "relu"), Dense(256, "relu"))
    dqn = (Conv(32, 8, 4, "relu"), Conv(64, 4, 2, "relu"), Conv(64, 3, 1, "relu"), Dense(512, "relu"))
    mlp = (Dense(64, "tanh"), Dense(64, "tanh"))
    lstm = Lstm(256)
    named = {"paper": paper, "paper-lstm": (*paper, lstm), "dqn": dqn, "dqn-lstm": (*dqn, lstm), "mlp": mlp}
    named["small"] = (Conv(16, 3, 1, "relu"), Dense(128, "relu"))
    sizes = ((32, 3, 2), (48, 3, 2), (64, 3, 1), (64, 3, 2), (64, 3, 1))
    named["gamma"] = (*(Conv(*size, "relu") for size in sizes), Dense(512, "relu"))
    named["mlp-norm"] = (Dense(64, "none"), LayerNorm("tanh")) * 2
    for name in ("paper", "dqn", "gamma"):
        pairs = [(layer._replace(activation="none"), LayerNorm("relu")) for layer in named[name]]
        named[f"{name}-norm"] = tuple(each for pair in pairs for each in pair)
    assert named == NETWORKS


def test_settings_from_json_are_checked():
    with pytest.raises(ValueError, match=r"unknown setting 'learning_rat': did you mean 'learning_rate'\?"):
        Config.from_dict({"environment": "x", "learning_rat": 1})
    with pytest.raises(ValueError, match="name no environment"):
        Config.from_dict({})
    with pytest.raises(ValueError, match="must be a JSON object"):
        Config.from_dict([])  # type: ignore[arg-type]


def test_every_setting_is_described_in_a_line():
    lines = describe()
    assert list(lines) == [field.name for field in dataclasses.fields(Config)]
    assert all(line and "\n" not in line for line in lines.values())


@pytest.mark.parametrize(
    "table",
    [*DEFAULTS.values(), CONTINUOUS, WITHOUT_REPLAY, *(kinds[kind] for kinds in PRESETS.values() for kind in kinds)],
)
def test_the_tables_hold_possible_settings(table):
    check_names(table)
    Config(environment="x", threads=1, **table)


TASKS = [
    Task(image, numbers, continuous, given)
    for image, numbers in ((False, 3), (False, 30), (True, 7056))
    for continuous in (False, True)
    for given in ({}, {"buffer_size": 0})
]


@pytest.mark.parametrize("task", TASKS, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_the_defaults_of_methods_are_possible_settings(method, task):
    table = method_class(method).defaults(task)
    check_names(table)
    Config(environment="x", threads=1, method=method, **table)


@pytest.mark.parametrize("method", METHODS)
def test_methods_own_settings_are_settings_with_the_paper_s_values(method):
    for name, setting in method_class(method).settings.items():
        assert SETTINGS[name] is setting
        assert getattr(Config(environment="x", method=method), name) == setting.default


def test_methods_have_defaults_of_their_own():
    for method in ("one_step_q", "one_step_sarsa", "n_step_q"):
        config = configure("CartPole-v1", method=method)
        own = method_class(method).on_vectors
        assert {"target_interval", "epsilon_steps"} <= own.keys()
        expected = DEFAULTS["vector"] | own | {"method": method}
        assert {name: getattr(config, name) for name in expected} == expected
        assert configure("CartPole-v1", method=method, target_interval=7).target_interval == 7
        # The paper's are the same for all of them.
        paper = configure("CartPole-v1", method=method, preset="paper")
        assert dataclasses.replace(paper, method="a3c") == configure("CartPole-v1", preset="paper")
        assert (paper.target_interval, paper.epsilon_steps) == (10_000, 1_000_000)
    assert configure("CartPole-v1").target_interval == 10_000


def test_ppo_is_what_trains_where_no_method_is_given():
    for environment in ("CartPole-v1", "Bricks-v0", "Pendulum-v1", "PendulumPixels-v0"):
        assert configure(environment) == configure(environment, method="ppo")
        assert configure(environment, preset="paper") == configure(environment, method="a3c", preset="paper")
    pictures = configure("Bricks-v0")
    assert {name: getattr(pictures, name) for name in ppo.IMAGES} == ppo.IMAGES
    vectors, motions = configure("CartPole-v1"), configure("Pendulum-v1")
    assert {name: getattr(vectors, name) for name in ppo.VECTORS} == ppo.VECTORS
    assert {name: getattr(motions, name) for name in ppo.CONTINUOUS} == ppo.CONTINUOUS


def test_one_step_methods_on_images_have_short_rollouts():
    for method in ("one_step_q", "one_step_sarsa"):
        config = configure("Bricks-v0", method=method)
        assert (config.rollout_length, config.envs_per_batch, config.optimiser) == (5, 1, "shared_rmsprop")


def test_configure_suits_the_kind_of_observation():
    vector = configure("CartPole-v1")
    assert vector.environment == "CartPole-v1"
    assert vector.network == DEFAULTS["vector"]["network"]
    assert (vector.normalise_rewards, vector.reward_clip) == (True, None)
    assert vector.threads == min(available_cores(), 16)
    assert configure("CartPole-v1", actors=1).threads == 1
    assert configure("CartPole-v1", actors=6, envs_per_batch=3, threads=2).threads == 2
    assert configure(envs.make("CartPole-v1"), seed=3) == configure("CartPole-v1", seed=3)


def test_continuous_actions_have_defaults_of_their_own():
    config = configure("Pendulum-v1", method="a3c")
    expected = DEFAULTS["vector"] | CONTINUOUS | {"method": "a3c"}
    assert {name: getattr(config, name) for name in expected} == expected
    assert configure("Pendulum-v1", envs_per_batch=1, normalise_rewards=False).normalise_rewards is False
    assert not configure("CartPole-v1").separate_networks
    # The paper's, of its section 9: nothing is normalised, and the variance is a layer's output.
    paper = configure("Pendulum-v1", preset="paper")
    assert (paper.network, paper.entropy_weight, paper.reward_clip) == ((Dense(200, "relu"),), 1e-4, None)
    assert (paper.separate_networks, paper.policy_variance) == (True, "softplus")
    assert not paper.normalise_observations
    assert not paper.normalise_rewards


def test_continuous_actions_are_learnt_more_slowly_in_longer_runs():
    # In inverse proportion to the root of the length, from the million steps that the rate was found on.
    rates = [
        configure("Pendulum-v1", method="a3c", steps=steps).learning_rate for steps in (1, 10**6, 4 * 10**6, 10**8)
    ]
    assert rates == pytest.approx([2e-3, 2e-3, 1e-3, 2e-4], rel=1e-12)
    assert configure("Pendulum-v1", method="a3c", frames=4 * 10**6).learning_rate == pytest.approx(1e-3, rel=1e-12)
    assert configure("Pendulum-v1", method="a3c", steps=10**8, learning_rate=3e-3).learning_rate == 3e-3
    with pytest.raises(ValueError, match="steps is 'x': it must be a whole number"):
        configure("Pendulum-v1", steps="x")
    # Nothing else has such a rate.
    others = (("PendulumPixels-v0", "a3c"), ("CartPole-v1", "a3c"), ("Pendulum-v1", "dpg"), ("Pendulum-v1", "ppo"))
    for environment, method in others:
        long, short = (configure(environment, steps=steps, method=method).learning_rate for steps in (10**8, 10**6))
        assert long == short


def test_deterministic_policy_gradient_has_defaults_of_its_own():
    # None of those are A3C's for continuous actions.
    config, own = configure("Pendulum-v1", method="dpg"), dpg.VECTORS | dpg.SMALL
    expected = DEFAULTS["vector"] | own | {"method": "dpg"}
    assert {name: getattr(config, name) for name in expected} == expected
    assert (config.normalise_observations, config.reward_clip, config.envs_per_batch) == (False, None, 1)
    without = configure("Pendulum-v1", method="dpg", buffer_size=0, threads=1)
    expected |= WITHOUT_REPLAY | {"buffer_size": 0}
    assert {name: getattr(without, name) for name in expected} == expected
    assert configure("Pendulum-v1", method="dpg", buffer_size=0, rollout_length=3).rollout_length == 3
    arm = envs.interface.EnvSpec("Arm", gymnasium.spaces.Box(-1, 1, (5,)), gymnasium.spaces.Box(-1, 1, (3,)))
    larger = configure(arm, method="dpg")
    assert (larger.network, larger.batch_size, larger.steps) == ((Dense(256), Dense(256)), 256, 300_000)
    # The paper's are the same for all methods.
    paper = configure("Pendulum-v1", method="dpg", preset="paper")
    assert dataclasses.replace(paper, method="a3c") == configure("Pendulum-v1", preset="paper")
    assert paper.buffer_size == 0


def test_a_memory_is_large_enough_for_what_is_drawn_from_it():
    for method in ("a3c", "dpg"):
        Config(environment="x", method=method, batch_size=10**6)  # without a memory it does not matter
    Config(environment="x", method="dpg", buffer_size=70, learning_starts=70, batch_size=70)
    with pytest.raises(ValueError, match=r"^batch_size is 71: it must be at most learning_starts, the 70 steps"):
        Config(environment="x", method="dpg", buffer_size=70, learning_starts=70, batch_size=71)
    with pytest.raises(ValueError, match=r"^learning_starts is 71: it must be at most buffer_size, the 70 steps"):
        Config(environment="x", method="dpg", buffer_size=70, learning_starts=71, batch_size=64)


def test_pictures_are_not_normalised():
    road = gymnasium.spaces.Box(0, 255, (3, 96, 96), np.uint8)
    environment = envs.interface.EnvSpec("Drive", road, gymnasium.spaces.Box(-1, 1, (3,), np.float32))
    config = configure(environment, method="a3c")
    assert config.policy_variance == "constant"
    assert not config.normalise_observations


def test_an_environment_without_an_id_is_named_so():
    def corridor():
        return gymnasium.make("CartPole-v1")

    assert configure(corridor).environment == "<corridor>"
    native = envs.make("CartPole-v1")
    native.name = "mine"
    assert configure(native).environment == "<mine>"


def test_configure_for_images():
    pytest.importorskip("ale_py")
    assert configure("ALE/Pong-v5", frames=1001).steps == 250
    paper = configure("ALE/Pong-v5", preset="paper", threads=16)
    assert paper == Config(environment="ALE/Pong-v5")


def test_frames_are_steps_where_an_action_is_not_repeated():
    assert configure("CartPole-v1", frames=1000).steps == 1000


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"preset": "papers"}, "unknown preset 'papers': did you mean 'paper'?"),
        ({"frames": 10, "steps": 10}, "steps and frames are both given"),
        ({"frames": 0}, "frames is 0: it must be a whole number of at least 1"),
        ({"frames": math.nan}, "frames is nan"),
        ({"frames": -5}, "frames is -5"),
        ({"frame": 10}, "unknown setting 'frame'"),
        (
            {"messages": 2},
            "unknown setting 'messages': the command nbrl settings lists them, and keywords of an environment",
        ),
        ({"actors": 0}, "actors is 0"),
        ({"envs_per_batch": 0}, "envs_per_batch is 0"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_configure_refuses_in_a_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=r"^") as caught:
        configure("CartPole-v1", **arguments)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "lockstep"),
    [
        ({}, 4),
        ({"actors": 1}, 1),
        ({"actors": 6}, 3),
        ({"actors": 7}, 1),
        ({"threads": 4}, 4),
        ({"threads": 8}, 2),
        ({"threads": 16}, 1),
        ({"actors": 8, "threads": 3}, 2),
    ],
)
def test_a_default_of_lockstep_gives_way_to_actors_and_threads(asked, lockstep):
    assert configure("Pendulum-v1", **asked).envs_per_batch == lockstep
    assert configure("Bricks-v0", method="a3c", **asked).envs_per_batch == lockstep
    with pytest.raises(ValueError, match="envs_per_batch is 5: it must divide the number of actors, 16"):
        configure("Pendulum-v1", envs_per_batch=5)


def test_pictures_are_learnt_more_slowly_with_an_lstm():
    for method in ("a3c", "ppo"):
        recurrent = configure("Bricks-v0", method=method, network="paper-lstm")
        assert (recurrent.learning_rate, recurrent.steps) == (1e-4, 16_000_000)
        assert configure("Bricks-v0", method=method, network="paper-lstm", learning_rate=3e-4).learning_rate == 3e-4
    assert configure("Bricks-v0", method="a3c").learning_rate == 7e-4
    assert configure("Bricks-v0", preset="paper", network="paper-lstm").learning_rate == 7e-4
    with pytest.raises(ValueError, match="network is 'lstm': it must be one of"):
        configure("Bricks-v0", network="lstm")
