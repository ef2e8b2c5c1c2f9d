"""The Jinja2 environment: quoting, and what templates may do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from caffe_batch.prototxt import parse_net
from caffe_batch.rendering.environment import quote


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_quoted_reads_back(text: str) -> None:
    assert parse_net(f"name: {quote(text)} layer {{ }}").name == text
