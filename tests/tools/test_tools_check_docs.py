"""What `tools/check_docs.py` compares with the program."""

from __future__ import annotations

from tools.check_docs import TEMPLATES, templates_page


def test_the_table_of_templates_is_what_the_program_predicts() -> None:
    """After a change: `tools/check_docs.py --templates --write`."""
    page = TEMPLATES.read_text(encoding="utf-8")
    assert "| resnet50 | 25.6 M |" in page
    assert templates_page() == page
