"""Rules in ten lines: the documented examples against real Caffe, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from caffe_batch.errors import InputError
from caffe_batch.layers import loading
from caffe_batch.layers.hints import TypeHints
from caffe_batch.layers.loading import rules_with
from caffe_batch.memory import CaffeMemory
from caffe_batch.net import Net, Sources, read_recipe

DOCS = Path(__file__).parent.parent.parent / "docs" / "rules.md"

#: The Python layers that the examples are for.
SEG_LAYERS = """
import caffe


class SegData(caffe.Layer):
    def setup(self, bottom, top):
        top[0].reshape(1, 3, 48, 36)
        top[1].reshape(1, 1, 48, 36)

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        top[0].data[...] = 0.5
        top[1].data[...] = 0.25

    def backward(self, top, propagate_down, bottom):
        pass


class PixelLoss(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(*[])

    def forward(self, bottom, top):
        self.difference = bottom[0].data - bottom[1].data
        top[0].data[...] = (self.difference**2).sum() / 2

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = self.difference * top[0].diff
"""
GAIN_LAYERS = """
import caffe


class PixelShuffle(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        n, c, h, w = bottom[0].data.shape
        top[0].reshape(n, c // 4, 2 * h, 2 * w)

    def forward(self, bottom, top):
        top[0].data[...] = 0

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 0
"""
SEG_NET = """
layer { name: "d" type: "Python" top: "data" top: "label"
  python_param { module: "seg_layers" layer: "SegData" } }
layer { name: "c" type: "Convolution" bottom: "data" top: "score"
  convolution_param { num_output: 1 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "Python" bottom: "score" bottom: "label" top: "loss" loss_weight: 1
  python_param { module: "seg_layers" layer: "PixelLoss" } }
"""
SHUFFLE_NET = """
layer { name: "d" type: "DummyData" top: "data" dummy_data_param {
  shape { dim: 5 dim: 12 dim: 7 dim: 11 } } }
layer { name: "up" type: "Python" bottom: "data" top: "up"
  python_param { module: "gain_layers" layer: "PixelShuffle" } }
layer { name: "gain" type: "GAIN" bottom: "up" top: "gain" %s }
"""

BUILD = """
import json, sys, caffe
net = caffe.Net("net.prototxt", getattr(caffe, sys.argv[1]))
print(json.dumps([
    {name: list(blob.data.shape) for name, blob in net.blobs.items()},
    {name: [list(blob.data.shape) for blob in blobs] for name, blobs in net.params.items()},
]))
"""

Pycaffe = Callable[..., str]


def example(folder: Path, name: str) -> Path:
    """A rules file of docs/rules.md, by a class that it has."""
    found = [
        text
        for text in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
        if f"class {name}(OwnRule)" in text
    ]
    assert len(found) == 1
    return write(folder, "rules.py", found[0])


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def build(folder: Path, text: str, *rules: Path, hints: TypeHints | None = None) -> Net:
    recipe = read_recipe(
        write(folder, "net.prototxt", text), rules=rules_with(rules, None, hints or TypeHints())
    )
    return CaffeMemory(recipe, Sources()).train_net()


def shapes(net: Net) -> tuple[dict[str, list[int]], dict[str, list[list[int]]]]:
    blobs = {name: list(shape) for name, shape in net.blob_shapes.items()}
    params = {name: [list(one) for one in each] for name, each in net.param_shapes.items()}
    return blobs, params


def test_types_like_others_are_like_them(tmp_path: Path) -> None:
    """Swish6 as Dropout, which holds a mask of its size; SyncBN as BatchNorm."""
    text = """
layer { name: "d" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 5 dim: 3 dim: 7 dim: 11 } shape { dim: 5 dim: 2 } } }
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
  convolution_param { num_output: 13 kernel_size: 3 } }
layer { name: "norm" type: "BatchNorm" bottom: "c" top: "norm"
  batch_norm_param { use_global_stats: true } }
layer { name: "act" type: "Dropout" bottom: "norm" top: "act" }
layer { name: "ip" type: "InnerProduct" bottom: "act" top: "ip"
  inner_product_param { num_output: 2 } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
    rules = rules_with([example(tmp_path, "Swish6")])
    found = []
    for known in (text, text.replace("BatchNorm", "SyncBN").replace("Dropout", "Swish6")):
        recipe = read_recipe(write(tmp_path, "net.prototxt", known), rules=rules)
        found.append(CaffeMemory(recipe, Sources(), "cpu").at())
    like, ours = found
    assert ours.unknown_layers == ()
    by_name = {layer.name: layer for layer in like.layers}
    for layer in ours.layers:
        if layer.name == "norm":
            assert layer.parts == by_name["norm"].parts
        if layer.name == "act":  # Caffe's mask is a blob of ints of the same size
            assert layer.parts == by_name["act"].parts


def test_python_layers_with_shapes_of_their_own(tmp_path: Path, pycaffe: Pycaffe) -> None:
    write(tmp_path, "seg_layers.py", SEG_LAYERS)
    net = build(tmp_path, SEG_NET, example(tmp_path, "SegData"))
    assert list(shapes(net)) == json.loads(pycaffe(BUILD, "TRAIN", cwd=tmp_path))
    assert net.unknown_layers == ()


def test_a_shape_that_is_computed_and_parameters(tmp_path: Path, pycaffe: Pycaffe) -> None:
    """A ChannelGain has what Caffe's Scale has, and the shuffle what the layer itself makes."""
    write(tmp_path, "gain_layers.py", GAIN_LAYERS)
    text = SHUFFLE_NET % ""
    ours = build(tmp_path, text.replace("GAIN", "ChannelGain"), example(tmp_path, "ChannelGain"))
    write(tmp_path, "net.prototxt", text.replace("GAIN", "Scale"))
    assert list(shapes(ours)) == json.loads(pycaffe(BUILD, "TRAIN", cwd=tmp_path))


def test_the_verdict_on_a_loss_that_is_a_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: object
) -> None:
    """The plan multiplies its loss_weight, and real Caffe agrees to within the tolerance."""
    import caffe_batch as cb

    monkeypatch.chdir(tmp_path)
    data = """
layer { name: "d" type: "Input" top: "data" top: "label" input_param {
  shape { dim: 4 dim: 3 dim: 5 dim: 7 } shape { dim: 4 dim: 1 dim: 5 dim: 7 } } }
"""
    text = data + SEG_NET[SEG_NET.index('layer { name: "c"') :]
    rules = example(tmp_path, "PixelLoss")
    write(tmp_path, "seg_layers.py", SEG_LAYERS)
    solver = 'base_lr: 1e-4 lr_policy: "fixed" max_iter: 9 random_seed: 3'
    found = cb.verify(
        write(tmp_path, "net.prototxt", text),
        solver=write(tmp_path, "solver.prototxt", solver),
        rules=rules,
    )
    assert found.agrees
    (finding,) = [each for each in found.findings if each.layer == "loss"]
    assert (finding.cause.value, finding.verdict.value) == ("loss_sum", "compensated")


# Without a file


def test_same_shape_takes_the_largest_bottom_or_the_one_that_is_named() -> None:
    from caffe_batch.layers.base import Site
    from caffe_batch.layers.own import SameShape

    axpy = ((5, 7), (5, 7, 3, 2), (5, 7, 3, 2))
    assert SameShape("Axpy").shape(Site("TRAIN", None, axpy, 1)) == ((5, 7, 3, 2),)
    assert SameShape("Axpy", 0).shape(Site("TRAIN", None, axpy, 1)) == ((5, 7),)
    in_place = Site("TRAIN", None, axpy, 2, in_place=(True, False))
    assert SameShape("Axpy").shape(in_place) == ((5, 7), (5, 7, 3, 2))


RELU = """
layer { name: "d" type: "DummyData" top: "data" dummy_data_param { shape { dim: 5 dim: 3 } } }
layer { name: "r" type: "MyReLU" bottom: "data" top: "r" %s }
layer { name: "n" type: "MyNorm" bottom: "r" top: "n" %s }
"""


def test_a_type_that_is_treated_as_another_reads_its_settings(tmp_path: Path) -> None:
    hints = TypeHints.of(["MyReLU=InnerProduct", "MyNorm=BatchNorm"])
    settings = "inner_product_param { num_output: 11 bias_term: false }"
    net = build(tmp_path, RELU % (settings, ""), hints=hints)
    assert net.param_shapes == {"r": ((11, 3),), "n": ((11,), (11,), (1,))}
    assert net.unknown_layers == ()


def test_param_blocks_beyond_those_of_the_other_type(tmp_path: Path) -> None:
    """A fork's normalisation learns its scale and shift; a BatchNorm has lr_mult 0 everywhere."""
    hints = TypeHints.of(["MyReLU=ReLU", "MyNorm=BatchNorm"])
    specs = " ".join(f"param {{ lr_mult: {rate} }}" for rate in (1, 2, 0, 0))
    net = build(tmp_path, RELU % ("", specs), hints=hints)
    assert [param.lr_mult for param in net.params] == [1, 2, 0]
    assert net.unknown_layers == ("n",)


@pytest.mark.parametrize(
    ("treat_as", "same_shape", "message"),
    [
        (["BN"], [], r"treat_as 'BN' is not of the form TYPE=KNOWN\nFor instance"),
        (["=BatchNorm"], [], r"treat_as '=BatchNorm' is not of the form"),
        (["BN=BatchNrm"], [], r"--treat-as: 'BN' can't be treated as 'BatchNrm', which is no layer "
         r"type with a rule\nDid you mean BatchNorm"),
        (["A=B", "B=ReLU"], [], r"'A' can't be treated as 'B', which is no layer type with a rule"),
        (["ReLU=TanH"], [], r"two rules for layer type 'ReLU': caffe-batch's own and --treat-as"),
        (["A=ReLU", "A=TanH"], [], r"treat_as names type 'A' twice"),
        (["A=ReLU"], ["A"], r"same_shape and treat_as are for the same type"),
        ([], ["A", "A=1"], r"same_shape names type 'A' twice"),
        ([], ["A=x"], r"same_shape 'A=x' is not of the form TYPE or TYPE=BOTTOM"),
        ([], [""], r"same_shape '' is not of the form"),
        ([], ["TanH"], r"two rules for layer type 'TanH': caffe-batch's own and --same-shape"),
    ],
)  # fmt: skip
def test_hints_that_are_refused(treat_as: list[str], same_shape: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        rules_with((), None, TypeHints.of(treat_as, same_shape))


def test_a_hint_may_repeat_itself() -> None:
    hints = TypeHints.of(["A=ReLU", "A=ReLU"], ["B", "B"])
    assert (hints.treat_as_texts, hints.same_shape_texts) == (("A=ReLU",), ("B",))
    assert TypeHints.of(hints.treat_as_texts, hints.same_shape_texts) == hints


# Files that are no good


def own(body: str, name: str = "Mine") -> str:
    return (
        "from caffe_batch.layers.own import OwnRule\n\n\n"
        f"class {name}(OwnRule):\n    type = '{name}'\n{body}\n\nRULES = [{name}()]\n"
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    shapes = ['Nxx3']", r"Mine\.shapes is \['Nxx3'\], but takes a list of shapes"),
        ("    shapes = 'Nx3'", r"Mine\.shapes is 'Nx3', but takes a list of shapes"),
        ("    shapes = [(2, 3)]", r"Mine\.shapes is \[\(2, 3\)\], but takes a list of shapes"),
        ("    loss = True", r'Mine\.loss is True, but takes "mean" or "sum"'),
        ("    same_as = -1", r"Mine\.same_as is -1, but takes the number of a bottom"),
        ("    buffers = (-1,)", r"Mine\.buffers is \(-1,\), but takes a tuple of whole numbers"),
        ("    buffers = 1", r"Mine\.buffers is 1, but takes a tuple of whole numbers"),
        ("    treat_as = 3", r"Mine\.treat_as is 3, but takes the name of another type"),
        ("    bufers = (1,)", r"Mine has 'bufers', which no rule has\nDid you mean buffers\?"),
        ("    def shapes_(self): ...", r"Mine has 'shapes_', which no rule has"),
        ("    treat_as = 'Relu'", r"'Mine' can't be treated as 'Relu'(.|\n)*Did you mean ReLU"),
    ],
)  # fmt: skip
def test_attributes_that_say_nothing(tmp_path: Path, body: str, message: str) -> None:
    path = write(tmp_path, "mine.py", own(body))
    with pytest.raises(InputError, match=message) as caught:
        rules_with([path])
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("shape(self, site): return ((5, -3),)", r"returned \(\(5, -3\),\) from shape"),
        ("shape(self, site): return ((5, 3.0),)", r"returned \(\(5, 3\.0\),\) from shape"),
        ("shape(self, site): return (5, 3)", r"returned \(5, 3\) from shape"),
        ("shape(self, site): return None", r"returned None from shape"),
        ("shape(self, site): return ((5,), (3,))", r"returned 2 shapes for 1 tops from shape"),
        ("shape(self, site): return ((5, 2**31),)", r"\(5, 2147483648\) has 10737418240 elem"),
        ("shape(self, site): return site.bottoms[3:4][0]", r"failed in shape: IndexError"),
        ("parameters(self, site): return ((-3,),)", r"returned \(\(-3,\),\) from parameters"),
        ("parameters(self, site): return 7", r"returned 7 from parameters"),
        ("memory(self, site, mode): return 7", r"returned 7 from memory"),
        ("coupling(self, site): return None", r"returned None from coupling"),
    ],
)  # fmt: skip
def test_answers_that_make_no_sense(tmp_path: Path, body: str, message: str) -> None:
    path = write(tmp_path, "mine.py", own(f"    def {body}", "MyReLU"))
    text = RELU.replace('type: "MyNorm"', 'type: "ReLU"') % ("", "")

    def ask_everything() -> None:
        node = build(tmp_path, text, path).nodes[1]
        node.rule.memory(node.site, "gpu")
        node.rule.coupling(node.site)

    with pytest.raises(InputError, match=message) as caught:
        ask_everything()
    assert f"{path}:6" in caught.value.message or "elements" in caught.value.message


def test_memory_that_makes_no_sense(tmp_path: Path) -> None:
    body = dedent(
        """
        def memory(self, site, mode):
            from caffe_batch.layers.base import Buffer, Memory

            return Memory(buffers=(Buffer("b", -4),))
        """
    )
    text = own(body.replace("\n", "\n    "), "MyReLU")
    path = write(tmp_path, "mine.py", text)
    net = build(tmp_path, RELU.replace("MyNorm", "ReLU") % ("", ""), path)
    with pytest.raises(InputError, match=r"mine\.py:\d+: the rule for MyReLU returned Memory\("):
        net.nodes[1].rule.memory(net.nodes[1].site, "gpu")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import sys\nsys.exit(3)\n", r"mine\.py:2: SystemExit: 3"),
        ("x = 'a\0b'\n", r"mine\.py(:1)?: not valid Python"),
        ("def f(:\n", r"mine\.py:1: not valid Python"),
        ("\n\nint('x')\n", r"mine\.py:3: ValueError: invalid literal"),
    ],
)
def test_files_that_are_not_rules(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rules_with([write(tmp_path, "mine.py", text)])


def test_a_file_that_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The import waits for a file that the test makes afterwards, so that it doesn't go on."""
    monkeypatch.setattr(loading, "LOADING_S", 0.05)
    text = (
        f"import os, time\nwhile not os.path.exists({str(tmp_path / 'go')!r}):\n"
        "    time.sleep(0.01)\n"
    )
    path = write(tmp_path, "mine.py", text)
    with pytest.raises(InputError, match=r"mine\.py: importing it hasn't ended after 0\.05 s"):
        rules_with([path])
    (tmp_path / "go").touch()


def test_two_files_for_one_type(tmp_path: Path) -> None:
    one = write(tmp_path, "one.py", own("    shapes = ['Nx3']"))
    two = write(tmp_path, "two.py", own("    loss = 'sum'"))
    with pytest.raises(InputError, match=r"two rules for layer type 'Mine': .*one.* and .*two"):
        rules_with([one, two])
