import html.parser
import json
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest

from nbrl import Trainer, configure, evaluate, report
from nbrl.metrics import RunDirectory, read_metrics

pytest.importorskip("matplotlib", reason="the pictures of a report need it")

OWN = "<b>&"  # a name that is no HTML
VOID = {"meta", "img"}
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs that differ in their seeds, the first of them evaluated."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    for name, seed in (("first", 1), (OWN, 2)):
        config = configure("CartPole-v1", steps=40_000, threads=1, seed=seed, report_interval=0.02)
        trainer = Trainer(config, directory=folder / str(seed))
        trainer.start()
        trainer.join()
        found[name] = RunDirectory.open(folder / str(seed))
        if seed == 1:
            text = json.dumps(evaluate(trainer.snapshot(), episodes=7).to_dict())
            found[name].evaluation_file.write_text(text, encoding="utf-8")
    return found


class Page(html.parser.HTMLParser):
    """What a page shows and asks for; tags must close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.rows, self.asked = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.asked += [value for name, value in attributes if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)


def test_a_page_on_one_run(runs):
    run = runs["first"]
    page = Page(report.page({"first": run}))
    last, evaluation = read_metrics(run.metrics_file)[-1], json.loads(run.evaluation_file.read_text())
    facts = dict(zip(*page.rows[:2], strict=False))
    row = page.rows[1]
    assert row[:3] == ["first", f"{last.steps:,} of 40,000", f"{last.frames:,}"]
    assert f"{last.recent_return:,.4g}" in row
    assert any(cell.startswith(f"{evaluation['mean_return']:,.4g} (standard error") for cell in row), facts
    assert ["seed", "1"] in page.rows  # the paper has none
    assert ["environment", "CartPole-v1"] in page.rows
    machine = json.loads(run.machine_file.read_text())
    assert ["numba", machine["numba"]] in page.rows
    assert ["vector_bits", str(machine["vector_bits"])] in page.rows


def test_a_page_needs_nothing_besides(runs):
    page = Page(report.page(runs))
    assert len(page.asked) == 4  # by steps, by time, the evaluation, what else is reported
    assert all(value.startswith("data:image/") for value in page.asked)


def test_a_page_on_several_runs(runs):
    page = Page(report.page(runs))
    assert [row[0] for row in page.rows[1:3]] == ["first", OWN]  # escaped, or it would be no word
    at = next(i for i, row in enumerate(page.rows) if row[:1] == ["seed"])
    assert page.rows[at - 1 : at + 1] == [["first", OWN], ["seed", "1", "2"]]
    assert "Those in which the runs differ:" in page.words
    assert len([row for row in page.rows if row == ["discount", "0.99", "0.99"]]) == 1  # with all, below


def test_a_run_that_has_just_begun(tmp_path):
    run = RunDirectory.create(tmp_path / "run", configure("CartPole-v1", threads=1))
    words = Page(report.page({"run": run})).words
    assert "No episode has ended yet." in words
    assert "Not evaluated yet: " in words


def test_damaged_files_are_as_if_there_were_none(runs, tmp_path):
    shutil.copytree(runs["first"].path, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    for evaluation, machine in (("[1, 2", "7"), ('{"returns": [1.0]}', "{}")):
        run.evaluation_file.write_text(evaluation)
        run.machine_file.write_text(machine)
        words = Page(report.page({"run": run})).words
        assert "Not evaluated yet: " in words
        assert "Machine and versions" not in words


def test_without_matplotlib_a_sentence_says_what_to_install(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r'^reports need matplotlib: pip install "nbrl\[plot\]"$'):
        report.write_report(runs, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_where_it_is_written(runs, tmp_path):
    first = runs["first"]
    assert report.write_report({"first": first}) == first.path / "report.html"
    assert Page((first.path / "report.html").read_text(encoding="utf-8")).words
    path = tmp_path / "absent" / "both.html"
    with pytest.raises(ValueError, match=r"both\.html cannot be written: No such file"):
        report.write_report(runs, path)


def test_a_page_that_is_watched(runs):
    with report.serve(runs, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}/"
            with urllib.request.urlopen(address) as answer:
                text = answer.read().decode()
            assert Page(text).rows
            assert '<meta http-equiv="refresh" content="5">' in text
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(address + "etc/passwd")
            with pytest.raises(ValueError, match=r"cannot be listened to: .*; give another one by --port"):
                report.serve(runs, server.server_port)
        finally:
            server.shutdown()
            thread.join()
    with pytest.raises(ValueError, match="cannot be listened to"):
        report.serve(runs, 70_000)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_shows_every_picture(runs, tmp_path):
    count = "[...document.images].filter(i => i.complete && i.naturalWidth > 50).length"
    script = f"<script>onload = () => {{ document.title = 'shown ' + {count} }}</script>"
    path = tmp_path / "page.html"
    path.write_text(report.page(runs).replace("</body>", f"{script}</body>"), encoding="utf-8")
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom", path.as_uri()]
    ended = subprocess.run([BROWSER, *words], capture_output=True, text=True, timeout=120)
    assert "<title>shown 4</title>" in ended.stdout, ended.stderr
