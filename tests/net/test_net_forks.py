"""Which fork a net is written for: by its types and fields, or as the user says."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_batch import prototxt
from caffe_batch.errors import CaffeBatchError
from caffe_batch.layers.forks import FORKS
from caffe_batch.layers.forks.bn import BN, SegNetBN
from caffe_batch.layers.forks.smooth_l1_loss import SmoothL1Loss, WeightedSmoothL1Loss
from caffe_batch.layers.loading import rules_with
from caffe_batch.net.forks import ForkChoice, choose_fork
from caffe_batch.net.reading import read_recipe
from caffe_batch.schema import caffe_pb2
from caffe_batch.schema.fork_fields import FORK_FIELDS


def net(*layers: str) -> caffe_pb2.NetParameter:
    return prototxt.parse_net("\n".join(f"layer {{ {each} }}" for each in layers))


@pytest.mark.parametrize(
    ("layers", "fork"),
    [
        (['type: "Permute"', 'type: "SmoothL1Loss"'], "ssd"),
        (['type: "ROIPooling"', 'type: "SmoothL1Loss"'], "rcnn"),
        (['type: "SmoothL1Loss" smooth_l1_loss_param { sigma: 3 }'], "rcnn"),
        (['type: "Interp"'], "deeplab"),
        (['type: "Interp"', 'type: "BN"'], "pspnet"),
        (['type: "BN"', 'type: "Upsample"'], "segnet"),
        (['type: "BN" bn_param { bn_mode: INFERENCE }'], "segnet"),
        (['type: "BN" bn_param { frozen: true }'], "pspnet"),
        (['type: "BatchNorm" batch_norm_param { scale_bias: true }'], "nvcaffe"),
        (['type: "Data" transform_param { resize_param { height: 3 } }'], "ssd"),
        (['type: "Axpy"'], None),
    ],
)
def test_the_types_and_fields_of_a_net_say_which_fork_it_is_for(
    layers: list[str], fork: str | None
) -> None:
    choice = choose_fork([net(*layers)], None)
    assert choice is not None
    assert (choice.name, choice.given) == (fork, False)
    assert choice.evidence
    assert all(each in choice.sentence for each in choice.evidence)
    assert ("--fork" in choice.sentence) == (fork is not None)


def test_a_net_of_caffe_1_is_of_no_fork() -> None:
    plain = net('type: "Data" data_param { batch_size: 3 }', 'type: "ReLU"')
    assert choose_fork([plain], None) is None


def test_the_user_has_the_last_word() -> None:
    choice = choose_fork([net('type: "Permute"')], "rcnn")
    assert choice == ForkChoice("rcnn", given=True, evidence=("Permute",), foreign=("Permute",))
    assert choice.json() == {"name": "rcnn", "given": True, "evidence": ["Permute"]}
    assert choose_fork([net('type: "ReLU"')], "ssd") == ForkChoice("ssd", given=True, evidence=())


@pytest.mark.parametrize(
    ("kinds", "given", "added"),
    [
        (("AnnotatedData", "PriorBox"), None, ""),
        (("AnnotatedData", "DepthwiseConvolution", "Axpy"), None, "DepthwiseConvolution, Axpy"),
        (("BN", "Interp"), "segnet", "Interp"),
    ],
)
def test_what_the_fork_lacks_is_said(kinds: list[str], given: str | None, added: str) -> None:
    """MobileNet-SSD's layers aren't all in the SSD fork: that Caffe alone can't train it."""
    choice = choose_fork([net(*(f'type: "{kind}"' for kind in kinds))], given)
    assert choice is not None
    end = f"must be that fork with {added} added to it" if added else "must be that fork"
    assert choice.sentence.endswith(end)


def test_a_long_list_of_evidence_is_cut_short() -> None:
    kinds = ("Permute", "PriorBox", "Normalize", "MultiBoxLoss", "DetectionOutput", "AnnotatedData")
    choice = choose_fork([net(*(f'type: "{kind}"' for kind in kinds))], None)
    assert choice is not None
    assert "MultiBoxLoss and 2 more" in choice.sentence


TWO_TYPES = """
layer { name: "d" type: "DummyData" top: "d" top: "t" dummy_data_param {
  shape { dim: 2 dim: 3 dim: 4 dim: 5 } shape { dim: 2 dim: 3 dim: 4 dim: 5 } } }
layer { name: "b" type: "BN" bottom: "d" top: "b" }
layer { name: "l" type: "SmoothL1Loss" bottom: "b" bottom: "t" top: "l" }
"""


@pytest.mark.parametrize(
    ("fork", "bn", "loss"),
    [
        (None, BN, SmoothL1Loss),
        ("ssd", BN, SmoothL1Loss),
        ("rcnn", BN, WeightedSmoothL1Loss),
        ("segnet", SegNetBN, SmoothL1Loss),
    ],
)
def test_a_recipe_has_the_types_of_its_fork(
    fork: str | None, bn: type, loss: type, tmp_path: Path
) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(TWO_TYPES)
    recipe = read_recipe(path, rules=rules_with((), fork))
    assert recipe.fork is not None
    # Without --fork each of the two types speaks for two or three forks; ssd comes first.
    assert recipe.fork.name == (fork or "ssd")
    assert recipe.notes == (recipe.fork.sentence,)
    rules = recipe.train.rules
    assert rules.fork == recipe.fork.name
    assert (type(rules["BN"]), type(rules["SmoothL1Loss"])) == (bn, loss)


OWN_BN = """
from caffe_batch.layers.base import Memory, Rule

class Mine(Rule):
    type = "BN"

    def shape(self, site):
        return site.bottoms

    def memory(self, site, mode):
        return Memory()

RULES = [Mine()]
"""


def test_a_rule_of_the_users_own_replaces_that_of_a_fork(tmp_path: Path) -> None:
    net, rules = tmp_path / "net.prototxt", tmp_path / "mine.py"
    net.write_text(TWO_TYPES)
    rules.write_text(OWN_BN)
    recipe = read_recipe(net, rules=rules_with([rules]))
    assert recipe.train.rules["BN"].origin.startswith(str(rules))
    assert recipe.train.rules.files == (rules.resolve(),)
    assert recipe.train.rules.fork == "ssd"
    rules.write_text(OWN_BN.replace('"BN"', '"ReLU"'))
    with pytest.raises(CaffeBatchError, match="two rules for layer type 'ReLU'"):
        rules_with([rules])


def test_every_fork_can_be_told_by_something() -> None:
    for fork in FORKS:
        fields = [field for field, forks in FORK_FIELDS.items() if forks == (fork,)]
        kinds = [field for field, forks in FORK_FIELDS.items() if fork in forks]
        assert fields or fork in ("ssd", "deeplab"), fork  # which share everything with another
        assert kinds


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ("batch_size: 2 new_length: 5 modality: FLOW", None),  # action recognition, no name
        ("video_type: VIDEO", "ssd"),
        ("batch_size: 2 new_length: 16 use_image: true", "c3d"),
    ],
)
def test_what_video_data_reads_tells_the_fork(settings: str, name: str | None) -> None:
    layer = f'type: "VideoData" video_data_param {{ {settings} }}'
    choice = choose_fork([net(layer)], None)
    assert choice is not None
    assert choice.name == name
