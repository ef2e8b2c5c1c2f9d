"""Files: text and binary, missing and foreign."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from caffe_batch import prototxt
from caffe_batch.errors import PrototxtError
from caffe_batch.schema.caffe_pb2 import (
    BlobProto,
    LayerParameter,
    NetParameter,
    SolverParameter,
    SolverState,
)

NET = 'name: "N" layer { name: "d" type: "Input" }'
MESSAGE = NetParameter(name="N", layer=[LayerParameter(name="d", type="Input")])


def write(folder: Path, data: bytes | str, name: str = "net.prototxt") -> Path:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize(
    "data",
    [
        NET.encode(),
        b"\xef\xbb\xbf" + NET.encode(),
        NET.replace(" ", "\r\n").encode(),
        b"# Universit\xe4t\n" + NET.encode(),
        MESSAGE.SerializeToString(),
    ],
    ids=["text", "byte-order mark", "CRLF", "Latin-1 comment", "binary"],
)
def test_a_net_is_read_from_text_and_binary(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path, data)
    assert prototxt.read_net(path) == prototxt.read_net(str(path)) == MESSAGE
    assert prototxt.read(path) == MESSAGE


def test_a_binary_net_of_old_syntax_is_upgraded(tmp_path: Path) -> None:
    net = NetParameter(input=["data"], input_dim=[1, 2, 3, 4])
    net.layers.add(name="r", type="RELU", bottom=["data"], top=["data"])
    found = prototxt.read_net(write(tmp_path, net.SerializeToString()))
    assert [layer.type for layer in found.layer] == ["Input", "ReLU"]


def test_a_solver_is_read_from_text_and_binary(tmp_path: Path) -> None:
    solver = SolverParameter(net="n.prototxt", base_lr=0.5, iter_size=4)
    text = write(tmp_path, "net: 'n.prototxt' base_lr: 0.5 iter_size: 4", "solver.prototxt")
    binary = write(tmp_path, solver.SerializeToString(), "solver.bin")
    assert prototxt.read_solver(text) == prototxt.read_solver(binary) == solver
    assert prototxt.read(text) == prototxt.read(binary) == solver


def test_read_tells_nets_from_solvers_by_what_most_fields_belong_to(tmp_path: Path) -> None:
    assert isinstance(prototxt.read(write(tmp_path, "debug_info: 1 base_lr: 1")), SolverParameter)
    with pytest.raises(PrototxtError, match="NetParameter has no field 'fork'"):
        prototxt.read(write(tmp_path, f"debug_info: 1 fork: 1 {NET}"))


def test_a_missing_file_is_an_error_with_the_nearest_name(tmp_path: Path) -> None:
    write(tmp_path, NET, "train_val.prototxt")
    path = tmp_path / "trainval.prototxt"
    with pytest.raises(PrototxtError, match="there is no such file") as caught:
        prototxt.read_net(path)
    assert caught.value.path == str(path)
    assert caught.value.hint == "Did you mean train_val.prototxt?"


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(PrototxtError, match="there is no such file") as caught:
        prototxt.read_net(tmp_path / "models" / "net.prototxt")
    assert caught.value.hint == f"There is no directory {str(tmp_path / 'models')!r} either."


def test_a_directory_is_not_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, NET)
    with pytest.raises(PrototxtError, match="this is a directory, not a file") as caught:
        prototxt.read_net(tmp_path)
    assert caught.value.hint == f"Give a file in it, such as {path}."
    (tmp_path / "empty").mkdir()
    with pytest.raises(PrototxtError, match="this is a directory") as caught:
        prototxt.read_solver(tmp_path / "empty")
    assert caught.value.hint is None


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.symlink_to(path)
    with pytest.raises(PrototxtError, match="can't be read: Too many levels of symbolic links"):
        prototxt.read_net(path)


def test_impossible_names_are_errors(tmp_path: Path) -> None:
    null = "embedded null (byte|character in path)"  # as the Python has it
    with pytest.raises(PrototxtError, match=f"can't be read: (open: )?{null}"):
        prototxt.read_net("net\0.prototxt")
    with pytest.raises(PrototxtError, match="can't be read: File name too long"):
        prototxt.read_net(tmp_path / ("n" * 300))


@pytest.mark.parametrize("data", [b"", b"\n \t\r\n", b"# nothing\n", b'name: "N"', b"\xef\xbb\xbf"])
def test_a_net_without_layers_is_an_error(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(PrototxtError, match=r"net\.prototxt: the net has no layers"):
        prototxt.read_net(write(tmp_path, data))


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "It is an image."),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "It is an image."),
        (b"\x89HDF\r\n\x1a\n\0\0\0", "It is HDF5"),
        (b"PK\x03\x04\x14\0\0\0", "It is a zip archive"),
        (b"\x1f\x8b\x08\x01\xff\xfe", "It is gzip"),
        (NET.encode("utf-16"), "It looks like UTF-16 text: save it as UTF-8."),
        (bytes(100), "Give a .prototxt"),
        (bytes(range(256)), "Give a .prototxt"),
        (BlobProto(num=1, data=[1.0, 2.0]).SerializeToString(), "Give a .prototxt"),
        (SolverState(iter=7, learned_net="x.caffemodel").SerializeToString(), "Give a .prototxt"),
        (MESSAGE.SerializeToString()[:-3], "Give a .prototxt"),
    ],
)
def test_a_binary_file_that_is_not_a_net_is_an_error(
    tmp_path: Path, data: bytes, hint: str
) -> None:
    path = write(tmp_path, data + b"\0")
    with pytest.raises(PrototxtError, match="neither text nor a binary net") as caught:
        prototxt.read_net(path)
    assert str(caught.value.hint).startswith(hint)


def test_a_stray_control_character_in_text_is_named_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(PrototxtError, match=r"net\.prototxt:2:1: .*found '\\x1a'"):
        prototxt.read_net(write(tmp_path, f"{NET}\n\x1a"))


def test_a_text_of_absurd_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caffe_batch.prototxt.files.MAX_TEXT_BYTES", 10)
    with pytest.raises(PrototxtError, match="the text is larger than 10 bytes"):
        prototxt.read_net(write(tmp_path, NET))


def test_an_endless_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caffe_batch.prototxt.files.MAX_BYTES", 1000)
    with pytest.raises(PrototxtError, match="the file is larger than 1000 bytes"):
        prototxt.read_net("/dev/zero")


def test_mistakes_name_the_file_as_the_user_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 'layer {\n  nam: "x"\n}')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        PrototxtError, match=r"^net\.prototxt:2:3: LayerParameter has no field 'nam'"
    ):
        prototxt.read_net("net.prototxt")


def test_allowed_unknown_fields_are_skipped_with_one_warning_for_each_name(tmp_path: Path) -> None:
    path = write(tmp_path, NET + "\nfork: 1\nfork: 2 layer { type: 'X' fork: 3 }")
    with pytest.warns(prototxt.PrototxtWarning, match="skipped fork") as caught:
        net = prototxt.read_net(path, allow_unknown_fields=True)
    assert [layer.type for layer in net.layer] == ["Input", "X"]
    assert [str(warning.message) for warning in caught] == [
        f"{path}:2: skipped fork (2 times): NetParameter of Caffe 1.0 has no such field",
        f"{path}:3: skipped fork: LayerParameter of Caffe 1.0 has no such field",
    ]
    message = caught[1].message
    assert isinstance(message, prototxt.PrototxtWarning)
    assert (message.path, message.line) == (str(path), 3)


def test_unknown_fields_of_solvers_are_skipped_too(tmp_path: Path) -> None:
    path = write(tmp_path, "base_lr: 1 fork { a: 1 }")
    with pytest.raises(PrototxtError, match="SolverParameter has no field 'fork'"):
        prototxt.read_solver(path)
    with pytest.warns(prototxt.PrototxtWarning, match="skipped fork: SolverParameter"):
        solver = prototxt.read_solver(path, allow_unknown_fields=True)
    assert solver == SolverParameter(base_lr=1)


def test_text_to_edit_is_byte_for_byte_what_caffe_may_read(tmp_path: Path) -> None:
    data = b"# Universit\xe4t\r\n" + NET.encode()
    for content in (data, b"\xef\xbb\xbf" + data):
        assert prototxt.encode(prototxt.read_text(write(tmp_path, content))) == data


def test_a_binary_file_to_edit_comes_as_text_without_weights(tmp_path: Path) -> None:
    net = NetParameter(layer=[LayerParameter(name="d", type="Input")])
    text = prototxt.write(net)
    net.layer[0].blobs.add(data=[1.0] * 100)
    assert prototxt.read_text(write(tmp_path, net.SerializeToString())) == text
    solver = SolverParameter(net="n.prototxt", iter_size=4)
    path = write(tmp_path, solver.SerializeToString())
    assert prototxt.read_text(path) == prototxt.write(solver)


def test_text_to_edit_must_be_text(tmp_path: Path) -> None:
    with pytest.raises(PrototxtError, match="neither text nor a binary net"):
        prototxt.read_text(write(tmp_path, bytes(100)))
    with pytest.raises(PrototxtError, match="there is no such file"):
        prototxt.read_text(tmp_path / "missing")


def test_caffe_refuses_a_byte_order_mark(
    judge: Callable[..., list[tuple[bytes | None, str]]],
) -> None:
    (refused, _), (read, _) = judge("NetParameter", ["\ufeff" + NET, NET])
    assert refused is None
    assert read == MESSAGE.SerializeToString()


def test_a_small_file_takes_little_address_space(tmp_path: Path) -> None:
    """Also where a batch system has limited that (`ulimit -v`)."""
    file = tmp_path / "net.prototxt"
    file.write_text('name: "small"')
    code = (
        "import resource, sys; from caffe_batch.prototxt.files import read_bytes; "
        "resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29)); "
        "print(len(read_bytes(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("13\n", 0), done.stderr
