"""The largest input size: against the memory model at every size, and against real Caffe."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caffe_batch.errors import DoesNotFitError, InputError, ShapeError
from caffe_batch.jobs.job_files import write_job
from caffe_batch.memory import CaffeMemory
from caffe_batch.net import Sources, read_recipe
from caffe_batch.planning import Budget, PlanOptions
from caffe_batch.planning.edits.changes import applied
from caffe_batch.planning.strategies.input_size import InputSize, largest_input

BATCH = 12
BODY = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 6 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
  pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
"""
HEAD = """
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
INPUT = """
layer { name: "data" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 12 dim: 3 dim: 29 dim: 47 } shape { dim: 12 } } }
"""
DUMMY = """
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { num: 12 num: 12 channels: 3 channels: 1 height: 31 height: 1
    width: 23 width: 1 } }
"""
MEMORY = """
layer { name: "data" type: "MemoryData" top: "data" top: "label"
  memory_data_param { batch_size: 12 channels: 3 height: 29 width: 37 } }
"""
CROPPED = """
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { crop_size: 37 mean_file: "mean.binaryproto" }
  data_param { source: "none" batch_size: 12 } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  transform_param { crop_size: 37 } data_param { source: "none" batch_size: 3 } }
"""
RECORDS = """
layer { name: "data" type: "Data" top: "data" top: "label"
  data_param { source: "none" batch_size: 12 } }
"""
RESIZED = """
layer { name: "data" type: "ImageData" top: "data" top: "label"
  transform_param { mean_file: "mean.binaryproto" }
  image_data_param { source: "none" batch_size: 12 new_height: 29 new_width: 43 } }
"""
RESIZED_AND_CROPPED = """
layer { name: "data" type: "ImageData" top: "data" top: "label"
  transform_param { crop_size: 32 }
  image_data_param { source: "none" batch_size: 12 new_height: 40 new_width: 48 } }
"""
SOLVER = 'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 9 momentum: 0.9'
TESTED = f"{SOLVER} test_iter: 4 test_interval: 3"


def read(
    folder: Path, net: str, *, solver: str = SOLVER, record: tuple[int, ...] | None = None
) -> CaffeMemory:
    (folder / "net.prototxt").write_text(net)
    (folder / "solver.prototxt").write_text(solver)
    (folder / "none").write_text("a_file 0\n")  # as a list of images; nothing opens it
    recipe = read_recipe(folder / "solver.prototxt")
    return CaffeMemory(recipe, Sources(recipe.directories, {"data": record} if record else None))


def budget(model: CaffeMemory, share: float = 0.5) -> Budget:
    """A budget for this share of what the whole batch takes."""
    return Budget(int(model.at(BATCH).allocated_bytes * share), 0)


def smallest_bytes(model: CaffeMemory) -> int | None:
    """What the whole batch takes with the smallest test batches, None if Caffe refuses it."""
    lean = model.with_test_batches((1,) * len(model.recipe.tests))
    try:
        return lean.at(BATCH).allocated_bytes
    except ShapeError:
        return None


def resized(model: CaffeMemory, found: InputSize, sizes: dict[str, int]) -> CaffeMemory:
    """The recipe with other values of the size fields that the plan changes."""
    changes = [
        replace(change, after=next(sizes[str(s)] for s in change.path[::-1] if str(s) in sizes))
        for change in found.plan.changes
        if change.reason.startswith("images of ")
    ]
    return replace(model, recipe=applied(model.recipe, changes))


@pytest.mark.parametrize("share", [0.35, 0.6, 0.95])
@pytest.mark.parametrize(
    ("net", "record", "own"),
    [(CROPPED, (3, 40, 41), 37), (RECORDS, (3, 37, 37), 37), (RECORDS, (3, 31, 43), 31)],
)
def test_the_next_larger_crop_doesnt_fit(
    tmp_path: Path, net: str, record: tuple[int, ...], own: int, share: float
) -> None:
    solver = TESTED if "TEST" in net else SOLVER
    model = read(tmp_path, net + BODY + HEAD, solver=solver, record=record)
    limit = budget(model, share)
    found = largest_input(model, limit, PlanOptions(effective_batch=BATCH))
    assert (found.plan.batch_size, found.plan.iter_size) == (BATCH, 1)
    side = found.size[0]
    assert found.size == (side, side)
    larger = range(side + 1, own)
    sizes = [smallest_bytes(resized(model, found, {"crop_size": n})) for n in larger]
    assert all(each is not None and each > limit.usable_bytes for each in sizes)
    taken = resized(model, found, {"crop_size": side})
    lean = smallest_bytes(taken)
    assert lean is not None
    assert lean <= limit.usable_bytes
    assert taken.train_net(BATCH).blob_shapes["data"] == (BATCH, 3, side, side)


@pytest.mark.parametrize(
    ("net", "own"), [(INPUT, (29, 47)), (DUMMY, (31, 23)), (MEMORY, (29, 37)), (RESIZED, (29, 43))]
)
def test_both_sides_shrink_in_proportion(tmp_path: Path, net: str, own: tuple[int, int]) -> None:
    model = read(tmp_path, net + BODY + HEAD)
    limit = budget(model)
    found = largest_input(model, limit, PlanOptions(effective_batch=BATCH))
    assert found.own == own
    height, width = found.size
    longer, shorter = (own[0], own[1]) if own[0] > own[1] else (own[1], own[0])
    assert abs(min(found.size) - max(found.size) * shorter / longer) <= 0.5
    changed = replace(model, recipe=applied(model.recipe, found.plan.changes))
    assert changed.at().peak_bytes == found.plan.predicted_peak_bytes
    assert changed.at().allocated_bytes <= limit.usable_bytes
    assert changed.train_net().blob_shapes["data"] == (BATCH, 3, height, width)
    step = max(found.size) + 1
    larger = tuple(max(1, round(side * step / longer)) for side in own)
    names = {"height": larger[0], "new_height": larger[0], "width": larger[1],
             "new_width": larger[1], "2": larger[0], "3": larger[1]}  # fmt: skip
    over = smallest_bytes(resized(model, found, names))
    assert over is not None
    assert over > limit.usable_bytes


def test_images_are_resized_and_cut_alike(tmp_path: Path) -> None:
    model = read(tmp_path, RESIZED_AND_CROPPED + BODY + HEAD)
    found = largest_input(model, budget(model), PlanOptions(effective_batch=BATCH))
    side = found.size[0]
    after = {change.path[-1]: change.after for change in found.plan.changes}
    assert after == {
        "crop_size": side,
        "new_height": int(40 * side / 32 + 0.5),
        "new_width": int(48 * side / 32 + 0.5),
    }
    assert not any("cut-out" in note for note in found.notes)


def test_both_phases_get_the_size(tmp_path: Path) -> None:
    model = read(tmp_path, CROPPED + BODY + HEAD, solver=TESTED, record=(3, 40, 41))
    found = largest_input(model, budget(model), PlanOptions(effective_batch=BATCH))
    sizes = [
        (change.layer, change.before, change.after)
        for change in found.plan.changes
        if change.path[-1] == "crop_size"
    ]
    assert sizes == [(0, 37, found.size[0]), (1, 37, found.size[0])]


def test_test_nets_in_files_of_their_own_and_inside_the_solver(tmp_path: Path) -> None:
    train, _, test = CROPPED.partition("include { phase: TRAIN }")
    train, test = train + test.partition("layer")[0], test.partition("include { phase: TEST }")[2]
    head = 'layer { name: "data" type: "Data" top: "data" top: "label"'
    own = head + test + BODY + HEAD
    (tmp_path / "test.prototxt").write_text(own)
    solver = (
        f"{SOLVER.replace('net:', 'train_net:')} test_iter: 4 test_iter: 4 test_interval: 3 "
        f'test_net: "test.prototxt" test_net_param {{ {own} }}'
    )
    model = read(tmp_path, train + BODY + HEAD, solver=solver, record=(3, 40, 41))
    found = largest_input(model, budget(model), PlanOptions(effective_batch=BATCH))
    files = write_job(found.plan, model.recipe, None, model.sources, tmp_path / "job")
    job = read_recipe(files.solver)
    written = [
        layer.transform_param.crop_size
        for file in (job.train, *job.tests)
        for _, layer in file.selected()
        if layer.type == "Data"
    ]
    assert written == [found.size[0]] * 3


def test_layers_whose_weights_follow_the_size_are_named(tmp_path: Path) -> None:
    spatial = """
    layer { name: "scale" type: "Scale" bottom: "pool" top: "scaled"
      scale_param { axis: 1 num_axes: 3 } }
    """
    net = INPUT + BODY + spatial + HEAD.replace('bottom: "pool"', 'bottom: "scaled"')
    model = read(tmp_path, net)
    found = largest_input(model, budget(model), PlanOptions(effective_batch=BATCH))
    assert found.reshaped == ("scale", "ip")
    assert any("scale, ip" in note for note in found.notes)
    pooled = (
        BODY
        + """
    layer { name: "all" type: "Pooling" bottom: "pool" top: "all"
      pooling_param { pool: AVE global_pooling: true } }
    """
        + HEAD.replace('bottom: "pool"', 'bottom: "all"')
    )
    model = read(tmp_path, INPUT + pooled)
    found = largest_input(model, budget(model), PlanOptions(effective_batch=BATCH))
    assert found.reshaped == ()


def test_sizes_that_caffe_refuses_are_left_out_with_the_reason(tmp_path: Path) -> None:
    """Down and up again by two only meets itself where both sides are even."""
    meets = """
    layer { name: "down" type: "Convolution" bottom: "data" top: "down"
      convolution_param { num_output: 4 kernel_size: 2 stride: 2 } }
    layer { name: "up" type: "Deconvolution" bottom: "down" top: "up"
      convolution_param { num_output: 3 kernel_size: 2 stride: 2 } }
    layer { name: "sum" type: "Eltwise" bottom: "data" bottom: "up" top: "sum" }
    layer { name: "ip" type: "InnerProduct" bottom: "sum" top: "ip"
      inner_product_param { num_output: 5 } }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
    """
    model = read(tmp_path, INPUT.replace("dim: 29 dim: 47", "dim: 48 dim: 48") + meets)
    found = largest_input(model, budget(model), PlanOptions(effective_batch=BATCH))
    assert found.size[0] % 2 == 0
    assert set(found.refused) == {(n, n) for n in range(found.size[0] + 1, 48) if n % 2}
    assert all("sum" in why for why in found.refused.values())
    assert any(note.startswith("Caffe refuses 47 x 47 and ") for note in found.notes)


def test_mean_files(tmp_path: Path) -> None:
    """Of images that are resized it has the old size; of records that are cut it stays right."""
    model = read(tmp_path, RESIZED + BODY + HEAD)
    found = largest_input(model, budget(model), PlanOptions(effective_batch=BATCH))
    assert any(note.startswith("mean.binaryproto has the old size") for note in found.notes)
    model = read(tmp_path, CROPPED + BODY + HEAD, solver=TESTED, record=(3, 40, 41))
    found = largest_input(model, budget(model), PlanOptions(effective_batch=BATCH))
    assert not any("mean.binaryproto" in note for note in found.notes)


@pytest.mark.parametrize(
    ("net", "record", "says"),
    [
        ('layer { name: "data" type: "HDF5Data" top: "data" top: "label" '
         'hdf5_data_param { source: "none" batch_size: 12 } }', None, "neither crops nor resizes"),
        ('layer { name: "data" type: "ImageSegData" top: "data" top: "label" '
         'transform_param { crop_size: 31 } image_data_param { source: "none" batch_size: 12 } }',
         None, "Caffe's own, and layer 'data' is of the type ImageSegData"),
        ('layer { name: "data" type: "Input" top: "data" top: "label" '
         'input_param { shape { dim: 12 dim: 7 } shape { dim: 12 } } }', None, "no layer of the"),
        (RECORDS, (7, 1, 1), "images of 1 x 1 can't be smaller"),
        (INPUT, (3, 29, 47), "the size of 'data' is given as input_shape"),
        (RECORDS + RECORDS.replace('"data"', '"more"').replace('top: "label"', ''), (3, 29, 47),
         "at a different place"),
    ],
)  # fmt: skip
def test_nets_without_a_size_to_change(
    tmp_path: Path, net: str, record: tuple[int, ...] | None, says: str
) -> None:
    model = read(tmp_path, net + BODY + HEAD, record=record)
    if "more" in net and record:
        model = replace(model, sources=Sources((), {"data": record, "more": record}))
    with pytest.raises(InputError, match=says):
        largest_input(model, Budget(1000, 0), PlanOptions(effective_batch=BATCH))


def test_no_size_fits(tmp_path: Path) -> None:
    model = read(tmp_path, INPUT + BODY + HEAD)
    with pytest.raises(DoesNotFitError, match="no input below 29 x 47 fits"):
        largest_input(model, Budget(2000, 0), PlanOptions(effective_batch=BATCH))


def test_no_smaller_size_is_taken(tmp_path: Path) -> None:
    fixed = """
    layer { name: "flat" type: "Reshape" bottom: "data" top: "flat"
      reshape_param { shape { dim: 0 dim: 4089 } } }
    """
    net = INPUT + fixed + HEAD.replace('bottom: "pool"', 'bottom: "flat"')
    model = read(tmp_path, net)
    with pytest.raises(InputError, match="Caffe accepts no input below 29 x 47: layer 'flat'"):
        largest_input(model, budget(model), PlanOptions(effective_batch=BATCH))


BUILD = """
import json, sys
import caffe
caffe.set_mode_cpu()
solver = caffe.get_solver(sys.argv[1])
solver.step(1)
net = solver.net
print(json.dumps({"blobs": {name: list(blob.data.shape) for name, blob in net.blobs.items()},
                  "params": {name: [list(p.data.shape) for p in blobs]
                             for name, blobs in net.params.items()}}))
"""


def test_real_caffe_trains_at_the_size(tmp_path: Path, pycaffe: Callable[..., str]) -> None:
    model = read(tmp_path, DUMMY + BODY + HEAD)
    found = largest_input(model, budget(model), PlanOptions(effective_batch=BATCH))
    files = write_job(found.plan, model.recipe, None, model.sources, tmp_path / "job")
    built: dict[str, Any] = json.loads(pycaffe(BUILD, str(files.solver)))
    changed = replace(model, recipe=applied(model.recipe, found.plan.changes)).train_net()
    assert built["blobs"]["data"] == [BATCH, 3, *found.size]
    assert built["blobs"]["pool"] == list(changed.blob_shapes["pool"])
    before = model.train_net().param_shapes
    moved = [
        name
        for name, shapes in built["params"].items()
        if [tuple(shape) for shape in shapes] != list(before[name])
    ]
    assert moved == list(found.reshaped) == ["ip"]
