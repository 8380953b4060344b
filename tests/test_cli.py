import importlib.metadata
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toys import policy_for

import nbrl
from nbrl import arguments, cli, metrics
from nbrl.checkpoint import checkpoint_path, newest, write_tensors
from nbrl.config import SETTINGS, Config, configure
from nbrl.nets.layers import NETWORKS, Dense, Lstm
from nbrl.registration import NATIVE

SHORT = ["train", "CartPole-v1", "--steps", "2_000", "--actors", "2", "--threads", "1", "--seed", "1"]
ODD_SPACES = """
import gymnasium

class Odd(gymnasium.Env):
    observation_space = gymnasium.spaces.Text(5)
    action_space = gymnasium.spaces.Discrete(2)

gymnasium.register("Odd-v0", Odd)
"""


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Run ``nbrl`` in this process with bad input and return its sentence."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        before = tree(tmp_path)
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        assert code == 2
        assert printed.out == ""
        printed_err = "".join(line for line in printed.err.splitlines(True) if "compiling, which takes" not in line)
        assert printed_err.startswith("nbrl: ")
        assert printed_err.count("\n") == 1
        assert tree(tmp_path) == before
        return printed_err.removeprefix("nbrl: ").rstrip("\n")

    return run


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--foo"], "unknown option '--foo': it must be one of --help, --version"),
        (["trian"], "unknown command 'trian': did you mean 'train'?"),
        (["train"], "required"),
        (["train", "CartPole-v1", "--unknown"], "unknown option '--unknown': it must be one of --help, --method"),
        (["train", "CartPole-v1", "--step", "100"], "unknown option '--step': did you mean '--steps'?"),
        (["train", "CartPole-v1", "--lr", "1e-3"], "unknown option --lr: a setting is written learning_rate=1e-3"),
        (["train", "CartPole-v1", "--epochs=3"], "unknown option --epochs: a setting is written epochs=3"),
        (["train", "CartPole-v1", "--n-envs", "3"], "unknown option --n-envs: it is --actors"),
        (["train", "CartPole-v1", "steps", "=", "10"], "steps = 10: a setting is one word, steps=10"),
        (["train", "CartPole-v1", "--network", "[[dense,", "64]]"], "a table of layers needs quotes: --network '[["),
        (["train", "CartPole-v1", "Pong"], "Pong is one word too many: see nbrl train --help"),
        (["train", "pong"], 'unknown environment "pong"; did you mean ALE/Pong-v5?'),
        (["envs", "pnog"], "no environment has 'pnog' in its id: nbrl envs lists all"),
        (["settings", "pnog"], "no setting has 'pnog' in its name or description"),
        (["report", "."], "is not a run directory: it has no config.json"),
        (["watch", "."], "is not a run directory: it has no config.json"),
        (["train", "NoSuchGame-v0"], "NoSuchGame"),
        (["train", "CartPole-v1", "--method", "a4c"], "unknown method 'a4c': did you mean 'a3c'?"),
        (["train", "CartPole-v1", "--method", "dpg"], "CartPole-v1 has discrete actions: dpg takes an environment"),
        (["train", "Pendulum-v1", "--method", "dpg", "--network", "paper"], "layer 1 of the network is Conv"),
        (["train", "Pendulum-v1", "--method", "dpg", "--set", "learning_starts=9"], "batch_size is 64: it must be at"),
        (["train", "CartPole-v1", "--preset", "papre"], "unknown preset 'papre': did you mean 'paper'?"),
        (["train", "CartPole-v1", "--steps", "0"], "steps is 0: it must be a whole number of at least 1"),
        (["train", "CartPole-v1", "--steps", "-5"], "steps is -5"),
        (["train", "CartPole-v1", "--steps", "1.5"], "steps is 1.5"),
        (["train", "CartPole-v1", "--steps", "many"], "steps is 'many'"),
        (["train", "CartPole-v1", "--steps", "nan"], "steps is nan"),
        (["train", "CartPole-v1", "--frames", "inf"], "frames is inf"),
        (["train", "CartPole-v1", "--frames", "10", "--steps", "10"], "steps and frames are both given"),
        (["train", "CartPole-v1", "--actors", "0"], "actors is 0"),
        (["train", "CartPole-v1", "--actors", "2", "--threads", "3"], "threads is 3: it must be at most 2"),
        (["train", "CartPole-v1", "--seed", "-1"], "seed is -1"),
        (["train", "CartPole-v1", "--set", "learning_rate=nan"], "learning_rate is nan: it must be a finite number"),
        (["train", "CartPole-v1", "--set", "learning_rate=-1e-3"], "learning_rate is -0.001"),
        (["train", "CartPole-v1", "--set", "learning_rate=0"], "learning_rate is 0"),
        (["train", "CartPole-v1", "--set", "learning_rate="], "learning_rate is ''"),
        (["train", "CartPole-v1", "--set", "learning_rat=1"], "unknown setting 'learning_rat': did you mean"),
        (["train", "CartPole-v1", "--set", "learning_rate"], "it must be field=value"),
        (["train", "CartPole-v1", "--set", "steps=5", "--steps", "5"], "the setting steps is given twice"),
        (["train", "CartPole-v1", "--set", "environment=Catch-v0"], "it is the word after train"),
        (["train", "CartPole-v1", "--set", "cut_on_life_loss=maybe"], "cut_on_life_loss is 'maybe': it must be true"),
        (["train", "CartPole-v1", "--set", "network=[[1"], "network is '[[1'"),
        (["train", "CartPole-v1", "--network", "[[1"], "network is '[[1'"),
        (["train", "CartPole-v1", "--network", "mpl"], "network is 'mpl': it must be one of paper, paper-lstm, "),
        (["train", "CartPole-v1", "--network", '["mlp"]'], "layer 1 of the network is 'mlp': it must be a Dense"),
        (["train", "CartPole-v1", "--network", "7"], "network is 7: it must be a table of layers"),
        (["train", "CartPole-v1", "--network", "paper-lstm"], "layer 1 of the network is a convolution, but what"),
        (["train", "CartPole-v1", "--network", "mlp", "--set", "network=mlp"], "the setting network is given twice"),
        (["train", "CartPole-v1", "--set", 'network=[["dense",0]]'], "layer 1 of the network has units 0"),
        (["train", "CartPole-v1", "--set", 'network=[["conv",4,3,1]]'], "layer 1"),
        (["train", "CartPole-v1", "--set", "sticky_actions=0.25"], "sticky_actions"),
        (["train", "CartPole-v1", "--out", "/proc/nbrl-run"], "cannot be used as a run directory"),
        (["resume", "absent"], "absent is not a run directory: it does not exist"),
        (["eval", "absent"], "absent does not exist"),
        (["eval", ".", "--episodes", "0"], "'0' is not a whole number of at least 1"),
        (["eval", ".", "--seed", "-1"], "'-1' is not a whole number of at least 0"),
        (["eval", "."], "is not a run directory: it has no config.json"),
        (["plot", "."], "is not a run directory: it has no config.json"),
        (["plot", ".", "--by", "hours"], "invalid choice: 'hours'"),
        (["play", "absent"], "absent does not exist: it must be a run directory, a checkpoint or a saved policy"),
        (["play", ".", "--seed", "-1"], "'-1' is not a whole number of at least 0"),
        (["play"], "what is to be played? Give a RUN, or --human ENV"),
        (["play", "--human", "CartPole-v1"], "people can play nbrl/Maze-v0, "),
        (["play", "--human", "nbrl/Maze-v0"], "a person plays in a terminal, and the standard input is none"),
        (["play", ".", "--human", "nbrl/Maze-v0"], "--human ENV goes with --seed alone"),
        (["play", "--seconds", "3", "--human", "nbrl/Maze-v0"], "--human ENV goes with --seed alone"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_sentence(refused, words, sentence):
    assert sentence in refused(*words)


def test_a_used_directory_is_refused(refused, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("precious")
    assert "mine is not empty: a new run needs a directory of its own" in refused(*SHORT, "--out", "mine")


def test_an_unknown_game_is_refused(refused):
    pytest.importorskip("ale_py")
    assert "Pnog" in refused("train", "ALE/Pnog-v5")


def test_an_unsupported_space_is_refused(refused, tmp_path, monkeypatch):
    (tmp_path / "odd_spaces.py").write_text(ODD_SPACES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert "Text" in refused("train", "odd_spaces:Odd-v0")


def test_a_missing_extra_is_refused(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    assert 'pip install "nbrl[atari]"' in refused("train", "ALE/Pong-v5")


@pytest.fixture
def damaged_run(tmp_path):
    run = metrics.RunDirectory.create(tmp_path / "run", Config(environment="CartPole-v1", network=[["dense", 8]]))
    write_tensors(checkpoint_path(run.checkpoints, 10), {}, {})
    path = newest(run.checkpoints)
    path.write_bytes(path.read_bytes()[:-3])
    return run


def test_a_damaged_checkpoint_is_refused(damaged_run, refused):
    path = checkpoint_path(damaged_run.checkpoints, 10)
    assert "safetensors is cut short" in refused("eval", path)


@pytest.mark.parametrize("command", ["eval", "resume"])
def test_a_run_with_nothing_but_a_damaged_checkpoint_is_refused(damaged_run, nbrl_command, command):
    before = tree(damaged_run.path)
    ended = nbrl_command(command, damaged_run.path)
    warning, sentence = ended.stderr.splitlines()
    assert "passing over a damaged checkpoint" in warning
    assert "has no readable checkpoint" in sentence
    assert (ended.returncode, ended.stdout, tree(damaged_run.path)) == (2, "", before)


def test_plotting_without_metrics_or_a_place_is_refused(damaged_run, refused):
    assert "the run has reported nothing yet" in refused("plot", damaged_run.path)
    assert "give --out FILE" in refused("plot", damaged_run.path, damaged_run.path)


def test_version(nbrl_command):
    ended = nbrl_command("--version")
    assert (ended.returncode, ended.stderr) == (0, "")
    installed = [f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "numba", "gymnasium")]
    shown = rf"nbrl {nbrl.__version__} \(Python 3\.\d+\.\d+, {', '.join(installed)}.*; vectors of (128|256|512) bits\)"
    assert re.fullmatch(shown, ended.stdout.strip())


def test_help_shows_what_people_use_and_the_rest_when_asked(nbrl_command):
    shown = {}
    for word in ("--help", "--help-all"):
        ended = nbrl_command("train", word)
        assert (ended.returncode, ended.stderr) == (0, "")
        shown[word] = set(re.findall(r"^  (--[\w-]+)", ended.stdout, re.MULTILINE))
    rest = {"--target-return", "--eval-interval", "--actors", "--frames", "--env-arg", "--ray", "--set"}
    assert len(shown["--help"]) == 11  # --help-all among them
    assert shown["--help-all"] - shown["--help"] == rest


def test_every_setting_is_listed(nbrl_command):
    ended = nbrl_command("settings")
    assert (ended.returncode, ended.stderr) == (0, "")
    text = " ".join(ended.stdout.split())
    for name, setting in SETTINGS.items():
        assert f" {name} {setting.description} ({setting.wanted})" in text
    assert max(map(len, ended.stdout.splitlines())) <= 80


def test_settings_that_have_to_do_with_a_word(nbrl_command):
    lines = nbrl_command("settings", "clip_range").stdout.splitlines()
    assert lines[0] == "the method ppo:"
    assert [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "] == ["clip_range"]


def test_settings_of_an_environment(nbrl_command):
    ended = nbrl_command("settings", "nbrl/SwitchRiddle-v0")
    lines = [line[2:].split(maxsplit=1) for line in ended.stdout.splitlines() if line[:2] == "  " and line[2] != " "]
    shown = {name: words.split(":")[0] for name, words in lines}
    config = configure("nbrl/SwitchRiddle-v0")
    assert shown.items() >= {"method": "ppo", "agent_index": "true", "learning_rate": "0.001", "seed": "none"}.items()
    assert shown["rollout_length"] == str(config.rollout_length)
    assert "rmsprop_epsilon" not in shown  # PPO's optimiser is another
    assert "q_lambda" not in shown


def test_environments_that_have_a_word(nbrl_command):
    lines = nbrl_command("envs", "MAZE").stdout.splitlines()
    assert [line.split()[0] for line in lines] == sorted(name for name in NATIVE if "Maze" in name)


def test_environments_are_listed(nbrl_command):
    ended = nbrl_command("envs")
    assert ended.returncode == 0
    kinds = dict(line.split() for line in ended.stdout.splitlines())
    assert kinds["CartPole-v1"] == kinds["Catch-v0"] == "native"
    assert kinds["Acrobot-v1"] == "gymnasium"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("50_000_000", 50_000_000),
        ("1e6", 1_000_000),
        ("7e-4", 7e-4),
        ("2.0", 2),
        ("x", "x"),
        ("inf", math.inf),
    ],
)
def test_numbers_as_people_write_them(text, value):
    found = arguments.number(text)
    assert (found, type(found)) == (value, type(value))


def test_settings_of_a_command_line():
    words = ["train", "CartPole-v1", "--steps", "1e3", "--set", "seed=none", "optimiser=shared_adam"]
    words += ["--set", 'network=[["dense",8,"tanh"]]', "cut_on_life_loss=False", "reward_clip=2"]
    assert arguments.settings_of(cli._parser().parse_args(words)) == {
        "steps": 1000,
        "seed": None,
        "optimiser": "shared_adam",
        "network": [["dense", 8, "tanh"]],
        "cut_on_life_loss": False,
        "reward_clip": 2,
    }


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("paper-lstm", (*NETWORKS["paper"], Lstm(256))),
        ("mlp", (Dense(64, "tanh"), Dense(64, "tanh"))),
        ('"mlp"', (Dense(64, "tanh"), Dense(64, "tanh"))),
        ('[["dense", 8], ["lstm", 4]]', (Dense(8), Lstm(4))),
        ("[[dense,8,tanh],[lstm,4]]", (Dense(8, "tanh"), Lstm(4))),  # a shell has taken the quotes
    ],
)
@pytest.mark.parametrize("option", [["--network"], ["--set", "network="], ["--network="]], ids="".join)
def test_a_network_by_its_name_or_as_a_table(option, text, layers):
    *words, last = option
    words = [*words, last + text] if last.endswith("=") else [last, text]
    settings = arguments.settings_of(cli._parser().parse_args(["train", "CartPole-v1", *words]))
    assert configure("CartPole-v1", **settings).network == layers


def test_a_recurrent_run(nbrl_command, tmp_path):
    ended = nbrl_command("train", "Cue-v0", "--network", '[["lstm", 4]]', *SHORT[2:], "--out", "run")
    assert ended.returncode == 0, ended.stderr
    assert metrics.RunDirectory.open(tmp_path / "run").config().network == (Lstm(4),)
    ended = nbrl_command("eval", "run", "--episodes", "3", "--json")
    assert ended.returncode == 0, ended.stderr
    assert set(json.loads(ended.stdout)["lengths"]) == {11}


def test_a_run_of_a_deterministic_policy(nbrl_command, tmp_path):
    words = [
        "--method",
        "dpg",
        "--network",
        '[["dense", 4]]',
        "--set",
        "learning_starts=300",
        "save_replay=true",
        *SHORT[2:],
    ]
    ended = nbrl_command("train", "Pendulum-v1", *words, "--out", "run")
    assert ended.returncode == 0, ended.stderr
    last = metrics.read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last.updates == last.steps - 299  # one for each step once the memory has 300
    assert None not in (last.policy_loss, last.value_loss, last.gradient_norm)
    assert last.entropy is None
    returns = []
    for more in ([], ["--greedy"]):
        ended = nbrl_command("eval", "run", "--episodes", "3", "--json", *more)
        assert ended.returncode == 0, ended.stderr
        returns.append(json.loads(ended.stdout)["returns"])
    assert returns[0] == returns[1]


@pytest.mark.parametrize(
    "words",
    [
        ["--set", "seed=5", "actors=3", "CartPole-v1"],
        ["--set", "seed=5", "CartPole-v1", "--set", "actors=3"],
        ["CartPole-v1", "--set=seed=5", "--set", "actors=3"],
        ["--set", "seed=5", "--set", "actors=3", "CartPole-v1"],
    ],
)
def test_settings_stand_where_they_like(words):
    parsed = cli._parser().parse_args(["train", *words])
    assert (parsed.environment, arguments.settings_of(parsed)) == ("CartPole-v1", {"seed": 5, "actors": 3})


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a", "runs/b"], ["a", "b"]),
        (["one/a", "two/a"], ["one/a", "two/a"]),
        (["x/one/a", "b", "two/a"], ["one/a", "x/b", "two/a"]),
        (["runs/a", "b", "runs/a/"], ["a", "b", "a"]),
        (["runs/a"], ["a"]),
    ],
)
def test_runs_are_told_apart_by_short_names(tmp_path, paths, names):
    folder = tmp_path / "x"
    shown = cli._short_names([folder / path for path in paths])
    assert shown == names


def test_a_run_from_beginning_to_end(nbrl_command, tmp_path):
    ended = nbrl_command(*SHORT, "--out", "run")
    assert ended.returncode == 0, ended.stderr
    assert "nbrl eval run" in ended.stdout
    run = metrics.RunDirectory.open(tmp_path / "run")
    assert (run.config().steps, run.config().seed, run.config().threads) == (2000, 1, 1)
    reports = metrics.read_metrics(run.metrics_file)
    assert reports[-1].steps >= 2000
    assert sum(report.episodes for report in reports) > 0
    assert newest(run.checkpoints) is not None
    assert run.policy_file.exists()

    before = tree(run.path)
    again = nbrl_command(*SHORT, "--out", "run")
    assert (again.returncode, tree(run.path)) == (2, before)
    assert "is not empty" in again.stderr

    for source in (run.path, newest(run.checkpoints), run.policy_file):
        ended = nbrl_command("eval", source, "--episodes", "3", "--json", "--greedy")
        assert ended.returncode == 0, ended.stderr
        evaluation = json.loads(ended.stdout)
        assert evaluation["episodes"] == len(evaluation["returns"]) == len(evaluation["lengths"]) == 3
        assert evaluation["mean_return"] == pytest.approx(sum(evaluation["returns"]) / 3)
        assert "standard_error" in evaluation
    assert json.loads(run.evaluation_file.read_text()) == evaluation
    ended = nbrl_command("eval", run.path, "--episodes", "1")
    assert ended.returncode == 0, ended.stderr
    assert "mean return" in ended.stdout

    pytest.importorskip("matplotlib")
    ended = nbrl_command("plot", run.path)
    assert ended.returncode == 0, ended.stderr
    assert run.curve_file.exists()
    ended = nbrl_command("plot", run.path, run.path / ".." / "run", "--by", "minutes", "--out", "both.png")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "both.png\n", "")
    assert (tmp_path / "both.png").exists()


def test_a_run_without_a_name_gets_one(nbrl_command, tmp_path):
    ended = nbrl_command(*SHORT)
    assert ended.returncode == 0, ended.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("CartPole-v1-ppo-")


def wait_for_a_longer(path, process):
    """Wait until a process has added to a file, or has made it."""
    before = path.stat().st_size if path.exists() else 0
    while not path.exists() or path.stat().st_size <= before:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.fixture
def started(tmp_path, environment_variables):
    """Start ``nbrl`` in the background; it is ended with the test."""
    processes = []

    def start(*words, **options):
        variables = {**environment_variables, "PYTHONUNBUFFERED": "1"}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        # A shell's background job ignores SIGINT, and so would what it starts.
        options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
        command = [sys.executable, "-m", "nbrl", *map(str, words)]
        processes.append(subprocess.Popen(command, cwd=tmp_path, env=variables, **options))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_signals_save_a_checkpoint_and_the_run_goes_on(tmp_path, started):
    run = metrics.RunDirectory(tmp_path / "run")
    words = ["train", "CartPole-v1", "--steps", "1e9", "--actors", "2", "--threads", "2", "--out", "run"]
    process = started(*words, "--set", "report_interval=0.1")
    steps = 0
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        wait_for_a_longer(run.metrics_file, process)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == code, errors
        assert "Traceback" not in errors
        assert "nbrl resume run" in output
        saved = newest(run.checkpoints)
        assert int(saved.stem.removeprefix("step-")) > steps
        steps = int(saved.stem.removeprefix("step-"))
        process = started("resume", "run")


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are POSIX's")
def test_a_terminal_shows_one_line_rewritten_in_place(started):
    import pty

    ours, theirs = pty.openpty()
    process = started(*SHORT, "--set", "report_interval=0.01", "--steps", "1e5", "--out", "run", stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    process.communicate()
    assert process.returncode == 0, shown
    lines = [line for line in shown.decode().split("\r\x1b[K") if "steps/s" in line]
    assert len(lines) > 1
    assert all("\n" not in line for line in lines[:-1] if "training in" not in line)


def test_a_terminal_shows_how_long_something_takes(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    console = cli._Console()
    with console.waiting("getting ready"):
        time.sleep(1.5)
    begin, *shown, end = capsys.readouterr().err.split("\r\x1b[K")
    assert (begin, end) == ("", "")
    assert shown
    assert all(re.fullmatch(r"getting ready, \d+ s", line) for line in shown)


def test_no_command_prints_the_help(nbrl_command):
    ended = nbrl_command()
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "train" in ended.stdout
    assert "eval" in ended.stdout


def test_a_kept_run_keeps_its_evaluation(nbrl_command, tmp_path):
    assert nbrl_command(*SHORT, "--out", "run").returncode == 0
    run = metrics.RunDirectory.open(tmp_path / "run")
    for path in run.checkpoints.iterdir():
        path.unlink()
    run.checkpoints.rmdir()
    run.evaluation_file.write_text("{}")
    assert nbrl_command("eval", run.path, "--episodes", "1").returncode == 0
    assert run.evaluation_file.read_text() == "{}"


def test_a_file_that_names_code_needs_the_user_s_word(nbrl_command, tmp_path):
    agent = policy_for("Catch-v0", name="this:Catch-v0")
    agent.save(tmp_path / "policy.safetensors")
    for command in ("eval", "play"):
        ended = nbrl_command(command, "policy.safetensors")
        assert ended.returncode == 2
        assert "which would import the module this: if you trust it, give it again with --env" in ended.stderr
        assert "Zen" not in ended.stdout  # which importing it prints
    ended = nbrl_command("eval", "policy.safetensors", "--env", "Catch-v0", "--episodes", "2")
    assert ended.returncode == 0, ended.stderr

    assert nbrl_command(*SHORT, "--out", "run").returncode == 0
    run = metrics.RunDirectory.open(tmp_path / "run")
    settings = json.loads(run.config_file.read_text())
    run.config_file.write_text(json.dumps(settings | {"environment": "this:Catch-v0", "steps": 3000}))
    ended = nbrl_command("resume", "run")
    assert ended.returncode == 2
    assert "would import the module this" in ended.stderr
    ended = nbrl_command("resume", "run", "--env", settings["environment"])
    assert ended.returncode == 0, ended.stderr
    assert metrics.read_metrics(run.metrics_file)[-1].steps >= 3000


def test_the_speed_shown_is_that_of_the_last_reports(make_report, monkeypatch):
    console, lines = cli._Console(), []
    monkeypatch.setattr(console, "progress", lines.append)
    for second in range(30):  # rollouts of 4,000 frames that end every fourth second
        frames = 4_000 * (second // 4)
        now = 4_000.0 if second and second % 4 == 0 else 0.0
        console.report(make_report(steps=frames, frames=frames, seconds=float(second), frames_per_second=now))
    # Nine seconds have two or three of them.
    shown = [float(line.split(" steps  ")[1].split(" steps/s")[0].replace(",", "")) for line in lines[10:]]
    assert {round(speed) for speed in shown} <= {889, 1333}
