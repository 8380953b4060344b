"""Policies in files: the same again when loaded, and what is no policy is refused."""

import json
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from policies import ACTIONS, GAUSSIANS, PICTURES, RECURRENT, SMALL, VALUES, agent_of, continuous_agent, observed
from toys import deterministic_policy

from nbrl import Agent, CheckpointError, Conv, Dense, Lstm
from nbrl.checkpoint import write_tensors
from nbrl.nets.network import Network

REFUSED = r"^the file holds no policy that can be used: "


KINDS = [
    {}, PICTURES, {"shape": (2, 2), "layers": (Dense(3, "relu"),)}, RECURRENT, VALUES, RECURRENT | VALUES,
    PICTURES | VALUES | {"layers": (Conv(4, 3, 2), Lstm(3))},
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_saved_policy_is_the_same_again(kind, tmp_path):
    agent = agent_of(**kind)
    path = tmp_path / "policy.safetensors"
    agent.save(path)
    for source in (path, str(path), path.read_bytes()):
        loaded = Agent.load(source)
        np.testing.assert_array_equal(loaded.parameters, agent.parameters)
        assert loaded.metadata() == agent.metadata()
        assert (loaded.network.layers, loaded.network.heads) == (agent.network.layers, agent.network.heads)
        rng, seen = np.random.default_rng(0), agent.network.observations
        states = [agent.initial_state(), loaded.initial_state()]
        for turn in range(20):
            observation = rng.integers(0, 256, seen.shape).astype(seen.dtype)
            same = [
                policy.act(observation, state, rng=np.random.default_rng(turn))
                for policy, state in zip((agent, loaded), states, strict=True)
            ]
            assert same[0] == same[1]
            assert states[0].tobytes() == states[1].tobytes()
    loaded.save(path)
    assert Agent.load(path).metadata() == agent.metadata()


def seen_as(shape=(4,), dtype="float32", layout="vector", high=1.0):
    """Observations in a file's metadata, as a vector of four numbers unless told otherwise."""
    space = {"kind": "Box", "shape": shape, "dtype": dtype, "low": None, "high": None}
    form = {"shape": shape, "dtype": dtype, "layout": layout, "high": high}
    return json.dumps({"space": space, "format": form})


def told(**changes):
    """Three discrete actions in a file's metadata, but for some changes."""
    return json.dumps({"kind": "Discrete", "n": 3, "start": 0} | changes)


DEEP = "[" * 50_000
DAMAGES = [
    ("format", None), ("format", "nbrl policy 1"), ("network", None), ("network", "["), ("network", DEEP),
    ("network", "[]"), ("network", "{}"), ("network", "5"), ("network", '[["dense", 9, "tanh"]]'),
    ("network", '[["dense", 8.0, "tanh"]]'), ("network", '[["dense", 1000000000000, "tanh"]]'),
    ("network", '[["conv", 8, 1, 1, "tanh"]]'), ("network", '[["dense", 8, "sin"]]'), ("network", '"paper"'),
    ("network", '[["lstm", 8]]'), ("network", '[["lstm", 2]]'), ("network", '[["lstm", 1000000000000]]'),
    ("network", '[["lstm", 8, "tanh"]]'), ("network", '[["lstm"]]'), ("network", '[["lstm", true]]'),
    ("heads", '{"q": 3}'), ("heads", '{"q": 3, "policy": 3, "value": 1}'), ("heads", '{"policy": 3, "q": 3}'),
    ("heads", '["policy", "value"]'), ("heads", '{"value": 1, "policy": 3}'),
    ("heads", '{"policy": 3.0, "value": 1}'), ("heads", '{"policy": 0, "value": 1}'), ("heads", "null"),
    ("heads", '{"policy": -3, "value": 1}'), ("heads", '{"policy": 3, "value": 2}'),
    ("heads", '{"policy": 1e400, "value": 1}'), ("heads", '{"policy": true, "value": 1}'),
    ("observations", None), ("observations", "4"), ("observations", '"4"'), ("observations", seen_as(shape=[5])),
    *(("observations", seen_as(shape=shape)) for shape in ("4", [-4], [-2, -2], [4.0], [True, 4], [[4]], [None], [])),
    *(("observations", seen_as(shape=[10**11, 4], **format)) for format in ({}, {"layout": "HW"})),
    *(("observations", seen_as(dtype=dtype)) for dtype in ("float63", "object", None, 5, "int64", "uint8")),
    *(("observations", seen_as(layout=layout)) for layout in ("HW", "CHW", "auto", None, 5)),
    *(("observations", seen_as(high=high)) for high in (255, "1", None)),
    *(("actions", told(n=n)) for n in (4, 0, -3, 3.0, True, 10**12)),
    *(("actions", told(**changes)) for changes in ({"start": None}, {"start": 0.5}, {"kind": "Text"}, {"kind": None})),
    ("actions", None), ("actions", "3"), ("actions", DEEP), ("actions", '{"kind": "Discrete", "n": 3}'),
    ("sticky_actions", "NaN"), ("sticky_actions", "-1"),
    ("sticky_actions", "1" + "0" * 400), ("sticky_actions", '"x"'), ("sticky_actions", "null"), ("environment", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text"), DAMAGES, ids=lambda value: str(value)[:40])
def test_a_damaged_policy_is_refused(name, text, tmp_path):
    agent = agent_of()
    metadata = agent.metadata()
    if text is None:
        del metadata[name]
    else:
        metadata[name] = text
    write_tensors(tmp_path / "policy", agent.network.layout.views(agent.parameters), metadata)
    with pytest.raises(CheckpointError, match=REFUSED) as caught:
        Agent.load(tmp_path / "policy")
    assert "\n" not in str(caught.value)


MIXED = [
    {"policy": ACTIONS, "q": ACTIONS}, {"policy": ACTIONS, "value": 1, "q": ACTIONS},
    {"q": ACTIONS, "policy": ACTIONS, "value": 1}, {"value": 1}, {"value": 1, "policy": ACTIONS},
    {"q": 0}, {"q": -3}, {"q": 3.0}, {"q": [3]}, {"q": True}, {"q": None}, {"q": 4}, {"Q": ACTIONS}, {},
]  # fmt: skip


@pytest.mark.parametrize("heads", MIXED, ids=str)
def test_heads_of_no_known_kind_are_refused(heads):
    # The file has parameters for all of them.
    network = Network(SMALL, observed((4,)), {"q": ACTIONS, "policy": ACTIONS, "value": 1})
    arrays, metadata = network.layout.views(network.initial(0)), agent_of(**VALUES).metadata()
    assert Agent.from_tensors(arrays, metadata).network.heads == {"q": ACTIONS}
    with pytest.raises(CheckpointError, match=REFUSED):
        Agent.from_tensors(arrays, metadata | {"heads": json.dumps(heads)})


# What a file may claim in a few bytes. It has 100,000 numbers in its first array, to be taken for something else.
LARGE = json.loads(seen_as(shape=[4000, 4000], layout="HW"))
CLAIMS = [
    {"network": [["lstm", 10**5]]},
    {"network": [["lstm", 10**12]]},
    {"network": [["dense", 10**5, "relu"], ["lstm", 10**5]]},
    {"network": [["lstm", 10**4]] * 500},
    {"network": [["dense", 10**5, "relu"]] * 2000},
    {"network": [["conv", 10**5, 1, 1, "relu"], ["conv", 1, 1000, 1, "relu"]], "observations": LARGE},
    {"network": [["conv", 1, 1, 1, "relu"]] * 2000, "observations": LARGE},
    {"network": [["dense", 8, "tanh"]], "observations": LARGE},
    {"network": [["dense", 8, "tanh"]], "observations": json.loads(seen_as(shape=[10**9, 10**9], layout="HW"))},
    {"heads": {"q": 10**5}},
    {"heads": {"policy": 10**12, "value": 1}},
]


@pytest.mark.parametrize("claims", CLAIMS, ids=lambda claims: str(claims)[:60])
def test_a_claim_that_the_file_does_not_hold_takes_no_memory(claims):
    agent = agent_of(**RECURRENT)
    arrays = {"lstm1/bias": np.zeros(10**5, np.float32)} | agent.network.layout.views(agent.parameters)
    metadata = agent.metadata() | {name: json.dumps(value) for name, value in claims.items()}
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=REFUSED):
            Agent.from_tensors(arrays, metadata)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "damage",
    [
        lambda arrays: arrays.pop("value/bias"),
        lambda arrays: arrays.update({"value/bias": np.zeros(2, np.float32)}),
        lambda arrays: arrays.update({"value/bias": np.zeros(1, np.float64)}),
        lambda arrays: arrays.update({"value/bias": np.zeros((), np.float32)}),
        lambda arrays: arrays.update({"value/bias": np.array([math.nan], np.float32)}),
        lambda arrays: arrays.update({"policy/bias": np.array([0, math.inf, 0], np.float32)}),
        lambda arrays: arrays.clear(),
    ],
    ids=["absent", "longer", "float64", "scalar", "nan", "infinite", "empty"],
)
def test_damaged_parameters_are_refused(damage, tmp_path):
    agent = agent_of()
    arrays = agent.network.layout.views(agent.parameters.copy())
    damage(arrays)
    write_tensors(tmp_path / "policy", arrays, agent.metadata())
    with pytest.raises(CheckpointError, match=REFUSED):
        Agent.load(tmp_path / "policy")


def test_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "words").write_text("these are words")
    for source in (tmp_path / "absent", tmp_path, tmp_path / "words", b"", b"words"):
        with pytest.raises(CheckpointError):
            Agent.load(source)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 10**12)
    | st.floats()
    | st.sampled_from(["dense", "conv", "lstm", "relu", "4"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["policy", "value", "q", "x"]), inner),
    max_leaves=8,
)


@given(
    st.sampled_from(["network", "heads", "observations", "actions", "sticky_actions", "separate", "constant"]),
    json_values,
)
def test_whatever_stands_in_the_metadata_is_a_policy_or_refused(name, value):
    agent = agent_of()
    arrays = agent.network.layout.views(agent.parameters)
    try:
        loaded = Agent.from_tensors(arrays, agent.metadata() | {name: json.dumps(value)})
    except CheckpointError:
        return
    assert loaded.act(loaded.observation_space.sample()) in range(ACTIONS)


# Continuous actions


@pytest.mark.parametrize("options", [*GAUSSIANS, {"layers": (Dense(6, "tanh"), Lstm(5)), "separate": True}], ids=str)
def test_a_saved_continuous_policy_is_the_same_again(options, tmp_path):
    agent = continuous_agent(**options)
    agent.save(tmp_path / "policy")
    loaded = Agent.load(tmp_path / "policy")
    for name in ("parameters", "normal"):
        assert getattr(loaded, name).tobytes() == getattr(agent, name).tobytes()
    assert loaded.actions.bounds.tobytes() == agent.actions.bounds.tobytes()
    assert loaded.metadata() == agent.metadata()
    states = [agent.initial_state(), loaded.initial_state()]
    for turn in range(5):
        first, again = (
            policy.act(np.full(4, turn), state, rng=np.random.default_rng(turn))
            for policy, state in zip((agent, loaded), states, strict=True)
        )
        assert first.tobytes() == again.tobytes()
    assert states[0].tobytes() == states[1].tobytes()
    assert agent.initial_state().size == (20 if "layers" in options else 0)  # both networks remember


def normal_of(rows=2, size=4, dtype=np.float32):
    return {"observations/normal": np.ones((rows, size), dtype)}


@pytest.mark.parametrize(
    "arrays",
    [
        normal_of(size=3), normal_of(rows=1), normal_of(dtype=np.float64),
        {"observations/normal": np.ones(8, np.float32)}, {"observations/normal": np.full((2, 4), math.nan, np.float32)},
        {"observations/normal": np.full((2, 4), math.inf, np.float32)},
        {"observations/normal": np.zeros((2, 4), np.float32)}, {"observations/normal": -np.ones((2, 4), np.float32)},
    ],
    ids=lambda arrays: " ".join(f"{name} {a.shape} {a.dtype} {a[:1, :1]}" for name, a in arrays.items() if a.ndim > 1),
)  # fmt: skip
def test_scales_that_do_not_fit_are_refused(arrays):
    agent = continuous_agent()
    with pytest.raises(CheckpointError, match=REFUSED):
        Agent.from_tensors(agent.arrays() | arrays, agent.metadata())


def box(**changes):
    return {"kind": "Box", "shape": [2, 3], "dtype": "float32", "low": None, "high": 1} | changes


@pytest.mark.parametrize(
    "metadata",
    [
        *({"actions": box(**changes)} for changes in ({"shape": [6, 2]}, {"shape": []}, {"shape": 6}, {"shape": "6"})),
        *({"actions": box(shape=shape)} for shape in ([-2, -3], [2.0, 3], [True, 6], None, [[6]], [10**12, 10**12])),
        *({"actions": box(low=low)} for low in ([0], [0] * 7, ["x"] * 6, "x", math.nan, math.inf, {}, [[0] * 6])),
        {"actions": box(dtype="int64")}, {"actions": box(dtype="float99")}, {"actions": json.loads(told(n=6))},
        {"separate": 1}, {"separate": None},
        {"separate": True}, {"separate": "true"}, {"constant": ["variance"]}, {"constant": ["mean"]}, {"constant": 5},
        {"constant": ["variance", "mean"]}, {"heads": {"mean": 6, "variance": 5, "value": 1}},
        {"heads": {"mean": 6, "value": 1, "variance": 6}},
        {"heads": {"mean": 3, "variance": 3, "value": 1}}, {"heads": {"policy": 6, "value": 1}},
    ],
    ids=str,
)  # fmt: skip
def test_claims_of_a_continuous_policy_that_do_not_hold_are_refused(metadata):
    agent = continuous_agent()
    told = {name: json.dumps(value) for name, value in metadata.items()}
    arrays = agent.arrays()
    if told == {"constant": '["variance"]'}:  # its own weights are then passed over, as others' are
        assert Agent.from_tensors(arrays, agent.metadata() | told).network.constant == ("variance",)
        return
    with pytest.raises(CheckpointError, match=REFUSED):
        Agent.from_tensors(arrays, agent.metadata() | told)


def test_pictures_have_one_scale():
    agent = agent_of(**PICTURES)
    for scales in (162, 2):
        normal = {"observations/normal": np.ones((2, scales), np.float32)}
        with pytest.raises(CheckpointError, match=r"observations/normal is no array of \(2, 1\) finite float32"):
            Agent.from_tensors(agent.arrays() | normal, agent.metadata())
    normal = {"observations/normal": np.array([[0.4], [3.0]], np.float32)}
    assert Agent.from_tensors(agent.arrays() | normal, agent.metadata()).normal.tolist() == [[np.float32(0.4)], [3.0]]


@pytest.mark.parametrize(
    ("changes", "removed"),
    [
        ({"separate": "true"}, ()),
        ({"heads": '{"q": 1, "action": 1}'}, ()),
        ({"heads": '{"action": 1}'}, ()),
        ({"heads": '{"action": 2, "q": 1}'}, ()),
        ({"actions": json.dumps(box(shape=[2]))}, ()),
        ({"actions": json.dumps(box(shape=[]) | {"kind": "MultiBinary"})}, ()),
        ({"network": '[["lstm", 8]]'}, ()),
        ({"network": '[["conv", 8, 2, 1]]', "observations": seen_as(shape=[4, 4], layout="HW")}, ()),
        ({}, ("action/weights",)),
        ({}, ("q_dense1/bias",)),
    ],
    ids=str,
)
def test_claims_of_a_deterministic_policy_that_do_not_hold_are_refused(changes, removed):
    agent = deterministic_policy()
    arrays = {name: array for name, array in agent.arrays().items() if name not in removed}
    with pytest.raises(CheckpointError, match="the file holds no policy that can be used"):
        Agent.from_tensors(arrays, agent.metadata() | changes)
