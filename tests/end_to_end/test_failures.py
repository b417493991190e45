"""What may go wrong on a user's machine: one line that says what to do, an exit code, and no harm to earlier files."""

import hashlib
import os
import re
import socket

import pytest

from skd_tf import evaluate, export, train
from tests.end_to_end.failure_cases import CACHE, CASES, FINISHED, IMAGES, Place, full_disk, images, nothing, read_only
from tests.helpers import runs
from tests.helpers.commands import exit_code

SETTINGS = [*runs.as_flags(runs.SMALL), "--loss=cross_entropy", "--epochs=2", "--noreport"]
NAMES = [flags if do_it is nothing else do_it.__name__ for _, do_it, flags, _ in CASES]
SLOW = ("full_disk_for_keras", "vanishing_images")
MARKED = [pytest.param(*c, marks=[pytest.mark.slow] * (name in SLOW)) for c, name in zip(CASES, NAMES, strict=True)]


@pytest.fixture
def run(capsys):
    """Runs a command, or else the training command, in this process: (exit code, what it prints on stderr)."""

    def run(*flags, command=train):
        settings = SETTINGS if command is train else ()
        return exit_code(command.cli_main, *settings, *flags), capsys.readouterr().err

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "a räum"  # a space, and more than ASCII
    assert exit_code(train.cli_main, *SETTINGS, *FINISHED.split(), f"--workdir={folder}") == 0
    return folder


def fingerprints(folder):
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("code", "do_it", "flags", "message"), MARKED, ids=NAMES)
def test_what_goes_wrong_is_one_line_and_harms_nothing(code, do_it, flags, message, finished, tmp_path, run):
    before = fingerprints(finished)
    with Place(finished, tmp_path) as place:
        do_it(place)
        harmed = fingerprints(tmp_path)
        ended, errors = run(f"--workdir={place.run}", *place.flags(flags))
    assert ended == code and "Traceback" not in errors, errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith("error: ") and (code == 1 or ("Expected" in last and "Received" in last))
    assert re.search(message, last), last
    after = fingerprints(tmp_path)
    assert fingerprints(finished) == before and harmed.items() <= after.items()
    written = {path.name for path in after.keys() - harmed.keys()}
    assert not any(name.endswith(".tmp") for name in written) and (code == 1 or "metrics.jsonl" not in written)


@pytest.mark.slow
def test_a_run_resumes_after_a_full_disk_and_a_complete_cache_may_be_read_only(finished, tmp_path, run):
    def code(do_it, workdir):
        with Place(finished, tmp_path) as place:
            do_it(place)
            return run(f"--workdir={tmp_path / workdir}", *place.flags(CACHE + "cache"))[0]

    assert code(full_disk(".logits"), "run") == 2 and code(nothing, "run") == 0
    abandoned = tmp_path / "cache" / "index.json.0123abcd.tmp"
    abandoned.write_text("")
    os.utime(abandoned, (0, 0))
    assert code(read_only, "other") == 0


@pytest.mark.slow
def test_paths_with_spaces_and_other_letters(finished, tmp_path, run):
    place = Place(finished, tmp_path / "gemischte Wäsche 2" / "日本")
    code, errors = run(f"--workdir={place.run}", "--student_alone=train", *place.flags(CACHE + "cache"))
    assert code == 0, errors
    assert (place.run / "saved_model" / "saved_model.pb").is_file()
    images(place)
    code, errors = run(f"--workdir={place.folder}/of images", "--epochs=1", *place.flags(IMAGES))
    assert code == 0, errors


@pytest.mark.slow
def test_nothing_asks_the_network(finished, tmp_path, run, monkeypatch):
    def refuse(*arguments, **_):
        pytest.fail(f"asked the network: {arguments[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    workdir = f"--workdir={tmp_path / 'run'}"
    assert run(workdir, *Place(finished, tmp_path).flags(CACHE + "cache"))[0] == 0
    models = f"--model={tmp_path / 'run'}", f"--teacher={finished}", "--dataset=digits", "--notiming"
    assert run(*models, command=evaluate)[0] == 0
    files = "--format=keras", f"--output={tmp_path / 'out'}", "--check_images=10"
    assert run(workdir, *files, command=export)[0] == 0
    code, errors = run(f"--workdir={tmp_path / 'other'}", "--dataset=cifar10", f"--data_dir={tmp_path}")
    assert code == 2 and "add --download" in errors
