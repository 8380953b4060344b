"""Which figures the pages tell, how each is made, when that was last done and how long it took; and make some again.

python tools/remake.py [WORD]            list the figures whose line has this word
python tools/remake.py WORD --make       run their commands, one after the other, and note how long each took

A figure is a line of a table of README.md or runs/reference/README.md that has a column "command". What it prints
is for a person to compare with the line, and to write down there with the machine.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "runs/reference/README.md")
NOTED = ROOT / "runs/reference/benchmarks/remade.json"
TEMPLATES = re.compile(r"\b(RUN|KEPT|PYTHON)\b")  # for what only a person can fill in


class Figure(NamedTuple):
    """A line of a table."""

    page: str
    line: int  # counted from 1
    what: str
    result: str
    commands: list[str]


def figures() -> list[Figure]:
    """Every figure, in the order of the pages."""
    found = []
    for page in PAGES:
        columns: list[str] = []
        before: list[str] = []
        for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), start=1):
            cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
            if not cells:
                columns = []
            elif not columns:
                columns = cells
            elif "command" in columns and not set(line) <= set("|- "):
                told = cells[columns.index("command")]
                commands = re.findall(r"`((?:nbrl|python) [^`]+)`", told) if not told.startswith("the same") else before
                found.append(Figure(page, number, cells[0], cells[1], commands))
                before = commands
    return found


def make(command: str) -> None:
    """Run a command with this interpreter, and note how long it took."""
    if TEMPLATES.search(command):
        print(f"left out, since a person must fill it in: {command}")
        return
    program, *words = shlex.split(command)
    start = time.monotonic()
    ended = subprocess.run([sys.executable, *(["-m", "nbrl"] if program == "nbrl" else []), *words], cwd=ROOT)
    minutes = (time.monotonic() - start) / 60
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    noted = json.loads(NOTED.read_text(encoding="utf-8")) if NOTED.exists() else {}
    day = time.strftime("%Y-%m-%d")
    noted[command] = {"minutes": round(minutes, 2), "day": day, "commit": commit.strip(), "code": ended.returncode}
    NOTED.write_text(json.dumps(noted, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="?", default="", help="of the figures' lines")
    parser.add_argument("--make", action="store_true", help="run their commands")
    parsed = parser.parse_args()
    noted = json.loads(NOTED.read_text(encoding="utf-8")) if NOTED.exists() else {}
    chosen = [figure for figure in figures() if parsed.word.lower() in " ".join(map(str, figure)).lower()]
    for figure in chosen:
        print(f"{figure.page}:{figure.line}  {figure.what}\n    {figure.result}")
        for command in figure.commands:
            took = noted.get(command)
            when = f"{took['minutes']} min on {took['day']}, commit {took['commit']}" if took else "not made again yet"
            print(f"    {command}    ({when})")
    for command in dict.fromkeys(command for figure in chosen for command in figure.commands if parsed.make):
        make(command)


if __name__ == "__main__":
    main()
