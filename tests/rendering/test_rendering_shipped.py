"""The templates that come with the package, each built by real Caffe."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import plyvel
import pytest
from jinja2 import meta
from PIL import Image

from caffe_batch import resources
from caffe_batch.errors import InputError
from caffe_batch.prototxt import parse_net, read_net
from caffe_batch.rendering import available, find, render
from caffe_batch.rendering.environment import make_environment
from caffe_batch.schema import caffe_pb2

NAMES = [template.name for template in available()]
NETS = [name for name in NAMES if name != "solver"]

# Builds both nets of a file, runs the train net forward and backward and the test net forward, and
# prints the learnable parameters (BatchNorm's statistics aren't) and the shapes of the blobs.
BUILD = """
import json, sys
import caffe
caffe.set_mode_cpu()
train, test = caffe.Net(sys.argv[1], caffe.TRAIN), caffe.Net(sys.argv[1], caffe.TEST)
train.forward()
train.backward()
test.forward()
types = dict(zip(train._layer_names, (layer.type for layer in train.layers)))
print(json.dumps({
    "parameters": sum(
        blob.data.size
        for name, blobs in train.params.items() if types[name] != "BatchNorm"
        for blob in blobs
    ),
    "outputs": sorted(test.outputs),
    "blobs": {name: list(blob.data.shape) for name, blob in train.blobs.items()},
    "label": [float(value) for value in train.blobs["label"].data.flat],
    "data": [float(value) for value in test.blobs["data"].data.flat[:6]],
    "gradient": all(float(abs(blobs[0].diff).sum()) > 0
                    for name, blobs in train.params.items() if types[name] != "BatchNorm"),
}))
"""

DUMMY = {"data": "dummy", "batch_size": 2, "test_batch_size": 3}


@pytest.fixture
def build(pycaffe: Callable[..., str], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Renders a template and builds it in ``tmp_path``."""

    def run(template: str, **settings: object) -> dict[str, object]:
        (tmp_path / "net.prototxt").write_text(render(template, settings))
        result: dict[str, Any] = json.loads(pycaffe(BUILD, "net.prototxt", cwd=tmp_path))
        return result

    return run


@pytest.mark.parametrize("name", NAMES)
def test_the_header_documents_exactly_the_variables_that_are_used(name: str) -> None:
    template = find(name)
    assert template.summary.endswith((".", ")."))
    assert [v.name for v in template.variables if not v.description] == []

    environment = make_environment([template.path.parent])
    used: set[str] = set()
    pending, seen = [template.path.name], set()
    while pending:
        file = pending.pop()
        seen.add(file)
        tree = environment.parse((template.path.parent / file).read_text())
        used |= meta.find_undeclared_variables(tree)
        pending += {str(part) for part in meta.find_referenced_templates(tree)} - seen
    fixed = {"depth"} if name.startswith("resnet") and name != "resnet" else set()
    assert {v.name for v in template.variables} == used - fixed


@pytest.mark.parametrize("name", NETS)
def test_a_net_renders_with_its_defaults(name: str) -> None:
    text = render(name, {})
    assert text.startswith('name: "')
    assert "\n\n" not in text
    net = parse_net(text)
    data = [layer for layer in net.layer if layer.type == "Data"]
    assert [layer.include[0].phase for layer in data] == [caffe_pb2.TRAIN, caffe_pb2.TEST]
    assert data[0].data_param.batch_size == 256
    assert {layer.type for layer in net.layer} >= {"SoftmaxWithLoss", "Accuracy"}


def test_the_digits_net_is_that_of_the_prototxt_folder() -> None:
    assert parse_net(render("lenet_digits", {})) == read_net(
        resources.folder("prototxt") / "digits" / "net.prototxt"
    )


@pytest.mark.parametrize(
    ("name", "settings", "parameters", "last_image"),
    [
        ("lenet_digits", {}, 53_514, ("pool2", [2, 64, 2, 2])),
        ("caffenet", {}, 60_965_224, ("pool5", [2, 256, 6, 6])),
        ("resnet", {"depth": 50, "crop_size": 32}, 25_557_032, ("res5_3", [2, 2048, 1, 1])),
        ("resnet50", {"crop_size": 65}, 25_557_032, ("res5_3", [2, 2048, 2, 2])),
        ("resnet101", {"crop_size": 32}, 44_549_160, ("res5_3", [2, 2048, 1, 1])),
        ("resnet152", {"crop_size": 32}, 60_192_808, ("res5_3", [2, 2048, 1, 1])),
    ],
)
def test_a_net_builds_and_has_as_many_parameters_as_published(
    build: Callable[..., dict[str, Any]],
    name: str,
    settings: dict[str, object],
    parameters: int,
    last_image: tuple[str, list[int]],
) -> None:
    built = build(name, **DUMMY, **settings)
    assert built["parameters"] == parameters
    assert built["blobs"][last_image[0]] == last_image[1]
    assert built["gradient"]
    top5 = [] if name == "lenet_digits" else ["accuracy_top5"]
    assert built["outputs"] == ["accuracy", *top5, "loss"]


def test_the_number_of_classes_is_free(build: Callable[..., dict[str, Any]]) -> None:
    built = build("resnet50", **DUMMY, crop_size=32, num_classes=3)
    assert built["parameters"] == 25_557_032 - 997 * 2049
    assert built["outputs"] == ["accuracy", "loss"]
    assert all(0 <= label < 3 for label in built["label"])


RECORDS = [np.full((3, 40, 40), value, np.uint8) for value in (10, 20, 30, 40)]


def datum(index: int) -> bytes:
    height, width = RECORDS[index].shape[1:]
    record = caffe_pb2.Datum(
        channels=3, height=height, width=width, data=RECORDS[index].tobytes(), label=index
    )
    data: bytes = record.SerializeToString()
    return data


def write_lmdb(path: Path) -> None:
    with lmdb.open(str(path), map_size=2**20) as database, database.begin(write=True) as writer:
        for index in range(len(RECORDS)):
            writer.put(b"%03d" % index, datum(index))


def write_leveldb(path: Path) -> None:
    with plyvel.DB(str(path), create_if_missing=True) as database:
        for index in range(len(RECORDS)):
            database.put(b"%03d" % index, datum(index))


def write_images(path: Path) -> None:
    lines = []
    for index, record in enumerate(RECORDS):
        image = BytesIO()
        Image.fromarray(record.transpose(1, 2, 0)).save(image, "png")
        (path.parent / f"{path.name}{index}.png").write_bytes(image.getvalue())
        lines.append(f"{path.name}{index}.png {index}\n")
    path.write_text("".join(lines))


@pytest.mark.parametrize(
    ("data", "write", "more"),
    [
        ("lmdb", write_lmdb, {}),
        ("leveldb", write_leveldb, {}),
        ("images", write_images, {"root_folder": "./", "image_size": 36}),
    ],
)
def test_a_net_reads_the_data_that_its_variables_name(
    build: Callable[..., dict[str, Any]],
    tmp_path: Path,
    data: str,
    write: Callable[[Path], None],
    more: dict[str, object],
) -> None:
    write(tmp_path / 'the "train" set')
    write(tmp_path / "test set")
    built = build(
        "resnet50",
        data=data,
        source_train='the "train" set',
        source_test="test set",
        batch_size=4,
        test_batch_size=2,
        crop_size=32,
        mean_values="1,2,3",
        scale=0.5,
        **more,
    )
    assert built["blobs"]["data"] == [4, 3, 32, 32]
    assert sorted(built["label"]) == [0, 1, 2, 3]
    assert built["data"] == [(10 - 1) * 0.5] * 6  # the first record, first channel


def test_a_mean_file_replaces_the_mean_values(
    build: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    write_lmdb(tmp_path / "train_lmdb")
    write_lmdb(tmp_path / "test_lmdb")
    mean = caffe_pb2.BlobProto(num=1, channels=3, height=40, width=40, data=[4.0] * 4800)
    (tmp_path / "mean.binaryproto").write_bytes(mean.SerializeToString())
    sizes = {"batch_size": 2, "test_batch_size": 2, "crop_size": 32}
    built = build("resnet50", mean_file="mean.binaryproto", mean_values="", **sizes)
    assert built["data"] == [6.0] * 6
    with pytest.raises(InputError, match="give mean_file or mean_values, not both"):
        render("resnet50", {"mean_file": "mean.binaryproto"})


def test_only_the_train_net_mirrors() -> None:
    net = parse_net(render("caffenet", {}))
    assert [layer.transform_param.mirror for layer in net.layer[:2]] == [True, False]
