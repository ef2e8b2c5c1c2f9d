"""The images of layers that read a label for each pixel, from a list of pairs of images.

Source: alexgkendall/caffe-segnet, dense_image_data_layer.cpp; cdmh/deeplab-public-ver2,
image_seg_data_layer.cpp. White space separates the paths. DenseImageData takes two words after the
other, wherever the lines end; ImageSegData the first two words of each line, or only the first
with ``label_type: NONE``.
"""

from __future__ import annotations

import os
from math import prod

from caffe_batch.errors import InputError
from caffe_batch.net.data.extras import MissingExtraError
from caffe_batch.net.data.findings import Level, Place
from caffe_batch.net.data.images import HEADERS
from caffe_batch.net.data.listing import ListedLines
from caffe_batch.net.data.pictures import image_reader, image_size
from caffe_batch.net.data.survey import Find, Survey, Task, evenly
from caffe_batch.schema import caffe_pb2


def survey_pairs(layer: caffe_pb2.LayerParameter, find: Find, task: Task) -> Survey:
    """A look at the list of a layer and at its images.

    Raises:
        InputError: The list or its first image can't be read.
    """
    dense = layer.HasField("dense_image_data_param")
    settings = layer.dense_image_data_param if dense else layer.image_data_param
    listing = find(settings.source)
    found, channels = Survey(), 3 if settings.is_color else 1
    written = ListedLines(listing)
    if not written:
        raise InputError(f"image list {listing} is empty")
    number = found.records = len(written)
    resized = bool(settings.new_height and settings.new_width)
    pixels = caffe_pb2.ImageDataParameter.PIXEL
    labelled = dense or layer.image_data_param.label_type == pixels
    if not resized:
        image_reader(f"the images of {listing}")
    chosen = range(number) if task.complete else evenly(number, HEADERS)
    for count, index in enumerate(chosen, 1):
        place = Place(settings.source, index + 1)
        words = [os.fsdecode(word) for word in written[index].split()]
        if not words or (labelled and len(words) < 2):
            found.tally.add(
                Level.ERROR,
                "pair",
                f"{len(words)} path{'s' if len(words) != 1 else ''} in a line",
                place,
                "A line is the path of an image and that of its labels.",
            )
            continue
        try:
            sizes = [image_size(find(settings.root_folder + word)) for word in words[:2]]
        except MissingExtraError as missing:
            if not resized:
                raise
            found.note = f"The images of {settings.source!r} aren't checked: {missing.message}."
            break
        except InputError as error:
            if index == 0 and not resized:
                raise
            found.tally.add(Level.ERROR, "image", error.message, place)
        else:
            if labelled and not resized and sizes[0] != sizes[1]:
                image, labels = [" x ".join(map(str, size)) for size in sizes]
                found.tally.add(
                    Level.ERROR, "size", f"the image is {image}, its labels {labels}", place
                )
            size = (settings.new_height, settings.new_width) if resized else sizes[0]
            found.sizes.setdefault((channels, *size), place)
        found.read = count
        task.progress(settings.source, count, len(chosen))
    if not found.sizes:
        raise InputError(f"image list {listing} has no line with the paths of two images")
    found.shapes = (max(found.sizes, key=prod),)
    return found
