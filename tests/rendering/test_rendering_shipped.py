"""The templates that come with the package, each built by real Caffe."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from jinja2 import meta
from PIL import Image

import caffe_batch as cb
from caffe_batch import resources
from caffe_batch.errors import InputError
from caffe_batch.prototxt import parse_net, parse_solver, read_net
from caffe_batch.rendering import available, find, render
from caffe_batch.rendering.environment import make_environment
from caffe_batch.schema import caffe_pb2
from tests import leveldb

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
    "label": [float(value) for value in train.blobs["label"].data.flat]
             if "label" in train.blobs else [],
    "data": [float(value) for value in test.blobs["data"].data.flat[:6]]
            if "data" in test.blobs else [],
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
    fixed = {key for key in ("depth", "stride") if key not in {v.name for v in template.variables}}
    if name.rstrip("0123456789s") not in ("resnet", "vgg", "fcn"):
        fixed = set()
    assert {v.name for v in template.variables} == used - fixed


@pytest.mark.parametrize("name", NETS)
def test_a_net_renders_with_its_defaults(name: str) -> None:
    text = render(name, {})
    assert text.startswith('name: "')
    assert "\n\n" not in text
    net = parse_net(text)
    data = [layer for layer in net.layer if layer.type in ("Data", "HDF5Data")]
    assert {layer.include[0].phase for layer in data} == {caffe_pb2.TRAIN, caffe_pb2.TEST}
    assert any(layer.type.endswith("Loss") for layer in net.layer)


@pytest.mark.parametrize("name", NETS)
def test_a_net_has_the_recipe_of_its_paper(name: str) -> None:
    """Variables of the solver's template, and where they come from."""
    recipe = find(name).recipe
    assert recipe is not None
    assert recipe.source
    assert recipe.epochs > 0
    in_updates = {
        key: int(found[0]) if key == "stepsize" else list(map(int, found))
        for key, found in recipe.in_epochs.items()
    }
    solver = parse_solver(render("solver", {**recipe.settings, **in_updates}))
    assert solver.base_lr == pytest.approx(float(recipe.settings["base_lr"]))
    assert all(0 < each < recipe.epochs for found in recipe.in_epochs.values() for each in found)


def test_the_digits_net_is_that_of_the_prototxt_folder() -> None:
    assert parse_net(render("lenet_digits", {})) == read_net(
        resources.folder("prototxt") / "digits" / "net.prototxt"
    )


@pytest.mark.parametrize(
    ("name", "settings", "parameters", "last_image"),
    [
        ("lenet_digits", {}, 53_514, ("pool2", [2, 64, 2, 2])),
        ("lenet", {}, 431_080, ("pool2", [2, 50, 4, 4])),
        ("caffenet", {}, 60_965_224, ("pool5", [2, 256, 6, 6])),
        ("nin", {"crop_size": 67}, 7_595_176, ("pool3", [2, 384, 1, 1])),
        ("squeezenet", {"crop_size": 48}, 1_235_496, ("fire9", [2, 512, 2, 2])),
        (
            "squeezenet",
            {"crop_size": 63, "version": "v1_0"},
            1_248_424,
            ("fire9", [2, 512, 3, 3]),
        ),
        ("resnet18", {"crop_size": 32}, 11_689_512, ("res5_2", [2, 512, 1, 1])),
        ("resnet34", {"crop_size": 32}, 21_797_672, ("res5_3", [2, 512, 1, 1])),
        ("resnext50", {"crop_size": 32}, 25_028_904, ("res5_3", [2, 2048, 1, 1])),
        ("se_resnet50", {"crop_size": 32}, 28_088_024, ("res5_3", [2, 2048, 1, 1])),
        ("densenet121", {"crop_size": 32}, 7_978_856, ("dense4_16", [2, 1024, 1, 1])),
        ("mobilenet", {"crop_size": 32}, 4_231_976, ("conv14", [2, 1024, 1, 1])),
        ("wide_resnet", {"depth": 16, "width": 4}, 2_748_890, ("act", [2, 256, 8, 8])),
        (
            "inception_v3",
            {"crop_size": 75, "side_loss": False},
            23_834_568,
            ("mixed11", [2, 2048, 1, 1]),
        ),
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
    top5 = [] if name in ("lenet", "lenet_digits", "wide_resnet") else ["accuracy_top5"]
    assert built["outputs"] == ["accuracy", *top5, "loss"]


@pytest.mark.parametrize(
    ("name", "settings", "outputs"),
    [
        ("alexnet", {"crop_size": 67}, ["accuracy", "accuracy_top5", "loss"]),
        ("vgg11", {"crop_size": 32}, ["accuracy", "accuracy_top5", "loss"]),
        ("googlenet", {"crop_size": 80},
         ["accuracy", "accuracy_top5", "loss", "side1_loss", "side2_loss"]),
        ("unet", {"image_size": 32, "width": 8}, ["accuracy", "loss"]),
        ("unet", {"image_size": 188, "width": 2, "padded": False}, ["accuracy", "loss"]),
        ("segnet", {"image_size": 32}, ["accuracy", "loss"]),
        ("siamese", {}, ["loss"]),
        ("autoencoder", {}, ["cross_entropy_loss", "l2_error"]),
        ("mlp", {}, ["accuracy", "loss"]),
        ("lstm", {"steps": 4}, ["accuracy", "loss"]),
        pytest.param("fcn32s", {"image_size": 32}, ["accuracy", "loss"], marks=pytest.mark.slow),
        pytest.param("fcn8s", {"image_size": 32}, ["accuracy", "loss"], marks=pytest.mark.slow),
        pytest.param("inception_v3", {}, ["accuracy", "accuracy_top5", "loss", "side_loss"],
                     marks=pytest.mark.slow),
        pytest.param("vgg19", {"crop_size": 32}, ["accuracy", "accuracy_top5", "loss"],
                     marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_net_builds_and_has_the_predicted_shapes(
    build: Callable[..., dict[str, Any]],
    tmp_path: Path,
    name: str,
    settings: dict[str, object],
    outputs: list[str],
) -> None:
    """Nets whose parameters depend on the size of the images, or that classify no images."""
    built = build(name, **DUMMY, **settings)
    predicted = cb.memory(tmp_path / "net.prototxt")
    assert built["blobs"] == {
        top: list(shape) for top, shape in predicted.train.blob_shapes.items()
    }
    assert built["gradient"] or name.startswith("fcn")  # whose scores begin with 0
    assert built["outputs"] == outputs


#: Learned values with the default sizes, as published: by the paper, or by torchvision for the nets
#: marked so; U-Net's are those of a net of its sizes, by hand.
PUBLISHED = {
    "alexnet": 60_965_224,
    "densenet121": 7_978_856,  # torchvision
    "googlenet": 13_378_280,
    "inception_v3": 27_161_264,  # torchvision, with its side loss
    "mobilenet": 4_231_976,
    "resnet152": 60_192_808,  # torchvision
    "resnext50": 25_028_904,  # torchvision
    "unet": sum(
        9 * (fan_in + fan_out) * fan_out + 2 * fan_out
        for fan_in, fan_out in [(1, 64), (64, 128), (128, 256), (256, 512), (512, 1024)]
    )
    + sum(
        4 * 2 * width * width + width + 9 * (2 * width + width) * width + 2 * width
        for width in (512, 256, 128, 64)
    )
    + 64 * 2 + 2,
    "vgg11": 132_863_336,  # torchvision
    "vgg16": 138_357_544,  # torchvision
    "vgg19": 143_667_240,  # torchvision
    "wide_resnet": 36_479_194,  # 28-10
}  # fmt: skip


def test_the_list_says_what_each_net_takes() -> None:
    """Parameters as published; memory that grows with the batch; the solver is no net."""
    seen: list[tuple[int, int]] = []
    sizes = cb.template_sizes(progress=lambda done, every: seen.append((done, every)))
    assert [size.template.name for size in sizes] == NAMES
    assert seen == [(done, len(NAMES)) for done in range(1, len(NAMES) + 1)]
    rows = {size.template.name: size.json() for size in sizes}
    assert {name: rows[name]["parameters"] for name in PUBLISHED} == PUBLISHED
    assert rows["solver"]["parameters"] is None
    for name in NETS:
        assert 0 < rows[name]["memory_bytes"]["1"] < rows[name]["memory_bytes"]["32"]
        assert rows[name]["recipe"]


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
    leveldb.write_leveldb(path, map(datum, range(len(RECORDS))))


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
