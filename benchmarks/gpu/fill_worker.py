# mypy: ignore-errors
# (caffe has no types.)
"""Takes GPU memory and keeps it until its stdin is closed; started by fit.py.

Prints "ready", then reads lines with a number of bytes and answers each with the status of
cudaMalloc, 0 for success. The CUDA runtime is the one that Caffe is linked to.

This file runs on Python 3.6 and newer and needs nothing but caffe.
"""

import ctypes
import re
import sys


def cuda_runtime():
    """The CUDA runtime library: the one already in this process, or the one that Caffe loads."""
    process = ctypes.CDLL(None)
    if hasattr(process, "cudaMalloc"):
        return process
    import caffe  # noqa: F401 - loads it

    with open("/proc/self/maps") as maps:
        paths = re.findall(r"\S*/libcudart\.so\S*", maps.read())
    if not paths:
        sys.exit("this Caffe is not linked to a libcudart.so")
    return ctypes.CDLL(paths[0])


def main():
    cuda = cuda_runtime()
    code = cuda.cudaSetDevice(0) or cuda.cudaFree(None)  # makes the context
    if code:
        sys.exit(f"CUDA can't use the GPU: error {code}")
    print("ready", flush=True)
    for line in iter(sys.stdin.readline, ""):
        block = ctypes.c_void_p()
        print(cuda.cudaMalloc(ctypes.byref(block), ctypes.c_size_t(int(line))), flush=True)


if __name__ == "__main__":
    main()
