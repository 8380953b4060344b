"""The programs in tools/, but for what only a long run or a peer's package can show."""

import ast
import dataclasses
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nbrl
from nbrl import Agent, evaluate
from nbrl.callbacks import Episode
from nbrl.envs.deep_sea import AT_COLUMN, AT_ROW, CELLS, deep_sea
from nbrl.envs.interface import STEPPED, TERMINATED, TRUNCATED, EnvStepper

TOOLS = Path(__file__).parent.parent / "tools"


def run_tool(name, *words, variables):
    command = [sys.executable, str(TOOLS / name), *map(str, words)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)


def test_ratios_say_how_many_times_better_ours_is(tool):
    peers = tool("bench_peers")

    def table(ours, theirs, **more):
        competitors = [
            peers.Competitor("ours", float, figures=ours),
            peers.Competitor("slow", float, ("torch",), figures=theirs),
            peers.Competitor("absent", float, ("torch",), failures=["round 1: broken"]),
        ]
        return peers.Table("speed", "Speed", "frames/s", competitors, **more)

    speeds = table([30.0, 10.0, 20.0], [4.0, 5.0])  # medians 20 and 4.5
    assert speeds.ratios() == {"ours": {"slow": pytest.approx(20 / 4.5)}}
    times = table([20.0], [50.0], smaller_is_better=True)
    assert times.ratios() == {"ours": {"slow": pytest.approx(2.5)}}
    assert table([], [50.0]).ratios() == {}
    ours, slow, absent = speeds.text().splitlines()[1:]
    assert "20 (10 to 30)" in ours
    assert "4.44 x slow" in ours
    assert " x " not in slow
    assert "no figure" in absent
    assert "1 failed: round 1: broken" in absent
    values = json.loads(json.dumps(speeds.to_dict()))
    assert values["competitors"]["ours"] == {"median": 20.0, "figures": [30.0, 10.0, 20.0], "failures": []}
    assert values["competitors"]["absent"]["median"] is None


def test_rounds_take_all_in_turn_and_keep_failures(tool, capsys):
    peers = tool("bench_peers")
    calls = []

    def note(name, fails_at=None):
        def time():
            calls.append(name)
            if calls.count(name) == fails_at:
                raise ValueError(f"a long story\n{name} broke")
            return float(len(calls))

        return peers.Competitor(name, time)

    tables = [
        peers.Table("x", "First", "frames/s", [note("a"), note("b", fails_at=2)]),
        peers.Table("y", "Second", "frames/s", [note("c")]),
    ]
    peers.run(tables, 3)
    assert calls == ["a", "b", "c"] * 3
    broken = tables[0].competitors[1]
    assert broken.figures == [2.0, 8.0]
    assert broken.failures == ["round 2: b broke"]
    assert "round 2, First: b failed: b broke" in capsys.readouterr().err


def test_a_program_s_last_word_is_its_figure(tool):
    peers = tool("bench_peers")
    assert peers.figure([sys.executable, "-c", "print('warming up: 5'); print(12.5)"]) == 12.5
    for program, reason in (("import sys; sys.exit('no such game')", "no such game"), ("", "exit code 0")):
        with pytest.raises(ValueError, match=reason):
            peers.figure([sys.executable, "-c", program])


def test_what_a_peer_lacks_is_named(tool, capsys):
    peers = tool("bench_peers")
    assert peers.missing(sys.executable, ("json", "no_such_module", "numpy")) == ["no_such_module"]
    assert {"python", "numpy"} <= set(peers.versions(sys.executable))
    table = peers.Table("x", "First", "frames/s", [
        peers.Competitor("ours", float),
        peers.Competitor("installed", float, ("numpy",)),
        peers.Competitor("absent", float, ("numpy", "no_such_module")),
    ])  # fmt: skip
    peers.leave_out_absent(table, sys.executable)
    assert [one.name for one in table.competitors] == ["ours", "installed"]
    assert "left out: absent needs no_such_module" in capsys.readouterr().out


def test_the_engine_against_peers_that_may_be_absent(tmp_path, environment_variables):
    pytest.importorskip("ale_py")
    words = ["--peers", sys.executable, "--rounds", "2", "--seconds", "0.2", "--sections", "network"]
    ended = run_tool(
        "bench_peers.py", *words, "--out", tmp_path / "kept" / "peers.json", variables=environment_variables
    )
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / "kept" / "peers.json").read_text())
    assert [table["section"] for table in result["tables"]] == ["network", "network"]
    for table in result["tables"]:
        figures = table["competitors"]["nbrl"]["figures"]
        assert len(figures) == 2
        assert all(0 < figure < math.inf for figure in figures)
        assert table["title"] in ended.stdout
    assert result["machine"]["cores"] >= 1
    assert result["peers"]["numpy"]


def test_unknown_sections_and_pythons_are_refused(environment_variables):
    for words, sentence in (
        (["--peers", sys.executable, "--sections", "pnog"], "no section pnog: there are pong, "),
        (["--peers", "/no/such/python"], "/no/such/python is no Python that runs"),
    ):
        ended = run_tool("bench_peers.py", *words, variables=environment_variables)
        assert ended.returncode == 2
        assert sentence in ended.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_stops_are_timed_and_seen_to_be_saved(environment_variables):
    ended = run_tool("time_stops.py", "Catch-v0", "--stops", 2, "--busy", 1, variables=environment_variables)
    assert ended.returncode == 0, ended.stderr
    for line, name in zip(ended.stdout.splitlines()[1:], ("SIGINT", "SIGTERM"), strict=True):
        environment, signal, stops, saved, median, longest = line.split()
        assert (environment, signal, stops, saved) == ("Catch-v0", name, "1", "1")
        assert 0 < float(median) == float(longest)


def test_the_load_of_a_host_is_measured(environment_variables):
    words = ["--seconds", 0.05, "--rounds", 1, "--environment", "Catch-v0", "--checkpoints", 2]
    ended = run_tool("host_load.py", *words, variables=environment_variables)
    assert ended.returncode == 0, ended.stderr
    shares = [line.split()[-1] for line in ended.stdout.splitlines() if line.endswith("%")]
    assert len(shares) == 1 + 2 + 2
    assert all(float(share.removesuffix("%")) >= 0 for share in shares)


@pytest.mark.parametrize("path", sorted((TOOLS / "peers").glob("*.py")), ids=lambda path: path.name)
def test_a_peer_s_script_says_how_to_make_its_environment(path):
    tree = ast.parse(path.read_text())
    documentation = ast.get_docstring(tree)
    if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
        assert "pip install" in documentation
        assert f"tools/peers/{path.name}" in documentation
        assert ": prints " in documentation


def test_least_squares_find_what_made_the_times(tool):
    fit = tool("scaling_model").fit
    sizes = np.array([1e4, 1e5, 1e6, 1e7])
    columns = np.stack([np.ones(4), sizes], 1)
    coefficients, error = fit(columns, 3 + 2e-5 * sizes)
    np.testing.assert_allclose(coefficients, [3, 2e-5])
    assert error < 1e-9
    coefficients, error = fit(columns, 2e-5 * sizes - 0.1)  # a time of less than nothing is none
    assert coefficients[0] == 0
    assert 0 < error < 1


@pytest.fixture
def model(tool):
    Model = tool("scaling_model").Model
    return Model(network=(1.0, 1e-5), update=(2.0, 1e-4, 4e-4), fetch=0.1, error=0.0)


def test_the_model_by_hand(tool, model):
    assert model.update_microseconds(10_000, 1) == pytest.approx(2 + 1)
    assert model.update_microseconds(10_000, 4) == pytest.approx(2 + 1 + 0.75 * 4)
    assert model.counters_microseconds(1) == 0
    assert model.counters_microseconds(5) == pytest.approx(2 * 4 * 0.1)
    assert model.most_updates(10_000) == pytest.approx(2e6 / 5)

    run = tool("scaling_model").Run(steps=5, parameters=10_000, environment=10.0, whole=13.0)
    one = model.predict(run, 1)
    assert one["steps_per_second"] == pytest.approx(1e6 / 13)
    assert one["shares"] == pytest.approx({"environment": 50 / 65, "network": 12 / 65, "update": 3 / 65, "counters": 0})
    four = model.predict(run, 4)
    rollout = 50 + 12 + 6 + 0.6
    assert four["steps_per_second"] == pytest.approx(4 * 5e6 / rollout)
    assert four["shares"]["counters"] == pytest.approx(0.6 / rollout)
    assert four["at_least"] == four["steps_per_second"]
    many = model.predict(run, 128)
    assert many["at_least"] == pytest.approx(5 * 4e5)
    for predicted in (one, four, many):
        assert sum(predicted["shares"].values()) == pytest.approx(1)


def test_machines_queue_for_the_hub_by_hand(tool):
    simulate = tool("machines").simulate
    # 1 s each way and 1 s of the hub's core: 3 s an exchange, and one every 4 s.
    assert simulate(1, size=10, link=10, hub=1.0, interval=1.0, seconds=400) == {
        "exchange": 3.0, "exchanges": 0.25, "link": 0.25, "core": 0.25,
    }  # fmt: skip
    # Ten of them keep the link busy all the time: it takes one a second, so each waits for nine others.
    crowd = simulate(10, size=10, link=10, hub=0.5, interval=1.0, seconds=1000)
    assert crowd["link"] == pytest.approx(1.0, abs=0.02)
    assert crowd["exchange"] == pytest.approx(9.0, abs=0.2)


def test_what_bounds_a_prediction(tool, model):
    tools = tool("scaling_model")
    run = tools.Run(steps=5, parameters=10_000, environment=10.0, whole=13.0)
    assert tools.bound(model.predict(run, 1)) == "environment"
    assert tools.bound(model.predict(run, 128)) == "update, at worst"
    busy = tools.Run(steps=5, parameters=10_000, environment=1.0, whole=13.0)
    assert tools.bound(model.predict(busy, 1)) == "network"


def test_the_model_is_fitted_to_what_was_measured(tool, model):
    tools = tool("scaling_model")
    rows = [
        {
            "parameters": size, "acting": 0.25 + 0.5e-5 * size, "learning": 0.75 + 0.5e-5 * size,
            "update": {n: model.update_microseconds(size, n) for n in (1, 2, 4)},
        }
        for size in (10_000, 100_000, 1_000_000)
    ]  # fmt: skip
    fitted = tools.fit_model(rows, 0.1)
    assert fitted.network == pytest.approx(model.network)
    assert fitted.update == pytest.approx(model.update)
    assert fitted.error < 1e-9


@pytest.mark.slow
def test_a_quick_study_of_scaling(tmp_path, environment_variables):
    pytest.importorskip("matplotlib")
    ended = run_tool("scaling.py", "--quick", "--out", tmp_path / "kept", variables=environment_variables)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "kept" / "scaling.png").stat().st_size > 10_000
    result = json.loads((tmp_path / "kept" / "scaling.json").read_text())
    assert {row["actors"] for row in result["actors"]} == {1, 4}
    assert all(row["megabytes"] > 10 for row in result["memory"])
    assert {(row["kind"], row["threads"]) for row in result["threads"]} == {
        (kind, threads) for kind in ("sleep", "spin") for threads in (1, 2)
    }
    assert all(row["speedup"] == 1 for row in result["threads"] if row["threads"] == 1)
    for row in result["lost"]:
        assert row["updates"] > 0
        assert -1e-6 < row["lost"] < 1
    for row in result["predictions"]:
        assert [one["cores"] for one in row["predicted"]] == [1, 2, 4, 8, 16, 32, 64, 128]
        assert row["predicted"][0]["steps_per_second"] == pytest.approx(row["measured"]["1"])
        assert row["case"] in ended.stdout


def test_an_environment_that_waits(tool):
    environment = tool("scaling").Waiting(2000, 10)
    player = EnvStepper(environment)
    np.testing.assert_array_equal(player.reset(1), [0, 1, 2, 3])
    began = time.perf_counter()
    statuses = [player.step(0)[2] for _ in range(100)]
    assert time.perf_counter() - began > 0.2  # it sleeps at least as long as it is told
    assert statuses == [STEPPED] * 99 + [STEPPED | TRUNCATED]
    player.close()


def test_one_thread_loses_no_update(tool):
    scaling = tool("scaling")
    plan = dataclasses.replace(scaling.QUICK, seconds=0.01, updating_threads=(1,))
    rows = scaling.lost_updates(plan)
    assert len(rows) == 4
    assert all(row["updates"] > 0 for row in rows)
    assert all(row["lost"] == pytest.approx(0, abs=1e-9) for row in rows)


def test_a_spin_takes_every_round(tool):
    spin = tool("scaling").spin
    x = 7
    for rounds in range(5):
        assert spin(rounds, 7) == x
        x ^= x << 13 & (2**64 - 1)
        x ^= x >> 7
        x ^= x << 17 & (2**64 - 1)


def test_when_a_sea_is_solved_and_what_counts(tool):
    tools = tool("deep_sea")
    # 2^10 + 100 = 1124 episodes are too many; of larger seas all 10,000 are few enough.
    rows = [{"size": size, "solved": solved} for size, solved in ((10, 1123), (10, 1124), (50, 9999), (20, None))]
    assert tools.score(rows) == 0.5
    log = np.zeros(1 + tools.EPISODES, np.int64)
    log[1:10], solved = 1, tools.Solved(log)
    for episodes, after in ((0, None), (9, None), (10, None), (11, 11), (12, 11)):  # 9 of 10 are too many, of 11 few
        log[0] = episodes
        assert solved.after == after
        assert solved.on_report(None, None) == (after is None)
    log[:] = 1
    log[0] = tools.EPISODES
    assert solved.after is None
    assert not solved.on_report(None, None)


@pytest.mark.parametrize("stochastic", [False, True])
def test_a_sea_notes_its_bad_episodes(tool, stochastic):
    tools, log = tool("deep_sea"), np.zeros(1 + 10_000, np.int64)
    ours, same = EnvStepper(tools.logged(4, stochastic, log)), EnvStepper(deep_sea(4, stochastic))
    rng, bad = np.random.default_rng(0), []
    for episode in range(200):
        assert np.array_equal(ours.reset(episode), same.reset(episode))
        ended, left = False, False
        while not ended:
            action = rng.integers(2)
            state = np.frombuffer(same.instance.save(), np.int64)
            row, column = state[AT_ROW], state[AT_COLUMN]
            left = left or (row == column and action != state[CELLS + row * 4 + column])
            (seen, *rest), (other, *others) = ours.step(action), same.step(action)
            assert np.array_equal(seen, other)
            assert rest == others  # the reward and the status
            ended = rest[1] & TERMINATED
        bad.append(left)
        assert log[0] == episode + 1
    assert log[1:201].tolist() == bad
    assert 0 < sum(bad) < 200


@pytest.mark.slow
def test_a_score_of_deep_sea(tmp_path, environment_variables):
    words = ["--out", tmp_path, "--sizes", 14, 16]
    ended = run_tool("deep_sea.py", *words, variables=environment_variables)
    assert ended.returncode == 0, ended.stderr
    assert "score 1.00: 2 of 2 runs solved" in ended.stdout
    rows = json.loads((tmp_path / "deep_sea.json").read_text())["rows"]
    assert [row["size"] for row in rows] == [14, 16]
    assert all(1 < row["solved"] <= 10_000 for row in rows)
    again = run_tool("deep_sea.py", *words, variables=environment_variables)
    assert again.stdout == "score 1.00: 2 of 2 runs solved\n"  # nothing is left to do
    other = run_tool("deep_sea.py", *words, "--stochastic", variables=environment_variables)
    assert "is of other settings: give another --out" in other.stderr


def test_when_a_task_of_success_alone_is_solved(tool):
    tools, looks = tool("rare_rewards"), []
    ends = tools.Solved(0)
    ends.look = lambda trainer: looks.append(trainer) or setattr(ends, "returns", [0.0] * 6 + [0.4] * (93 + len(looks)))
    for i in range(500):  # 96 of 100 are successes
        assert ends.on_episode(None, Episode(0.0 if i % 25 == 0 else 0.4, 10, 0, {}))
    assert not looks
    told = [ends.on_episode(None, Episode(0.4, 10, 0, {})) for _ in range(100 + 20 * 500 + 1)]
    # Once five of the twenty failures have left the last 500, then after each 500 more: 94 of 100, ..., 114 of 120.
    assert told.index(False) == 100 + 20 * 500
    assert len(looks) == 21
    assert ends.success == 114 / 120
    row = {"task": "Rooms-v0", "bonus": None, "lstm": True, "seed": 2, "steps_taken": 1_500_000, "seconds": 90.0}
    said = tools.line(row | {"success": 0.95, "return": 0.9})
    assert said == "Rooms-v0, no bonus, LSTM, seed 2: 95.0% (solved) after 1.50M steps, 1.5 min, mean return 0.900"
    assert "94.9% (not solved)" in tools.line(row | {"success": 0.949, "return": 0.9})


@pytest.mark.slow
def test_doors_and_keys_for_a_short_time(tmp_path, environment_variables):
    words = ["--out", tmp_path, "--tasks", "nbrl/DoorKey-8x8-v0", "--bonuses", "none", "novelty", "--lstm"]
    words += ["--seeds", 1, "--steps", 20_000, "--set", "learning_rate=1e-4"]
    ended = run_tool("rare_rewards.py", *words, variables=environment_variables)
    assert ended.returncode == 0, ended.stderr
    rows = json.loads((tmp_path / "rare_rewards.json").read_text())
    assert sorted(str(row["bonus"]) for row in rows) == ["None", "novelty"]
    assert all(20_000 <= row["steps_taken"] < 22_000 and 0 <= row["success"] <= 1 for row in rows)
    again = run_tool("rare_rewards.py", *words, variables=environment_variables)
    assert again.stdout == ""  # all is there


@pytest.mark.parametrize("way", ["left", "random", "least"])
def test_walks_stay_in_their_maze_and_find_what_is_there(tool, way):
    scores = []
    for seed in range(20):
        walk = tool("maze_walks").Walk(seed, way)
        for _ in range(190):
            before, here, apples = walk.score, walk.here, len(walk.apples)
            walk.go()
            assert walk.open[walk.here]
            if walk.score == before + 10:  # through the portal
                assert len(walk.apples) == 10
                assert walk.here not in walk.apples | {walk.portal}
            else:
                assert walk.here - here in walk.steps
                assert walk.score - before == apples - len(walk.apples)
        scores.append(walk.score)
    assert 8 < np.mean(scores) < 30  # 16 to 18 in 150 mazes


@pytest.mark.slow
def test_small_mazes_for_a_short_time(tmp_path, environment_variables):
    out = tmp_path / "mazes"
    words = ["--minutes", 0.2, "--network", "paper-lstm", "--episodes", 2, "--out", out]
    ended = run_tool("mazes.py", *words, variables=environment_variables)
    assert ended.returncode == 0, ended.stderr
    result = json.loads((out / "mazes.json").read_text())
    assert json.loads((out / "rich" / "config.json").read_text())["environment"] == "<nbrl/Maze-v0(apples=60)>"
    with Image.open(out / "paths.png") as paths:
        assert paths.size == (4 * 432, 432)
    agent = Agent.load(out / "settle" / "policy.safetensors")
    assert agent.normal.shape == (2, 1), "all pixels alike"
    assert (np.abs(agent.arrays()["policy/bias"] - [-7, -7, 0, 0, 0, 0]) < 0.5).all()
    for name, greedy in (("sampled", False), ("greedy", True)):
        played = evaluate(agent, "nbrl/Maze-v0", episodes=2, greedy=greedy)
        assert result[name]["returns"] == list(played.returns)
        assert f"nbrl/Maze-v0, {name}: {played.mean_return:.2f} " in ended.stdout


# Harnesses that attack the engine


def test_atari_5_estimates_are_the_published_ones(tool):
    # Of A3C, PPO and DQN, in percent, as computed with the weights' authors' own program.
    board = tool("scoreboard")
    estimates = {name: board.atari_5(scores) for name, scores in board.PUBLISHED.items()}
    assert estimates == {
        "A3C, 320M": pytest.approx(71, abs=1),
        "PPO, 40M": pytest.approx(77, abs=1),
        "DQN, 40M": pytest.approx(34, abs=1),
    }
    assert board.atari_5({"BattleZone": 1.0}) is None


def test_a_scoreboard_of_a_short_run_goes_on_and_is_kept(tmp_path, environment_variables):
    pytest.importorskip("ale_py")
    network = '[["conv", 4, 8, 8], ["dense", 4]]'
    words = ["--games", "Pong", "--frames", "8000", "--episodes", "1", "--out", tmp_path, "--set", "threads=1"]
    for _ in range(2):  # the second time nothing is left to do
        ended = run_tool("scoreboard.py", *words, f"network={network}", "actors=2", variables=environment_variables)
        assert ended.returncode == 0, ended.stderr
        assert "Pong" in ended.stdout
    found = json.loads((tmp_path / "kept" / "Pong" / "eval.json").read_text())
    assert {one["episodes"] for one in found.values()} == {1}
    with Image.open(tmp_path / "kept" / "scoreboard.png") as picture:
        assert min(picture.size) > 200
    ended = run_tool("scoreboard.py", "--out", tmp_path, "--games", "Pnog", variables=environment_variables)
    assert ended.returncode == 2
    assert "Pnog" in ended.stderr


def test_every_fault_of_the_mutation_run_is_a_line_of_today(tool):
    mutate = tool("mutate")
    assert len(mutate.FAULTS) >= 100
    assert len({(fault.file, fault.line, fault.instead) for fault in mutate.FAULTS}) == len(mutate.FAULTS)
    for fault in mutate.FAULTS:
        ast.parse(mutate.applied(fault))
        assert all((TOOLS.parent / path).exists() for path in mutate.TESTS[fault.file])


@pytest.mark.slow
def test_faults_of_files_are_found(tool):
    """Those whose tests compile next to nothing; tools/mutate.py tries all."""
    mutate = tool("mutate")
    faults = [fault for fault in mutate.FAULTS if fault.file == mutate.CHECKPOINT][:3]
    assert all(mutate.tried(fault)[0].startswith("found by tests/") for fault in faults)


@pytest.mark.slow
def test_thirty_faults_at_random_calls(tool, tmp_path):
    faults = tool("fault_injection")
    library = faults.library(tmp_path)
    outcomes = [faults.inject(number, library, tmp_path) for number in range(30)]
    assert not [words for words in outcomes if words.startswith("WRONG")]
    assert len(set(outcomes)) > 10


@pytest.mark.slow
def test_a_short_soak(tool, monkeypatch):
    soak = tool("soak")
    monkeypatch.setattr(soak, "EVERY", 1.0)
    found = soak.measure("CartPole-v1", 0.1, 1)
    assert found["steps"] > 0
    assert not found["grew"]


def test_the_riddle_is_scored_over_all_courses_of_days(tool):
    agents = tool("agents")
    settings = {"method": "a3c", "network": (agents.Dense(6), agents.Channel(5, 1)), "threads": 1, "seed": 4}
    policy = nbrl.train("nbrl/SwitchRiddle-v0", steps=30_000, entropy_weight=0.2, agent_index=False, **settings)
    value, protocol = agents.exact_riddle(policy)
    found = evaluate(policy, episodes=4000, greedy=True, seed=3)
    assert value == pytest.approx(found.mean_return, abs=5 * max(found.standard_error, 0.001))
    # Each of three agents is in the room on the first day, hears nothing and has not been there.
    assert protocol[(1, False, 0)][0] == 3
    assert {(day, was) for day, was, _ in protocol if day == 1} == {(1, False)}
    second = {bit: count for (day, was, bit), (count, *_) in protocol.items() if day == 2 and not was}
    assert sum(second.values()) in (0, 6)  # two of three agents are new


def test_what_is_said_by_actions_is_scored_exactly(tool):
    agents = tool("agents")
    settings = {"network": (agents.Dense(6), agents.Gru(5)), "threads": 1, "seed": 4, "method": "n_step_q"}
    arguments = {"agents": 3, "messages": 2}
    policy = nbrl.train("nbrl/SwitchRiddle-v0", steps=20_000, environment_arguments=arguments, **settings)
    value, _ = agents.exact_riddle(policy)
    played = evaluate(policy, episodes=2000, greedy=True)
    # Returns are -1, 0 and 1: the mean of 2,000 lies farther than this from the truth once in 5,000 times at most.
    assert played.mean_return == pytest.approx(value, abs=3.8 / math.sqrt(2000))


def test_runs_of_agents_are_kept_and_go_on(tmp_path, environment_variables):
    words = ("--out", tmp_path, "--tasks", "riddle-3", "--steps", 2000, "--seeds", 1, "--cut")
    for _ in range(2):
        ended = run_tool("agents.py", *words, variables=environment_variables)
        assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ""  # the second time nothing is left to do
    [row] = json.loads((tmp_path / "agents.json").read_text())
    assert (row["task"], row["cut"], row["steps"], row["seed"]) == ("riddle-3", True, 2000, 1)
    assert -1 <= row["return"] <= 1
    assert Agent.load(tmp_path / "riddle-3-cut-1.safetensors").agents == 3


def test_remake_finds_every_figure_and_its_command(tool):
    remake = tool("remake")
    found = remake.figures()
    assert {figure.page for figure in found} == set(remake.PAGES)
    for figure in found:
        line = (remake.ROOT / figure.page).read_text(encoding="utf-8").splitlines()[figure.line - 1]
        assert figure.what in line
        assert figure.result in line
    (lunar,) = [figure for figure in found if figure.what.startswith("LunarLander") and figure.page == "README.md"]
    assert lunar.commands == ["nbrl study tools/studies/lunar-lander.toml"]


def test_remake_notes_what_it_made(tool, tmp_path, monkeypatch, capfd):
    remake = tool("remake")
    monkeypatch.setattr(remake, "NOTED", tmp_path / "remade.json")
    remake.make("nbrl envs Catch")
    remake.make("nbrl eval RUN")
    printed = capfd.readouterr().out
    assert "Catch-v0" in printed
    assert "left out, since a person must fill it in: nbrl eval RUN" in printed
    (entry,) = json.loads(remake.NOTED.read_text()).items()
    assert entry[0] == "nbrl envs Catch"
    assert (entry[1]["code"], set(entry[1])) == (0, {"minutes", "day", "commit", "code"})


def test_what_stands_behind_the_dashes_is_for_the_run_that_is_measured(tool):
    read = tool("measure_run").read_words
    options, more = read(["CartPole-v1", "--seconds", "19", "--", "--actors", "16", "minibatches=4"])
    assert (options.environment, options.seconds, options.cold) == ("CartPole-v1", 19.0, False)
    assert more == ["--actors", "16", "minibatches=4"]
    assert read(["CartPole-v1", "--cold"])[1] == []


def test_speedups_by_hand(tool, tmp_path, capsys, monkeypatch):
    rows = [
        {"environment": name, "settings": {"method": "ppo", "actors": actors}, "scores": [steps] * 3}
        for name, actors, steps in (("A", 1, 10), ("A", 2, 5), ("B", 1, 12), ("B", 2, 12))
    ]
    (tmp_path / "results.json").write_text(json.dumps({"rows": rows}))
    monkeypatch.setattr(sys, "argv", ["speedups.py", str(tmp_path / "results.json")])
    tool("speedups").main()
    ratios = [line.split("|")[3].strip() for line in capsys.readouterr().out.splitlines()]
    assert ratios == ["2.00 (2.00 to 2.00)", "1.00 (1.00 to 1.00)", "1.50 (1.50 to 1.50)"]
