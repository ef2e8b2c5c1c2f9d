"""Writes caffe_batch/schema/caffe_pb2.py and its type stub from caffe.proto (`make schema`).

Needs grpcio-tools and mypy-protobuf. The module keeps its own descriptor pool, so that it can
live in one process with the caffe_pb2 of a pycaffe (both define the package `caffe`), and uses
no code that protoc generates, so that one file serves protobuf 4 to 7.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

SCHEMA = Path(__file__).resolve().parent.parent / "caffe_batch" / "schema"

HEAD = '''"""Generated from caffe.proto by tools/generate_schema.py (`make schema`); do not edit."""

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper

# A pool of its own: a pycaffe in the same process registers the same names in the default one.
_POOL = descriptor_pool.DescriptorPool()
_POOL.AddSerializedFile(
{data}
)
DESCRIPTOR = _POOL.FindFileByName("caffe.proto")

if hasattr(message_factory, "GetMessageClass"):
    _message_class = message_factory.GetMessageClass
else:  # protobuf 4.21
    _message_class = message_factory.MessageFactory(_POOL).GetPrototype

'''


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        plugin = shutil.which("protoc-gen-mypy", path=str(Path(sys.executable).parent))
        status = protoc.main(
            [
                "protoc",
                f"-I{SCHEMA}",
                f"--plugin=protoc-gen-mypy={plugin}",
                f"--descriptor_set_out={out / 'set'}",
                f"--mypy_out={out}",
                str(SCHEMA / "caffe.proto"),
            ]
        )
        if status:
            return int(status)
        files = descriptor_pb2.FileDescriptorSet.FromString((out / "set").read_bytes())
        shutil.copy(out / "caffe_pb2.pyi", SCHEMA / "caffe_pb2.pyi")
    proto = files.file[0]
    data = proto.SerializeToString(deterministic=True)
    lines = [f"    {data[i : i + 48]!r}" for i in range(0, len(data), 48)]
    text = HEAD.format(data="\n".join(lines))
    for enum in proto.enum_type:
        wrapped = f'DESCRIPTOR.enum_types_by_name["{enum.name}"]'
        text += f"{enum.name} = enum_type_wrapper.EnumTypeWrapper({wrapped})\n"
        text += "".join(f"{value.name} = {value.number}\n" for value in enum.value)
    for message in proto.message_type:
        name = message.name
        text += f'{name} = _message_class(DESCRIPTOR.message_types_by_name["{name}"])\n'
    (SCHEMA / "caffe_pb2.py").write_text(text, encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main())
