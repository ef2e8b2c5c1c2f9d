"""What a notebook shows: complete, escaped, and without colours that only one background bears."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import caffe_batch as cb
from caffe_batch.reporting.notebook import outcome_html
from tests.planned_jobs import FinishedJob

#: Elements that have no end.
VOID = {"br", "hr", "img", "meta"}


class Elements(HTMLParser):
    """The elements of a page; fails where one isn't closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def check(html: str) -> Elements:
    """A piece that any page can hold."""
    found = Elements(html)
    assert not {"script", "link", "html", "body"} & set(found.seen)
    assert "http" not in html
    colours = set(re.findall(r"color: ([^;}]+)", html)) - {"inherit"}
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours)
    return found


def test_a_plan() -> None:
    plan = cb.plan("caffenet", gpu_memory="2GiB", reserve="512MiB", input_shape="data=3x256x256")
    html = plan._repr_html_()
    found = check(html)
    assert plan.summary() in html
    assert plan.verdict() in html
    rows = len(plan.candidates[:6]) + len(plan.findings) + len(plan.changes) + 3  # with the heads
    assert found.seen.count("tr") == rows
    assert "1.45 GiB" in html


def test_a_memory_with_layers_of_odd_names(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "<in> & \\"out\\"" type: "Input" top: "x" '
        "input_param { shape { dim: 2 dim: 3 } } }\n"
        'layer { name: "<b>" type: "Sigmoid" bottom: "x" top: "y" }\n'
        'layer { name: "loss" type: "Reduction" bottom: "y" top: "loss" loss_weight: 1 }\n'
    )
    found = cb.memory(tmp_path / "net.prototxt")
    html = found._repr_html_()
    check(html)
    assert "&lt;b&gt;" in html
    assert "<b>" in html  # the title's own
    assert html.count("<b>") == 1
    assert "The largest layers: 3 of 3" in html


def test_the_outcome_of_a_training(finished: FinishedJob) -> None:
    html = outcome_html(finished.outcome, finished.job)
    check(html)
    points = re.search(r'points="([^"]+)"', html)
    assert points is not None
    places = [tuple(map(float, point.split(","))) for point in points[1].split()]
    assert len(places) == 60
    assert places == sorted(places, key=lambda place: place[0])
    assert places[0][1] < places[-1][1]  # the loss falls: the line goes down
    assert f"{finished.outcome.update} of {finished.outcome.updates} updates" in html
