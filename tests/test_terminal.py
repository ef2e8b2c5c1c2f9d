from __future__ import annotations

import io
import json
import sys
import unicodedata

import click
import pytest

from caffe_batch.terminal import UNSAFE, PlainStream, behind, one_line, plain_streams, visible

HOSTILE = "\x1b[31mred \x1b]0;title\x07 \x9b2J \r \x7f \u202egnp \u2066 \u2028 \u200f"
ORDINARY = "größe 名 🔥 e\u0301 क\u094d\u200dष \u0645\u06cc\u200c\u062e ->\ttab\n"


def test_what_a_terminal_acts_on_is_written_out() -> None:
    shown = visible(HOSTILE)
    assert shown.isprintable()
    assert shown.startswith(r"\u001b[31mred \u001b]0;title\u0007 \u009b2J \u000d")
    assert visible(ORDINARY) == ORDINARY


def test_a_name_stays_on_its_line() -> None:
    shown = one_line("a\nnote: fine\tb" + HOSTILE)
    assert shown.isprintable()
    assert shown.startswith(r"a\nnote: fine\tb\u001b[31m")


def test_every_control_and_every_change_of_direction() -> None:
    """By the Unicode database: controls, separators, and whatever embeds, overrides or isolates."""
    turning = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    for code in range(sys.maxunicode + 1):
        letter = chr(code)
        acts = unicodedata.category(letter) in ("Cc", "Zl", "Zp") and letter not in "\t\n"
        if acts or unicodedata.bidirectional(letter) in turning:
            assert UNSAFE.fullmatch(letter), hex(code)


def test_printed_json_stays_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    content = {HOSTILE: [HOSTILE, ORDINARY]}
    for ascii_only in (True, False):
        with plain_streams():
            click.echo(json.dumps(content, ensure_ascii=ascii_only))
        printed = capsys.readouterr().out
        assert not UNSAFE.search(printed)
        assert json.loads(printed) == content


def test_a_stream_like_the_one_behind_it() -> None:
    text = io.StringIO()
    stream = PlainStream(text)
    assert stream.write("a\x1b") == 2
    stream.writelines(iter(["b\n", "\x9b"]))
    assert text.getvalue() == "a\\u001bb\n\\u009b"
    assert stream.isatty() is False
    assert behind(stream) is text  # type: ignore[arg-type]  # it is a stream to whoever writes
    assert behind(text) is text


def test_streams_are_as_before_afterwards() -> None:
    before = sys.stdout, sys.stderr
    with pytest.raises(KeyError), plain_streams():
        raise KeyError
    assert (sys.stdout, sys.stderr) == before


def test_click_writes_through_it(capsys: pytest.CaptureFixture[str]) -> None:
    with plain_streams():
        click.echo("\u202ex")
        click.echo("\x9bx", err=True)
    done = capsys.readouterr()
    assert (done.out, done.err) == ("\\u202ex\n", "\\u009bx\n")
