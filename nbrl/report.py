"""All that is known of runs as one page of HTML, which needs nothing besides: no network, no other file."""

import base64
import html
import http.server
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from nbrl.checkpoint import replace_file
from nbrl.config import Config
from nbrl.metrics import Report, RunDirectory, duration, read_metrics
from nbrl.plots import histogram, learning_curves, mean_curves, metric_panels

REFRESH = 5  # seconds between two versions of a page that is watched
STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #d0d7de }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; vertical-align: top }
.wide { overflow-wrap: anywhere }
th { font-weight: 600 } tr + tr > * { border-top: 1px solid #eaeef2 }
img { max-width: 100% } figure { margin: 1rem 0; display: inline-block } figcaption, .small { color: #57606a }
"""


def write_report(runs: Mapping[str, RunDirectory], path: Path | None = None) -> Path:
    """Write the page.

    Parameters
    ----------
    runs
        By the names that they have in it.
    path
        The page; None for report.html of the first run.

    Returns
    -------
    pathlib.Path
        Where it is.

    Raises
    ------
    ValueError
        A run cannot be read, matplotlib (the extra ``plot``) is not installed, or the page cannot be written.
    """
    path = path or next(iter(runs.values())).path / "report.html"
    try:
        replace_file(path, [page(runs).encode()])
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def serve(runs: Mapping[str, RunDirectory], port: int) -> http.server.HTTPServer:
    """A server, for this machine alone, of the page as it is when asked for; ValueError if it cannot listen."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/":
                self.send_error(404)
                return
            try:
                text = page(runs, refresh=REFRESH)
            except ValueError as error:
                text = f"<p>{html.escape(str(error))}</p>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            """Nothing: the terminal shows the address alone."""

    try:
        return http.server.HTTPServer(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as error:
        raise ValueError(f"port {port} cannot be listened to: {error}; give another one by --port") from error


def page(runs: Mapping[str, RunDirectory], refresh: int | None = None) -> str:
    """The page as text; one that is watched is loaded anew after so many seconds."""
    configs = {name: run.config() for name, run in runs.items()}
    reports = {name: read_metrics(run.metrics_file) if run.metrics_file.exists() else [] for name, run in runs.items()}
    evaluations = {name: _json(run.evaluation_file, "mean_return", "episodes", "returns") for name, run in runs.items()}
    title = "; ".join(dict.fromkeys(f"{config.environment}, {config.method}" for config in configs.values()))
    parts = [
        _section("Runs", _table(_facts(runs, reports, evaluations))),
        _section("Learning", _curves(configs, reports)),
        _section("Evaluation", _evaluations(evaluations)),
        _section("The agent plays", _animations(runs)),
        _section("Settings", _settings(configs)),
        _section("What else is reported", _panels(reports)),
        _section("Machine and versions", _machines(runs)),
    ]
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{again}'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>{''.join(parts)}"
        f'<p class="small">Made by nbrl on {time.strftime("%d %B %Y, %H:%M")}.</p></body></html>\n'
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def _table(rows: Mapping[str, Mapping[str, Any]], kind: str = "") -> str:
    """Rows by name; each has the same columns, one that says nothing in any row is left out."""
    columns = [
        name for name in next(iter(rows.values())) if any(row.get(name) not in (None, "") for row in rows.values())
    ]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ["", *columns])
    lines = [
        f"<tr><th>{html.escape(name)}</th>{''.join(f'<td>{_text(row.get(column))}</td>' for column in columns)}</tr>"
        for name, row in rows.items()
    ]
    return f'<table class="{kind}"><tr>{head}</tr>{"".join(lines)}</table>'


def _text(value: Any) -> str:
    if value is None:
        return ""
    return html.escape(
        value if isinstance(value, str) else f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"
    )


def _json(path: Path, *names: str) -> dict[str, Any] | None:
    """The object that a file holds; None where there is no such file, or none in it that has these names."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) and set(names) <= values.keys() else None


def _facts(
    runs: Mapping[str, RunDirectory], reports: Mapping[str, list[Report]], evaluations: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    facts = {}
    for name in runs:
        last, evaluation = reports[name][-1] if reports[name] else None, evaluations[name]
        returns = [report.recent_return for report in reports[name] if report.recent_return is not None]
        facts[name] = {
            "steps": last and f"{last.steps:,} of {last.total_steps:,}",
            "frames": last and last.frames,
            "time of training": last and duration(last.seconds),
            "return of the last 100 episodes": last and last.recent_return,
            "the best of them": max(returns, default=None),
            "evaluation": evaluation and _mean(evaluation),
        }
    return facts


def _mean(evaluation: Mapping[str, Any]) -> str:
    """An evaluation's mean return in words."""
    error = evaluation.get("standard_error")
    spread = "" if error is None else f" (standard error {error:.2g})"
    how = "greedy" if evaluation.get("greedy") else "sampled"
    return f"{evaluation['mean_return']:,.4g}{spread}, {evaluation['episodes']} episodes, {how}"


def _picture(caption: str, draw: Callable[[Path], None]) -> str:
    """A picture that a function draws to a path, as SVG within the page."""
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError('reports need matplotlib: pip install "nbrl[plot]"') from error
    with tempfile.TemporaryDirectory() as folder, matplotlib.rc_context({"svg.fonttype": "none"}):
        path = Path(folder) / "picture.svg"
        draw(path)
        return _image(caption, "svg+xml", path.read_bytes())


def _image(caption: str, kind: str, data: bytes) -> str:
    words, text = html.escape(caption), base64.b64encode(data).decode()
    return f'<figure><img alt="{words}" src="data:image/{kind};base64,{text}"><figcaption>{words}</figcaption></figure>'


def _curves(configs: Mapping[str, Config], reports: Mapping[str, list[Report]]) -> str:
    """Mean returns by frames and by time; of runs that differ in their seeds alone the mean and its interval."""
    ended = {name: each for name, each in reports.items() if any(report.episodes for report in each)}
    if not ended:
        return "<p>No episode has ended yet.</p>"
    groups: dict[str, dict[str, list[Report]]] = {}
    for name, each in ended.items():
        key = json.dumps(configs[name].replace(seed=None).to_dict())
        groups.setdefault(key, {})[name] = each

    def draw(by: str, path: Path) -> None:
        if len(groups) < len(ended):
            mean_curves(path, "", [*groups.values()], by)
        else:
            learning_curves(path, "", ended, by)

    last = [each[-1] for each in ended.values()]
    ways = ["steps" if all(report.frames == report.steps for report in last) else "frames"]
    if len(ended) > 1:  # one run's picture has an axis of time besides
        ways.append("minutes" if max(report.seconds for report in last) >= 180 else "seconds")
    return "".join(_picture(f"Mean return by {by}", partial(draw, by)) for by in ways)


def _evaluations(evaluations: Mapping[str, dict[str, Any] | None]) -> str:
    known = {name: each for name, each in evaluations.items() if each}
    if not known:
        return "<p>Not evaluated yet: <code>nbrl eval RUN</code>.</p>"
    lines = {
        name: {"mean return": _mean(each), "lowest": min(each["returns"]), "highest": max(each["returns"])}
        for name, each in known.items()
    }
    returns = {name: each["returns"] for name, each in known.items()}
    return _table(lines) + _picture("Episodes of the evaluation by their return", lambda path: histogram(path, returns))


def _animations(runs: Mapping[str, RunDirectory]) -> str:
    shown = [_image(name, "gif", run.play_file.read_bytes()) for name, run in runs.items() if run.play_file.exists()]
    return "".join(shown) or "<p>Not drawn yet: <code>nbrl play RUN</code>.</p>"


def _settings(configs: Mapping[str, Config]) -> str:
    """Those in which runs differ, or in which one differs from the paper's, and below all of them."""
    tables = {name: config.to_dict() for name, config in configs.items()}
    others = [*tables.values()] if len(tables) > 1 else [Config(environment="-").to_dict()]
    names = next(iter(tables.values()))
    differ = [key for key in names if len({json.dumps(table[key]) for table in [*tables.values(), *others]}) > 1]

    def table(keys: list[str]) -> str:
        return _table({key: {name: _setting(each[key]) for name, each in tables.items()} for key in keys}, "wide")

    what = "Those in which the runs differ" if len(tables) > 1 else "Those that are not the paper's"
    shown = f"<p>{what}:</p>{table(differ)}" if differ else "<p>The runs differ in no setting.</p>"
    return f"{shown}<details><summary>All settings</summary>{table([*names])}</details>"


def _setting(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)


def _panels(reports: Mapping[str, list[Report]]) -> str:
    told = {name: each for name, each in reports.items() if each}
    return _picture("Speed and losses by steps", lambda path: metric_panels(path, told)) if told else ""


def _machines(runs: Mapping[str, RunDirectory]) -> str:
    found = {name: _json(run.machine_file) for name, run in runs.items()}
    known = {name: each for name, each in found.items() if each}
    keys = dict.fromkeys(key for each in known.values() for key in each)
    return (
        _table({key: {name: _setting(each.get(key)) for name, each in known.items()} for key in keys}) if keys else ""
    )
