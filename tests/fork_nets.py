"""Nets with the structure of published ones that need a fork of Caffe, as prototxt texts.

Built here from the papers' tables (layers, widths, strides), not copied from anybody's files. Each
function says whose structure it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def layer(name: str, kind: str, bottoms: Iterable[str], tops: Iterable[str], body: str = "") -> str:
    """One layer."""
    blobs = [f'bottom: "{each}"' for each in bottoms] + [f'top: "{each}"' for each in tops]
    return f'layer {{ name: "{name}" type: "{kind}" {" ".join(blobs)} {body} }}\n'


class Builder:
    """A net that grows layer by layer; most methods return the name of the new top."""

    def __init__(self, name: str) -> None:
        self.text = f'name: "{name}"\n'

    def add(
        self, name: str, kind: str, bottoms: Sequence[str], body: str = "", *, tops: int = 1
    ) -> str:
        """A layer whose tops are called like it."""
        names = [name, *(f"{name}_{number}" for number in range(1, tops))]
        self.text += layer(name, kind, bottoms, names, body)
        return name

    def in_place(self, name: str, kind: str, blob: str, body: str = "") -> str:
        """A layer that works in place."""
        self.text += layer(name, kind, [blob], [blob], body)
        return blob

    def conv(
        self, name: str, bottom: str, outputs: int, kernel: int, *, relu: bool = True, **more: int
    ) -> str:
        """A convolution, by default with a ReLU."""
        settings = {"num_output": outputs, "kernel_size": kernel, **more}
        body = " ".join(f"{key}: {value}" for key, value in settings.items())
        self.add(name, "Convolution", [bottom], f"convolution_param {{ {body} }}")
        return self.in_place(f"{name}_relu", "ReLU", name) if relu else name

    def plain(self, name: str, bottom: str, outputs: int, kernel: int, **more: int) -> str:
        """A convolution without bias, as before a normalisation."""
        settings = {"num_output": outputs, "kernel_size": kernel, **more}
        body = " ".join(f"{key}: {value}" for key, value in settings.items())
        return self.add(
            name, "Convolution", [bottom], f"convolution_param {{ bias_term: false {body} }}"
        )

    def scaled(self, bottom: str) -> None:
        """BatchNorm and Scale in place, Caffe 1.0's way."""
        self.in_place(f"{bottom}_bn", "BatchNorm", bottom)
        self.in_place(f"{bottom}_scale", "Scale", bottom, "scale_param { bias_term: true }")

    def pool(self, name: str, bottom: str, body: str, *, tops: int = 1) -> str:
        """A pooling."""
        return self.add(name, "Pooling", [bottom], f"pooling_param {{ {body} }}", tops=tops)


#: VGG16: convolutions in each of its five stages, and their width.
VGG = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
MAX2 = "pool: MAX kernel_size: 2 stride: 2"


def vgg(net: Builder, bottom: str, *, last_pool: str = MAX2) -> dict[str, str]:
    """The convolutions of VGG16; returns the top of each stage before its pooling."""
    stages = {}
    for stage, (convolutions, width) in enumerate(VGG, start=1):
        for number in range(1, convolutions + 1):
            bottom = net.conv(f"conv{stage}_{number}", bottom, width, 3, pad=1)
        stages[f"conv{stage}"] = bottom
        body = MAX2 if stage < len(VGG) else last_pool
        bottom = net.pool(f"pool{stage}", bottom, body) if body else bottom
    stages["last"] = bottom
    return stages


#: SSD-300: a map's top, its boxes by position, its settings of priors.
SSD_MAPS = (
    ("conv4_3_norm", 4, "min_size: 30 max_size: 60 aspect_ratio: 2"),
    ("fc7", 6, "min_size: 60 max_size: 111 aspect_ratio: 2 aspect_ratio: 3"),
    ("conv6_2", 6, "min_size: 111 max_size: 162 aspect_ratio: 2 aspect_ratio: 3"),
    ("conv7_2", 6, "min_size: 162 max_size: 213 aspect_ratio: 2 aspect_ratio: 3"),
    ("conv8_2", 4, "min_size: 213 max_size: 264 aspect_ratio: 2"),
    ("conv9_2", 4, "min_size: 264 max_size: 315 aspect_ratio: 2"),
)


def ssd300(batch: int = 32, classes: int = 21) -> str:
    """SSD-300 on VGG16 (Liu et al. 2016): 8732 boxes an image."""
    net = Builder("SSD-300")
    size = "resize_param { height: 300 width: 300 }"
    for phase, number in (("TRAIN", batch), ("TEST", 8)):
        net.text += layer(
            "data", "AnnotatedData", [], ["data", "label"],
            f"include {{ phase: {phase} }} transform_param {{ mirror: true {size} "
            f"distort_param {{ hue_prob: 0.5 }} emit_constraint {{ emit_type: CENTER }} }} "
            f'data_param {{ source: "lmdb" batch_size: {number} backend: LMDB }} '
            f'annotated_data_param {{ label_map_file: "labels" '
            f"batch_sampler {{ max_sample: 1 sampler {{ min_scale: 0.3 }} }} }}",
        )  # fmt: skip
    stages = vgg(net, "data", last_pool="pool: MAX kernel_size: 3 stride: 1 pad: 1")
    net.add(
        "conv4_3_norm", "Normalize", [stages["conv4"]],
        "norm_param { across_spatial: false channel_shared: false "
        "scale_filler { type: \"constant\" value: 20 } }",
    )  # fmt: skip
    top = net.conv("fc6", stages["last"], 1024, 3, pad=6, dilation=6)
    top = net.conv("fc7", top, 1024, 1)
    for number, (narrow, wide, stride, pad) in enumerate(
        ((256, 512, 2, 1), (128, 256, 2, 1), (128, 256, 1, 0), (128, 256, 1, 0)), start=6
    ):
        top = net.conv(f"conv{number}_1", top, narrow, 1)
        top = net.conv(f"conv{number}_2", top, wide, 3, stride=stride, pad=pad)
    for name, boxes, priors in SSD_MAPS:
        for what, numbers in (("loc", 4), ("conf", classes)):
            head = f"{name}_{what}"
            net.conv(head, name, boxes * numbers, 3, pad=1, relu=False)
            order = "permute_param { order: 0 order: 2 order: 3 order: 1 }"
            net.add(f"{head}_perm", "Permute", [head], order)
            net.add(f"{head}_flat", "Flatten", [f"{head}_perm"])
        net.add(
            f"{name}_priors", "PriorBox", [name, "data"],
            f"prior_box_param {{ {priors} clip: false variance: 0.1 variance: 0.1 variance: 0.2 "
            "variance: 0.2 }",
        )  # fmt: skip
    for what, end in (("loc", "_flat"), ("conf", "_flat"), ("priors", "")):
        axis = "concat_param { axis: 2 }" if what == "priors" else ""
        net.add(f"mbox_{what}", "Concat", [f"{name}_{what}{end}" for name, *_ in SSD_MAPS], axis)
    net.add(
        "mbox_loss", "MultiBoxLoss", ["mbox_loc", "mbox_conf", "mbox_priors", "label"],
        "include { phase: TRAIN } propagate_down: true propagate_down: true propagate_down: false "
        "propagate_down: false loss_param { normalization: VALID } multibox_loss_param { "
        f"num_classes: {classes} code_type: CENTER_SIZE neg_pos_ratio: 3 }}",
    )  # fmt: skip
    test = "include { phase: TEST }"
    net.add("reshaped", "Reshape", ["mbox_conf"],
            f"{test} reshape_param {{ shape {{ dim: 0 dim: -1 dim: {classes} }} }}")  # fmt: skip
    net.add("softmax", "Softmax", ["reshaped"], f"{test} softmax_param {{ axis: 2 }}")
    net.add("flat", "Flatten", ["softmax"], test)
    net.add("detections", "DetectionOutput", ["mbox_loc", "flat", "mbox_priors"],
            f"{test} detection_output_param {{ num_classes: {classes} keep_top_k: 200 "
            "nms_param { nms_threshold: 0.45 top_k: 400 } code_type: CENTER_SIZE "
            "confidence_threshold: 0.01 }")  # fmt: skip
    net.add("score", "DetectionEvaluate", ["detections", "label"],
            f"{test} detection_evaluate_param {{ num_classes: {classes} "
            "evaluate_difficult_gt: false }")  # fmt: skip
    return net.text


def python(name: str, bottoms: Sequence[str], tops: Sequence[str], module: str, kind: str) -> str:
    """A Python layer."""
    return layer(
        name, "Python", bottoms, tops,
        f'python_param {{ module: "{module}" layer: "{kind}" param_str: "\'num_classes\': 21" }}',
    )  # fmt: skip


def region_proposals(net: Builder, top: str) -> None:
    """Faster R-CNN's network of proposals on a feature map, with its losses."""
    net.conv("rpn", top, 512, 3, pad=1)
    net.conv("rpn_score", "rpn", 18, 1, relu=False)
    net.conv("rpn_box", "rpn", 36, 1, relu=False)
    net.add("rpn_pairs", "Reshape", ["rpn_score"],
            "reshape_param { shape { dim: 0 dim: 2 dim: -1 dim: 0 } }")  # fmt: skip
    targets = ["rpn_labels", "rpn_targets", "rpn_inside", "rpn_outside"]
    net.text += python("rpn_data", ["rpn_score", "gt_boxes", "im_info", "data"], targets,
                       "rpn.anchor_target_layer", "AnchorTargetLayer")  # fmt: skip
    net.add("rpn_loss_cls", "SoftmaxWithLoss", ["rpn_pairs", "rpn_labels"],
            "propagate_down: true propagate_down: false loss_weight: 1 "
            "loss_param { ignore_label: -1 normalize: true }")  # fmt: skip
    net.add("rpn_loss_box", "SmoothL1Loss", ["rpn_box", *targets[1:]],
            "loss_weight: 1 smooth_l1_loss_param { sigma: 3 }")  # fmt: skip


def detector(net: Builder, top: str, weights: Sequence[str]) -> None:
    """Fast R-CNN's classifier of regions, with its losses."""
    net.add("pool_rois", "ROIPooling", [top, "rois"],
            "roi_pooling_param { pooled_h: 7 pooled_w: 7 spatial_scale: 0.0625 }")  # fmt: skip
    bottom = "pool_rois"
    for name in ("fc6", "fc7"):
        net.add(name, "InnerProduct", [bottom], "inner_product_param { num_output: 4096 }")
        net.in_place(f"{name}_relu", "ReLU", name)
        bottom = net.in_place(f"{name}_drop", "Dropout", name)
    net.add("cls_score", "InnerProduct", [bottom], "inner_product_param { num_output: 21 }")
    net.add("bbox_pred", "InnerProduct", [bottom], "inner_product_param { num_output: 84 }")
    net.add("loss_cls", "SoftmaxWithLoss", ["cls_score", "labels"],
            "propagate_down: true propagate_down: false")  # fmt: skip
    net.add("loss_box", "SmoothL1Loss", ["bbox_pred", "targets", *weights], "loss_weight: 1")


def faster_rcnn() -> str:
    """Faster R-CNN on VGG16, trained end to end (Ren et al. 2015)."""
    net = Builder("Faster R-CNN, end to end")
    net.text += python("input", [], ["data", "im_info", "gt_boxes"], "roi_data_layer.layer",
                       "RoIDataLayer")  # fmt: skip
    top = vgg(net, "data", last_pool="")["conv5"]
    region_proposals(net, top)
    net.add("rpn_prob", "Softmax", ["rpn_pairs"])
    net.add("rpn_probs", "Reshape", ["rpn_prob"],
            "reshape_param { shape { dim: 0 dim: 18 dim: -1 dim: 0 } }")  # fmt: skip
    net.text += python("proposal", ["rpn_probs", "rpn_box", "im_info"], ["rpn_rois"],
                       "rpn.proposal_layer", "ProposalLayer")  # fmt: skip
    net.text += python("roi_data", ["rpn_rois", "gt_boxes"],
                       ["rois", "labels", "targets", "inside", "outside"],
                       "rpn.proposal_target_layer", "ProposalTargetLayer")  # fmt: skip
    detector(net, top, ["inside", "outside"])
    return net.text


#: What Faster R-CNN's Python layers make for an image of 600 x 1000 with up to 20 objects.
FASTER_RCNN_SHAPES = {
    "data": "Nx3x600x1000", "im_info": "1x3", "gt_boxes": "20x4",
    "rpn_labels": "1x1x342x63", "rpn_targets": "1x36x38x63", "rpn_inside": "1x36x38x63",
    "rpn_outside": "1x36x38x63", "rpn_rois": "2000x5",
    "rois": "128x5", "labels": "128x1", "targets": "128x84", "inside": "128x84",
    "outside": "128x84",
}  # fmt: skip


def proposals_alone() -> str:
    """The first step of Faster R-CNN's alternating training: the proposals."""
    net = Builder("Faster R-CNN, proposals")
    net.text += python("input", [], ["data", "im_info", "gt_boxes"], "roi_data_layer.layer",
                       "RoIDataLayer")  # fmt: skip
    region_proposals(net, vgg(net, "data", last_pool="")["conv5"])
    return net.text


def detector_alone() -> str:
    """The second step: Fast R-CNN on fixed proposals, two images with 64 regions each."""
    net = Builder("Faster R-CNN, detector")
    tops = ["data", "rois", "labels", "targets", "inside", "outside"]
    net.text += python("input", [], tops, "roi_data_layer.layer", "RoIDataLayer")
    detector(net, vgg(net, "data", last_pool="")["conv5"], ["inside", "outside"])
    return net.text


DETECTOR_SHAPES = {
    "data": "Nx3x600x1000", "rois": "128x5", "labels": "128", "targets": "128x84",
    "inside": "128x84", "outside": "128x84",
}  # fmt: skip


def fcn8s() -> str:
    """FCN-8s on VGG16 (Long et al. 2015): one image at a time, from a Python layer."""
    net = Builder("FCN-8s")
    net.text += layer(
        "data", "Python", [], ["data", "label"],
        'python_param { module: "voc_layers" layer: "VOCSegDataLayer" param_str: "{}" }',
    )  # fmt: skip
    bottom = "data"
    pools = {}
    for stage, (convolutions, width) in enumerate(VGG, start=1):
        for number in range(1, convolutions + 1):
            pad = 100 if (stage, number) == (1, 1) else 1
            bottom = net.conv(f"conv{stage}_{number}", bottom, width, 3, pad=pad)
        bottom = pools[stage] = net.pool(f"pool{stage}", bottom, MAX2)
    bottom = net.conv("fc6", bottom, 4096, 7)
    bottom = net.in_place("drop6", "Dropout", bottom)
    bottom = net.conv("fc7", bottom, 4096, 1)
    bottom = net.in_place("drop7", "Dropout", bottom)
    score = net.conv("score", bottom, 21, 1, relu=False)
    for stage, offset in ((4, 5), (3, 9)):
        up = net.add(f"up{stage}", "Deconvolution", [score],
                     "param { lr_mult: 0 } convolution_param { num_output: 21 bias_term: false "
                     "kernel_size: 4 stride: 2 }")  # fmt: skip
        skip = net.conv(f"score_pool{stage}", pools[stage], 21, 1, relu=False)
        net.add(f"crop{stage}", "Crop", [skip, up], f"crop_param {{ axis: 2 offset: {offset} }}")
        score = net.add(f"fuse{stage}", "Eltwise", [up, f"crop{stage}"])
    net.add("up8", "Deconvolution", [score],
            "param { lr_mult: 0 } convolution_param { num_output: 21 bias_term: false "
            "kernel_size: 16 stride: 8 }")  # fmt: skip
    net.add("crop", "Crop", ["up8", "data"], "crop_param { axis: 2 offset: 31 }")
    net.add("loss", "SoftmaxWithLoss", ["crop", "label"],
            "loss_param { ignore_label: 255 normalize: false }")  # fmt: skip
    return net.text


def pspnet50(batch: int = 16, size: int = 473, classes: int = 21) -> str:
    """PSPNet on ResNet-50 (Zhao et al. 2017), with its second loss."""
    net = Builder("PSPNet-50")
    net.text += layer(
        "data", "ImageSegData", [], ["data", "label"],
        f"transform_param {{ mirror: true crop_size: {size} scale_factors: 0.5 }} "
        f'image_data_param {{ source: "list" batch_size: {batch} label_type: PIXEL }}',
    )  # fmt: skip

    def normalised(name: str, bottom: str, outputs: int, kernel: int, **more: int) -> str:
        net.plain(name, bottom, outputs, kernel, **more)
        rates = " ".join(f"param {{ lr_mult: {rate} }}" for rate in (1, 1, 0, 0))
        return net.in_place(
            f"{name}_bn", "BN", name,
            f'{rates} bn_param {{ slope_filler {{ type: "constant" value: 1 }} '
            'bias_filler { type: "constant" value: 0 } momentum: 0.95 }',
        )  # fmt: skip

    top = "data"
    for number, (width, stride) in enumerate(((64, 2), (64, 1), (128, 1)), start=1):
        top = normalised(f"conv1_{number}", top, width, 3, stride=stride, pad=1)
        net.in_place(f"relu1_{number}", "ReLU", top)
    top = net.pool("pool1", top, "pool: MAX kernel_size: 3 stride: 2 pad: 1")
    auxiliary = top
    for stage, (blocks, width, stride, hole) in enumerate(
        ((3, 64, 1, 1), (4, 128, 2, 1), (6, 256, 1, 2), (3, 512, 1, 4)), start=2
    ):
        for block in range(1, blocks + 1):
            name, step = f"conv{stage}_{block}", stride if block == 1 else 1
            inner = normalised(f"{name}_reduce", top, width, 1, stride=step)
            net.in_place(f"{name}_relu1", "ReLU", inner)
            inner = normalised(f"{name}_3x3", inner, width, 3, pad=hole, dilation=hole)
            net.in_place(f"{name}_relu2", "ReLU", inner)
            inner = normalised(f"{name}_increase", inner, 4 * width, 1)
            if block == 1:
                top = normalised(f"{name}_proj", top, 4 * width, 1, stride=step)
            top = net.add(name, "Eltwise", [top, inner])
            net.in_place(f"{name}_relu", "ReLU", top)
        auxiliary = top if stage == 4 else auxiliary
    side = (size - 1) // 8 + 1
    levels = [top]
    for bins in (1, 2, 3, 6):
        kernel = side // bins
        pooled = net.pool(f"pool5_{bins}", top, f"pool: AVE kernel_size: {kernel} stride: {kernel}")
        pooled = normalised(f"bin{bins}", pooled, 512, 1)
        net.in_place(f"bin{bins}_relu", "ReLU", pooled)
        levels.append(
            net.add(f"up5_{bins}", "Interp", [pooled],
                    f"interp_param {{ height: {side} width: {side} }}")
        )  # fmt: skip
    top = net.add("pyramid", "Concat", levels)
    for name, bottom, width, weight in (("main", top, 512, 1.0), ("second", auxiliary, 256, 0.4)):
        inner = normalised(f"{name}_conv", bottom, width, 3, pad=1)
        net.in_place(f"{name}_relu", "ReLU", inner)
        net.in_place(f"{name}_drop", "Dropout", inner)
        score = net.conv(f"{name}_score", inner, classes, 1, relu=False)
        net.add(f"{name}_up", "Interp", [score], "interp_param { zoom_factor: 8 }")
        net.add(f"{name}_loss", "SoftmaxWithLoss", [f"{name}_up", "label"],
                f"loss_weight: {weight} loss_param {{ ignore_label: 255 }}")  # fmt: skip
    net.add("score", "SegAccuracy", ["main_up", "label"],
            "propagate_down: false propagate_down: false "
            "seg_accuracy_param { ignore_label: 255 }")  # fmt: skip
    return net.text


def segnet(batch: int = 4) -> str:
    """SegNet on VGG16 (Badrinarayanan et al. 2017), for images of 360 x 480."""
    net = Builder("SegNet")
    net.text += layer(
        "data", "DenseImageData", [], ["data", "label"],
        f'dense_image_data_param {{ source: "list" batch_size: {batch} shuffle: true '
        "new_height: 360 new_width: 480 }",
    )  # fmt: skip

    def block(name: str, bottom: str, width: int) -> str:
        top = net.conv(name, bottom, width, 3, pad=1, relu=False)
        net.in_place(f"{name}_bn", "BN", top,
                     'bn_param { scale_filler { type: "constant" value: 1 } '
                     'shift_filler { type: "constant" value: 0.001 } }')  # fmt: skip
        return net.in_place(f"{name}_relu", "ReLU", top)

    top = "data"
    for stage, (convolutions, width) in enumerate(VGG, start=1):
        for number in range(1, convolutions + 1):
            top = block(f"conv{stage}_{number}", top, width)
        top = net.pool(f"pool{stage}", top, MAX2, tops=2)
    # Rows of the maps before each pooling: 360, 180, 90, 45, 23 (of 30 columns).
    sizes = {5: "upsample_h: 23 upsample_w: 30", 4: "upsample_h: 45 upsample_w: 60"}
    for stage in range(5, 0, -1):
        convolutions, width = VGG[stage - 1]
        below = VGG[stage - 2][1] if stage > 1 else 64
        top = net.add(f"up{stage}", "Upsample", [top, f"pool{stage}_1"],
                      f"upsample_param {{ {sizes.get(stage, 'scale: 2')} }}")  # fmt: skip
        for number in range(convolutions, 1 if stage == 1 else 0, -1):
            top = block(f"back{stage}_{number}", top, width if number > 1 else below)
    net.conv("score", top, 11, 3, pad=1, relu=False)
    weights = " ".join(f"class_weighting: {1 + number / 8}" for number in range(11))
    net.add("loss", "SoftmaxWithLoss", ["score", "label"],
            "softmax_param { engine: CAFFE } loss_param { weight_by_label_freqs: true "
            f"ignore_label: 11 {weights} }}")  # fmt: skip
    net.add("accuracy", "Accuracy", ["score", "label"], "include { phase: TEST }")
    return net.text


def enet(batch: int = 4) -> str:
    """ENet (Paszke et al. 2016), its encoder and decoder, for images of 512 x 1024."""
    net = Builder("ENet")
    net.text += layer(
        "data", "DenseImageData", [], ["data", "label"],
        f'dense_image_data_param {{ source: "list" batch_size: {batch} new_height: 512 '
        "new_width: 1024 }",
    )  # fmt: skip

    def normalised(name: str, bottom: str, width: int, kernel: int = 1, **more: int) -> str:
        top = net.plain(name, bottom, width, kernel, **more)
        net.in_place(f"{name}_bn", "BN", top,
                     'bn_param { scale_filler { type: "constant" value: 1 } }')  # fmt: skip
        return net.in_place(f"{name}_prelu", "PReLU", top)

    def bottleneck(name: str, bottom: str, width: int, hole: int = 1, *, main: str = "") -> str:
        inner = normalised(f"{name}_in", bottom, width // 4)
        inner = normalised(f"{name}_mid", inner, width // 4, 3, pad=hole, dilation=hole)
        inner = net.plain(f"{name}_out", inner, width, 1)
        net.in_place(f"{name}_drop", "Dropout", inner, "dropout_param { dropout_ratio: 0.1 }")
        top = net.add(name, "Eltwise", [main or bottom, inner])
        return net.in_place(f"{name}_prelu", "PReLU", top)

    def down(name: str, bottom: str, width: int) -> str:
        pooled = net.pool(f"{name}_pool", bottom, MAX2, tops=2)
        wide = net.plain(f"{name}_wide", pooled, width, 1)
        inner = normalised(f"{name}_in", bottom, width // 4, 2, stride=2)
        inner = normalised(f"{name}_mid", inner, width // 4, 3, pad=1)
        inner = net.plain(f"{name}_out", inner, width, 1)
        net.add(name, "Eltwise", [wide, inner])
        return net.in_place(f"{name}_prelu", "PReLU", name)

    def up(name: str, bottom: str, width: int, mask: str) -> str:
        main = net.plain(f"{name}_main", bottom, width, 1)
        main = net.add(f"{name}_unpool", "Upsample", [main, mask], "upsample_param { scale: 2 }")
        inner = normalised(f"{name}_in", bottom, width // 4)
        inner = net.add(f"{name}_deconv", "Deconvolution", [inner],
                        f"convolution_param {{ num_output: {width // 4} kernel_size: 2 "
                        "stride: 2 }")  # fmt: skip
        inner = net.plain(f"{name}_out", inner, width, 1)
        net.add(name, "Eltwise", [main, inner])
        return net.in_place(f"{name}_prelu", "PReLU", name)

    start = normalised("initial", "data", 13, 3, stride=2, pad=1)
    pooled = net.pool("initial_pool", "data", MAX2)
    top = net.add("start", "Concat", [start, pooled])
    top = down("down1", top, 64)
    for number in range(1, 5):
        top = bottleneck(f"block1_{number}", top, 64)
    top = down("down2", top, 128)
    for stage in (2, 3):
        for number, hole in enumerate((1, 2, 4, 8, 16), start=1):
            top = bottleneck(f"block{stage}_{number}", top, 128, hole)
    top = up("up4", top, 64, "down2_pool_1")
    top = bottleneck("block4_1", top, 64)
    top = up("up5", top, 16, "down1_pool_1")
    top = bottleneck("block5_1", top, 16)
    net.add("score", "Deconvolution", [top],
            "convolution_param { num_output: 19 kernel_size: 2 stride: 2 }")  # fmt: skip
    net.add("loss", "SoftmaxWithLoss", ["score", "label"], "loss_param { ignore_label: 255 }")
    return net.text


def data(batch: int) -> str:
    """ImageNet's crops of 224 x 224."""
    return layer(
        "data", "Data", [], ["data", "label"],
        f'transform_param {{ crop_size: 224 }} data_param {{ source: "lmdb" batch_size: {batch} '
        "backend: LMDB }",
    )  # fmt: skip


def classifier(net: Builder, bottom: str) -> str:
    """A global mean, a thousand classes, and a loss."""
    pooled = net.pool("pool", bottom, "pool: AVE global_pooling: true")
    net.add("fc", "InnerProduct", [pooled], "inner_product_param { num_output: 1000 }")
    net.add("loss", "SoftmaxWithLoss", ["fc", "label"])
    return net.text


#: MobileNet-v2: expansion, width, repetitions and stride of each group.
MOBILENET = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip


def mobilenet_v2(batch: int = 64, kind: str = "ConvolutionDepthwise") -> str:
    """MobileNet-v2 (Sandler et al. 2018), with ReLU6 and depthwise convolutions of either kind."""
    net = Builder("MobileNet-v2")
    net.text += data(batch)

    def normalised(name: str, bottom: str, width: int, kernel: int = 1, **more: int) -> str:
        net.scaled(net.plain(name, bottom, width, kernel, **more))
        return name

    top, width_in = normalised("conv1", "data", 32, 3, stride=2, pad=1), 32
    net.in_place("conv1_relu", "ReLU6", top)
    for group, (expansion, width, repeats, stride) in enumerate(MOBILENET):
        for number in range(repeats):
            name, wide = f"block{group}_{number}", width_in * expansion
            inner = top
            if expansion > 1:
                inner = normalised(f"{name}_expand", inner, wide)
                net.in_place(f"{name}_relu1", "ReLU6", inner)
            step = stride if number == 0 else 1
            groups = f"group: {wide}" if kind == "DepthwiseConvolution" else ""
            inner = net.add(
                f"{name}_dw", kind, [inner],
                f"convolution_param {{ num_output: {wide} {groups} bias_term: false "
                f"kernel_size: 3 pad: 1 stride: {step} }}",
            )  # fmt: skip
            net.scaled(inner)
            net.in_place(f"{name}_relu2", "ReLU6", inner)
            inner = normalised(f"{name}_project", inner, width)
            same = step == 1 and width_in == width
            top = net.add(name, "Eltwise", [top, inner]) if same else inner
            width_in = width
    top = normalised("last", top, 1280)
    net.in_place("last_relu", "ReLU6", top)
    return classifier(net, top)


def shufflenet(batch: int = 64, groups: int = 3) -> str:
    """ShuffleNet 1x with 3 groups (Zhang et al. 2018)."""
    net = Builder("ShuffleNet")
    net.text += data(batch)
    net.scaled(net.plain("conv1", "data", 24, 3, stride=2, pad=1))
    top = net.pool(
        "pool1", net.in_place("relu1", "ReLU", "conv1"), "pool: MAX kernel_size: 3 stride: 2"
    )
    width_in = 24
    for stage, (width, blocks) in enumerate(((240, 4), (480, 8), (960, 4)), start=2):
        for block in range(1, blocks + 1):
            name, step = f"stage{stage}_{block}", 2 if block == 1 else 1
            wide = width - width_in if step == 2 else width
            first = 1 if (stage, block) == (2, 1) else groups
            inner = net.plain(f"{name}_in", top, width // 4, 1, group=first)
            net.scaled(inner)
            net.in_place(f"{name}_relu1", "ReLU", inner)
            inner = net.add(f"{name}_shuffle", "ShuffleChannel", [inner],
                            f"shuffle_channel_param {{ group: {groups} }}")  # fmt: skip
            inner = net.add(
                f"{name}_dw", "ConvolutionDepthwise", [inner],
                f"convolution_param {{ num_output: {width // 4} bias_term: false kernel_size: 3 "
                f"pad: 1 stride: {step} }}",
            )  # fmt: skip
            net.scaled(inner)
            inner = net.plain(f"{name}_out", inner, wide, 1, group=groups)
            net.scaled(inner)
            if step == 2:
                main = net.pool(f"{name}_pool", top, "pool: AVE kernel_size: 3 stride: 2")
                top = net.add(name, "Concat", [main, inner])
            else:
                top = net.add(name, "Eltwise", [top, inner])
            net.in_place(f"{name}_relu2", "ReLU", top)
        width_in = width
    return classifier(net, top)


def se_resnet50(batch: int = 32) -> str:
    """SE-ResNet-50 (Hu et al. 2018)."""
    net = Builder("SE-ResNet-50")
    net.text += data(batch)
    net.scaled(net.plain("conv1", "data", 64, 7, stride=2, pad=3))
    top = net.pool(
        "pool1", net.in_place("relu1", "ReLU", "conv1"), "pool: MAX kernel_size: 3 stride: 2"
    )
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=2):
        for block in range(1, blocks + 1):
            name, step = f"conv{stage}_{block}", 2 if block == 1 and stage > 2 else 1
            inner = top
            for part, (outputs, kernel, more) in enumerate(
                ((width, 1, {"stride": step}), (width, 3, {"pad": 1}), (4 * width, 1, {})), start=1
            ):
                inner = net.plain(f"{name}_{part}", inner, outputs, kernel, **more)
                net.scaled(inner)
                if part < 3:
                    net.in_place(f"{name}_relu{part}", "ReLU", inner)
            squeezed = net.pool(f"{name}_mean", inner, "pool: AVE global_pooling: true")
            squeezed = net.conv(f"{name}_down", squeezed, width // 4, 1)
            squeezed = net.conv(f"{name}_up", squeezed, 4 * width, 1, relu=False)
            net.in_place(f"{name}_gate", "Sigmoid", squeezed)
            if block == 1:
                top = net.plain(f"{name}_proj", top, 4 * width, 1, stride=step)
                net.scaled(top)
            top = net.add(name, "Axpy", [squeezed, inner, top])
            net.in_place(f"{name}_relu", "ReLU", top)
    return classifier(net, top)
