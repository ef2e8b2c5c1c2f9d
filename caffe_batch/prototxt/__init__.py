"""Reads, upgrades, edits in place and writes prototxt files. Knows nothing about nets."""

from caffe_batch.prototxt.document import Document, Path, path_text
from caffe_batch.prototxt.editing import Edit, edit_net
from caffe_batch.prototxt.files import decode, encode
from caffe_batch.prototxt.messages import write
from caffe_batch.prototxt.reader import (
    PrototxtWarning,
    parse_net,
    parse_solver,
    read,
    read_net,
    read_solver,
    read_text,
)
from caffe_batch.prototxt.skipped import SkippedField, skipped_text
from caffe_batch.prototxt.upgrade import (
    Origin,
    UpgradedNet,
    UpgradedSolver,
    upgrade_net,
    upgrade_solver,
)

__all__ = [
    "Document",
    "Edit",
    "Origin",
    "Path",
    "PrototxtWarning",
    "SkippedField",
    "UpgradedNet",
    "UpgradedSolver",
    "decode",
    "edit_net",
    "encode",
    "parse_net",
    "parse_solver",
    "path_text",
    "read",
    "read_net",
    "read_solver",
    "read_text",
    "skipped_text",
    "upgrade_net",
    "upgrade_solver",
    "write",
]
