"""Record shapes read from real LMDBs, LevelDBs, HDF5 files and images, judged by real Caffe."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import h5py
import lmdb
import numpy as np
import pytest
from PIL import Image

from caffe_batch import prototxt
from caffe_batch.errors import InputError, InputShapeError, ShapeError
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.loading import installed_rules
from caffe_batch.net import Sources
from caffe_batch.net.data import hdf5, images, listing
from caffe_batch.net.data.findings import no_progress
from caffe_batch.net.data.survey import Task
from caffe_batch.net.filtering import net_state
from caffe_batch.net.recipe import NetFile
from caffe_batch.net.sources import survey_source
from caffe_batch.schema import caffe_pb2
from tests import leveldb

Pycaffe = Callable[..., str]

SHAPES = """
import json, sys
import caffe
net = caffe.Net(sys.argv[1], caffe.TRAIN)
print(json.dumps({name: list(blob.shape) for name, blob in net.blobs.items()}))
"""


def raw(channels: int, height: int, width: int) -> caffe_pb2.Datum:
    data = bytes(channels * height * width)
    return caffe_pb2.Datum(channels=channels, height=height, width=width, data=data, label=1)


def encoded(mode: str) -> caffe_pb2.Datum:
    stream = BytesIO()
    Image.new(mode, (17, 11)).save(stream, "PNG")
    return caffe_pb2.Datum(encoded=True, data=stream.getvalue(), label=1)


def write_lmdb(path: Path, *datums: caffe_pb2.Datum) -> None:
    with lmdb.open(str(path), map_size=2**22) as env, env.begin(write=True) as transaction:
        for i, datum in enumerate(datums):
            transaction.put(f"{i:08}".encode(), datum.SerializeToString())


def write_leveldb(path: Path, *datums: caffe_pb2.Datum) -> None:
    leveldb.write_leveldb(path, (datum.SerializeToString() for datum in datums))


def data_net(source: str, backend: str = "LMDB", transform: str = "") -> str:
    return (
        f'layer {{ name: "data" type: "Data" top: "data" top: "label" {transform} '
        f'data_param {{ source: "{source}" backend: {backend} batch_size: 2 }} }}'
    )


def our_shapes(text: str, sources: Sources) -> dict[str, list[int]]:
    message = prototxt.parse_net(text)
    file = NetFile(message, None, net_state("TRAIN", message))
    net = file.build(file.layers(sources))
    return {name: list(shape) for name, shape in net.blob_shapes.items()}


def assert_as_caffe(pycaffe: Pycaffe, folder: Path, text: str) -> dict[str, list[int]]:
    (folder / "net.prototxt").write_text(text)
    theirs = json.loads(pycaffe(SHAPES, "net.prototxt", cwd=folder))
    ours = our_shapes(text, Sources((folder,)))
    assert ours == theirs
    return ours


@pytest.mark.parametrize("backend", ["LMDB", "LEVELDB"])
@pytest.mark.parametrize("transform", ["", "transform_param { crop_size: 5 }"])
def test_databases(pycaffe: Pycaffe, tmp_path: Path, backend: str, transform: str) -> None:
    writer = write_lmdb if backend == "LMDB" else write_leveldb
    writer(tmp_path / "db", raw(3, 7, 11), raw(3, 7, 11), raw(3, 7, 11))
    text = data_net("db", backend, transform)
    shapes = assert_as_caffe(pycaffe, tmp_path, text)
    assert shapes["data"] == ([2, 3, 5, 5] if transform else [2, 3, 7, 11])
    layer = prototxt.parse_net(text).layer[0]
    assert Sources((tmp_path,)).contents(layer, BUILT_IN[layer.type]).records == 3


@pytest.mark.parametrize("transform", ["", "force_color: true", "force_gray: true"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_encoded_records(pycaffe: Pycaffe, tmp_path: Path, mode: str, transform: str) -> None:
    write_lmdb(tmp_path / "db", encoded(mode), encoded(mode))
    text = data_net("db", transform=f"transform_param {{ {transform} }}")
    assert_as_caffe(pycaffe, tmp_path, text)


@pytest.mark.parametrize("color", ["", "is_color: false"])
@pytest.mark.parametrize("size", ["", "new_height: 6 new_width: 9"])
def test_images(pycaffe: Pycaffe, tmp_path: Path, color: str, size: str) -> None:
    Image.new("RGB", (17, 11)).save(tmp_path / "a b.png")
    (tmp_path / "list.txt").write_text("a b.png 3\na b.png 4\n")
    text = (
        'layer { name: "data" type: "ImageData" top: "data" top: "label" image_data_param { '
        f'source: "list.txt" batch_size: 2 {color} {size} }} }}'
    )
    assert_as_caffe(pycaffe, tmp_path, text)


def test_an_image_that_lies_on_its_side(pycaffe: Pycaffe, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # OpenCV turns it upright, and so swaps its sides
    Image.new("RGB", (17, 11)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "list.txt").write_text("a.jpg 3\n")
    text = (
        'layer { name: "data" type: "ImageData" top: "data" top: "label" image_data_param { '
        'source: "list.txt" batch_size: 2 } }'
    )
    assert assert_as_caffe(pycaffe, tmp_path, text)["data"] == [2, 3, 17, 11]


def test_hdf5(pycaffe: Pycaffe, tmp_path: Path) -> None:
    for name, records in (("a.h5", 5), ("b.h5", 3)):
        with h5py.File(tmp_path / name, "w") as file:
            file["data"] = np.zeros((records, 3, 7, 11), np.float32)
            file["label"] = np.zeros((records,), np.float32)
    (tmp_path / "list.txt").write_text("a.h5\nb.h5\n")
    text = (
        'layer { name: "d" type: "HDF5Data" top: "data" top: "label" hdf5_data_param { '
        'source: "list.txt" batch_size: 2 } }'
    )
    shapes = assert_as_caffe(pycaffe, tmp_path, text)
    assert shapes == {"data": [2, 3, 7, 11], "label": [2]}
    layer = prototxt.parse_net(text).layer[0]
    assert Sources((tmp_path,)).contents(layer, BUILT_IN[layer.type]).records == 8


def test_a_given_shape_wins_over_a_missing_source() -> None:
    sources = Sources(input_shapes={"data": (3, 256, 227)})
    assert our_shapes(data_net("nowhere"), sources)["data"] == [2, 3, 256, 227]


def test_a_missing_source_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(InputShapeError, match='input_shape="data=CxHxW"') as caught:
        our_shapes(data_net("nowhere"), Sources((tmp_path,)))
    assert caught.value.layer == "data"
    assert "source 'nowhere' is not in" in str(caught.value)
    with pytest.raises(InputError) as twice:
        Sources((tmp_path, tmp_path / ".")).find("nowhere")
    assert twice.value.message == f"source 'nowhere' is not in {tmp_path.resolve()}"


@pytest.mark.parametrize(
    ("prepare", "backend", "message"),
    [
        (lambda path: path.mkdir(), "LMDB", "not a readable LMDB"),
        (lambda path: path.write_text("no database"), "LMDB", "not a readable LMDB"),
        (lambda path: path.mkdir(), "LEVELDB", "not a readable LevelDB"),
        (lambda path: write_lmdb(path), "LMDB", "is empty"),
        (lambda path: write_leveldb(path), "LEVELDB", "is empty"),
        (lambda path: write_leveldb(path, raw(1, 2, 3)), "LMDB", "needs `backend: LEVELDB`"),
        (lambda path: write_lmdb(path, raw(1, 2, 3)), "LEVELDB", "needs `backend: LMDB`"),
    ],
    ids=["empty dir", "text", "empty dir leveldb", "empty", "empty leveldb", "other", "other way"],
)
def test_databases_that_are_none(
    tmp_path: Path, prepare: Callable[[Path], None], backend: str, message: str
) -> None:
    prepare(tmp_path / "db")
    layer = prototxt.parse_net(data_net("db", backend)).layer[0]
    with pytest.raises(InputError, match=message) as caught:
        Sources((tmp_path,)).contents(layer, BUILT_IN[layer.type])
    assert str(tmp_path / "db") in str(caught.value)


def test_a_record_that_is_not_a_datum(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "db"), map_size=2**20) as env, env.begin(write=True) as txn:
        txn.put(b"0", b"\xff\xff\xff")
    layer = prototxt.parse_net(data_net("db")).layer[0]
    with pytest.raises(InputError, match=r"the first record of .* is no Datum"):
        Sources((tmp_path,)).contents(layer, BUILT_IN[layer.type])


def test_hdf5_without_the_data_set(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = np.zeros((2, 3), np.float32)
    (tmp_path / "list.txt").write_text("a.h5")
    layer = caffe_pb2.LayerParameter(name="d", type="HDF5Data", top=["data"])
    layer.hdf5_data_param.source = "list.txt"
    with pytest.raises(InputError, match="has no dataset 'data'; it has image"):
        Sources((tmp_path,)).contents(layer, BUILT_IN[layer.type])


IMAGE_LAYER = (
    'layer {{ name: "data" type: "ImageData" top: "data" top: "label" image_data_param {{ '
    'source: "{}" batch_size: 2 }} }}'
)
HDF5_LAYER = (
    'layer {{ name: "data" type: "HDF5Data" top: "data" hdf5_data_param {{ source: "{}" '
    "batch_size: 2 }} }}"
)


def test_a_database_named_by_its_file(pycaffe: Pycaffe, tmp_path: Path) -> None:
    write_lmdb(tmp_path / "db", raw(1, 2, 3))
    write_leveldb(tmp_path / "lv", raw(1, 2, 3))
    for source, backend, hint in (("db/data.mdb", "LMDB", "db"), ("lv/CURRENT", "LEVELDB", "lv")):
        text = data_net(source, backend)
        with pytest.raises(InputShapeError, match="Caffe opens the folder around it") as caught:
            our_shapes(text, Sources((tmp_path,)))
        assert f"Write source: {str(tmp_path / hint)!r}." in str(caught.value)
        (tmp_path / "net.prototxt").write_text(text)
        with pytest.raises(RuntimeError, match="pycaffe ended with -6"):
            pycaffe(SHAPES, "net.prototxt", cwd=tmp_path)


def test_looking_at_a_wrong_backend_leaves_no_files(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "db", raw(1, 2, 3))
    before = sorted((tmp_path / "db").iterdir())
    with pytest.raises(InputShapeError, match="backend: LMDB"):
        our_shapes(data_net("db", "LEVELDB"), Sources((tmp_path,)))
    assert sorted((tmp_path / "db").iterdir()) == before


@pytest.mark.parametrize("layer", [IMAGE_LAYER, HDF5_LAYER], ids=["ImageData", "HDF5Data"])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/dev/zero", "it is a device"),
        ("pipe", "it is a named pipe"),
        ("folder", "it is a folder"),
        ("x.h5", "it is an HDF5 file"),
        ("x.png", "it is a PNG image"),
        ("x.bin", "it is a binary file"),
        ("x.txt", "text with lines of more than 8,192 characters"),
    ],
)
def test_sources_that_are_not_lists(tmp_path: Path, layer: str, source: str, message: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data"] = np.zeros((2, 3), np.float32)
    Image.new("RGB", (17, 11)).save(tmp_path / "x.png")
    (tmp_path / "x.bin").write_bytes(bytes(10**6))
    (tmp_path / "x.txt").write_text("a" * 10**5)
    with pytest.raises(InputShapeError, match=message):
        our_shapes(layer.format(source), Sources((tmp_path,)))


def test_no_more_than_the_beginning_of_a_source_is_read(tmp_path: Path) -> None:
    with (tmp_path / "train.h5").open("wb") as file:
        file.write(b"\x89HDF\r\n\x1a\n")
        file.truncate(2**36)  # 64 GiB that take no room
    with pytest.raises(InputShapeError, match="it is an HDF5 file"):
        our_shapes(HDF5_LAYER.format("train.h5"), Sources((tmp_path,)))


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n", b"\n \nlast"])
@pytest.mark.parametrize("block", [7, 64, 1 << 16])
def test_lines_of_a_list_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, end: bytes
) -> None:
    """Whatever the blocks are, the lines are those of the whole text, in any order."""
    monkeypatch.setattr(listing, "BLOCK_BYTES", block)
    monkeypatch.setattr(listing, "PREFIX_BYTES", 5)
    monkeypatch.setattr(listing, "LONGEST_LINE", 64)
    text = b"\n".join(b"%d.png %d" % (number, number**3) for number in range(200)) + end
    path = tmp_path / "list"
    path.write_bytes(text)
    lines = listing.ListedLines(path)
    expected = text.removesuffix(b"\n").split(b"\n")
    assert list(lines) == expected == listing.read_lines(path)
    assert [lines[index] for index in reversed(range(len(lines)))] == expected[::-1]
    assert list(listing.read_words(path)) == text.split()


def test_a_list_without_an_end_in_its_lines(tmp_path: Path) -> None:
    """Text at its beginning, then 64 GiB that take no room: it isn't read to its end."""
    with (tmp_path / "list").open("wb") as file:
        file.write(b"1.png 1\n" * 20_000)
        file.truncate(2**36)
    for layer in (IMAGE_LAYER, HDF5_LAYER):
        with pytest.raises(InputShapeError, match="lines of more than 8,192 characters"):
            our_shapes(layer.format("list"), Sources((tmp_path,)))


def test_a_long_list_is_not_held(tmp_path: Path) -> None:
    """32 MiB of lines: they are counted, and only a few blocks are ever in memory."""
    Image.new("RGB", (17, 11)).save(tmp_path / "a.png")
    line = b"a.png" + b" " * 4000 + b"3\n"
    with (tmp_path / "list").open("wb") as file:
        for _ in range(8):
            file.write(line * 1024)
    tracemalloc.start()
    try:
        lines = listing.ListedLines(tmp_path / "list")
        assert (len(lines), lines[8191], sum(1 for _ in lines)) == (8192, line[:-1], 8192)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_quick_look_at_a_long_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all is read, and that is said; the lines are counted, the rows are estimated."""
    monkeypatch.setattr(images, "LINES", 10)
    monkeypatch.setattr(images, "HEADERS", 4)
    monkeypatch.setattr(hdf5, "FILES", 4)
    Image.new("RGB", (17, 11)).save(tmp_path / "a.png")
    (tmp_path / "images").write_text("a.png 1\n" * 50 + "a.png x\n" + "a.png 1\n" * 49)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data"] = np.zeros((2, 3), np.float32)
    (tmp_path / "rows").write_text("x.h5\n" * 7)
    sources = Sources((tmp_path,))
    for layer, source, records, note in (
        (IMAGE_LAYER, "images", 100, "Of the 100 lines of 'images' 13 are read"),
        (HDF5_LAYER, "rows", 14, "Of the 7 files of 'rows' 4 are opened, so the number of rows is"),
    ):
        message = prototxt.parse_net(layer.format(source)).layer[0]
        rule = BUILT_IN[message.type]
        for complete in (False, True):
            found = survey_source(message, rule, sources.find, Task((), complete, no_progress))
            assert found.records == records
            assert found.note.startswith(note) is not complete
            remarks = [each.message for each in found.tally.findings("x")]
            assert bool(remarks) is (complete and source == "images")
        assert sources.contents(message, rule).estimated is (source == "rows")


@pytest.mark.parametrize("layer", [IMAGE_LAYER, HDF5_LAYER], ids=["ImageData", "HDF5Data"])
def test_lists_that_name_pipes(tmp_path: Path, layer: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "list").write_text("pipe 1\n")
    with pytest.raises(InputShapeError, match="it is not a file"):
        our_shapes(layer.format("list"), Sources((tmp_path,)))


def test_the_message_of_another_type(tmp_path: Path) -> None:
    text = IMAGE_LAYER.format("list").replace('"ImageData"', '"Data" data_param { batch_size: 2 }')
    with pytest.raises(InputShapeError, match="image_data_param has no effect") as caught:
        our_shapes(text, Sources((tmp_path,)))
    assert "Is it meant to be of type ImageData?" in str(caught.value)
    assert caught.value.layer == "data"


SIZES = (
    "import caffe\nnet = caffe.Net('net.prototxt', caffe.TRAIN)\nfor _ in range(9): net.forward()"
)


@pytest.mark.parametrize("kind", ["images", "lmdb"])
def test_records_of_unequal_size(pycaffe: Pycaffe, tmp_path: Path, kind: str) -> None:
    """The largest one is planned with, one by one; a batch of two dies in Caffe."""
    if kind == "images":
        for name, size in (("a", (7, 5)), ("b", (9, 8)), ("c", (5, 7))):
            Image.new("RGB", size).save(tmp_path / f"{name}.png")
        (tmp_path / "list").write_text("a.png 0\nb.png 0\nc.png 0\n")
        text = IMAGE_LAYER.format("list")
    else:
        write_lmdb(tmp_path / "list", raw(3, 5, 7), raw(3, 8, 9), raw(3, 7, 5))
        text = data_net("list")
    one = text.replace("batch_size: 2", "batch_size: 1")
    assert our_shapes(one, Sources((tmp_path,)))["data"] == [1, 3, 8, 9]
    (tmp_path / "net.prototxt").write_text(one)
    pycaffe(SIZES, cwd=tmp_path)
    with pytest.raises(ShapeError, match="differ in size, and Caffe takes only batch_size 1"):
        our_shapes(text, Sources((tmp_path,)))
    (tmp_path / "net.prototxt").write_text(text)
    with pytest.raises(RuntimeError, match="pycaffe ended with -6"):
        pycaffe(SIZES, cwd=tmp_path)


#: What forks' data layers read, with what is in it.
FORKS_DATA = {
    "AnnotatedData": """data_param { source: "db" batch_size: 1 backend: LMDB }
        annotated_data_param { }""",
    "DenseImageData": 'dense_image_data_param { source: "list.txt" batch_size: 2 }',
    "ImageSegData": 'image_data_param { source: "list.txt" batch_size: 2 label_type: PIXEL }',
}


def of_fork(kind: str, folder: Path, settings: str = "") -> list[tuple[int, ...]]:
    """The shapes that a data layer of a fork gives its tops."""
    written = FORKS_DATA[kind].replace("batch_size", f"{settings} batch_size")
    text = f'layer {{ name: "d" type: "{kind}" top: "data" top: "label" {written} }}'
    net = prototxt.parse_net(text)
    file = NetFile(net, folder / "net.prototxt", net_state("TRAIN", net))
    built = file.build(file.layers(Sources((folder,))))
    return [built.blobs[i].shape for i in built.nodes[0].tops]


def annotated(channels: int, height: int, width: int) -> bytes:
    datum = caffe_pb2.AnnotatedDatum(datum=raw(channels, height, width))
    group = datum.annotation_group.add(group_label=3)
    group.annotation.add().bbox.xmin = 0.5
    return bytes(datum.SerializeToString())


def test_annotated_records_say_their_size(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "db"), map_size=2**22) as env, env.begin(write=True) as write:
        for number, size in enumerate([(3, 5, 7), (3, 11, 13), (3, 2, 3)]):
            write.put(f"{number:08}".encode(), annotated(*size))
    assert of_fork("AnnotatedData", tmp_path)[0] == (1, 3, 11, 13)  # the largest
    text = 'layer { name: "d" type: "AnnotatedData" top: "data" data_param { source: "db" '
    net = prototxt.parse_net(text + "batch_size: 2 backend: LMDB } }")
    file = NetFile(net, tmp_path / "net.prototxt", net_state("TRAIN", net))
    layers = file.layers(Sources((tmp_path,)))
    with pytest.raises(ShapeError, match="differ in size, and Caffe takes only batch_size 1"):
        file.build(layers)


def test_records_of_a_data_layer_are_no_annotated_ones(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "db", raw(3, 5, 7))
    with pytest.raises(InputShapeError, match="it has no image; is it a Datum, for a Data layer"):
        of_fork("AnnotatedData", tmp_path)


def test_without_the_database_only_what_needs_it_asks(tmp_path: Path) -> None:
    with pytest.raises(InputShapeError, match="size of its records is not known: source 'db' is"):
        of_fork("AnnotatedData", tmp_path)
    resized = FORKS_DATA["AnnotatedData"].replace(
        "annotated", "transform_param { resize_param { height: 9 width: 8 } } annotated"
    )
    net = prototxt.parse_net(f'layer {{ name: "d" type: "AnnotatedData" top: "data" {resized} }}')
    file = NetFile(net, tmp_path / "net.prototxt", net_state("TRAIN", net))
    built = file.build(file.layers(Sources((tmp_path,))))
    assert built.blobs[built.nodes[0].tops[0]].shape == (1, 3, 9, 8)


@pytest.mark.parametrize("kind", ["DenseImageData", "ImageSegData"])
def test_pairs_of_images_say_their_size(kind: str, tmp_path: Path) -> None:
    for name, size in {"a": (7, 5), "b": (13, 11)}.items():
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
        Image.new("L", size).save(tmp_path / f"{name}_labels.png")
    (tmp_path / "list.txt").write_text("a.png a_labels.png\nb.png\tb_labels.png\n")
    assert of_fork(kind, tmp_path)[:2] == [(2, 3, 11, 13), (2, 1, 11, 13)]
    assert of_fork(kind, tmp_path, "is_color: false")[0] == (2, 1, 11, 13)
    with pytest.raises(InputShapeError, match=r"source 'none/a\.png' is not in"):
        of_fork(kind, tmp_path, 'root_folder: "none/"')
    assert of_fork(kind, tmp_path, "new_height: 4 new_width: 6")[0] == (2, 3, 4, 6)


@pytest.mark.parametrize("kind", ["DenseImageData", "ImageSegData"])
def test_what_is_wrong_with_pairs_is_told(kind: str, tmp_path: Path) -> None:
    for name, size in {"a": (7, 5), "b": (13, 11)}.items():
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    (tmp_path / "list.txt").write_text("a.png a.png\na.png b.png\nb.png\n")
    net = prototxt.parse_net(f'layer {{ type: "{kind}" {FORKS_DATA[kind]} }}')
    rule = installed_rules()[kind]
    found = survey_source(
        net.layer[0], rule, Sources((tmp_path,)).find, Task((), True, no_progress)
    )
    assert (found.records, found.read, list(found.sizes)) == (3, 2, [(3, 5, 7)])
    told = [finding.message for finding in found.tally.findings("d")]
    assert told == ["the image is 5 x 7, its labels 11 x 13", "1 path in a line"]
