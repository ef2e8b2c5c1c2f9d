"""How a solver's nets are found, and what is refused, as in Caffe's InitTrainNet."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_batch.errors import InputError, MissingBottomError, NetError, PrototxtError
from caffe_batch.net import Sources, read_recipe
from caffe_batch.prototxt import PrototxtWarning

NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 6 dim: 3 dim: 5 dim: 7 } shape { dim: 6 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 4 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
layer { name: "acc" type: "Accuracy" bottom: "ip" bottom: "label" top: "acc"
  include { phase: TEST } }
"""
BASE = "base_lr: 0.1 lr_policy: 'fixed' max_iter: 9\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.prototxt").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def solver(folder: Path, text: str) -> Path:
    path = folder / "solver.prototxt"
    path.write_text(BASE + text)
    return path


def test_a_net_alone_has_no_test_nets(folder: Path) -> None:
    recipe = read_recipe("net.prototxt")
    assert recipe.solver_path is None
    assert recipe.tests == ()
    assert [layer.name for _, layer in recipe.train.selected()] == ["data", "ip", "loss"]


def test_one_file_for_both_phases(folder: Path) -> None:
    solver(folder, "net: 'net.prototxt' test_iter: 3 test_interval: 5")
    recipe = read_recipe("solver.prototxt")
    assert [file.phase for file in (recipe.train, *recipe.tests)] == ["TRAIN", "TEST"]
    assert [layer.name for _, layer in recipe.tests[0].selected()][-1] == "acc"
    assert recipe.notes == ()


def test_order_of_the_test_nets(folder: Path) -> None:
    (folder / "test.prototxt").write_text(NET.replace('"ip"', '"other"'))
    solver(
        folder,
        "net: 'net.prototxt' test_iter: 1 test_iter: 2 test_iter: 3 test_interval: 5 "
        "test_net: 'test.prototxt' test_net_param { name: 'inline' " + NET + "}",
    )
    tests = read_recipe("solver.prototxt").tests
    assert [str(file.path) for file in tests] == ["None", "test.prototxt", "net.prototxt"]
    assert tests[0].message.name == "inline"


def test_test_nets_of_a_solver_beside_a_net(folder: Path) -> None:
    """Only its train net is another one; its own test nets stay, those left over are the net's."""
    (folder / "test.prototxt").write_text(NET.replace('"ip"', '"other"'))
    (folder / "mine.prototxt").write_text(NET)
    solver(
        folder,
        "net: 'not there' test_iter: 1 test_iter: 2 test_iter: 3 test_interval: 5 "
        "test_net: 'test.prototxt' test_net_param { name: 'inline' " + NET + "}",
    )
    recipe = read_recipe("mine.prototxt", "solver.prototxt")
    assert [str(file.path) for file in recipe.tests] == ["None", "test.prototxt", "mine.prototxt"]
    assert [recipe.file_of_test(number) for number in range(3)] == ["solver", "test_net_1", "net"]
    solver(folder, "test_iter: 1 test_interval: 5 test_net: 'lost.prototxt'")
    with pytest.raises(InputError, match=r"its net 'lost\.prototxt' is not in"):
        read_recipe("mine.prototxt", "solver.prototxt")


def test_inline_net(folder: Path) -> None:
    solver(folder, "net_param { " + NET + " }")
    recipe = read_recipe("solver.prototxt")
    assert recipe.train.path is None
    assert recipe.train.build(recipe.train.layers(Sources())).blob_shapes["ip"] == (6, 4)


def test_states_merge_in_caffes_order(folder: Path) -> None:
    (folder / "net.prototxt").write_text(
        "state { level: 1 stage: 'a' }"
        + NET.replace('name: "loss"', 'name: "loss" include { stage: "a" stage: "b" }')
    )
    solver(folder, "net: 'net.prototxt' train_state { stage: 'b' level: 2 }")
    recipe = read_recipe("solver.prototxt")
    assert recipe.train.state.level == 2
    assert list(recipe.train.state.stage) == ["a", "b"]
    assert [layer.name for _, layer in recipe.train.selected()] == ["data", "ip", "loss", "acc"][:3]


def test_a_net_beside_the_solver_is_found_with_a_note(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solver(folder, "net: 'models/net.prototxt'")
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    recipe = read_recipe(folder / "solver.prototxt")
    assert recipe.train.path == folder / "net.prototxt"
    assert recipe.notes == (
        f"net 'models/net.prototxt' was found beside the solver, as {folder / 'net.prototxt'}",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "this one has none"),
        ("net: 'net.prototxt' train_net: 'net.prototxt'", "this one has train_net and net"),
        ("net: 'missing.prototxt'", r"its net 'missing.prototxt' is not in"),
        ("train_net: 'net.prototxt' test_iter: 1 test_interval: 5", "1 test_iter for 0 test nets"),
        ("net: 'net.prototxt' test_net: 'net.prototxt'", "0 test_iter for 1 test nets"),
        ("net: 'net.prototxt' test_iter: 1", "test nets need a test_interval above 0"),
        (
            "net: 'net.prototxt' test_iter: 1 test_interval: 5 test_state {} test_state {}",
            "2 test_state for 1 test nets",
        ),
    ],
)
def test_solvers_that_caffe_refuses(folder: Path, text: str, message: str) -> None:
    solver(folder, text)
    with pytest.raises(InputError, match=message):
        read_recipe("solver.prototxt")


def test_a_missing_file(folder: Path) -> None:
    with pytest.raises(PrototxtError, match="there is no such file"):
        read_recipe("nett.prototxt")


def test_an_empty_net(folder: Path) -> None:
    (folder / "net.prototxt").write_text("")
    with pytest.raises(PrototxtError, match="the net has no layers"):
        read_recipe("net.prototxt")


def test_an_empty_inline_net(folder: Path) -> None:
    solver(folder, "net_param { name: 'nothing' }")
    with pytest.raises(NetError, match="the net has no layers"):
        read_recipe("solver.prototxt")


def test_a_net_without_a_train_phase(folder: Path) -> None:
    tested = NET.replace("layer {", "layer { include { phase: TEST }")
    tested = tested.replace("\n  include { phase: TEST } }", " }")
    (folder / "net.prototxt").write_text(tested)
    with pytest.raises(NetError, match="no layer belongs to the TRAIN phase"):
        read_recipe("net.prototxt")


def test_a_solver_of_the_users_choice_for_a_net(folder: Path) -> None:
    solver(folder, "net: 'missing.prototxt' test_iter: 2 test_interval: 5")
    recipe = read_recipe("net.prototxt", "solver.prototxt")
    assert str(recipe.train.path) == "net.prototxt"
    assert len(recipe.tests) == 1


STAGED = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 } } }
layer { name: "f" type: "InnerProduct" bottom: "data" top: "f" include { stage: "s0" }
  inner_product_param { num_output: 4 } }
layer { name: "end" type: "Reduction" bottom: "f" top: "end" loss_weight: 1 }
"""


def test_a_layer_that_is_left_out_of_the_test_net_is_named(folder: Path) -> None:
    (folder / "net.prototxt").write_text(STAGED)
    path = solver(
        folder, 'net: "net.prototxt" test_iter: 1 test_interval: 2 train_state { stage: "s0" }'
    )
    recipe = read_recipe(path)
    recipe.train.build(recipe.train.layers(Sources()))
    (test,) = recipe.tests
    with pytest.raises(MissingBottomError, match="isn't in the TEST net") as error:
        test.build(test.layers(Sources()))
    assert "layer 'f' produces it" in error.value.message
    assert 'include { stage: "s0" }' in error.value.message
    assert 'test_state { stage: "s0" }' in str(error.value.hint)


def test_a_shape_error_of_a_test_net_says_so(folder: Path) -> None:
    text = STAGED.replace('stage: "s0"', "phase: TRAIN")
    text += """layer { name: "small" type: "InnerProduct" bottom: "data" top: "f"
      include { phase: TEST } inner_product_param { num_output: 4 axis: 5 } }"""
    layers = text.split("layer {")
    text = "layer {".join([*layers[:3], layers[4], layers[3]])
    (folder / "net.prototxt").write_text(text)
    (test,) = read_recipe(solver(folder, 'net: "net.prototxt" test_iter: 1 test_interval: 2')).tests
    with pytest.raises(NetError, match="in the TEST net, layer 'small'"):
        test.build(test.layers(Sources()))


def test_a_solver_with_nets_inside_beside_a_net(folder: Path) -> None:
    """Its train net makes way for the one that is given; its inline test net stays, as in Caffe."""
    inner = NET.replace('"ip"', '"inner"')
    path = solver(
        folder, f"net_param {{ {inner} }} test_net_param {{ {inner} }} test_iter: 1 test_iter: 2 "
        "test_interval: 5",
    )  # fmt: skip
    recipe = read_recipe("net.prototxt", path)
    names = [[layer.name for _, layer in file.selected()] for file in (recipe.train, *recipe.tests)]
    assert [each[1] for each in names] == ["ip", "inner", "ip"]
    assert [recipe.file_of_test(number) for number in (0, 1)] == ["solver", "net"]
    with pytest.raises(InputError, match="0 test_iter for 1 test nets"):
        read_recipe("net.prototxt", solver(folder, f"test_net_param {{ {inner} }}"))


def test_each_net_inside_a_solver_keeps_its_own_skipped_fields(tmp_path: Path) -> None:
    def net(field: str) -> str:
        return f"""
        layer {{ name: "d" type: "Input" top: "data" input_param {{ shape {{ dim: 2 }} }} }}
        layer {{ name: "p" type: "Power" bottom: "data" top: "p" {field}: 1 }}
        """

    (tmp_path / "solver.prototxt").write_text(
        f"""
        base_lr: 0.1 lr_policy: "fixed" max_iter: 9 test_interval: 3
        test_iter: 1 test_iter: 1 test_iter: 1
        train_net_param {{ {net("of_train")} }}
        test_net_param {{ {net("of_first")} }}
        test_net_param {{ {net("of_second")} }}
        test_net_param {{ {net("of_third")} }}
        """
    )
    with pytest.warns(PrototxtWarning):
        recipe = read_recipe(tmp_path / "solver.prototxt", allow_unknown_fields=True)
    found = [[each.name for each in file.skipped] for file in (recipe.train, *recipe.tests)]
    assert found == [["of_train"], ["of_first"], ["of_second"], ["of_third"]]
    assert all(each.layer == 1 for file in (recipe.train, *recipe.tests) for each in file.skipped)
