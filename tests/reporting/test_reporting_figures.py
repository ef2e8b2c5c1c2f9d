from __future__ import annotations

from pathlib import Path

import pytest

from caffe_batch.errors import InputError
from caffe_batch.reporting.figures import new_figure, plain, why_not_drawn, write_figure
from tools.fuzz.words import NAMES

pytest.importorskip("matplotlib")


@pytest.mark.parametrize("name", [*NAMES, r"\$x$", "$" * 3, "_legend"], ids=ascii)
def test_any_name_can_be_drawn(name: str, tmp_path: Path) -> None:
    short = name[:40]
    figure = new_figure(3, 2)
    panel = figure.subplots()
    panel.plot([1, 2], label=plain(short))
    panel.set_title(plain(short))
    panel.set_ylabel(plain(short))
    panel.set_xticks([0, 1], [plain(short), plain(short)])
    if short:
        panel.legend()
    write_figure(figure, tmp_path / "x.png", dpi=40)
    assert (tmp_path / "x.png").stat().st_size > 500


def test_a_name_is_shown_as_it_is() -> None:
    """As matplotlib itself reads it back: no formula, and in the legend."""
    panel = new_figure(3, 2).subplots()
    panel.plot([1, 2], label=plain("_$x_1$"))
    shown = [text.get_text() for text in panel.legend().get_texts()]
    assert shown == [plain("_$x_1$")]
    text = panel.set_title(plain("$x_1$ a_b^c"))
    read, formula = text._preprocess_math(text.get_text())  # type: ignore[attr-defined]
    assert (read, formula) == ("$x_1$ a_b^c", False)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ImportError("no"), "x.png needs matplotlib: pip install 'caffe-batch[plot]'"),
        (InputError("nothing to draw"), "no x.png: nothing to draw"),
        (OSError(28, "No space left on device"), "no x.png: [Errno 28] No space left on device"),
        (ValueError("ParseException"), "no x.png: ParseException"),
        (ZeroDivisionError(), "no x.png: ZeroDivisionError"),
    ],
)
def test_a_picture_that_cant_be_drawn_is_a_note(error: Exception, says: str) -> None:
    def fail() -> None:
        raise error

    assert list(why_not_drawn("x.png", fail)) == [says]
    assert list(why_not_drawn("x.png", lambda: None)) == []
