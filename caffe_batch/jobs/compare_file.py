"""compare.json: what ``compare`` has found in a directory of strategies, for other programs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caffe_batch import __version__
from caffe_batch.errors import Call
from caffe_batch.files import write_json
from caffe_batch.jobs.json_files import check_format, read_object

#: The newest format of compare.json, and the one that is written.
COMPARE_FORMAT = 2


def compare_file(directory: Path) -> Path:
    """The compare.json of a directory of strategies."""
    return directory / "compare.json"


def read_comparison(directory: Path) -> dict[str, Any]:
    """All that compare.json holds; nothing before the first ``compare``.

    Raises:
        NewerFormatError: It is of a newer format.
        InputError: It is no JSON object.
    """
    path = compare_file(directory)
    if not path.is_file():
        return {}
    content = read_object(
        path, ["Move it away; ", Call("`caffe-batch compare`", "compare()"), " writes it anew."]
    )
    check_format(content, COMPARE_FORMAT)
    return content.content


def write_comparison(directory: Path, before: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Replace compare.json.

    Args:
        directory: The directory of strategies.
        before: What it held; what others have added to it stays.
        found: The comparison (see ``Comparison.json``).
    """
    own = {"format": COMPARE_FORMAT, "caffe_batch_version": __version__}
    write_json(compare_file(directory), {**before, **own, **found})
