"""The fields of caffe.proto that Caffe 1.0 lacks, in messages that it has, and who has them.

What is in a fork's own message belongs to the forks of the field that holds the message; where two
forks fill one message differently, its fields are listed too.
"""

from __future__ import annotations

from functools import cache

from caffe_batch.schema import caffe_pb2

_SSD = ("ssd", "nvcaffe")
_SEGMENTATION = ("deeplab", "pspnet")

#: "Message.field": the forks, by the names of ``--fork``; none for forks that it doesn't name.
FORK_FIELDS: dict[str, tuple[str, ...]] = {
    "V1LayerParameter.interp_param": _SEGMENTATION,
    "V1LayerParameter.seg_accuracy_param": _SEGMENTATION,
    "SolverParameter.eval_type": _SSD,
    "SolverParameter.ap_version": _SSD,
    "SolverParameter.plateau_winsize": _SSD,
    "SolverParameter.show_per_class_result": _SSD,
    "LayerParameter.annotated_data_param": _SSD,
    "LayerParameter.bn_param": ("segnet", "pspnet"),
    "LayerParameter.box_annotator_ohem_param": ("rcnn",),
    "LayerParameter.continuation_indicator_param": (),
    "LayerParameter.cpmdata_param": (),
    "LayerParameter.cpm_transform_param": (),
    "LayerParameter.ctc_loss_param": (),
    "LayerParameter.convolution3d_param": ("c3d",),
    "LayerParameter.pooling3d_param": ("c3d",),
    "LayerParameter.margin_inner_product_param": (),
    "LayerParameter.center_loss_param": (),
    "LayerParameter.spatial_dropout_param": (),
    "LayerParameter.dense_image_data_param": ("segnet",),
    "LayerParameter.detection_evaluate_param": _SSD,
    "LayerParameter.detection_output_param": _SSD,
    "LayerParameter.flip_param": (),
    "LayerParameter.insanity_param": (),
    "LayerParameter.interp_param": _SEGMENTATION,
    "LayerParameter.l2_normalization_param": (),
    "LayerParameter.labelsequence_accuracy_param": (),
    "LayerParameter.multibox_loss_param": _SSD,
    "LayerParameter.norm_param": _SSD,
    "LayerParameter.normalize_param": (),
    "LayerParameter.permute_param": _SSD,
    "LayerParameter.prior_box_param": _SSD,
    "LayerParameter.psroi_pooling_param": ("rcnn",),
    "LayerParameter.roi_pooling_param": ("rcnn",),
    "LayerParameter.rrelu_param": (),
    "LayerParameter.seg_accuracy_param": _SEGMENTATION,
    "LayerParameter.selu_param": (),
    "LayerParameter.shuffle_channel_param": (),
    "LayerParameter.smooth_l1_loss_param": ("rcnn",),
    "LayerParameter.upsample_param": ("segnet",),
    "LayerParameter.video_data_param": (*_SSD, "c3d"),
    "TransformationParameter.resize_param": _SSD,
    "TransformationParameter.noise_param": _SSD,
    "TransformationParameter.emit_constraint": _SSD,
    "TransformationParameter.crop_h": _SSD,
    "TransformationParameter.crop_w": _SSD,
    "TransformationParameter.distort_param": _SSD,
    "TransformationParameter.expand_param": _SSD,
    "TransformationParameter.scale_factors": _SEGMENTATION,
    "TransformationParameter.crop_width": _SEGMENTATION,
    "TransformationParameter.crop_height": _SEGMENTATION,
    **dict.fromkeys(
        [
            f"TransformationParameter.{name}"
            for name in (
                "stride", "crop_size_x", "crop_size_y", "num_parts", "put_gaussian",
                "max_rotate_degree", "visualize", "scale_prob", "scale_min", "scale_max",
                "bbox_norm_factor", "img_header", "target_dist", "center_perterb_max", "sigma",
                "sigma_center", "clahe_tile_size", "clahe_clip_limit", "do_clahe",
                "num_total_augs", "aug_way", "flip_prob", "gray", "np_in_lmdb",
                "transform_body_joint", "visualize_label", "fix_crop", "more_fix_crop",
                "multi_scale", "scale_ratios", "max_distort", "is_flow",
            )
        ],
        (),
    ),
    "LossParameter.class_weighting": ("segnet",),
    "LossParameter.weight_by_label_freqs": ("segnet",),
    "LossParameter.pre_fixed_normalizer": ("rcnn",),
    "BatchNormParameter.update_global_stats": _SEGMENTATION,
    "BatchNormParameter.scale_bias": ("nvcaffe",),
    "BatchNormParameter.scale_filler": ("nvcaffe",),
    "BatchNormParameter.bias_filler": ("nvcaffe",),
    **{f"ConvolutionParameter.{name}": ("deeplab",) for name in ("hole", "hole_h", "hole_w")},
    "ConvolutionParameter.dilation_h": (),
    "ConvolutionParameter.dilation_w": (),
    "DropoutParameter.scale_train": ("rcnn",),
    "DropoutParameter.sample_weights_test": ("segnet",),
    "ImageDataParameter.ignore_label": _SEGMENTATION,
    "ImageDataParameter.label_type": _SEGMENTATION,
    "ImageDataParameter.label_divide_factor": ("segnet",),
    "PoolingParameter.ceil_mode": (),
    "PoolingParameter.kernel_depth": ("c3d",),
    "PoolingParameter.temporal_stride": ("c3d",),
    **{
        f"ConvolutionParameter.{name}": ("c3d",)
        for name in ("kernel_depth", "temporal_stride", "temporal_pad", "filter_group")
    },
    **{
        f"ImageDataParameter.{name}": ("c3d",)
        for name in (
            "new_length", "show_data", "use_image", "sampling_rate", "use_label",
            "use_temporal_jitter", "mean_value", "num_truth_channels", "use_byte_input",
            "is_flow", "truth_scale",
        )
    },
    # Messages that two forks fill differently.
    **{
        f"VideoDataParameter.{name}": _SSD
        for name in ("video_type", "device_id", "video_file", "skip_frames")
    },
    **{
        f"VideoDataParameter.{name}": ("c3d",)
        for name in (
            "root_folder", "show_data", "use_image", "use_temporal_jitter", "sampling_rate",
            "max_sampling_rate", "use_sampling_rate_jitter", "use_multiple_label",
            "num_of_labels", "is_color",
        )
    },
    "BNParameter.slope_filler": ("pspnet",),
    "BNParameter.bias_filler": ("pspnet",),
    "BNParameter.momentum": ("pspnet",),
    "BNParameter.eps": ("pspnet",),
    "BNParameter.frozen": ("pspnet",),
    "BNParameter.engine": ("pspnet",),
    "BNParameter.scale_filler": ("segnet",),
    "BNParameter.shift_filler": ("segnet",),
    "BNParameter.bn_mode": ("segnet",),
}  # fmt: skip


@cache
def fork_messages() -> frozenset[str]:
    """The messages that Caffe 1.0 lacks: those that only fields of forks lead to."""
    every = caffe_pb2.DESCRIPTOR.message_types_by_name
    reached, ahead = (
        set[str](),
        ["NetParameter", "SolverParameter", "SolverState", "Datum", "BlobProtoVector"],
    )
    while ahead:
        name = ahead.pop()
        if name in reached:
            continue
        reached.add(name)
        ahead += [
            field.message_type.name
            for field in every[name].fields
            if field.message_type is not None and f"{name}.{field.name}" not in FORK_FIELDS
        ]
    return frozenset(every) - reached
