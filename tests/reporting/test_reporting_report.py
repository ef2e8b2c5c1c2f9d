"""The HTML report: complete, self-contained, and unharmed by odd names and broken files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from caffe_batch.errors import InputError
from caffe_batch.jobs.metrics import MetricsFile, NetTestMetrics, UpdateMetrics, read_metrics
from caffe_batch.memory import Prediction, predict
from caffe_batch.planning.audit.findings import Scope, Verdict
from caffe_batch.rendering import render
from caffe_batch.reporting.audit_view import audit_rows, audit_warnings
from caffe_batch.reporting.report_data import read_run, read_runs
from caffe_batch.reporting.report_figures import write_figures
from caffe_batch.reporting.report_page import memory_bars, render_report
from caffe_batch.terminal import UNSAFE
from tests.holding import PATIENCE_S
from tests.planned_jobs import RECORDS, FinishedJob, write_job

#: Elements that HTML never closes.
VOID = {"meta", "input", "br", "link", "img"}
ODD = """a <b>"&' </script><!--"""


@dataclass
class Page(HTMLParser):
    """What a page consists of."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        """What a person reads, spaces joined."""
        return " ".join(" ".join(self.texts).split())


def parsed(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.wrong == []
    assert page.open == []
    return page


def curves_of(html: str) -> list[dict[str, Any]]:
    found = re.search(
        r'<script type="application/json" id="curves">(.*?)</script>', html, re.DOTALL
    )
    assert found
    runs: list[dict[str, Any]] = json.loads(found[1])
    return runs


def line(update: int, loss: float | None = 0.5) -> UpdateMetrics:
    return UpdateMetrics(update, loss, 0.1, 18 * update, 0.25 * update, 0.5 * update, 18)


@pytest.fixture(scope="module")
def page(finished: FinishedJob) -> str:
    return render_report([read_run(finished.job)])


def test_solver_snapshots_and_best_scores(page: str, finished: FinishedJob) -> None:
    text = parsed(page).text
    tests = [line for line in read_metrics(finished.job.metrics)
             if isinstance(line, NetTestMetrics)]  # fmt: skip
    losses = {line.update: line.value or 0.0 for line in tests if line.is_loss}
    best = min(losses, key=lambda update: losses[update])
    assert f"lowest loss {losses[best]:.4g}, update {best}" in text
    assert "highest accuracy 1, update " in text
    for setting in ("base_lr 0.1", "lr_policy step", "iter_size 3", "max_iter 60", "snapshot 25"):
        assert setting in text
    for update in (25, 50, 60):
        for ending in ("caffemodel", "solverstate"):
            (file,) = finished.job.snapshots.glob(f"*_iter_{update}.{ending}")
            assert str(file) in text


def test_the_net_is_a_picture(page: str) -> None:
    picture = page[page.index('<svg class="net"') : page.index("</svg></div>")]
    assert picture.count("<rect") == 4  # the ReLU is in the box of the layer that it works on
    assert picture.count("<path") == 4
    for words in ("ip1 (InnerProduct)", "+ relu1 (ReLU)", "loss (SoftmaxWithLoss)"):
        assert words in picture


def test_what_the_plan_says_is_calculated_once(finished: FinishedJob) -> None:
    first = read_run(finished.job)
    assert first.memory is not None
    again = read_run(finished.job, earlier=first)
    assert again.memory is first.memory
    assert again.planned is first.planned


def test_nothing_is_fetched_from_anywhere(page: str) -> None:
    addresses = set(re.findall(r"\w+://[^\s\"'<>`]*", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of SVG's elements, no address
    for tag, attributes in parsed(page).elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base")
        assert not {"src", "href", "srcset", "action"} & set(attributes), tag
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []
    assert re.findall(r"\b(?:fetch|import|XMLHttpRequest|WebSocket|eval)\s*\(", page) == []


def test_what_a_person_reads(page: str, finished: FinishedJob) -> None:
    text = parsed(page).text
    for words in (
        "finished",
        "update 60 of 60",
        "test accuracy 1",
        "effective batch 18 = batch_size 6 x iter_size 3",
        "Memory by layer",
        "finished : all updates are done",
        "Training on the CPU: this Caffe is built without GPU code.",
        "Caffe 1.0.0",
        "random seed 1",
        f"training records {RECORDS}",
        str(finished.job.path),
    ):
        assert words in text, words


def test_the_curves_are_those_of_the_metrics(page: str, finished: FinishedJob) -> None:
    (run,) = curves_of(page)
    lines = list(read_metrics(finished.job.metrics))
    updates = [each for each in lines if isinstance(each, UpdateMetrics)]
    for name in ("update", "samples", "seconds", "loss", "learning_rate", "effective_batch"):
        assert run[name] == [getattr(each, name) for each in updates]
    accuracy, loss = run["tests"]
    assert accuracy["name"] == "accuracy"
    assert accuracy["update"] == [0, 20, 40, 60]
    assert accuracy["samples"] == [0, 360, 720, 1080]
    assert loss["is_loss"]


def test_every_byte_of_the_memory_is_in_a_bar(finished: FinishedJob) -> None:
    memory = read_run(finished.job).memory
    assert isinstance(memory, Prediction)
    bars = memory_bars(memory)
    assert sum(bar.bytes for bar in bars) == memory.peak_bytes
    for bar in bars:
        assert sum(size for _, _, size, _ in bar.segments) == bar.bytes
    assert max(sum(share for *_, share in bar.segments) for bar in bars) == pytest.approx(100)


def test_the_small_layers_of_a_large_net_share_a_row(tmp_path: Path) -> None:
    net = tmp_path / "resnet50.prototxt"
    net.write_text(render("resnet50", {"data": "dummy"}))
    memory = predict(net)
    *large, rest = memory_bars(memory)
    assert len(large) == 24
    assert (rest.kind, rest.segments) == ("", ())
    assert sum(bar.bytes for bar in large) + rest.bytes == memory.peak_bytes
    sizes = sorted(layer.bytes for layer in memory.layers)
    assert sorted(bar.bytes for bar in large) == sizes[-24:]


def test_a_job_that_was_never_trained(tmp_path: Path) -> None:
    page = render_report([read_run(write_job(tmp_path))])
    text = parsed(page).text
    assert "planned" in text
    assert "Not trained yet." in text
    assert curves_of(page)[0]["update"] == []


def test_broken_lines_are_counted_and_left_out(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    with MetricsFile(job.metrics) as metrics:
        metrics.append(line(1))
    with job.metrics.open("a") as file:
        file.write('{"update": 2, "lo\nnull\n')
    with MetricsFile(job.metrics) as metrics:
        metrics.append(line(3, None))
    with job.metrics.open("a") as file:
        file.write('{"update": 4, ')  # it is being written
    page = render_report([read_run(job)])
    assert "2 lines of metrics.jsonl can't be read and are left out." in parsed(page).text
    assert (curves_of(page)[0]["update"], curves_of(page)[0]["loss"]) == ([1, 3], [0.5, None])


def test_a_run_that_continues(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    with job.lock(), MetricsFile(job.metrics) as metrics:
        metrics.append(line(7))
        metrics.flush()
        text = parsed(render_report([read_run(job)])).text
    assert "running" in text
    assert "update 7 of 60" in text


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / ODD.replace("/", "-").replace('"', "'")  # the helper quotes paths with it
    folder.mkdir()
    job = write_job(folder)
    plan = json.loads(job.plan.read_text())
    finding = {
        "cause": "mixed_samples", "layer": ODD, "verdict": "different", "explanation": ODD,
        "change": None, "scope": "training",
    }  # fmt: skip
    change = {"file": "net", "field": f"layer {ODD}", "from": 1, "to": ODD, "reason": ODD}
    job.plan.write_text(json.dumps({**plan, "audit": [finding], "changes": [change]}))
    with MetricsFile(job.metrics) as metrics:
        metrics.append(line(1))
        metrics.append(NetTestMetrics(1, 0, 0, ODD, 0.5, False, 1.0))
    page = render_report([read_run(job, ODD)])
    read = parsed(page)
    assert "b" not in {tag for tag, _ in read.elements}
    assert read.text.count(" ".join(ODD.split())) >= 6
    (run,) = curves_of(page)
    assert run["name"] == ODD
    assert run["tests"][0]["name"] == ODD


def test_the_source_of_the_page_has_no_control_characters(tmp_path: Path) -> None:
    """`cat report.html` is as harmless as every other output."""
    name = "a\x1b[31m\x9b\u202eb"
    job = write_job(tmp_path)
    plan = json.loads(job.plan.read_text())
    change = {"file": "net", "field": f"layer {name}", "from": 1, "to": name, "reason": name}
    job.plan.write_text(json.dumps({**plan, "changes": [change]}))
    with MetricsFile(job.metrics) as metrics:
        metrics.append(NetTestMetrics(1, 0, 0, name, 0.5, False, 1.0))
    page = render_report([read_run(job, name)])
    assert UNSAFE.findall(page) == []
    assert r"a\u001b[31m\u009b\u202eb" in parsed(page).text


def test_several_runs_have_names_of_their_own(tmp_path: Path) -> None:
    jobs = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        jobs.append(write_job(tmp_path / name).path)
    assert [run.name for run in read_runs(jobs)] == ["one/job", "two/job"]
    with pytest.raises(InputError, match="is given twice"):
        read_runs([jobs[0], jobs[1], jobs[0] / ".." / "job"])
    page = render_report(read_runs(jobs))
    assert [run["name"] for run in curves_of(page)] == ["one/job", "two/job"]


def test_memory_that_cannot_be_read(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    shutil.rmtree(tmp_path / "data")
    text = parsed(render_report([read_run(job)])).text
    assert "It can't be predicted: layer 'data'" in text
    assert "input_shape" not in text  # what a command would advise
    plan = json.loads(job.plan.read_text())
    job.plan.write_text(json.dumps({**plan, "input_shapes": {"data": [1, 5, 7], "label": []}}))
    assert isinstance(read_run(job).memory, Prediction)


def test_ten_thousand_records(tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=10_000)
    with MetricsFile(job.metrics) as metrics:
        for update in range(1, 10_001):
            metrics.append(line(update, 1 / update))
    page = render_report([read_run(job)])
    assert len(curves_of(page)[0]["loss"]) == 10_000


def test_figures(finished: FinishedJob, tmp_path: Path) -> None:
    drawn = write_figures([read_run(finished.job)], tmp_path / "a" / "b")
    assert sorted(path.name for path in drawn) == sorted(
        f"{name}.{ending}"
        for name in ("loss", "tests", "schedule", "memory")
        for ending in ("png", "svg")
    )
    for path in drawn:
        start = path.read_bytes()[:5]
        assert start == (b"\x89PNG\r" if path.suffix == ".png" else b"<?xml")


def test_a_figure_names_the_first_losses_as_they_were(tmp_path: Path) -> None:
    """Not the means of its thick curve, in which one of them is in many."""
    job = write_job(tmp_path, max_iter=600)
    with MetricsFile(job.metrics) as metrics:
        for update in range(1, 601):
            metrics.append(line(update, 87.3 if update == 1 else 2.3 - 0.001 * update))
    write_figures([read_run(job)], tmp_path)
    drawn = (tmp_path / "loss.svg").read_text()
    assert "the first value lies above, up to 87.3" in drawn


def test_figures_of_what_there_is(tmp_path: Path) -> None:
    names = [path.name for path in write_figures([read_run(write_job(tmp_path))], tmp_path)]
    assert names == ["memory.png", "memory.svg"]


def finding(
    verdict: Verdict, layer: str | None, scope: Scope = Scope.TRAINING
) -> dict[str, object]:
    return {
        "cause": "cause", "layer": layer, "verdict": verdict.value, "explanation": "Why.",
        "change": None, "scope": scope.value,
    }  # fmt: skip


def test_audit_warnings_are_the_worst_first_and_grouped() -> None:
    audit = [
        finding(Verdict.EXACT, "a"),
        finding(Verdict.APPROXIMATE, "drop1"),
        finding(Verdict.DIFFERENT, None, Scope.LOG),
        finding(Verdict.APPROXIMATE, "drop2"),
        finding(Verdict.DIFFERENT, "pool", Scope.ENGINE),
        finding(Verdict.DIFFERENT, None),
        finding(Verdict.COMPENSATED, "c"),
    ]
    assert audit_warnings(audit) == [
        "accumulation makes cause different: Why.",
        "accumulation makes cause (drop1 and 1 more) approximate: Why.",
        "the engine makes cause (pool) different: Why.",
    ]
    assert sum(len(row.layers) or 1 for row in audit_rows(audit)) == len(audit)


# In a browser

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="no Chromium: `apt install chromium`")
@pytest.mark.parametrize("width", [400, 1400])
def test_a_browser_draws_every_curve(finished: FinishedJob, tmp_path: Path, width: int) -> None:
    (tmp_path / "odd").mkdir()
    other = write_job(tmp_path / "odd")
    with MetricsFile(other.metrics) as metrics:
        for update in range(1, 11):
            metrics.append(line(update, None if update == 5 else 1.0))
    runs = [read_run(finished.job, ODD), read_run(other)]
    probe = """
      const say = (text) => { document.title = text; };
      window.addEventListener("error", (event) => say("error: " + event.message));
      const drawn = setInterval(() => {
        if (!document.querySelector(".chart path")) return;
        clearInterval(drawn);
        const plot = document.querySelector(".chart > div"), box = plot.getBoundingClientRect();
        plot.dispatchEvent(new PointerEvent("pointermove",
          { clientX: box.left + box.width / 2, clientY: box.top + 20 }));
        document.querySelector("input[value=seconds]").click();
        document.querySelector("#log").click();
        const wide = document.documentElement.scrollWidth > window.innerWidth;
        say(`tip: ${document.querySelector(".tip").textContent} wide: ${wide}`);
      }, 50);
    """
    page = tmp_path / "report.html"
    page.write_text(render_report(runs).replace("<body>", f"<body><script>{probe}</script>"))
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=60000",
         f"--window-size={width},1000", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
         page.as_uri()],
        capture_output=True, text=True, timeout=PATIENCE_S, check=True,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title
    assert re.match(r"tip: update (2[89]|3[01])\D", title[1]), title[1]
    assert "training loss" in title[1]
    assert title[1].endswith("wide: false")
    charts = [
        part.partition("</article>")[0] for part in done.stdout.split('<article class="chart')[1:]
    ]
    assert len(charts) == 4
    paths = [re.findall(r'<path d="M[^"]+"', chart) for chart in charts]
    # Too few records for a mean: one line for each training loss, one for the test loss.
    assert [len(found) for found in paths] == [3, 1, 2, 2]
    assert "time spent training" in charts[0]
    assert "NaN" not in done.stdout
