"""The words of the command line: settings, numbers and networks as people write them, and what was meant by others."""

import argparse
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from nbrl.config import SETTINGS, check_names
from nbrl.nets.layers import read_text
from nbrl.settings import SYNONYMS, Setting, unknown

# Settings with an option of their own.
OPTIONS = ("method", "network", "steps", "minutes", "target_return", "eval_interval", "actors", "threads", "seed")
ASSIGNMENT = re.compile(r"[A-Za-z_]+=")
FLAGS = ("--show", "--json")  # options without a value
TABLE = 'a table of layers needs quotes: --network \'[["dense", 64, "relu"]]\''


class Parser(argparse.ArgumentParser):
    """Refuses words with one sentence that says what was meant."""

    commands: Mapping[str, argparse.ArgumentParser]  # by name, of the whole command line's

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = single_settings(sys.argv[1:] if args is None else args)
        command = words[0] if words and not words[0].startswith("-") else None
        if command is not None and command not in self.commands:
            self.error(unknown("command", command, self.commands))
        parsed, left = self.parse_known_args(words, namespace)
        if left and command is None:
            self.error(unknown("option", left[0], ["--help", "--version"]))
        if left:
            self.error(_meant(left, words[0], list(self.commands[words[0]]._option_string_actions)))
        return parsed

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"nbrl: {message}\n")


def _meant(left: Sequence[str], command: str, options: Sequence[str]) -> str:
    """The sentence for words that a command does not know."""
    first, second = left[0], left[1] if len(left) > 1 else "VALUE"
    takes_settings = command in ("train", "bench")
    if takes_settings and second == "=":
        return f"{' '.join(left[:3])}: a setting is one word, {''.join(left[:3])}"
    if takes_settings and "]" in first:
        return f"{first} is not known: {TABLE}"
    if not first.startswith("-"):
        return f"{first} is one word too many: see nbrl {command} --help"
    option, equals, value = first.partition("=")
    name = option.lstrip("-").replace("-", "_")
    setting = SYNONYMS.get(name.lower(), name)
    if takes_settings and f"--{setting.replace('_', '-')}" in options:
        return f"unknown option {option}: it is --{setting.replace('_', '-')}"
    if takes_settings and setting in SETTINGS:
        return f"unknown option {option}: a setting is written {setting}={value if equals else second}"
    return unknown("option", option, [name for name in options if name.startswith("--")])


def single_settings(words: Sequence[str]) -> list[str]:
    """Give each assignment a ``--set`` of its own, unless it is the value of an option."""
    single: list[str] = []
    for word in words:
        before = single[-1] if single else ""
        is_value = before.startswith("--") and "=" not in before and before not in FLAGS
        if words[0] in ("train", "bench") and ASSIGNMENT.match(word) and not is_value:
            single.append("--set")
        single.append(word)
    return single


def settings_of(parsed: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that a command line gives, from its options and its ``--set``."""
    given = {name: getattr(parsed, name, None) for name in OPTIONS}
    texts = {name: text for name, text in given.items() if text is not None}
    for assignment in parsed.set:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set {assignment}: it must be field=value, such as learning_rate=7e-4")
        if name in texts:
            raise ValueError(f"the setting {name} is given twice")
        texts[name] = text
    check_names(texts)
    arguments = environment_arguments(parsed)
    if arguments is not None and "environment_arguments" in texts:
        raise ValueError("environment_arguments and --env-arg are both given: give one of them")
    if "environment" in texts:
        raise ValueError("the environment is not for --set: it is the word after train")
    given = {name: _value(text, SETTINGS.get(name)) for name, text in texts.items()}
    return given if arguments is None else given | {"environment_arguments": arguments}


def environment_arguments(parsed: argparse.Namespace) -> dict[str, Any] | None:
    """The keywords of ``--env-arg``, numbers and JSON taken as such; None where there are none."""
    arguments: dict[str, Any] = {}
    for assignment in getattr(parsed, "env_arg", []):
        name, equals, text = assignment.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"--env-arg {assignment}: it must be key=value, such as full_action_space=true")
        if name in arguments:
            raise ValueError(f"--env-arg {name} is given twice")
        words = {"true": True, "false": False, "none": None}
        try:
            arguments[name] = words[text.lower()] if text.lower() in words else json.loads(text)
        except ValueError:
            arguments[name] = number(text)
    return arguments or None


def _value(text: str, setting: Setting | None) -> Any:
    """Return what a text says as a value of a setting, or the text, which ``Config`` then refuses by name."""
    if setting is None:  # the network
        return read_text(text)
    if setting.kind in (str, dict):
        return None if setting.optional and text.lower() == "none" else text
    if setting.kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    return None if setting.optional and text.lower() == "none" else number(text)


def number(text: str) -> Any:
    """Return a number from text such as 50_000_000, 1e6 or 7e-4; what is not a number stays text."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if math.isfinite(value) and value.is_integer() else value


def count(text: str) -> int:
    return _whole_number(text, 1)


def seed(text: str) -> int:
    return _whole_number(text, 0)


def _whole_number(text: str, least: int) -> int:
    value = number(text)
    if not isinstance(value, int) or value < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return value
