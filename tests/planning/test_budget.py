"""Budgets: sizes, shares, reserves, and what happens without a GPU."""

from __future__ import annotations

import pytest

from caffe_batch.errors import InputError
from caffe_batch.planning.budget import DEFAULT_RESERVE_BYTES
from caffe_batch.planning.budget import parse_budget as parse
from caffe_batch.runtimes.machine import free_gpu_bytes
from caffe_batch.sizes import format_size, parse_size


def no_gpu() -> int:
    pytest.fail("a plain size needs no GPU")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GiB", 8 * 2**30),
        ("8GB", 8 * 10**9),
        ("8G", 8 * 2**30),
        ("8192MiB", 8192 * 2**20),
        (" 1.5 kib ", 1536),
        ("11000000000", 11 * 10**9),
        ("1b", 1),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "8 elephants", "GiB", "-3GiB", "1e9", "8GiB8", "nan", "0x10"])
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(InputError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["4", "11", "1.5", "1048575"])
def test_a_forgotten_unit(text: str) -> None:
    with pytest.raises(InputError, match=f"'{text}' has no unit, and would be .* bytes") as error:
        parse_size(text)
    assert error.value.hint is not None
    assert f"Write {text}GiB" in error.value.hint
    assert parse_size(f"{text}B") == int(float(text))
    assert parse_size("1048576") == 2**20


@pytest.mark.parametrize("text", ["0", "0GiB", "0.1b"])
def test_a_size_of_nothing(text: str) -> None:
    with pytest.raises(InputError, match="leaves no memory at all"):
        parse_size(text)


def test_sizes_for_people_stay_short() -> None:
    for size in (0, 1, 999, 1023, 1024, 123_456_789, 2**40, -5 * 2**20):
        assert len(format_size(size)) <= 9


def test_reserve() -> None:
    assert parse("8GiB", None, no_gpu).usable_bytes == 8 * 2**30 - DEFAULT_RESERVE_BYTES
    assert parse("8GiB", "0", no_gpu).usable_bytes == 8 * 2**30
    assert parse("8GiB", "1GiB", no_gpu).usable_bytes == 7 * 2**30


def test_a_reserve_that_leaves_nothing() -> None:
    with pytest.raises(InputError, match="the reserve of 512 MiB leaves nothing of 256 MiB"):
        parse("256MiB", None, no_gpu)


@pytest.mark.parametrize("share", ["0%", "101%", "1000%"])
def test_what_is_not_a_share(share: str) -> None:
    with pytest.raises(InputError, match="not a share of the GPU's memory"):
        parse(share, "0", no_gpu)


@pytest.mark.parametrize(("memory", "budget"), [("auto", 1000), ("80%", 800), (" 12.5 % ", 125)])
def test_what_the_gpu_has_free(memory: str, budget: int) -> None:
    assert parse(memory, "0", lambda: 1000).budget_bytes == budget


def test_asking_a_gpu_that_isnt_there() -> None:
    # No machine has a GPU of this number, so the refusal is real with and without a driver.
    with pytest.raises(InputError, match="the free memory of GPU 999 is unknown"):
        free_gpu_bytes(999)
