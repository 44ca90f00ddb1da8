"""The efficiency of many devices, by hand."""

from __future__ import annotations

import pytest

from tests.scripts import import_benchmark

devices = import_benchmark("devices")


def test_an_all_reduce_takes_what_the_ring_takes():
    """Of 8 devices 14 messages, and 14/8 of the bytes. Mutations: n for n - 1; a way once."""
    # 100 MB at 10 GB/s take 10 ms, and 14/8 of that 17.5 ms; 14 messages of 10 us take 0.14 ms.
    assert devices.all_reduce_seconds(100e6, 8, 10e9, 10e-6) == pytest.approx(17.64e-3)
    assert devices.all_reduce_seconds(100e6, 1, 10e9, 10e-6) == 0
    # Two losses have twice the messages.
    both = devices.Message((60_000_000, 40_000_000)).seconds(8, 10e9, 10e-6)
    assert both == pytest.approx(17.78e-3)


def test_averaging_and_gradients_come_one_after_the_other_or_at_once():
    assert devices.efficiency(9.0, 1.0) == pytest.approx(0.9)
    assert devices.efficiency(9.0, 1.0, overlapped=True) == 1
    assert devices.efficiency(9.0, 18.0, overlapped=True) == pytest.approx(0.5)


def test_the_first_number_of_devices_below_a_goal():
    """Without bytes 2(n - 1) us, of which 91 us bear 10.1: n is at most 6. Mutation: one more."""
    message, options = devices.Message((0,)), {"bandwidth": 1e9, "latency": 1e-6}
    assert devices.first_below(0.9, 91e-6, message, **options) == 7
    assert devices.first_below(0.9, 91e-6, message, bandwidth=1e9, latency=0.0) is None
