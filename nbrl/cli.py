"""The command ``nbrl``: what each of its commands does. `nbrl.arguments` reads its words.

Only this file handles signals and prints. Bad input ends with code 2 and one sentence on standard error.
"""

import argparse
import collections
import contextlib
import dataclasses
import io
import json
import logging
import math
import os
import secrets
import shlex
import shutil
import signal
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from nbrl import checkpoint, envs, evaluate, machine
from nbrl.agent import Agent
from nbrl.animation import play
from nbrl.arguments import OPTIONS, Parser, count, environment_arguments, number, seed, settings_of
from nbrl.bench import benchmark
from nbrl.cluster import Cluster
from nbrl.config import COMMON, PRESETS, SETTINGS, Config, configure, describe, resolve, setting_groups
from nbrl.evaluation import MAX_EPISODE_STEPS
from nbrl.human import play_human
from nbrl.methods import method_class
from nbrl.methods.optimisers import OPTIMISERS
from nbrl.metrics import Report, RunDirectory, default_directories, duration, progress_line, read_metrics, write_csv
from nbrl.plots import AXES, learning_curves, mean_curves
from nbrl.registration import MAZES
from nbrl.report import serve, write_report
from nbrl.studies import dry_run, study
from nbrl.trainer import Trainer

logger = logging.getLogger("nbrl")

PACKAGE = Path(__file__).parent
SPEED_OVER = 10  # reports that the speed is shown over
LOG_INTERVAL = 10.0  # seconds between log lines where there is no terminal
RUN_HELP = "a run directory, a checkpoint or a saved policy"
ENV_HELP = "id of the environment, or module:Class; by default the one it was trained on"
RAY_HELP = "of a Ray cluster, as ray start names it, or auto on one of its machines: all of them learn in this run"
ARGUMENT_HELP = "a keyword that the environment is made with; may be given several times"
SHOWN = ("method", "network", "steps", "minutes", "threads", "seed")  # of the options of settings, by --help
CODES = """exit codes: 0 done, 1 a run ended with an error, 2 what was given is wrong, 130 stopped by Ctrl-C,
143 by SIGTERM and 129 by SIGHUP, after which a run can be resumed"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 where a run ended with an error, 2 for bad input, 128 and its
    number after a signal: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.

    Parameters
    ----------
    arguments
        The command's words; by default those of this process.
    """
    for stream in (sys.stdout, sys.stderr):  # which may not know all the letters of a folder's name
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with contextlib.suppress(FileNotFoundError):  # in a folder that is gone
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # for environments in a module here, as module:name
    parsed = _parser().parse_args(arguments)
    console = _Console()
    logger.addHandler(console)
    logger.setLevel(logging.INFO)
    try:
        with _signals_interrupt():
            code = parsed.run(parsed, console)
            sys.stdout.flush()
            return code
    except _Refused as refused:
        print(f"nbrl: {refused}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        console.end_progress()
        print("nbrl: stopped", file=sys.stderr)
        return _exit_code(interrupt)
    except BrokenPipeError:  # the reader of standard output, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        logger.removeHandler(console)


class _Refused(Exception):
    """The input was bad; the message is the sentence to print."""


class _Terminated(KeyboardInterrupt):
    """A signal came, whose number it has: the same as Ctrl-C but for the exit code."""


def _exit_code(interrupt: KeyboardInterrupt) -> int:
    return 128 + (interrupt.args[0] if isinstance(interrupt, _Terminated) else signal.SIGINT)


@contextmanager
def _checked_input() -> Iterator[None]:
    """Take a ``ValueError``, the library's word for bad input, as such; elsewhere it is an error of the program."""
    try:
        yield
    except ValueError as error:
        raise _Refused(" ".join(str(error).split())) from error


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let SIGTERM, and SIGHUP where the terminal goes, interrupt as Ctrl-C does."""

    def interrupt(number: int, _frame: Any) -> NoReturn:
        raise _Terminated(number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]  # nohup lets one be ignored
    before = [(number, signal.signal(number, interrupt)) for number in heard]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


class _Console(logging.Handler):
    """Standard error: log lines, and on a terminal a progress line below them that is rewritten in place."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        self.last: Report | None = None
        self._recent: collections.deque[Report] = collections.deque(maxlen=SPEED_OVER)
        self._terminal = sys.stderr.isatty()
        self._next_line = time.monotonic() + LOG_INTERVAL
        self._progress = ""
        self._began = time.monotonic()
        self.ends_at = math.inf  # time.monotonic() by which a run does at the latest

    def emit(self, record: logging.LogRecord) -> None:
        self._write(self.format(record) + "\n" + self._progress)

    def report(self, report: Report) -> None:
        """Show a run's report."""
        self.last = report
        self._recent.append(report)
        first = self._recent[0]
        if report.seconds > first.seconds:  # rollouts end in bursts: the speed of one second says little
            spent = report.seconds - first.seconds
            frames, steps = (report.frames - first.frames) / spent, (report.steps - first.steps) / spent
            report = dataclasses.replace(report, frames_per_second=frames, steps_per_second=steps)
        self.progress(progress_line(report, most_left=self.ends_at - time.monotonic()))

    def progress(self, line: str) -> None:
        """Show a line in place of the last one; without a terminal, log one of them now and then."""
        if self._terminal:
            with self._at_once():
                self._progress = line[: shutil.get_terminal_size().columns - 1]
                self._write(self._progress)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LOG_INTERVAL
            logger.info("%s", line)

    @contextmanager
    def waiting(self, words: str) -> Iterator[None]:
        """Show, once a second, how long the command has taken so far."""
        ended = threading.Event()

        def count() -> None:
            while not ended.wait(1):
                self.progress(f"{words}, {duration(time.monotonic() - self._began)}")

        thread = threading.Thread(target=count, name="nbrl waiting", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with self._at_once():
                self._progress = ""
                if self._terminal:
                    self._write("")

    def end_progress(self) -> None:
        """Leave the progress line where it is, and go on below it."""
        with self._at_once():
            if self._progress:
                self._progress = ""
                sys.stderr.write("\n")
                sys.stderr.flush()

    @contextmanager
    def _at_once(self) -> Iterator[None]:
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal may have gone, and the run is to be saved
            sys.stderr.write(f"\r\x1b[K{text}" if self._terminal else text)
            sys.stderr.flush()


def _train(parsed: argparse.Namespace, console: _Console) -> int:
    with _checked_input():
        settings = settings_of(parsed)
        policy = Agent.load(parsed.init) if parsed.init else None
        if policy is not None:
            settings.setdefault("network", policy.network.layers)
        config, sources = resolve(parsed.environment, preset=parsed.preset, frames=parsed.frames, **settings)
        if parsed.show:
            return _show(config, sources)
        for name in (name for name, source in sources.items() if source == "given" and name not in _used(config)):
            logger.warning("%s is given, but %s by %s does not read it", name, config.method, config.optimiser)
        directory = parsed.out or next(path for path in default_directories(config) if not path.exists())
        with console.waiting("getting ready"):
            trainer = Trainer(
                config, directory=directory, on_report=console.report, callbacks=_others(parsed), init=policy
            )
    return _run(trainer, RunDirectory(directory), console)


def _used(config: Config) -> set[str]:
    """The settings that count in a run."""
    used = {"environment", "network", *COMMON, *method_class(config.method).settings}
    return used | OPTIMISERS[config.optimiser].settings.keys()


def _show(config: Config, sources: dict[str, str]) -> int:
    """Print every setting that counts in a run, and where it comes from."""
    values, used = config.to_dict(), _used(config)
    for name in (name for name in values if name in used):
        default = "paper" if "paper:" in describe()[name] else "default"
        source = "given" if name == "environment" else sources.get(name, default)
        print(f"{name:24} {_value(values[name]):24} {source}")
    return 0


def _value(value: Any) -> str:
    """A setting's value as one would write it on the command line."""
    return "none" if value is None else json.dumps(value).strip('"')


def _resume(parsed: argparse.Namespace, console: _Console) -> int:
    with _checked_input(), console.waiting("getting ready"):
        trainer = Trainer.from_run(
            parsed.run_path, parsed.env, steps=parsed.steps, on_report=console.report, callbacks=_others(parsed)
        )
    return _run(trainer, RunDirectory(parsed.run_path), console)


def _others(parsed: argparse.Namespace) -> list[Cluster]:
    """The other machines that learn in the same run."""
    return [] if parsed.ray is None else [Cluster(parsed.ray)]


def _run(trainer: Trainer, run: RunDirectory, console: _Console) -> int:
    """Train until the end or a signal, and say what can be done next."""
    try:
        with _checked_input(), console.waiting("getting ready"):
            trainer.start()  # compiles
        console.ends_at = time.monotonic() + 60 * (trainer.config.minutes or math.inf)
        logger.info("training in %s", run.path)
        trainer.join()
    except KeyboardInterrupt as interrupt:
        trainer.stop()
        trainer.join()
        console.end_progress()
        print(f"stopped; the run is in {run.path}{_summary(console.last)}")
        print(f"  go on:        nbrl resume {_words(run.path, trainer)}")
        print(f"  evaluate it:  nbrl eval {_words(run.path, trainer)}")
        return _exit_code(interrupt)
    except Exception as error:
        if error is not trainer.error:
            raise
        console.end_progress()
        own = [
            frame for frame in traceback.extract_tb(error.__traceback__) if PACKAGE not in Path(frame.filename).parents
        ]
        print("".join(traceback.format_list(own)) + f"nbrl: {type(error).__name__}: {error}", file=sys.stderr)
        print(*getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return 1
    finally:
        console.end_progress()
    print(f"the run is in {run.path}{_summary(console.last)}")
    target, early = trainer.config.target_return, trainer.steps < trainer.config.steps
    if target is not None and early and time.monotonic() < console.ends_at:
        print(f"  it ended early, since the mean return of the last 100 episodes had come to target_return, {target:g}")
    print(f"  evaluate it:  nbrl eval {_words(run.path, trainer)}")
    print(f"  plot it:      nbrl plot {shlex.quote(str(run.path))}")
    return 0


def _words(path: Path, trainer: Trainer) -> str:
    """A run as the words of a command, with its environment where no file may name that."""
    environment = trainer.config.environment
    return shlex.quote(str(path)) + (f" --env {shlex.quote(environment)}" if ":" in environment else "")


def _summary(report: Report | None) -> str:
    if report is None or report.steps == 0:
        return "; no step was taken yet"
    if report.recent_return is None:
        return "; no episode has ended yet"
    return f"; mean return of the last 100 episodes: {report.recent_return:,.4g}"


def _eval(parsed: argparse.Namespace, console: _Console) -> int:
    with _checked_input():
        policy, run = _policy(parsed.run_path)
        evaluation = evaluate(
            Agent.load(policy),
            parsed.env,
            environment_arguments=environment_arguments(parsed),
            episodes=parsed.episodes,
            max_episode_steps=parsed.max_episode_steps,
            greedy=parsed.greedy,
            threads=parsed.threads,
            seed=parsed.seed,
            on_episode=lambda done, last, _: console.progress(
                f"{done} of {parsed.episodes} episodes  return {last:,.4g}"
            ),
        )
    console.end_progress()
    text = json.dumps(evaluation.to_dict(), allow_nan=False)
    if run is not None and (run.checkpoints.is_dir() or not run.evaluation_file.exists()):
        # A run that was only kept, without its checkpoints, keeps its evaluation too.
        try:
            checkpoint.replace_file(run.evaluation_file, [text.encode(), b"\n"])
        except OSError as error:
            logger.warning("%s cannot be written: %s", run.evaluation_file, error.strerror)
    if parsed.json:
        print(text)
        return 0
    spread = "" if evaluation.standard_error is None else f" (standard error {evaluation.standard_error:.2g})"
    print(f"mean return {evaluation.mean_return:,.4g}{spread} over {parsed.episodes} episodes")
    if evaluation.human_normalised is not None:
        print(f"human-normalised score {evaluation.human_normalised:.1f}%")
    return 0


def _play(parsed: argparse.Namespace, console: _Console) -> int:
    def on_step(steps: int, total: float) -> None:
        if steps % 100 == 0:
            console.progress(f"{steps:,} steps  return {total:,.4g}")

    if parsed.human is not None:
        return _play_human(parsed)
    with _checked_input():
        if parsed.run_path is None:
            raise ValueError("what is to be played? Give a RUN, or --human ENV to play yourself")
        policy, run = _policy(parsed.run_path)
        picture = parsed.out or (policy.with_suffix(".gif") if run is None else run.play_file)
        seed = parsed.seed or 0
        shown = 60 if parsed.seconds is None else parsed.seconds
        agent = Agent.load(policy)
        played = play(
            agent,
            parsed.env,
            picture,
            environment_arguments=environment_arguments(parsed),
            seed=seed,
            greedy=parsed.greedy,
            seconds=shown,
            on_step=on_step,
        )
    console.end_progress()
    cut = f"; the picture shows the first {played.shown:,}" if played.shown < played.length else ""
    print(picture)
    print(f"return {played.total_return:,.4g} in {played.length:,} steps{cut}")
    return 0


def _play_human(parsed: argparse.Namespace) -> int:
    with _checked_input():
        if parsed.run_path or parsed.env or parsed.out or parsed.greedy or parsed.seconds is not None:
            raise ValueError("--human ENV goes with --seed alone: a person plays, and no picture is drawn")
        seed = secrets.randbits(31) if parsed.seed is None else parsed.seed
        game = play_human(parsed.human, sys.stdin, sys.stdout, seed=seed)
    print(f"return {game.total_return:,.4g} in {game.length:,} steps{'' if game.ended else ', given up'}")
    print(f"  the same maze again:  nbrl play --human {parsed.human} --seed {seed}")
    return 0


def _policy(path: Path) -> tuple[Path, RunDirectory | None]:
    """Return the file of the policy that a path means, and the run directory if the path is one."""
    if not path.exists():
        raise ValueError(f"{path} does not exist: it must be {RUN_HELP}")
    run = RunDirectory.open(path) if path.is_dir() else None
    policy = checkpoint.policy_file(path)
    assert isinstance(policy, Path)
    return policy, run


def _plot(parsed: argparse.Namespace, console: _Console) -> int:
    with _checked_input():
        runs = [RunDirectory.open(path) for path in parsed.run_paths]
        if len(runs) > 1 and parsed.out is None:
            raise ValueError("a picture of several runs needs a place: give --out FILE")
        picture = parsed.out or runs[0].curve_file
        configs = [run.config() for run in runs]
        names = _short_names([run.path for run in runs])
        reports = {name: read_metrics(run.metrics_file) for name, run in zip(names, runs, strict=True)}
        titles = dict.fromkeys(f"{config.environment.strip('<>')}, {config.method}" for config in configs)
        if parsed.mean:
            groups: dict[str, list[str]] = {}
            for name, config in zip(names, configs, strict=True):
                groups.setdefault(json.dumps(config.replace(seed=None).to_dict()), []).append(name)
            mean_curves(
                picture,
                "; ".join(titles),
                [{name: reports[name] for name in group} for group in groups.values()],
                parsed.by,
            )
        else:
            learning_curves(picture, "; ".join(titles), reports, parsed.by)
    print(picture)
    return 0


def _export(parsed: argparse.Namespace, console: _Console) -> int:
    with _checked_input():
        run = RunDirectory.open(parsed.run_path)
        table = parsed.out or run.table_file
        write_csv(table, read_metrics(run.metrics_file))
    print(table)
    return 0


def _study(parsed: argparse.Namespace, console: _Console) -> int:
    with _checked_input():
        out = parsed.out or Path("runs") / parsed.file.stem
        if parsed.dry_run:
            told = dry_run(parsed.file, out, jobs=parsed.jobs, on_progress=console.progress)
            console.end_progress()
            print(
                f"{told.runs} runs, {told.finished} of them made; about {duration(told.seconds)} of training are left"
            )
            return 0
        try:
            results = study(parsed.file, out, jobs=parsed.jobs, ray=parsed.ray, on_progress=console.progress)
        finally:
            console.end_progress()
        print(results.table())
        try:
            print(results.draw())
        except ValueError as error:  # such as no matplotlib; the numbers are there
            logger.warning("%s", error)
    return 1 if results.failed else 0


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Return the ends of paths, as short as tells different ones apart."""
    parts = [path.resolve().parts for path in paths]
    lengths = range(1, max(map(len, parts)) + 1)
    least = next(n for n in lengths if len({part[-n:] for part in parts}) == len(set(parts)))
    return [str(Path(*part[-least:])) for part in parts]


def _named_runs(paths: Sequence[Path]) -> dict[str, RunDirectory]:
    """Runs by their short names."""
    return dict(zip(_short_names(paths), map(RunDirectory.open, paths), strict=True))


def _report(parsed: argparse.Namespace, console: _Console) -> int:
    with _checked_input():
        runs = _named_runs(parsed.run_paths)
        if len(runs) > 1 and parsed.out is None:
            raise ValueError("a report on several runs needs a place: give --out FILE")
        print(write_report(runs, parsed.out))
    return 0


def _watch(parsed: argparse.Namespace, console: _Console) -> int:
    with _checked_input(), serve(_named_runs(parsed.run_paths), parsed.port) as server:
        print(f"http://localhost:{server.server_port}/ until Ctrl-C", flush=True)
        server.serve_forever()
    return 0


def _settings(parsed: argparse.Namespace, console: _Console) -> int:
    width, found, word, values = shutil.get_terminal_size().columns, False, parsed.word.lower(), {}
    if ":" in word or word in {name.lower() for names in envs.names().values() for name in names}:
        with _checked_input():
            config = configure(parsed.word)
        values, word = {name: config.to_dict()[name] for name in _used(config)}, ""
    for group, settings in setting_groups().items():
        lines = {name: f"{setting.description} ({setting.wanted})" for name, setting in settings.items()}
        lines |= {"network": describe()["network"]} if settings.keys() == COMMON.keys() else {}
        if values:
            lines = {name: f"{_value(values[name])}: {line}" for name, line in lines.items() if name in values}
        shown = {name: line for name, line in lines.items() if word in f"{group} {name} {line}".lower()}
        if shown:
            print(textwrap.fill(f"{group}:", width))
        for name, line in shown.items():
            print(textwrap.fill(line, width, initial_indent=f"  {name:24} ", subsequent_indent=" " * 27))
        found = found or bool(shown)
    if not found:
        raise _Refused(
            f"no setting has {parsed.word!r} in its name or description, and no environment has this id: "
            "nbrl settings lists all, nbrl envs the environments"
        )
    if not values:
        print("\nnbrl settings ENV lists those that count there, with their defaults.")
    return 0


def _bench(parsed: argparse.Namespace, console: _Console) -> int:
    with _checked_input():
        config = configure(parsed.environment, preset=parsed.preset, **settings_of(parsed))
        result = benchmark(
            config, seconds=parsed.seconds, on_progress=lambda words: console.progress(f"measuring: {words}")
        )
    console.end_progress()
    print(json.dumps(result.to_dict(), allow_nan=False) if parsed.json else result.table())
    return 0


def _envs(parsed: argparse.Namespace, console: _Console) -> int:
    pairs = [(name, kind) for kind, names in envs.names().items() for name in names]
    shown = [(name, kind) for name, kind in pairs if parsed.word.lower() in f"{name} {kind}".lower()]
    if not shown:
        raise _Refused(f"no environment has {parsed.word!r} in its id: nbrl envs lists all")
    for name, kind in shown:
        print(f"{name:40} {kind}")
    return 0


class _Version(argparse.Action):
    """Shows the versions, which are looked up when asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(machine.summary())
        parser.exit()


class _HelpAll(argparse.Action):
    """Shows the help with the options in it that are hidden else."""

    def __init__(self, option_strings: Sequence[str], dest: str, rest: Sequence[argparse.Action], help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)
        self.hidden = {option: option.help for option in rest}
        for option in rest:
            option.help = argparse.SUPPRESS

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        for option, words in self.hidden.items():
            option.help = words
        parser.print_help()
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="nbrl",
        description="Asynchronous deep reinforcement learning on CPUs.",
        epilog=CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action=_Version, help="show the versions of nbrl and of what it stands on, and end"
    )

    def help_alone(parsed: argparse.Namespace, console: _Console) -> int:
        parser.print_help()
        return 0

    parser.set_defaults(run=help_alone)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    parser.commands = commands.choices

    def command(run: Any, name: str, summary: str, **more: Any) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False, **more)
        made.set_defaults(run=run)
        return made

    train = command(
        _train,
        "train",
        "Train an agent.",
        epilog="Any setting is a word, field=value: nbrl settings lists them, --help-all the other options.",
    )
    train.add_argument(
        "environment",
        metavar="ENV",
        help="id of an environment, such as ALE/Pong-v5: see nbrl envs; or module:Class, of a file here",
    )
    rest = []
    for name in OPTIONS:
        metavar = {"method": "M", "network": "NET"}.get(name, "N")
        choices = f" ({SETTINGS[name].wanted})" if name in SETTINGS and SETTINGS[name].choices else ""
        words = describe()[name] + choices
        option = train.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=words)
        if name not in SHOWN:
            rest.append(option)
    train.add_argument("--preset", metavar="P", help=f"settings to begin with: {', '.join(PRESETS)}")
    train.add_argument("--init", metavar="POLICY", type=Path, help="begin with a saved policy, whose network it takes")
    train.add_argument("--out", metavar="DIR", type=Path, help="directory of the run; by default a new one in runs/")
    train.add_argument("--show", action="store_true", help="print every setting and where it comes from, and end")
    rest += [
        train.add_argument("--frames", metavar="N", type=number, help="length of the run in frames instead of steps"),
        train.add_argument("--env-arg", metavar="key=value", action="append", default=[], help=ARGUMENT_HELP),
        train.add_argument(
            "--set", metavar="field=value", action="append", default=[],
            help="a setting; the --set may be left out",
        ),
    ]  # fmt: skip
    rest.append(train.add_argument("--ray", metavar="ADDRESS", help=RAY_HELP))
    train.add_argument("--help-all", action=_HelpAll, rest=rest, help="show the other options as well, and end")

    resume = command(_resume, "resume", "Go on with a run from its newest checkpoint.")
    resume.add_argument("run_path", metavar="RUN", type=Path, help="a run directory")
    resume.add_argument("--env", metavar="ENV", help=ENV_HELP)
    resume.add_argument("--steps", metavar="N", type=count, help="another length of the whole run, in steps")
    resume.add_argument("--ray", metavar="ADDRESS", help=RAY_HELP)

    evaluation = command(_eval, "eval", "Play episodes with a trained policy and report their returns.")
    evaluation.add_argument("run_path", metavar="RUN", type=Path, help=RUN_HELP)
    evaluation.add_argument("--env", metavar="ENV", help=ENV_HELP)
    evaluation.add_argument("--env-arg", metavar="key=value", action="append", default=[], help=ARGUMENT_HELP)
    evaluation.add_argument("--episodes", metavar="N", type=count, default=30, help="number of episodes; default: 30")
    evaluation.add_argument(
        "--max-episode-steps", metavar="N", type=count, default=MAX_EPISODE_STEPS,
        help=f"steps after which an episode is ended; default: {MAX_EPISODE_STEPS:,}",
    )  # fmt: skip
    evaluation.add_argument("--greedy", action="store_true", help="take the most likely action instead of sampling")
    evaluation.add_argument("--json", action="store_true", help="print one JSON object with every episode")
    evaluation.add_argument("--threads", metavar="N", type=count, help="threads; default: the cores it may use")
    evaluation.add_argument("--seed", metavar="N", type=seed, default=0, help="seed of the episodes; default: 0")

    playing = command(_play, "play", "Play one episode with a trained policy and draw it as an animation.")
    playing.add_argument("run_path", metavar="RUN", nargs="?", type=Path, help=RUN_HELP)
    playing.add_argument("--human", metavar="ENV", help="play yourself, in the terminal: one of " + ", ".join(MAZES))
    playing.add_argument("--env", metavar="ENV", help=ENV_HELP)
    playing.add_argument("--env-arg", metavar="key=value", action="append", default=[], help=ARGUMENT_HELP)
    playing.add_argument("--out", metavar="FILE", type=Path, help="a .gif or .mp4; by default play.gif in the run")
    playing.add_argument("--greedy", action="store_true", help="take the most likely action instead of sampling one")
    playing.add_argument("--seconds", metavar="N", type=number, help="of the episode that are shown; default: 60")
    playing.add_argument("--seed", metavar="N", type=seed, help="seed of the episode; default: 0, of people any")

    plot = command(_plot, "plot", "Draw the learning curve of one run or of several.")
    plot.add_argument("run_paths", metavar="RUN", nargs="+", type=Path, help="a run directory")
    plot.add_argument("--by", choices=AXES, default="frames", help="horizontal axis; default: frames")
    plot.add_argument("--out", metavar="FILE", type=Path, help="the picture; by default curve.png in the run")
    plot.add_argument(
        "--mean", action="store_true", help="of runs that differ in their seeds, the mean and its interval"
    )

    export = command(_export, "export", "Write what a run reported as a table, for spreadsheets and pandas.")
    export.add_argument("run_path", metavar="RUN", type=Path, help="a run directory")
    export.add_argument("--out", metavar="FILE", type=Path, help="the table; by default metrics.csv in the run")

    reporting = command(_report, "report", "Write all that is known of a run, or of several, as one page of HTML.")
    reporting.add_argument("run_paths", metavar="RUN", nargs="+", type=Path, help="a run directory")
    reporting.add_argument("--out", metavar="FILE", type=Path, help="the page; by default report.html in the run")

    watching = command(_watch, "watch", "Serve the same page on this machine, made anew while a run goes on.")
    watching.add_argument("run_paths", metavar="RUN", nargs="+", type=Path, help="a run directory")
    watching.add_argument("--port", metavar="N", type=count, default=8000, help="where to listen; default: 8000")

    studying = command(_study, "study", "Make the runs of a study, side by side, and say what they show.")
    studying.add_argument("file", metavar="FILE", type=Path, help="the study: see nbrl/README.md")
    studying.add_argument("--out", metavar="DIR", type=Path, help="its folder; by default runs/ and the file's name")
    studying.add_argument("--jobs", metavar="N", type=count, help="runs at once; default: what the cores can serve")
    studying.add_argument("--ray", metavar="ADDRESS", help="of a Ray cluster, whose machines make the runs")
    studying.add_argument("--dry-run", action="store_true", help="say how many runs there are and how long they take")

    bench = command(_bench, "bench", "Time every part of training on this machine. Run nothing else meanwhile.")
    bench.add_argument("environment", metavar="ENV", nargs="?", default="ALE/Pong-v5", help="default: ALE/Pong-v5")
    bench.add_argument("--seconds", metavar="N", type=number, default=10, help="of training; default: 10")
    bench.add_argument("--threads", metavar="N", help=describe()["threads"])
    bench.add_argument("--preset", metavar="P", help=f"settings to begin with: {', '.join(PRESETS)}")
    bench.add_argument("--set", metavar="field=value", action="append", default=[], help="as for nbrl train")
    bench.add_argument("--env-arg", metavar="key=value", action="append", default=[], help=ARGUMENT_HELP)
    bench.add_argument("--json", action="store_true", help="print one JSON object")

    listing = command(_settings, "settings", "List every setting, what it may be, and the paper's value.")
    listing.add_argument(
        "word", metavar="WORD", nargs="?", default="",
        help="only those that have to do with this; the id of an environment: only those that count there, with "
        "their defaults",
    )  # fmt: skip

    listing = command(_envs, "envs", "List the environments that can be trained on.")
    listing.add_argument("word", metavar="WORD", nargs="?", default="", help="only those that have this in their id")
    return parser
