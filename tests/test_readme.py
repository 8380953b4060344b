"""The README and the pages beside the code are true: examples print what they say, commands parse, files exist."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from nbrl import cli
from nbrl.config import Config
from nbrl.registration import NATIVE

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "nbrl").rglob("*.md"))}


def blocks(language: str, text: str = TEXT) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def inline(text: str = TEXT) -> list[str]:
    """What stands between backticks outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


PROGRAMS = blocks("python")
(LIBRARY,) = blocks("c")
(COMPILE,) = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("cc ")]
CARTPOLE, *EMBEDDED = [program for program in PROGRAMS if "CartPole" in program]
(MAZE,) = [program for program in PROGRAMS if "Maze" in program]


def commands() -> list[list[str]]:
    """The words after ``nbrl`` of every command that the README or a page shows."""
    words = []
    for text in (TEXT, *PAGES.values()):
        lines = [part for block in blocks("sh", text) for line in block.splitlines() for part in line.split("&&")]
        shown = [line for line in [*lines, *inline(text)] if line.strip().startswith("nbrl ")]
        words += [shlex.split(line, comments=True)[1:] for line in shown]
    return words


def compile_library(folder: Path) -> None:
    """Run the README's compile command on its C block."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    words = shlex.split(COMPILE)
    (folder / next(word for word in words if word.endswith(".c"))).write_text(LIBRARY, encoding="utf-8")
    subprocess.run([compiler, "-Wall", "-Werror", *words[1:]], cwd=folder, check=True)


def check(program: str, folder: Path, environment_variables: dict[str, str]) -> None:
    """Run a program; it must print the comments behind its prints."""
    shown = re.findall(r"^print\(.*\)  # (.*)$", program, re.MULTILINE)
    assert shown, "an example shows what it prints"
    (folder / "example.py").write_text(program, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "example.py"],
        cwd=folder, env=environment_variables, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == shown
    assert "Warning" not in ended.stderr


@pytest.mark.slow
def test_the_example(tmp_path, environment_variables):
    assert len([line for line in CARTPOLE.splitlines() if line]) <= 10
    check(CARTPOLE, tmp_path, environment_variables)


@pytest.mark.slow
@pytest.mark.parametrize("program", EMBEDDED, ids=["background", "online", "numpy"])
def test_an_embedded_policy(program, tmp_path, environment_variables):
    check(program, tmp_path, environment_variables)


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        pytest.param(program, id=f"{path.parent.name}-{number}")
        for path, text in PAGES.items()
        for number, program in enumerate(blocks("python", text))
    ],
)
def test_an_example_of_a_page(program, tmp_path, environment_variables):
    check(program, tmp_path, environment_variables)


def test_the_maze(tmp_path, environment_variables):
    check(MAZE, tmp_path, environment_variables)


@pytest.mark.parametrize(
    "program",
    [program for program in PROGRAMS if program not in (CARTPOLE, MAZE, *EMBEDDED)],
    ids=lambda program: "c" if "CDLL" in program else "numba" if "cfunc" in program else "gymnasium",
)
def test_an_own_environment(program, tmp_path, environment_variables):
    if "CDLL" in program:
        compile_library(tmp_path)
    check(program, tmp_path, environment_variables)


def test_an_own_environment_in_three_ways():
    assert len(PROGRAMS) - len(EMBEDDED) == 5
    assert (ROOT / "tests/support/corridor.c").read_text(encoding="utf-8") == LIBRARY


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_parses(words):
    if "--help" in words:
        with pytest.raises(SystemExit, match=r"^0$"):
            cli._parser().parse_args(words)
        return
    parsed = cli._parser().parse_args(words)
    if words[0] == "train":
        Config(**{"environment": parsed.environment, "threads": 1, **cli.settings_of(parsed)})


def test_the_commands_are_all_shown():
    assert {words[0] for words in commands()} == {
        "train",
        "resume",
        "eval",
        "play",
        "plot",
        "export",
        "study",
        "bench",
        "envs",
    }


def test_the_extras_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (shown,) = re.findall(r'pip install -e "\.\[(\w+)\]"', TEXT)
    assert shown in extras


def listing(name: str) -> set[str]:
    """The first words of the lines of the listing that has a name in it."""
    (found,) = [block for block in blocks("text") if re.search(rf"^{name}", block, re.MULTILINE)]
    return {line.split()[0] for line in found.splitlines()}


def test_a_run_holds_what_is_listed(nbrl_command, tmp_path):
    pytest.importorskip("matplotlib", reason="plots need it")
    for words in (
        ["train", "Catch-v0", "--steps", "500_000", "--seed", "1", "--eval-interval", "0.05", "--out", "run"],
        ["eval", "run", "--episodes", "2"],
        ["plot", "run"],
        ["export", "run"],
        ["play", "run"],
    ):
        ended = nbrl_command(*words)
        assert ended.returncode == 0, ended.stderr
    assert {path.name for path in (tmp_path / "run").iterdir()} == listing("config.json")


def paths() -> list[str]:
    """Every file and folder of the tree that the README names: in listings, links and between backticks."""
    top = {path.name for path in ROOT.iterdir()}
    words = [word for text in [*inline(), *blocks("text"), *blocks("sh")] for word in text.split()]
    named = {word.strip(",;:.") for word in words if "/" in word or "." in word} - {
        f"nbrl/{name.removeprefix('nbrl/')}" for name in NATIVE
    }
    linked = {link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link}
    return sorted(linked | {name for name in named if name.split("/")[0] in top and name != "runs/"})


@pytest.mark.parametrize("path", paths())
def test_a_named_file_exists(path):
    assert (ROOT / path).exists()


def test_no_place_is_left_to_fill_in():
    assert re.findall(r"\{\{.*?\}\}|@[A-Z]+@", TEXT) == []
