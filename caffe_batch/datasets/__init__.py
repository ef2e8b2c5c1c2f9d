"""From pictures to what Caffe's data layers read, and a look at what is there already.

``sources`` finds the pictures and their classes, ``splitting`` decides which set each one goes to,
``pictures`` decodes and resizes, ``records`` makes the records of a batch of files (in ``workers``,
processes of their own), ``filling`` puts them into an LMDB, and ``conversion`` is the whole.
``description`` owns dataset.json; ``looking`` reads data sets, databases, HDF5 files and
lists.
"""

from caffe_batch.datasets.conversion import Converted, convert
from caffe_batch.datasets.description import DESCRIPTION, Dataset, Part, read_dataset
from caffe_batch.datasets.looking import Look, Shown, Viewed, look_at
from caffe_batch.datasets.settings import Settings

__all__ = [
    "DESCRIPTION",
    "Converted",
    "Dataset",
    "Look",
    "Part",
    "Settings",
    "Shown",
    "Viewed",
    "convert",
    "look_at",
    "read_dataset",
]
