"""The race between contenders: one that fails is left out, and the others keep their rounds."""

import functools
import os

from tools.benchmarks import interleaved


def _prepared(name):
    """A contender that fails, or whose process dies, in its third call; the first one is the start."""
    calls = [0]

    def run():
        calls[0] += 1
        if name == "fails" and calls[0] == 3:
            raise ValueError("out of range")
        if name == "dies" and calls[0] == 3:
            os._exit(3)

    if name == "never starts":
        raise ValueError("no such network")
    return interleaved.Contender(run, steps=1)


def test_a_contender_that_fails_at_any_time_is_left_out(capsys):
    large = bytearray(500_000_000)  # the peak of this process must not become theirs
    large[::4096] = bytes([1]) * len(large[::4096])
    del large
    names = ("stays", "never starts", "fails", "dies")
    rows = interleaved.race({name: functools.partial(_prepared, name) for name in names}, rounds=3)
    assert list(rows) == ["stays"] and len(rows["stays"]["ms"]) == 3 and rows["stays"]["median_ms"] >= 0
    assert 5 < rows["stays"]["peak_memory_mb"] < 400 < interleaved.resident_mb()
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "never starts: left out (ValueError: no such network)",
        "fails: left out (ValueError: out of range)",
        "dies: left out (its process died)",
    ]
