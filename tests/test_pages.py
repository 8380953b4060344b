"""The README and the pages are true: examples print what they say, commands parse, links and files lead somewhere."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from nbrl import cli
from nbrl.arguments import settings_of
from nbrl.config import Config
from nbrl.methods import METHODS as METHOD_NAMES
from nbrl.methods import method_class
from nbrl.metrics import CHARTS
from nbrl.registration import NATIVE

ROOT = Path(__file__).parent.parent
README, GUIDE, ENVIRONMENTS, METHODS = (
    ROOT / name for name in ("README.md", "nbrl/README.md", "nbrl/envs/README.md", "nbrl/methods/README.md")
)
PAGES = [README, ROOT / ".github/CONTRIBUTING.md", *sorted([*ROOT.glob("nbrl/**/*.md"), *ROOT.glob("runs/**/*.md")])]
TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}
COMMANDS = (
    "train", "resume", "eval", "play", "plot", "export", "report", "watch", "study", "settings", "bench", "envs",
)  # fmt: skip
QUICK = (README, ENVIRONMENTS)  # whose examples of an own environment take a few seconds


def name_of(page: Path) -> str:
    """A page's name in an id of a test."""
    return str(page.relative_to(ROOT).with_suffix(""))


def blocks(language: str, page: Path) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT[page], re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", TEXT[page], flags=re.MULTILINE | re.DOTALL)


def inline(page: Path) -> list[str]:
    """What stands between backticks outside fenced blocks."""
    return re.findall(r"`([^`]+)`", prose(page))


def programs() -> list[pytest.param]:
    """Every example of every page, those that take long marked as such."""
    return [
        pytest.param(
            page, program, id=f"{name_of(page)}-{number}",
            marks=[] if page in QUICK and "CartPole" not in program and "minigrid" not in program else pytest.mark.slow,
        )
        for page in PAGES
        for number, program in enumerate(blocks("python", page))
        if not whole_file(page, program)
    ]  # fmt: skip


def whole_file(page: Path, program: str) -> str | None:
    """The path that a page gives a program as a file of nbrl, on the line before it."""
    before = TEXT[page].partition(f"```python\n{program}")[0]
    named = re.search(r"`(nbrl/[\w/]+\.py)`:\n\n$", before)
    return named and named[1]


def commands() -> list[list[str]]:
    """The words after ``nbrl`` of every command that a page shows."""
    words = []
    for page in PAGES:
        lines = [part for block in blocks("sh", page) for line in block.splitlines() for part in line.split("&&")]
        told = [words for words in inline(page) if len(words.split()) > 2 or words in ("nbrl envs", "nbrl settings")]
        shown = [line for line in [*lines, *told] if line.strip().startswith("nbrl ")]
        words += [shlex.split(line, comments=True)[1:] for line in shown]
    return list(map(list, dict.fromkeys(map(tuple, words))))


def compile_library(folder: Path) -> None:
    """Run the compile command of the page on environments on its C block."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    (library,), lines = blocks("c", ENVIRONMENTS), "".join(blocks("sh", ENVIRONMENTS)).splitlines()
    (words,) = [shlex.split(line) for line in lines if line.startswith("cc ")]
    (folder / next(word for word in words if word.endswith(".c"))).write_text(library, encoding="utf-8")
    subprocess.run([compiler, "-Wall", "-Werror", *words[1:]], cwd=folder, check=True)


@pytest.mark.parametrize(("page", "program"), programs())
def test_an_example(page, program, tmp_path, environment_variables):
    shown = re.findall(r"^ *print\(.*\)  # (.*)$", program, re.MULTILINE)
    assert shown, "an example shows what it prints"
    if "CDLL" in program:
        compile_library(tmp_path)
    (tmp_path / "example.py").write_text(program, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path, env=environment_variables, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == shown
    assert "Warning" not in ended.stderr


def patch(package: Path, diff: str) -> None:
    """Add the lines of a diff that begin with +, behind the line above them; at the top of a file, before the next."""
    text, file, waiting = "", package, ""
    for line in [*diff.splitlines(), "---"]:
        if line.startswith("---"):
            if file != package:
                file.write_text(text, encoding="utf-8")
            file = package.parent / line[4:].strip()
            text, at = "" if file == package.parent else file.read_text(encoding="utf-8"), None
        elif line.startswith("+"):
            if at is None:
                waiting += line[1:] + "\n"
            else:
                text, at = text[:at] + line[1:] + "\n" + text[at:], at + len(line)
        else:
            assert text.count(line[1:] + "\n") == 1, line
            begin = text.index(line[1:] + "\n")
            text, at, waiting = text[:begin] + waiting + text[begin:], begin + len(waiting) + len(line), ""


@pytest.mark.slow
def test_an_own_method_layer_optimiser_and_bonus(tmp_path, environment_variables):
    package = tmp_path / "nbrl"
    shutil.copytree(ROOT / "nbrl", package, ignore=shutil.ignore_patterns("__pycache__"))
    for program in blocks("python", METHODS):
        path = whole_file(METHODS, program)
        assert path, "each example there is a file of nbrl"
        (tmp_path / path).write_text(program, encoding="utf-8")
    for diff in blocks("diff", METHODS):
        patch(package, diff)
    (command,) = [line for block in blocks("sh", METHODS) for line in block.splitlines() if "reinforce" in line]
    words = [*shlex.split(command)[1:], "steps=200000", "threads=1", "seed=1", "--out", "run"]
    variables = environment_variables | {"PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-m", "nbrl", *words],
        cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    # Chance stands for 22 steps.
    assert float(re.search(r"mean return of the last 100 episodes: ([\d.]+)", ended.stdout)[1]) > 60
    served = "from nbrl import NumpyPolicy; print(NumpyPolicy.load('run/policy.safetensors').act([0.0] * 4))"
    ended = subprocess.run(
        [sys.executable, "-c", served], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60
    )
    assert ended.stdout.strip() in ("0", "1"), ended.stderr


def test_the_first_page_is_short():
    assert len(TEXT[README]) <= 9_000
    assert len([line for line in blocks("python", README)[0].splitlines() if line]) <= 10


def test_an_own_environment_in_three_ways():
    assert blocks("c", ENVIRONMENTS) == [(ROOT / "tests/support/corridor.c").read_text(encoding="utf-8")]
    for words in ("gymnasium.Env", "cfunc", "CDLL"):
        assert any(words in program for page in (README, ENVIRONMENTS) for program in blocks("python", page))


@pytest.mark.parametrize("words", [words for words in commands() if "reinforce" not in words], ids=" ".join)
def test_a_command_parses(words):
    if {"--help", "--help-all", "--version"} & set(words):
        with pytest.raises(SystemExit, match=r"^0$"):
            cli._parser().parse_args(words)
        return
    parsed = cli._parser().parse_args(words)
    if words[0] == "train":
        Config(**{"environment": parsed.environment, "threads": 1, **settings_of(parsed)})


def test_the_commands_are_all_shown():
    assert {words[0] for words in commands() if not words[0].startswith("-")} == set(COMMANDS)


def test_the_extras_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    shown = {name for page in PAGES for name in re.findall(r"pip install [^`]*?[.l]\[(\w+)\]", TEXT[page])}
    assert {"all", "pettingzoo"} <= shown <= set(extras)


def test_a_run_holds_what_is_listed(nbrl_command, tmp_path):
    pytest.importorskip("matplotlib", reason="plots need it")
    for words in (
        ["train", "Catch-v0", "--steps", "500_000", "--seed", "1", "--eval-interval", "0.05", "--out", "run"],
        ["eval", "run", "--episodes", "2"],
        ["plot", "run"],
        ["export", "run"],
        ["play", "run"],
        ["report", "run"],
    ):
        ended = nbrl_command(*words)
        assert ended.returncode == 0, ended.stderr
    (listing,) = [block for block in blocks("text", GUIDE) if "config.json" in block]
    assert {path.name for path in (tmp_path / "run").iterdir()} == {line.split()[0] for line in listing.splitlines()}


def test_every_column_of_a_run_s_metrics_is_told():
    (listed,) = re.findall(r"^\| column \| .*?\n\n", TEXT[GUIDE], re.MULTILINE | re.DOTALL)
    told = set(re.findall(r"`([^`]+)`", listed))
    methods = {name for method in METHOD_NAMES for name in method_class(method).metrics}
    more = {f"losses/{name}" for name in methods - set(CHARTS)} | {"charts/bonus", "charts/episodic_return_0"}
    assert told == set(CHARTS.values()) | more


def named() -> list[pytest.param]:
    """Every file and folder of the tree that a page names: in listings, commands and between backticks."""
    top = {path.name for path in ROOT.iterdir()}
    ids = {f"nbrl/{name.removeprefix('nbrl/')}" for name in NATIVE} | {"nbrl/*.py"}
    made = {path for page in PAGES for program in blocks("python", page) if (path := whole_file(page, program))}
    found = []
    for page in PAGES:
        texts = [*inline(page), *(text for language in ("text", "sh") for text in blocks(language, page))]
        words = {word.strip(",;:.") for text in texts for word in text.split() if "/" in word or "." in word}
        found += [
            pytest.param(word, id=f"{name_of(page)}-{word}")
            for word in sorted(words - ids - made)
            if word.split("/")[0] in top and word != "runs/"
        ]
    return found


@pytest.mark.parametrize("path", named())
def test_a_named_file_exists(path):
    assert (ROOT / path).exists()


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made where it is shown."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> list[pytest.param]:
    """Every link of a page to a file of the tree or a heading."""
    return [
        pytest.param(page, link, id=f"{name_of(page)}-{link}")
        for page in PAGES
        for link in dict.fromkeys(re.findall(r"\]\(([^)]+)\)", prose(page)))
        if "://" not in link
    ]


@pytest.mark.parametrize(("page", "link"), links())
def test_a_link_leads_somewhere(page, link):
    path, _, anchor = link.partition("#")
    target = Path(os.path.normpath(page.parent / path)) if path else page
    assert target.exists()
    if anchor:
        assert anchor in anchors(target)


def test_every_page_can_be_reached_from_the_first():
    reached, waiting = set(), [README]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        ways = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", prose(page)) if "://" not in link]
        to = {Path(os.path.normpath(page.parent / way)) for way in ways if way.endswith(".md")}
        waiting += [other for other in to - reached if other in TEXT]
    assert reached == set(PAGES)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_place_is_left_to_fill_in(page):
    assert re.findall(r"\{\{.*?\}\}|@[A-Z]+@|^[A-Z]{5,}$", TEXT[page], re.MULTILINE) == []
