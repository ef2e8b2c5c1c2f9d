"""deploy.json: what a net for inference is, and how a picture becomes its input.

Its only reader and writer. All files that it names are in its folder, which may be moved.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from caffe_batch import __version__
from caffe_batch.deploying.preprocessing import Preprocessing, preprocessing_of
from caffe_batch.deploying.transformation import Output
from caffe_batch.errors import InputError
from caffe_batch.files import is_plain_name, json_text, not_a_file, read_regular
from caffe_batch.layers.base import Shape

#: The name of the file.
DESCRIPTION = "deploy.json"
#: The names of the others.
NET, LABELS = "deploy.prototxt", "labels.txt"
#: The format that this version writes, and the newest that it reads.
FORMAT = 1


@dataclass(frozen=True)
class Input:
    """An input of a net for inference.

    Attributes:
        name: The blob.
        shape: Its shape for one sample.
        preprocessing: How a picture becomes it; None if it isn't made of pictures.
        why_not: Why not, in words for after "how a picture becomes ... isn't known".
    """

    name: str
    shape: Shape
    preprocessing: Preprocessing | None
    why_not: str = ""


@dataclass(frozen=True)
class Deployment:
    """A net for inference as deploy.json describes it.

    Attributes:
        folder: Where it is.
        net, weights: Its files.
        labels: Names of the classes, by label; empty if they aren't known.
        inputs, outputs: Its blobs.
        folded: The BatchNorm layers, and those after them, that the weights have taken in.
        origin: What it was made of: the job, the snapshot, the updates.
        check: How its scores were compared with those of the TEST net; empty if they weren't.
        notes: What was left out or assumed.
    """

    folder: Path
    net: Path
    weights: Path
    labels: tuple[str, ...]
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    folded: tuple[str, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)
    check: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def json(self) -> dict[str, Any]:
        """As the file has it."""
        return {
            "format": FORMAT,
            "caffe_batch": __version__,
            "net": self.net.name,
            "weights": self.weights.name,
            "labels_file": LABELS if self.labels else None,
            "labels": list(self.labels),
            "inputs": [
                {
                    "name": each.name,
                    "shape": list(each.shape),
                    "preprocessing": each.preprocessing and each.preprocessing.json(),
                    "why_not": each.why_not,
                }
                for each in self.inputs
            ],
            "outputs": [
                {
                    "name": each.name,
                    "shape": list(each.shape),
                    "classes": each.classes,
                    "probabilities": each.probabilities,
                    "made_by": each.made_by,
                    "source": each.source,
                }
                for each in self.outputs
            ],
            "folded": list(self.folded),
            "origin": dict(self.origin),
            "check": dict(self.check),
            "notes": list(self.notes),
        }

    def to_text(self) -> str:
        """The text of the file."""
        return json_text(self.json())


def is_deployment(folder: Path) -> bool:
    """Whether a folder has a deploy.json."""
    return (folder / DESCRIPTION).is_file()


def read_deployment(folder: Path) -> Deployment:
    """The net for inference in a folder.

    Raises:
        InputError: There is none, or its description is damaged or of a newer version.
    """
    path = folder / DESCRIPTION
    if wrong := not_a_file(path):
        raise InputError(f"{path}: {wrong}", hint="`caffe-batch deploy JOB --out DIR` writes one.")
    try:
        found = json.loads(read_regular(path))
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if (
        isinstance(found, dict)
        and isinstance(found.get("format"), int)
        and found["format"] > FORMAT
    ):
        raise InputError(
            f"{path} has format {found['format']}, and this version reads up to {FORMAT}",
            hint="Use a newer caffe-batch.",
        )
    try:
        return _deployment(folder, found)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            f"{path} is damaged: {type(error).__name__} {error}",
            hint="`caffe-batch deploy JOB --out DIR` writes another one.",
        ) from error


def _deployment(folder: Path, found: Mapping[str, Any]) -> Deployment:
    return Deployment(
        folder=folder,
        net=folder / _plain(found["net"]),
        weights=folder / _plain(found["weights"]),
        labels=tuple(map(_text, found["labels"])),
        inputs=tuple(
            Input(
                _text(each["name"]),
                _shape(each["shape"]),
                None if each["preprocessing"] is None else preprocessing_of(each["preprocessing"]),
                str(each.get("why_not", "")),
            )
            for each in found["inputs"]
        ),
        outputs=tuple(
            Output(
                _text(each["name"]),
                _text(each["source"]),
                _text(each["made_by"]),
                _shape(each["shape"]),
                bool(each["classes"]),
                bool(each["probabilities"]),
            )
            for each in found["outputs"]
        ),
        folded=tuple(map(_text, found.get("folded", ()))),
        origin=dict(found.get("origin", {})),
        check=dict(found.get("check", {})),
        notes=tuple(map(_text, found.get("notes", ()))),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} isn't text")
    return value


def _plain(name: Any) -> str:
    if not is_plain_name(_text(name)):
        raise ValueError(f"{name!r} doesn't name a file in its folder")
    return _text(name)


def _shape(sizes: Sequence[Any]) -> Shape:
    shape = tuple(sizes)
    if not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(f"{sizes!r} is no shape")
    return shape
