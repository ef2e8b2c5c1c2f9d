"""Runs in a pycaffe's interpreter: how Caffe's own C++ reads texts.

``python -c CODE CASES``: CASES is a JSON file, a list of ``[message, upgrade, text]``: the name of
the message, whether to upgrade old syntax, and the bytes of the text in base64. Prints a JSON list
of ``[bytes, log]``: the message as serialized by C++ in base64, null where C++ refuses the text,
and what it wrote to stderr.

pycaffe has no call for this, so the functions are called in the libraries that it loads:
TextFormat::ParseFromString and UpgradeNetAsNeeded / UpgradeSolverAsNeeded. The latter abort the
process on an error, hence a fork.
"""

import base64
import ctypes
import json
import os
import sys
import tempfile
from typing import Any

import caffe  # type: ignore[import-not-found]  # noqa: F401  # loads the libraries

STRING = "NSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"


class String(ctypes.Structure):
    """A std::string of the C++11 ABI that borrows its bytes."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("local", ctypes.c_char * 16),
    )

    def __init__(self, content: bytes = b"") -> None:
        super().__init__()
        self.owner = ctypes.create_string_buffer(content)
        here = ctypes.addressof(self) + String.local.offset
        self.data = ctypes.addressof(self.owner) if content else here
        self.size = len(content)


def library(stem: str) -> ctypes.CDLL:
    with open("/proc/self/maps") as maps:
        return ctypes.CDLL(min(line.split()[-1] for line in maps if stem in line))


def function(lib: ctypes.CDLL, name: str, *pointers: Any) -> object:
    """Calls a C++ function on addresses."""
    call = getattr(lib, name)
    call.restype, call.argtypes = ctypes.c_bool, [ctypes.c_void_p] * len(pointers)
    return call(*(ctypes.addressof(p) if p is not None else None for p in pointers))


CAFFE, PROTOBUF = library("libcaffe.so"), library("libprotobuf.so")


def judge(name: str, upgrade: bool, text: bytes) -> "str | None":
    message = ctypes.create_string_buffer(1 << 14)  # no message is that large
    arena = "PN6google8protobuf5ArenaE"
    function(CAFFE, f"_ZN5caffe{len(name)}{name}C1E{arena}", message, None)
    parse = f"_ZN6google8protobuf10TextFormat15ParseFromStringERK{STRING}PNS0_7MessageE"
    if not function(PROTOBUF, parse, String(text), message):
        return None
    if upgrade:
        what = f"Upgrade{name.replace('Parameter', '')}AsNeeded"
        symbol = f"_ZN5caffe{len(what)}{what}ERK{STRING}PNS_{len(name)}{name}E"
        function(CAFFE, symbol, String(b"file"), message)
    out = String()
    serialize = f"_ZNK6google8protobuf11MessageLite24SerializePartialToStringEP{STRING}"
    function(PROTOBUF, serialize, message, out)
    return base64.b64encode(ctypes.string_at(out.data, out.size)).decode()


def judge_in_fork(name: str, upgrade: bool, text: bytes) -> "str | None":
    """As :func:`judge`; None if the process dies of it."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        with os.fdopen(write, "w") as pipe:
            json.dump(judge(name, upgrade, text), pipe)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer) if answer else None


def main() -> None:
    with open(sys.argv[1]) as file:
        cases = json.load(file)
    answers = []
    stderr = os.dup(2)
    for name, upgrade, text in cases:
        with tempfile.TemporaryFile() as log:
            os.dup2(log.fileno(), 2)
            answer = (judge_in_fork if upgrade else judge)(name, upgrade, base64.b64decode(text))
            os.dup2(stderr, 2)
            log.seek(0)
            answers.append([answer, log.read().decode("utf-8", "replace")])
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
