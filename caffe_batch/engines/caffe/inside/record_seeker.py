"""Moves Caffe 1.0's data layers to a record before they read; for the runtime's own Python.

Caffe opens every source at its first record and has no way to start elsewhere (BVLC#1059). But its
data layers have a method that advances by one record, which is as cheap as moving a database's
cursor: nothing is decoded or transformed. So the virtual method that sets up a layer is replaced,
in the virtual table of its class, by one that calls Caffe's own and then advances that many times.
This happens on the main thread, before the layer's prefetch thread starts. (The tables and the
names follow the Itanium C++ ABI, as all compilers for Linux do.)

Sources: data_layer.cpp, hdf5_data_layer.cpp, image_data_layer.cpp, base_data_layer.cpp.

This file runs on Python 3.6 and newer and needs nothing but caffe.
"""

import contextlib
import ctypes
import mmap

#: By layer type: its class, the method that sets it up, and the one that advances it. That of
#: ImageData advances by an epoch: it draws the next order.
METHODS = {
    "Data": ("DataLayer", "DataLayerSetUp", "Next"),
    "HDF5Data": ("HDF5DataLayer", "LayerSetUp", "Next"),
    "ImageData": ("ImageDataLayer", "DataLayerSetUp", "ShuffleImages"),
}

#: In other versions a thread other than the one that creates a layer may open its source.
VERSION = "1.0.0"

# How C++ spells () and (const vector<Blob<float>*>&, const vector<Blob<float>*>&).
NOTHING = "Ev"
BLOBS = "ERKSt6vectorIPNS_4BlobIfEESaIS5_EES9_"

WORD = ctypes.sizeof(ctypes.c_void_p)
#: A virtual table is shorter than this.
TABLE_WORDS = 64
SetUp = ctypes.PYFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
GoOn = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)


class RecordSeeker:
    """Advances the data layers of nets that are being built, before they read.

    Args:
        caffe: The module.
        counts: By layer type, a key of METHODS: how many times each of its layers advances, in the
            order in which Caffe creates them.

    Raises:
        LookupError: The layers of this Caffe don't have the form that is expected here.
    """

    def __init__(self, caffe, counts):
        self.counts = counts
        self.classes = {}
        if counts:
            if caffe.__version__ != VERSION:
                raise LookupError(f"this is Caffe {caffe.__version__}, not {VERSION}")
            library = ctypes.PyDLL(caffe._caffe.__file__)
            self.classes = {name: DataLayerClass(library, name) for name in counts}

    @contextlib.contextmanager
    def active(self):
        """The context in which Caffe may build the nets, once."""
        with contextlib.ExitStack() as stack:
            for layer_type, counts in self.counts.items():
                stack.enter_context(self.classes[layer_type].going_on(counts))
            yield


class DataLayerClass:
    """One class of data layers in the loaded Caffe."""

    def __init__(self, library, layer_type):
        name, set_up, go_on = METHODS[layer_type]
        scope = f"N5caffe{len(name)}{name}IfE"
        address = address_of(library, f"_Z{scope}{len(set_up)}{set_up}{BLOBS}")
        self.set_up = SetUp(address)
        self.go_on = GoOn(address_of(library, f"_Z{scope}{len(go_on)}{go_on}{NOTHING}"))
        self.slot = slot_of(address, address_of(library, f"_ZTV{scope}E"))

    @contextlib.contextmanager
    def going_on(self, counts):
        """The context in which each new layer of this class advances a number of times.

        Args:
            counts: One per layer, in the order in which Caffe creates them.
        """
        left = iter(counts)

        def set_up(layer, bottom, top):
            self.set_up(layer, bottom, top)
            for _ in range(next(left)):
                self.go_on(layer)

        replacement = SetUp(set_up)
        original = self.slot.value
        write(self.slot, ctypes.cast(replacement, ctypes.c_void_p).value)
        try:
            yield
        finally:
            write(self.slot, original)


def address_of(library, symbol):
    try:
        return ctypes.addressof(ctypes.c_char.in_dll(library, symbol))
    except ValueError as error:
        raise LookupError(f"this Caffe has no {symbol}") from error


def slot_of(method, table):
    """The word of a virtual table that holds this method."""
    for index in range(TABLE_WORDS):
        word = ctypes.c_void_p.from_address(table + WORD * index)
        if word.value == method:
            return word
    raise LookupError("the virtual table is not as expected")


def write(slot, value):
    """Write to a word of a table, which is in read-only memory."""
    page = ctypes.addressof(slot) & ~(mmap.PAGESIZE - 1)
    protect(page, mmap.PROT_READ | mmap.PROT_WRITE)
    slot.value = value
    protect(page, mmap.PROT_READ)


def protect(page, protection):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), protection):
        raise OSError(ctypes.get_errno(), "mprotect")
