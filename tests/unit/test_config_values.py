"""Durations, sizes and addresses: what people write is understood, or refused with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtq.config import (
    format_address,
    format_size,
    parse_address,
    parse_duration,
    parse_rate,
    parse_size,
    usable_cores,
)
from dtq.config.values import parse_offer
from dtq.errors import InvalidAddress, InvalidValue


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2.5", 2.5),
        ("0", 0.0),
        (".5", 0.5),
        ("60s", 60.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("250ms", 0.25),
        ("2D", 172_800.0),
        ("1w", 604_800.0),
        ("1.5h", 5400.0),
    ],
)
def test_parse_duration_reads_seconds_and_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "abc", "-5", "5x", "5 m x", "1e999", "nan", "inf", "٣s", "9" * 400, "m"])
def test_parse_duration_refuses_what_is_none(text: str) -> None:
    with pytest.raises(InvalidValue, match=r"a time limit cannot be .*write seconds"):
        parse_duration(text, "a time limit")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1048576", 2**20),
        ("512MiB", 512 * 2**20),
        ("5GB", 5 * 10**9),
        ("5 gb", 5 * 10**9),
        ("2g", 2**31),
        ("1.5KiB", 1536),
        ("7b", 7),
    ],
)
def test_parse_size_reads_bytes_and_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "5 apples", "1e9", "9999999999TiB"])
def test_parse_size_refuses_what_is_none(text: str) -> None:
    with pytest.raises(InvalidValue, match="a limit cannot be"):
        parse_size(text, "a limit")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (2**29, "512 MiB"), (3_328_599_654, "3.1 GiB"), (1536, "1.5 KiB")]
)
def test_format_size_uses_the_largest_unit(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:3870", ("127.0.0.1", 3870)),
        (" lab-4.example.org:1 ", ("lab-4.example.org", 1)),
        ("[::1]:3870", ("::1", 3870)),
        ("[fe80::1%eth0]:65535", ("fe80::1%eth0", 65535)),
    ],
)
def test_parse_address_reads_host_and_port(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


def test_format_address_is_the_inverse_of_parse_address() -> None:
    for text in ("127.0.0.1:3870", "[::1]:3870"):
        assert format_address(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "host", "host:", ":3870", "host:0", "host:65536", "host:12x", "::1:3870", "[host]:1", "a b:1", "tcp://h:1"],
)
def test_parse_address_refuses_what_is_none(text: str) -> None:
    with pytest.raises(InvalidAddress, match="write host:port, for example"):
        parse_address(text)


def _cgroup(tmp_path: Path, membership: str) -> tuple[Path, Path]:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(membership)
    groups.mkdir()
    return proc, groups


def test_usable_cores_obeys_the_quota_of_a_group_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a process that may run on 8 cores, in a group whose parent may use one and a half
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    proc, groups = _cgroup(tmp_path, "0::/app/web\n")
    (groups / "app" / "web").mkdir(parents=True)
    (groups / "app" / "web" / "cpu.max").write_text("max 100000\n")
    (groups / "app" / "cpu.max").write_text("150000 100000\n")
    # Then it counts as two
    assert usable_cores(proc, groups) == 2


def test_usable_cores_obeys_the_quota_of_the_first_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    proc, groups = _cgroup(tmp_path, "4:memory:/x\n3:cpu,cpuacct:/job\n")
    (groups / "cpu" / "job").mkdir(parents=True)
    (groups / "cpu" / "job" / "cpu.cfs_quota_us").write_text("300000\n")
    (groups / "cpu" / "job" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(proc, groups) == 3


def test_usable_cores_without_quota_is_the_affinity_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {1, 5, 7})
    proc, groups = _cgroup(tmp_path, "0::/\n")
    (groups / "cpu.max").write_text("max 100000\n")
    assert usable_cores(proc, groups) == 3
    assert usable_cores(tmp_path / "nowhere", groups) == 3


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100/m", (100, 60.0)),
        ("5/s", (5, 1.0)),
        (" 10 / 90s", (10, 90.0)),
        ("1/1h30m", (1, 5400.0)),
        ("3/D", (3, 86_400.0)),
        ("7/2", (7, 2.0)),
    ],
)
def test_parse_rate_reads_how_many_in_which_time(text: str, rate: tuple[int, float]) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "5", "5/", "/s", "5/x", "-1/s", "1.5/s", "5/0", "0/s"])
def test_parse_rate_refuses_what_is_none(text: str) -> None:
    with pytest.raises(InvalidValue, match="write how many in which time"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "offer"),
    [
        ("gpu=0,1", ("gpu", ("0", "1"), 2)),
        ("gpu=0", ("gpu", ("0",), 1)),
        ("gpu=3,", ("gpu", ("3",), 1)),
        ("gpu=GPU-5f,GPU-77", ("gpu", ("GPU-5f", "GPU-77"), 2)),
        ("memory = 32GB", ("memory", (), 32 * 10**9)),
        ("licences=5", ("licences", (), 5)),
        ("port=8080,", ("port", ("8080",), 1)),
    ],
)
def test_offer_is_named_units_or_a_sum(text: str, offer: tuple[str, tuple[str, ...], int]) -> None:
    assert parse_offer(text) == offer


@pytest.mark.parametrize(
    "text", ["gpu", "gpu=", "=1", "gpu=2", "gpu=1,1", "memory=0", "memory=much", "a b=1", "port=a b,c"]
)
def test_offer_that_cannot_be_told_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        parse_offer(text)
