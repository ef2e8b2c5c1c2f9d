"""Caffe solver configuration generator and launcher: batch_size x iter_size that fits the GPU."""

__version__ = "0.1.0"
