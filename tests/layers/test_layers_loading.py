"""Rules from files and packages: the documented example, and faulty ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from caffe_batch.errors import CaffeBatchError, InputError
from caffe_batch.layers import BUILT_IN, loading
from caffe_batch.layers.loading import installed_rules, rules_with
from caffe_batch.memory import CaffeMemory, Prediction
from caffe_batch.net import Sources, read_recipe

DOCS = Path(__file__).parent.parent.parent / "docs" / "rules.md"
NET = """
layer {{ name: "data" type: "Input" top: "data" top: "label"
  input_param {{ shape {{ dim: 13 dim: 5 dim: 3 dim: 7 }} shape {{ dim: 13 }} }} }}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param {{ num_output: 11 kernel_size: 3 }} }}
layer {{ name: "cut" type: "{type}" bottom: "conv" top: "cut" }}
layer {{ name: "ip" type: "InnerProduct" bottom: "cut" top: "ip"
  inner_product_param {{ num_output: 2 }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
"""


def documented() -> str:
    """The example of docs/rules.md."""
    found = re.search(r'```python\n("""HardTanh.*?)```', DOCS.read_text(), re.DOTALL)
    assert found
    return found[1]


def predicted(folder: Path, layer_type: str, *rules: Path) -> Prediction:
    net = folder / "net.prototxt"
    net.write_text(NET.format(type=layer_type))
    recipe = read_recipe(net, rules=rules_with(rules))
    return CaffeMemory(recipe, Sources()).at()


def rule_file(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_the_documented_rule_counts_as_relu_does(tmp_path: Path) -> None:
    """Not in place, ReLU touches the same arrays, and real Caffe measures it in other tests."""
    ours = predicted(tmp_path, "HardTanh", rule_file(tmp_path, documented()))
    relu = predicted(tmp_path, "ReLU")
    assert ours.peak_bytes == relu.peak_bytes
    assert ours.parts == relu.parts
    assert ours.unknown_layers == ()


def test_without_its_file_the_type_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(CaffeBatchError, match=r"'HardTanh' is not a layer(.|\n)*rules=\"FILE\.py"):
        predicted(tmp_path, "HardTanh")


def test_the_registry_knows_its_files_and_leaves_the_built_in_one_alone(tmp_path: Path) -> None:
    path = rule_file(tmp_path, documented())
    rules = rules_with([path, str(path)])
    assert rules.files == (path.resolve(),)
    assert set(rules) - set(installed_rules()) == {"HardTanh"}
    assert "HardTanh" not in BUILT_IN
    assert installed_rules().files == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RULES = [\n", r"mine\.py:1: not valid Python \("),
        ("x = 1\nraise KeyError('y')\n", r"mine\.py:2: KeyError: 'y'"),
        ("x = 1\n", r"mine\.py: it has no list RULES"),
        ("RULES = 7\n", r"mine\.py: RULES is not a list of rules: 7"),
        ("RULES = ['HardTanh']\n", r"mine\.py: RULES contains 'HardTanh', which is not a Rule"),
        (documented().replace("[HardTanh()]", "[HardTanh]"), r"which is not a Rule"),
        (documented().replace('"HardTanh"', '""'), r"mine\.py:\d+: the rule has no type"),
        (
            documented().replace('"HardTanh"', '"ReLU"'),
            r"two rules for layer type 'ReLU': caffe-batch's own and .*mine\.py:10",
        ),
        (
            documented().replace(
                "    def coupling",
                "    def literal_shapes(self, settings):\n        return ((4, 3),)\n\n"
                "    def coupling",
            ),
            r"mine\.py:10: HardTanh has literal_shapes, but not with_literal_shapes and ",
        ),
        (
            documented().replace(
                "    def coupling",
                "    def with_literal_shapes(self, settings, shapes):\n        return settings\n\n"
                "    def literal_path(self, settings, shape, axis):\n        return ()\n\n"
                "    def coupling",
            ),
            r"mine\.py:10: HardTanh has with_literal_shapes and literal_path, but not ",
        ),
    ],
    ids=[
        "syntax", "import", "no list", "no rules", "a name", "a class", "no type", "double",
        "no path", "no shapes",
    ],
)  # fmt: skip
def test_a_file_that_is_no_good(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rules_with([rule_file(tmp_path, text)])


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.py: there is no such rules file"):
        rules_with([tmp_path / "none.py"])


SETTINGS = """
from dataclasses import dataclass
from caffe_batch.layers.base import setting


@dataclass(frozen=True)
class CutSettings:
    negative_slope: float = 0.0
    axis: int = setting(1, message="softmax_param")
    phase: str = setting("TRAIN", message="")


class HardTanh(HardTanh):
    message = "relu_param"
    other_messages = ("loss_param",)
    settings = CutSettings


RULES = [HardTanh()]
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"relu_param"', '"relu6_param"',
            r"mine\.py: HardTanh reads the message 'relu6_param', which LayerParameter doesn't "
            r"have\nDid you mean .*relu_param",
        ),
        ('"relu_param"', '"name"', r"HardTanh reads the message 'name', which LayerParameter"),
        ('"loss_param"', '"no_param"', r"HardTanh reads the message 'no_param', which LayerParam"),
        ('"softmax_param"', '"softmx"', r"HardTanh reads the message 'softmx', which LayerParam"),
        (
            "negative_slope", "negative_slop",
            r"mine\.py: HardTanh\.settings has the field 'negative_slop', which relu_param "
            r"doesn't have\nDid you mean negative_slope",
        ),
        ("axis:", "axes:", r"settings has the field 'axes', which softmax_param doesn't have"),
        ("phase:", "faze:", r"settings has the field 'faze', which LayerParameter doesn't have"),
        ("settings = CutSettings", "settings = 7", r"HardTanh\.settings is 7, not a dataclass"),
        ("settings = CutSettings", "settings = str", r"HardTanh\.settings is .*, not a dataclass"),
    ],
)  # fmt: skip
def test_settings_that_caffe_proto_does_not_have(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    """With the fields that it has, the rule loads, and the settings are read."""
    text = documented() + SETTINGS
    assert predicted(tmp_path, "HardTanh", rule_file(tmp_path, text)).unknown_layers == ()
    assert old in text
    with pytest.raises(InputError, match=message):
        rules_with([rule_file(tmp_path, text.replace(old, new), "mine.py")])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("site.bottoms[:1]", "list(site.bottoms)", r"mine\.py:10: .* returned \[\(.*\] from shape"),
        ("site.bottoms[:1]", "((1.5,),)", r"mine\.py:10: .* returned \(\(1\.5,\),\) from shape"),
        ("site.bottoms[:1]", "()", r"mine\.py:10: .* returned 0 shapes for 1 tops from shape"),
        (
            "site.bottoms[:1]", "site.botoms",
            r"mine\.py:11: the rule for HardTanh failed in shape: AttributeError: .*'botoms'",
        ),
        ("Memory(\n", "dict(\n", r"mine\.py:13: .* returned \{.*\} from memory"),
        ("forward=(bottom(0).data", "forward=(bottom(1).data", r"bottom\(1\), which doesn't exist"),
        ("forward=(bottom(0).data", 'forward=("bottom0.data"', r"'bottom0\.data' among the sides"),
    ],
)  # fmt: skip
def test_a_rule_that_returns_nonsense(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in documented()
    path = rule_file(tmp_path, documented().replace(old, new))
    with pytest.raises(InputError, match=message):
        predicted(tmp_path, "HardTanh", path)


def test_a_buffer_that_the_rule_does_not_list(tmp_path: Path) -> None:
    text = documented().replace("import bottom, top", "import bottom, own, top")
    text = text.replace("forward=(bottom(0).data", 'forward=(own("mask_").data')
    with pytest.raises(InputError, match=r"own\('mask_'\), which isn't among its buffers"):
        predicted(tmp_path, "HardTanh", rule_file(tmp_path, text))


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes an entry point seem installed."""

    def install(value: str) -> None:
        entry = EntryPoint("fork", value, loading.ENTRY_POINTS)
        monkeypatch.setattr(
            "importlib.metadata.entry_points",
            lambda group: (entry,) if group == loading.ENTRY_POINTS else (),
        )
        installed_rules.cache_clear()

    yield install
    installed_rules.cache_clear()


def test_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: Any
) -> None:
    rule_file(tmp_path, documented(), "relu6_of_a_fork.py")
    monkeypatch.syspath_prepend(tmp_path)
    package("relu6_of_a_fork:RULES")
    assert predicted(tmp_path, "HardTanh").peak_bytes == predicted(tmp_path, "ReLU").peak_bytes


def test_an_installed_package_that_is_broken(package: Any) -> None:
    package("nowhere_at_all:RULES")
    with pytest.raises(InputError, match=r"entry point 'fork' \(nowhere_at_all:RULES\) can't be"):
        installed_rules()
