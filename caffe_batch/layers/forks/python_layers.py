"""Python layers of public repositories, which people copy together with their nets.

The shapes of their tops depend on images, boxes and a configuration. Those here are what their code
makes by its own defaults of the largest image; they are listed among what is assumed, and
``--input-shape`` says otherwise, top by top.

Source: rbgirshick/py-faster-rcnn, lib/roi_data_layer/layer.py, lib/fast_rcnn/config.py, lib/rpn:
anchor_target_layer.py, proposal_layer.py, proposal_target_layer.py;
shelhamer/fcn.berkeleyvision.org, voc_layers.py, nyud_layers.py, siftflow_layers.py,
pascalcontext_layers.py; TimoSaemann/caffe-enet, python/spatial_dropout.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from caffe_batch.errors import Call, Option, ShapeError
from caffe_batch.layers.base import Coupling, Shape, Site
from caffe_batch.layers.given import Given, WholeShape
from caffe_batch.layers.own import OwnRule
from caffe_batch.layers.unknown import UnknownSettings, given_top

#: Defaults of py-faster-rcnn: TRAIN.SCALES, TRAIN.MAX_SIZE, TRAIN.BATCH_SIZE.
SHORT_SIDE, LONG_SIDE, REGIONS = 600, 1000, 128
#: RPN_POST_NMS_TOP_N by phase.
PROPOSALS = {"TRAIN": 2000, "TEST": 300}
#: Numbers that describe a region and a box: an image or a class, and four coordinates.
ROW = 5
#: Images of a batch where no regions are proposed (TRAIN.IMS_PER_BATCH); elsewhere it is one.
IMAGES = 2

_OTHER_CODE: list[str | Option | Call] = [
    "If it is another layer of that name, give the shapes of its tops with ",
    Option("input_shape", "TOP:SHAPE"),
    ".",
]

_TOPS = re.compile(r"""['"]?tops['"]?\s*:\s*\[([^\]]{0,400})\]""")
_NAME = re.compile(r"\w+")
_CLASSES = re.compile(r"""['"]?num_classes['"]?\s*:\s*([1-9]\d{0,5})(?!\d)""")


class KnownPython(OwnRule):
    """A Python layer of a public repository. What the user gives of its tops counts first."""

    def made(self, site: Site) -> Sequence[Shape]:
        """The shapes that its code gives its tops, for layers with bottoms."""
        return (site.bottoms[0],) * site.tops

    def shape(self, site: Site) -> tuple[Shape, ...]:
        settings: UnknownSettings = site.settings
        if not site.bottoms:
            return tuple(given_top(site, number) for number in range(site.tops))
        given = dict(enumerate(settings.given))
        if all(given.get(number) for number in range(site.tops)):
            return tuple(given_top(site, number) for number in range(site.tops))
        made = self.made(site)
        if len(made) < site.tops:
            raise ShapeError(
                f"{self.python} makes {len(made)} tops, not {site.tops}", hint=_OTHER_CODE
            )
        return tuple(
            given_top(site, number) if given.get(number) else made[number]
            for number in range(site.tops)
        )

    def coupling(self, site: Site) -> Coupling:
        return Coupling()


class RoIData(KnownPython):
    """py-faster-rcnn's data: an image with its boxes, or (Fast R-CNN) images with regions."""

    python = "roi_data_layer.layer.RoIDataLayer"
    usual = ("images of 600 x 1000", "py-faster-rcnn's default TRAIN.SCALES and TRAIN.MAX_SIZE")
    forks = ("rcnn",)
    follows = "rbgirshick/py-faster-rcnn: lib/roi_data_layer/layer.py"

    def needs_shapes(self, bottoms: int) -> bool:
        return False

    def given_shapes(self, settings: UnknownSettings, tops: int) -> tuple[Given, ...]:
        image = (3, SHORT_SIDE, LONG_SIDE)
        shapes: tuple[Shape, ...] = ((1, *image), (1, 3), (1, ROW))  # im_info, gt_boxes
        if tops > len(shapes):
            boxes = (REGIONS, 4 * num_classes(settings.text))
            shapes = ((IMAGES, *image), (REGIONS, ROW), (REGIONS,), boxes, boxes, boxes)
        return tuple(map(WholeShape, shapes[:tops]))

    def coupling(self, site: Site) -> Coupling:
        return Coupling(draws=True, shuffles=True)


class AnchorTarget(KnownPython):
    """Labels and boxes for all anchors of all places; bottom 0 has two scores for each anchor."""

    python = "rpn.anchor_target_layer.AnchorTargetLayer"
    forks = ("rcnn",)
    follows = "rbgirshick/py-faster-rcnn: lib/rpn/anchor_target_layer.py"

    def made(self, site: Site) -> Sequence[Shape]:
        if len(site.bottoms[0]) != 4:
            raise ShapeError(f"its scores have 4 axes, not {site.bottoms[0]}", hint=_OTHER_CODE)
        _, scores, height, width = site.bottoms[0]
        anchors = scores // 2
        boxes = (1, 4 * anchors, height, width)
        return ((1, 1, anchors * height, width), boxes, boxes, boxes)

    def coupling(self, site: Site) -> Coupling:
        return Coupling(draws=True)


class Proposal(KnownPython):
    """The best regions of an image, and their scores."""

    python = "rpn.proposal_layer.ProposalLayer"
    usual = ("2000 regions in training", "py-faster-rcnn's default RPN_POST_NMS_TOP_N")
    forks = ("rcnn",)
    follows = "rbgirshick/py-faster-rcnn: lib/rpn/proposal_layer.py"

    def made(self, site: Site) -> Sequence[Shape]:
        regions = PROPOSALS[site.phase]
        return ((regions, ROW), (regions, 1))


class ProposalTarget(KnownPython):
    """Regions drawn from the proposed ones, with labels and boxes."""

    python = "rpn.proposal_target_layer.ProposalTargetLayer"
    usual = ("128 regions", "py-faster-rcnn's default TRAIN.BATCH_SIZE")
    forks = ("rcnn",)
    follows = "rbgirshick/py-faster-rcnn: lib/rpn/proposal_target_layer.py"

    def made(self, site: Site) -> Sequence[Shape]:
        boxes = (REGIONS, 4 * num_classes(site.settings.text))
        return ((REGIONS, ROW), (REGIONS, 1), boxes, boxes, boxes)

    def coupling(self, site: Site) -> Coupling:
        return Coupling(draws=True)


class DataSet(KnownPython):
    """FCN's data: one image of a data set, and a label for each of its pixels.

    Args:
        layer: Its module and class.
        size: The height and width of the largest image.
        what: Whose images they are.
        labels: How many tops have labels: the last ones.
    """

    follows = "shelhamer/fcn.berkeleyvision.org: voc_layers.py and others"

    def __init__(self, layer: str, size: tuple[int, int], what: str, labels: int = 1) -> None:
        self.python, self.size, self.labels_tops = layer, size, labels
        self.usual = (f"images of {size[0]} x {size[1]}", what)
        super().__init__()

    def needs_shapes(self, bottoms: int) -> bool:
        return False

    def given_shapes(self, settings: UnknownSettings, tops: int) -> tuple[Given, ...]:
        said = settings.given[0] if settings.given else None
        height, width = self.size if said is None else _pixels(said) or self.size
        depths = self._channels(settings.text, tops)
        return tuple(WholeShape((1, channels, height, width)) for channels in depths)

    def _channels(self, text: str, tops: int) -> Sequence[int]:
        """Those of each top; nyud_layers lists its tops in the param_str."""
        listed = _TOPS.search(text)
        names = _NAME.findall(listed[1]) if listed else ()
        if len(names) == tops:
            return [1 if name in ("depth", "label") else 3 for name in names]
        images = max(1, tops - self.labels_tops)
        return [3] * images + [1] * (tops - images)

    def coupling(self, site: Site) -> Coupling:
        return Coupling(draws=True)


class SpatialDropout(KnownPython):
    """ENet's: drops whole channels, the same ones of all samples."""

    python = "spatial_dropout.SpatialDropoutLayer"
    forks = ("segnet",)
    follows = "TimoSaemann/caffe-enet: python/spatial_dropout.py"

    def coupling(self, site: Site) -> Coupling:
        return Coupling(draws=True)


def num_classes(text: str) -> int:
    """The ``num_classes`` in a param_str.

    Raises:
        ShapeError: There is none.
    """
    match = _CLASSES.search(text)
    if match is None:
        raise ShapeError("its param_str doesn't say num_classes", hint=_OTHER_CODE)
    return int(match[1])


def _pixels(given: Given) -> tuple[int, int] | None:
    """The height and width in what the user says of images; None if there is none."""
    sizes = given.sizes[1:] if isinstance(given, WholeShape) else given
    return (sizes[1], sizes[2]) if len(sizes) == 3 else None


_VOC = "the largest of PASCAL VOC"
PYTHON_LAYERS: tuple[KnownPython, ...] = (
    RoIData(),
    AnchorTarget(),
    Proposal(),
    ProposalTarget(),
    DataSet("voc_layers.VOCSegDataLayer", (500, 500), _VOC),
    DataSet("voc_layers.SBDDSegDataLayer", (500, 500), _VOC),
    DataSet("pascalcontext_layers.PASCALContextSegDataLayer", (500, 500), _VOC),
    DataSet("siftflow_layers.SIFTFlowSegDataLayer", (256, 256), "those of SIFT Flow", 2),
    DataSet("nyud_layers.NYUDSegDataLayer", (425, 560), "NYUDv2 as it is cropped"),
    SpatialDropout(),
)
