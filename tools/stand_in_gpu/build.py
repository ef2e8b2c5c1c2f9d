"""Prepares Caffe's sources for a build that counts device memory without a GPU. See README.md.

python build.py CAFFE_SOURCE OUT && make -C OUT measure measure_cudnn
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

#: ``kernel<Type><<<grid, block>>>(``, in .cu files and macros; the arguments stay.
LAUNCH = re.compile(
    r"(?:\w+##)?[A-Za-z_]\w*(?:<[^<>;{}]*>)?\s*(?://[^\n]*\n\s*)?<<<.*?>>>\s*\(", re.DOTALL
)

#: Further changes: (file, old, new).
PATCHES = (
    # protobuf dropped the second argument
    ("src/caffe/util/io.cpp", "(kProtoReadBytesLimit, 536870912)", "(kProtoReadBytesLimit)"),
    # built without HDF5
    ("src/caffe/net.cpp", "if (H5Fis_hdf5(trained_filename.c_str()))", "if (false)"),
    # host memory is counted, except for the shapes of blobs
    (
        "src/caffe/syncedmem.cpp",
        "namespace caffe {",
        "extern void count_host_malloc(void**, size_t, bool*);\n"
        "extern void count_host_free(void*, bool);\n"
        "#define CaffeMallocHost count_host_malloc\n"
        "#define CaffeFreeHost count_host_free\n"
        "namespace caffe {",
    ),
    ("src/caffe/blob.cpp", "namespace caffe {", "extern bool not_counted;\nnamespace caffe {"),
    (
        "src/caffe/blob.cpp",
        "  int* shape_data = static_cast<int*>(shape_data_->mutable_cpu_data());",
        "  not_counted = true;\n"
        "  int* shape_data = static_cast<int*>(shape_data_->mutable_cpu_data());\n"
        "  not_counted = false;",
    ),
)

#: Files that need libraries which this build doesn't use.
LEFT_OUT = ("hdf5",)

STUBS = ("cuda.h", "cublas_v2.h", "curand.h", "driver_types.h", "math_functions.h",
         "thrust/device_vector.h", "thrust/functional.h", "thrust/reduce.h")  # fmt: skip

MAKEFILE = """\
CXXFLAGS += -std=c++14 -O0 -w -fpermissive -pthread -DUSE_LMDB -DUSE_NCCL
override CPPFLAGS += -Istubs -Iinclude
LDLIBS = -lboost_thread -lboost_system -lboost_filesystem -lprotobuf -lglog -lgflags -llmdb -lcblas
SOURCES := $(shell find src -name '*.cpp') include/caffe/proto/caffe.pb.cc measure.cpp
# Only these use cuDNN.
FACTORY := src/caffe/layer_factory.cpp
CUDNN := $(FACTORY) $(foreach s,$(SOURCES),$(if $(findstring cudnn,$s),$s))
COMMON := $(filter-out $(CUDNN),$(SOURCES))
measure: $(addsuffix .o,$(COMMON) $(FACTORY))
\t$(CXX) $(LDFLAGS) -o $@ $^ $(LDLIBS) -pthread
measure_cudnn: $(addsuffix .o,$(COMMON)) $(addsuffix .cudnn.o,$(CUDNN))
\t$(CXX) $(LDFLAGS) -o $@ $^ $(LDLIBS) -pthread
%.cudnn.o: %
\t$(CXX) $(CPPFLAGS) $(CXXFLAGS) -DUSE_CUDNN -c $< -o $@
%.o: %
\t$(CXX) $(CPPFLAGS) $(CXXFLAGS) -c $< -o $@
"""


def main(source: Path, out: Path) -> None:
    for folder in ("include", "src/caffe"):
        shutil.copytree(source / folder, out / folder)
    shutil.rmtree(out / "src" / "caffe" / "test")
    for name, old, new in PATCHES:
        replace(out / name, old, new)
    for path in [*out.rglob("*.cu"), out / "include/caffe/util/math_functions.hpp"]:
        text = LAUNCH.sub("evaluate(", path.read_text())
        path.write_text(text)
        if path.suffix == ".cu":
            path.rename(path.with_name(f"{path.stem}_cu.cpp"))
    for path in (out / "src").rglob("*.cpp"):
        if any(part in path.name for part in LEFT_OUT):
            path.unlink()
    for name in STUBS:
        stub = out / "stubs" / name
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.write_text('#include "cuda_runtime.h"\n')
    shutil.copy(HERE / "cuda_stand_in.h", out / "stubs" / "cuda_runtime.h")
    shutil.copy(HERE / "cudnn_stand_in.h", out / "stubs" / "cudnn.h")
    shutil.copy(HERE / "nccl_stand_in.h", out / "stubs" / "nccl.h")
    shutil.copy(HERE / "measure.cpp", out)
    (out / "Makefile").write_text(MAKEFILE)
    proto = out / "include/caffe/proto"
    proto.mkdir()
    subprocess.run(
        ["protoc", f"--proto_path={out}/src/caffe/proto", f"--cpp_out={proto}", "caffe.proto"],
        check=True,
    )


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    if old not in text:
        sys.exit(f"{path} isn't the expected source: no {old!r}")
    path.write_text(text.replace(old, new, 1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
