"""The template variables that a data set determines: sources, classes, means and crop."""

from __future__ import annotations

from pathlib import Path

from caffe_batch.datasets import Dataset, read_dataset
from caffe_batch.errors import InputError, Option
from caffe_batch.rendering import Template, Value

#: Variables that a template must have to use a data set.
_NEEDED = ("source_train", "source_test", "num_classes")


def filled_in(template: Template, folder: str | Path) -> dict[str, Value]:
    """The template variables that a data set determines, with their values.

    The means are those of the training set's channels. The crop remains the template's own
    unless the records are smaller.

    Args:
        template: Whose variables they are.
        folder: The folder of a data set that ``caffe-batch data`` made.

    Raises:
        InputError: There is no data set, it has no test set, or the template takes no data.
    """
    known = {variable.name: variable for variable in template.variables}
    dataset = read_dataset(Path(folder))
    kinds = known["data"].type.choices if "data" in known else ()
    lacks = any(name not in known for name in _NEEDED)
    if lacks or "labels_train" in known or (kinds and dataset.backend not in kinds):
        raise InputError(
            [
                Option("data", str(folder)),
                f" contains pictures with one class each, and template {template.name} learns from "
                f"something else: {template.summary}",
            ],
            hint=f"`caffe-batch render {template.name} --variables` says what it reads.",
        )
    if dataset.test is None:
        raise InputError(
            f"{folder} has no test set, and template {template.name} reads one",
            hint="Make the data set again with a test set.",
        )
    values: dict[str, Value] = {
        "data": dataset.backend,
        "source_train": str(dataset.path(dataset.train.source).resolve()),
        "source_test": str(dataset.path(dataset.test.source).resolve()),
        "num_classes": dataset.classes,
        "mean_file": "",
        "mean_values": tuple(round(value, 4) for value in dataset.mean_values),
        **_sizes(dataset, known["crop_size"].default if "crop_size" in known else 0),
    }
    return {name: value for name, value in values.items() if name in known}


def _sizes(dataset: Dataset, crop: Value | None) -> dict[str, Value]:
    """The sizes of the records, and of the crop."""
    if dataset.shape is None:
        return {"channels": len(dataset.mean_values)}
    channels, height, width = dataset.shape
    sizes: dict[str, Value] = {"channels": channels, "image_size": min(height, width)}
    if isinstance(crop, int) and crop > min(height, width):
        sizes["crop_size"] = min(height, width)
    return sizes
