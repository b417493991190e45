"""Progress on a terminal and in a log, the seconds of a run, and streams that cannot print."""

import io
import re
import subprocess
import sys

import pytest

from skd_tf.runtime import console


@pytest.fixture
def clock(monkeypatch):
    """Time that a test sets."""
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_every_20_seconds(clock, capsys):
    with console.Progress("teacher pass", 1000, "images", done=200) as work:
        for done in range(200, 1001, 4):
            work.update(done)
            clock[0] += 0.25  # 16 images a second
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2  # 50 seconds
    assert lines[0] == "  teacher pass  520/1,000 images  16 images/s  0:30 left"
    with console.Progress("short", 10, "images") as work:
        for done in range(11):
            work.update(done)
            clock[0] += 1.0
    assert capsys.readouterr().out == ""


def test_a_part_of_a_task_reports_the_whole_task(clock, capsys):
    work = console.Progress("pass", 100, "images")
    clock[0] += 30
    work.after(50)(10)
    assert "60/100 images" in capsys.readouterr().out


def test_on_a_terminal_one_line_is_overwritten_and_disappears(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with console.Progress("evaluating", 10, "images") as work:
        for done in range(1, 9):
            clock[0] += 0.3
            work.update(done)
        console.say("a line of its own")
        clock[0] += 1
        work.update(9)
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "\r" in out
    screen = [re.split(r"\r", line)[-1] for line in out.split("\n")]  # what stays on the screen
    assert screen == ["a line of its own", ""]


class Deaf:
    """A stream that can only write."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


def full():
    stream = io.StringIO()
    stream.write = lambda text: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    return stream


@pytest.mark.parametrize("stream", [lambda: None, closed, full, Deaf], ids=["missing", "closed", "full", "deaf"])
def test_no_stream_ends_a_run(clock, monkeypatch, stream):
    monkeypatch.setattr(sys, "stdout", stream())
    monkeypatch.setattr(sys, "stderr", stream())
    with console.Progress("evaluating", 10, "images") as work:
        clock[0] += 30
        work.update(5)
        console.say("said")
        console.warn("warned")
    if isinstance(sys.stdout, Deaf):
        assert sys.stdout.text == "  evaluating  5/10 images  0.17 images/s  0:30 left\nsaid\n"
        assert sys.stderr.text == "warning: warned\n"


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "\\u732b \\xe4"), ("latin-1", "\\u732b ä"), ("utf-8", "猫 ä")]
)
@pytest.mark.parametrize("terminal", [False, True])
def test_characters_that_the_encoding_lacks_are_escaped(clock, monkeypatch, encoding, shown, terminal):
    content = io.BytesIO()
    stream = io.TextIOWrapper(content, encoding=encoding)
    stream.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    with console.Progress("猫 ä", 10, "images") as work:
        clock[0] += 30
        work.update(5)
    console.say("猫 ä")
    console.warn("猫 ä")
    printed = content.getvalue().decode(encoding)
    assert printed.startswith(f"  {shown}  5/10") and f"{shown}\nwarning: {shown}\n" in printed


def test_a_reader_that_leaves_does_not_end_a_run():
    say = "console.say('x' * 9999); print('more', flush=True)"
    code = f"import sys; from skd_tf.runtime import console; sys.stdin.read(); {say}; sys.exit(7)"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        process.stdin.close()
        assert (process.wait(timeout=60), process.stderr.read()) == (7, b"")


@pytest.fixture
def full_verbosity(monkeypatch):
    """--verbosity=full."""
    monkeypatch.setitem(console._verbosity, "full", True)


def test_long_epochs_report_their_steps_and_short_ones_do_not(clock, capsys, full_verbosity):
    long = console.EpochClock("resnet", 2, 0, 100, before=0.0)
    for step in range(1, 201):
        clock[0] += 1.0
        if step % 100:
            long.say_step(step)
        else:
            long.say_epoch(step // 100, {"examples_per_second": 64.0})
    lines = capsys.readouterr().out.splitlines()
    assert sum("steps/s" in line for line in lines) == 8 and "(epoch 2/2)" in lines[6]
    short = console.EpochClock("resnet", 10, 0, 5, before=7.0)
    for step in range(1, 51):
        clock[0] += 2.0
        if step % 5:
            short.say_step(step)
        else:
            short.say_epoch(step // 5, {"examples_per_second": 64.0})
    assert "steps/s" not in capsys.readouterr().out and short.seconds() == pytest.approx(107.0)


def trained(clock, seconds_per_step, *, epochs=20, steps=10, first=0):
    """A run of EpochClock, with the printed lines on the screen."""
    with console.stage("alone"), console.stage("inner"):  # the outer stage gives the name
        run = console.EpochClock("cnn_4", epochs, first, steps, before=0.0)
    for step in range(first + 1, epochs * steps + 1):
        clock[0] += seconds_per_step
        if step % steps:
            run.say_step(step)
        else:
            run.say_epoch(step // steps, {"examples_per_second": 6.0, "loss": 0.5, "val_accuracy": step / 400})
    run.say_end()


def test_a_stage_is_a_line_per_tenth_in_a_log(clock, capsys):
    trained(clock, 1.0)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10  # nine tenths and the end
    assert lines[0] == "alone      cnn_4   10%  epoch 3/20  validation 0.050  3:00 left"
    assert lines[-1] == "alone      cnn_4: 20 epochs in 3:20  validation 0.500"
    trained(clock, 0.1)
    assert len(capsys.readouterr().out.splitlines()) == 2  # 20 seconds: no line more often than every ten
    trained(clock, 1000.0, epochs=1)
    assert len(capsys.readouterr().out.splitlines()) == 10
    trained(clock, 1.0, first=150)
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()] == ["80%", "90%", "20"]


def test_compiling_does_not_count_in_the_time_left(clock, capsys):
    run = console.EpochClock("cnn_4", 20, 100, 10, before=0.0)
    clock[0] += 1000  # the first step is compiled
    run.say_step(101)
    for step in range(102, 125):
        clock[0] += 1
        run.say_step(step)
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.endswith("50%  epoch 11/20") and last.endswith("60%  epoch 13/20  1:20 left")


def test_a_stage_is_one_line_on_a_terminal(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    trained(clock, 1.0)
    out = capsys.readouterr().out
    screen = [re.split(r"\r", line)[-1] for line in out.split("\n")]
    assert screen == ["alone      cnn_4: 20 epochs in 3:20  validation 0.500", ""] and out.count("left") > 100


def test_a_narrow_terminal_shows_fewer_measures_and_never_a_line_that_wraps(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    record = {"accuracy": 0.9, "val_accuracy": 0.8, "agreement": 0.9, "examples_per_second": 1.0}
    shown = {}
    for columns in ("70", "120", "30"):
        monkeypatch.setenv("COLUMNS", columns)
        run = console.EpochClock("cnn_8_16_32", 20, 0, 10, before=0.0)
        run.say_step(1)
        clock[0] += 5
        run.say_epoch(2, record)
        clock[0] += 5
        run.say_step(30)
        shown[columns] = [part for part in capsys.readouterr().out.split("\r") if part.strip()][-1]
        run.say_end()
    assert all(len(text) < int(columns) for columns, text in shown.items())
    assert "agreement 0.900" in shown["120"] and shown["120"].endswith("left")
    assert "train 0.900" in shown["70"] and "agreement" not in shown["70"] and shown["70"].endswith("left")


def test_details_are_for_full_verbosity_and_a_part_of_a_run_says_less(capsys, monkeypatch):
    console.detail("a detail")
    console.say_of_part("a result")
    with console.stage("teacher"):
        console.say_of_part("the teacher's result")
    console.set_verbosity("full")
    monkeypatch.setitem(console._verbosity, "full", True)  # and back
    console.detail("another detail")
    console.set_verbosity("normal")
    console.detail("a third detail")
    assert capsys.readouterr().out.splitlines() == ["a result", "another detail"]


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (65, "1:05"), (3723.2, "1:02:03")])
def test_durations(seconds, text):
    assert console.duration(seconds) == text


def test_a_stopwatch_adds_up(clock):
    watch = console.Stopwatch()
    for _ in range(2):
        with watch("export"):
            clock[0] += 1.5
    watch.add("training", 4.0)
    assert watch.seconds == {"export": 3.0, "training": 4.0}
