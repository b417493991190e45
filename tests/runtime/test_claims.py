"""A file is claimed by one process at a time; claims of processes that are gone are taken over."""

import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

from skd_tf.runtime import claims


def claim_of(path, **owner):
    claim = path.with_name(path.name + ".claim")
    claim.write_text(json.dumps({"host": "elsewhere", "pid": 1} | owner))
    return claim


@pytest.fixture
def path(tmp_path):
    return tmp_path / "0000-00001.logits"


def test_a_claim_excludes_others_until_it_is_released(path):
    with claims.Claims() as one, claims.Claims() as other:
        assert one.take(path) and not other.take(path)
        one.release(path)
        assert other.take(path)
    assert not [*path.parent.iterdir()]
    with claims.Claims() as one:
        assert one.take(path)


def test_claims_of_processes_that_are_gone_are_taken_over_at_once(path):
    program = "from skd_tf.runtime.claims import Claims; import os, pathlib, sys\n"
    program += "Claims().take(pathlib.Path(sys.argv[1])); os._exit(9)"
    root = pathlib.Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", program, str(path)], check=False, cwd=root, env=os.environ | {"PYTHONPATH": "."}
    )
    assert path.with_name(path.name + ".claim").exists()
    with claims.Claims() as mine:
        assert mine.take(path)
        mine.release(path)
        claim_of(path, host=claims.machine(), pid=os.getpid())  # the container was started again
        assert mine.take(path)


def test_a_silent_claim_of_another_machine_is_taken_over_and_one_that_is_touched_is_not(path, monkeypatch):
    monkeypatch.setattr(claims, "_SILENT_SECONDS", 0.2)
    monkeypatch.setattr(claims, "_BEAT_SECONDS", 0.02)
    for text in ('{"host": "elsewhere", "pid": 1}', ""):  # killed before it had written anything
        claim = claim_of(path)
        claim.write_text(text)
        with claims.Claims() as mine:
            for i in range(5):
                os.utime(claim, (i, i))  # the clocks of two machines may differ by any amount
                assert not mine.take(path)
                time.sleep(0.06)
            assert not mine.take(path)
            time.sleep(0.25)
            assert mine.take(path)
            touched = claim.stat().st_mtime_ns
            time.sleep(0.1)
            assert claim.stat().st_mtime_ns > touched


def test_of_many_that_find_an_abandoned_claim_one_takes_it(path):
    for _ in range(20):
        claim_of(path, host=claims.machine(), pid=2**22 + 1)
        taken, start, held = [], threading.Barrier(8), [claims.Claims() for _ in range(8)]

        def take(one, taken=taken, start=start):
            start.wait()
            if one.take(path):
                taken.append(one)

        threads = [threading.Thread(target=take, args=[one]) for one in held]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(taken) == 1
        taken[0].release(path)


def test_claims_on_finished_files_are_swept(path):
    claim, other = claim_of(path), claim_of(path.with_name("0000-00002.logits"))
    path.write_text("")
    claims.Claims.sweep(path.parent)
    assert not claim.exists() and other.exists()
