"""How an update's time falls with the number of GPUs, against a simulation of the exchange."""

from __future__ import annotations

from pathlib import Path

import pytest

import caffe_batch as cb
from caffe_batch.cli.main import main
from caffe_batch.planning.scaling import Scale, exchange_s, gradient_bytes, scaling


def simulated_s(gpus: int, passes: int, pass_s: float, sent_bytes: int, link: float) -> float:
    """A ring, message by message: when the last GPU has all gradients.

    In each of its steps a GPU sends a piece to the next one, once it has what it received in the
    step before; a link carries one piece at a time.
    """
    ready = [passes * pass_s] * gpus
    piece_s = sent_bytes / gpus / link
    for _ in range(2 * (gpus - 1)):
        sent = [max(ready[rank], ready[(rank + 1) % gpus]) + piece_s for rank in range(gpus)]
        ready = [sent[rank - 1] for rank in range(gpus)]
    return max(ready)


@pytest.mark.parametrize("gpus", [1, 2, 3, 8, 61])
@pytest.mark.parametrize("passes", [1, 7])
def test_the_formula_is_what_the_simulation_gives(gpus: int, passes: int) -> None:
    pass_s, sent_bytes, link = 0.031, 102_000_000, 25e9
    formula = passes * pass_s + exchange_s(sent_bytes, gpus, link)
    assert formula == pytest.approx(simulated_s(gpus, passes, pass_s, sent_bytes, link), rel=1e-9)


def scales(effective_batch: int = 256, batch_size: int = 32, link: float = 10e9) -> list[Scale]:
    return list(
        scaling(
            effective_batch=effective_batch, batch_size=batch_size, gradients=100_000_000,
            samples_per_s=400.0, link_bytes_per_s=link,
        )
    )  # fmt: skip


def test_the_same_batch_on_more_gpus() -> None:
    found = scales()
    assert [(each.gpus, each.batch_size, each.iter_size) for each in found] == [
        (1, 32, 8), (2, 32, 4), (4, 32, 2), (8, 32, 1), (16, 16, 1), (32, 8, 1), (64, 4, 1),
        (128, 2, 1), (256, 1, 1),
    ]  # fmt: skip
    assert all(each.gpus * each.batch_size * each.iter_size == 256 for each in found)
    alone, two = found[:2]
    assert (alone.update_s, alone.exchange_s, alone.speedup) == (0.64, 0.0, 1.0)
    assert two.update_s == pytest.approx(0.32 + 0.01)
    assert two.each_pass_s == pytest.approx(0.32 + 4 * 0.01)
    assert two.exchange_share == pytest.approx(0.01 / 0.33)
    times = [each.update_s for each in found]
    assert times == sorted(times, reverse=True)


def test_a_share_that_the_batch_doesn_t_divide() -> None:
    assert [(each.gpus, each.batch_size, each.iter_size) for each in scales(60, 16)] == [
        (1, 15, 4), (2, 15, 2), (4, 15, 1),
    ]  # fmt: skip


def test_accumulation_hides_the_exchange() -> None:
    """The longer an update's passes, the smaller is its share."""
    shares = [scales(effective_batch=batch)[3].exchange_share for batch in (256, 512, 4096)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < shares[0] / 10


NET = """
layer { name: "d" type: "Input" top: "x" input_param { shape { dim: 6 dim: 5 } } }
layer { name: "t" type: "Input" top: "t" input_param { shape { dim: 6 } } }
layer { name: "frozen" type: "InnerProduct" bottom: "x" top: "a" param { lr_mult: 0 }
  inner_product_param { num_output: 7 } }
layer { name: "norm" type: "BatchNorm" bottom: "a" top: "b" }
layer { name: "ip" type: "InnerProduct" bottom: "b" top: "ip"
  inner_product_param { num_output: 3 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "t" top: "loss" }
"""


def plan(folder: Path) -> cb.Plan:
    (folder / "net.prototxt").write_text(NET)
    (folder / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 10'
    )
    return cb.plan(
        folder / "net.prototxt", solver=folder / "solver.prototxt", gpu_memory="1GiB",
        effective_batch=12, gpus=2, train_records=100, check_data="none",
    )  # fmt: skip


def test_what_is_exchanged_is_what_learns(tmp_path: Path) -> None:
    """Neither frozen weights nor the averages of a BatchNorm."""
    made = plan(tmp_path)
    net = made.prepared.model.on_one_gpu().train_net(6)
    assert gradient_bytes(net) == 4 * (7 + 3 * 7 + 3)


def test_the_scaling_of_a_plan(tmp_path: Path) -> None:
    made = plan(tmp_path)
    found = made.scaling(samples_per_s=100, link="1GB/s")
    assert [each.gpus for each in found] == [1, 2, 4]
    assert found[0].update_s == pytest.approx(0.12)
    assert found[1].exchange_s == pytest.approx(124 / 1e9)


@pytest.mark.parametrize(
    ("samples_per_s", "link", "message"),
    [
        (0, "1GB/s", "samples_per_s"),
        (100, "fast", "'fast' is not the rate of a link"),
        (100, "25", "'25' is not the rate of a link"),
        (100, "25Gb/s", "bits"),
    ],
)
def test_a_link_that_is_none(tmp_path: Path, samples_per_s: float, link: str, message: str) -> None:
    with pytest.raises(cb.InputError, match=message):
        plan(tmp_path).scaling(samples_per_s=samples_per_s, link=link)


def test_the_table_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan(tmp_path)
    command = [
        "plan", str(tmp_path / "net.prototxt"), "--solver", str(tmp_path / "solver.prototxt"),
        "--gpu-memory", "1GiB", "--effective-batch", "12", "--gpus", "2", "--train-records", "100",
    ]  # fmt: skip
    assert status([*command, "--link", "1MB/s", "--samples-per-s", "100"]) == 0
    table = capsys.readouterr().out.partition("On more GPUs")[2]
    rows = [line.split() for line in table.splitlines()]
    assert ["2", "6", "1", "60.1", "ms", "0.2%", "2.00", "100%", "60.1", "ms"] in rows
    assert status([*command, "--link", "1MB/s"]) == 2
    assert "need each other" in capsys.readouterr().err


def status(command: list[str]) -> object:
    try:
        main(command)
    except SystemExit as ended:
        return ended.code or 0
    return 0
