"""Entry points as processes: exit codes, one-line errors, help and standard streams."""

import pathlib
import subprocess
import sys
import textwrap
import time

import pytest
from absl import flags

from skd_tf.config import app
from skd_tf.config.flags import FIELDS, PLACES

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

PROGRAM = """
    import sys
    from absl import flags
    from skd_tf.config import app
    from skd_tf.config.flags import config_from, define_flags
    from skd_tf.errors import InputError

    def define(flag_values):
        define_flags(flag_values)
        flags.DEFINE_multi_string("search", [], "what to search", flag_values=flag_values)
        flags.DEFINE_integer("trials", 3, "how many", flag_values=flag_values, lower_bound=1)

    def main(flag_values):
        config = config_from(flag_values)
        if config.seed == 13:
            raise InputError("Thirteen is unlucky.\\n  Expected another.")
        if config.seed == 14:
            raise MemoryError
        print(config.epochs, config.center, flag_values.search, flag_values.trials, flag_values.workdir)
        return config.seed

    if __name__ == "__main__":
        app.run(main, description="Tries things.", define=define)
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Runs a separate entry point in a process and returns the finished process."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "program.py").write_text(textwrap.dedent(PROGRAM))

    def run(*arguments, module=False, **options):
        start = ["-m", "program"] if module else [str(folder / "program.py")]
        environment = {"PYTHONPATH": f"{REPOSITORY}:{folder}", "PATH": "/usr/bin:/bin"}
        return subprocess.run(
            [sys.executable, *start, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **options,
        )

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs=3"], "--workdir is missing."),
        (["--nolist_layers"], "--workdir is missing."),
        (["--list_layers=maybe"], "--list_layers is neither true nor false"),
        (["--workdir=w", "--epoch=3"], "Did you mean --epochs?"),
        (["--workdir=w", "--nocentre"], "Did you mean --nocenter?"),
        (["--workdir=w", "--epochs=0"], "Received --epochs=0."),
        (["--workdir=w", "--student=resnet-20"], "Did you mean resnet20?"),
        (["--workdir=w", "--loss=skd"], "Spherical KD is called spherical"),
        (["--workdir=w", "--center", "false"], "Received false."),
        (["--workdir=w", "train"], "Received train."),
        (["--workdir=w", "--nocenter=3"], "--nocenter=3"),
        (["--workdir=w", "--trials=0"], "--trials=0"),
        (["--workdir"], "--workdir"),
        (["--flagfile=nowhere.flags"], "--flagfile=nowhere.flags"),
        (["--flagfile"], "--workdir is missing."),
        (["--workdir=w", "--seed=13"], "Thirteen is unlucky. Expected another."),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(program, arguments, message):
    finished = program(*arguments)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr.startswith("error: ") and finished.stderr.count("\n") == 1
    assert message in finished.stderr


def test_too_little_memory_is_one_line_and_exit_code_1(program):
    finished = program("--workdir=w", "--seed=14")
    assert (finished.returncode, finished.stderr) == (1, "error: Too little memory.\n")


@pytest.mark.parametrize("module", [False, True])
def test_an_entry_point_runs_with_flags_of_its_own(program, module):
    finished = program(
        "--workdir=w", "--search=a", "--search", "b", "--nocenter", "--epochs=2", "--seed=5", module=module
    )
    assert (finished.stdout, finished.stderr) == ("2 False ['a', 'b'] 3 w\n", "")
    assert finished.returncode == 5


def test_closed_standard_streams_stay_free_of_other_files(tmp_path):
    """A file with descriptor 2 would get what TensorFlow's C++ code logs."""
    code = "import os; from skd_tf.config import app; app._open_standard_streams(); "
    code += f"file = open({str(tmp_path / 'file')!r}, 'w'); print('free', file=file); sys = file.fileno(); assert sys > 2, sys"
    subprocess.run(f'{sys.executable} -c "{code}" <&- >&- 2>&-', shell=True, check=True)
    assert (tmp_path / "file").read_text() == "free\n"


def test_help_lists_every_flag_quickly(program):
    seconds = []
    for _ in range(3):  # the fastest, as the machine may be busy
        start = time.perf_counter()
        finished = program("--help")
        seconds.append(time.perf_counter() - start)
    assert finished.returncode == 0 and finished.stderr == ""
    for name in [*FIELDS, *PLACES, "flagfile", "search", "trials"]:
        assert f"--{name}" in finished.stdout or f"--[no]{name} " in finished.stdout, name
    for text in ("Tries things.", "--temperature=4.0", "--[no]center (default: true)", "in pixels", "Training:"):
        assert text in finished.stdout
    assert max(map(len, finished.stdout.splitlines()[1:])) <= 110
    assert min(seconds) < 0.5, seconds


@pytest.mark.parametrize(
    ("positional", "usage"),
    [
        (("model", "images"), " MODEL IMAGES --output=... ["),
        ("run", " RUN [RUN ...] --output=... ["),
        (None, " --model="),
    ],
)
def test_the_usage_line_shows_what_needs_no_flag(positional, usage):
    required = ("model", "images", "output") if positional != "run" else ("run", "output")
    assert usage in app.help_text(flags.FlagValues(), "Tries things.", required, positional).splitlines()[0]
