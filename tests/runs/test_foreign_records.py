"""Somebody else's records: code that they name is not run; another program's files are neither read nor removed."""

import sys

import pytest

import skd_tf.report
from skd_tf import data, evaluate, export
from skd_tf.config import Config
from skd_tf.errors import InputError
from skd_tf.runs import report
from skd_tf.runs.workdir import Workdir, locked, require_output
from skd_tf.runtime.files import write_json
from skd_tf.search.plan import Plan
from skd_tf.search.run_search import run_search
from skd_tf.search.trial_records import TrialRecords
from skd_tf.serving.export_student import export_student
from skd_tf.training import dry_run
from tests.helpers.commands import exit_code

CALLED = "a strange function was called"


@pytest.fixture
def strange(tmp_path, monkeypatch):
    """A module that leaves a trace when it is imported, and when its function is called."""
    trace, code = tmp_path / "trace", tmp_path / "code"
    code.mkdir()
    (code / "strange.py").write_text(
        f"open({str(trace)!r}, 'a').write('imported ')\n"
        f"def load(*_):\n    open({str(trace)!r}, 'a').write('called ')\n    raise RuntimeError({CALLED!r})\n"
    )
    monkeypatch.syspath_prepend(code)
    monkeypatch.delitem(sys.modules, "strange", raising=False)
    return trace


def foreign_run(folder, **settings):
    """The records of a run that somebody else finished."""
    config = Config(**settings).to_json()
    folder.mkdir()
    (folder / "student.keras").write_bytes(b"")
    write_json(folder / "config.json", config)
    write_json(folder / "result.json", {"student": {}, "config": config, "class_names": []})
    return folder


def readers_of(run):
    """The two commands that take a dataset from a run's record, each with its flags."""
    out = run.parent / "out"
    return {evaluate.cli_main: [f"--model={run}"], export.cli_main: [f"--workdir={run}", f"--output={out}"]}


@pytest.mark.parametrize("dataset", ["strange:load", "kubric:strange/config"])
def test_code_is_not_run_because_a_record_names_it(dataset, strange, tmp_path, capsys):
    for main, flags in readers_of(foreign_run(tmp_path / "run", dataset=dataset)).items():
        for more in ([], ["--download"]):
            assert exit_code(main, *flags, *more) == 2
            assert f"Expected --dataset={dataset} from you" in capsys.readouterr().err
        assert not strange.exists() and not (tmp_path / "out").exists()
        if dataset == "strange:load":  # the user names it
            with pytest.raises(RuntimeError, match=CALLED):
                exit_code(main, *flags, f"--dataset={dataset}")
            assert strange.read_text() == "imported called "
            del sys.modules["strange"]
            strange.unlink()


def test_an_export_takes_no_other_dataset_than_the_runs(tmp_path):
    with pytest.raises(InputError, match="the run's own data"):
        export_student(foreign_run(tmp_path / "run"), tmp_path / "out", dataset="mnist")


@pytest.mark.parametrize("asked", [False, True])
def test_a_record_alone_does_not_download(asked, tmp_path, monkeypatch):
    class Seen(Exception):
        pass

    def load(config, *_, **__):
        raise Seen(config.download)

    monkeypatch.setattr(data, "load", load)
    readers = readers_of(foreign_run(tmp_path / "run", dataset="cifar10", download=True))
    named = (evaluate.cli_main, [*readers[evaluate.cli_main], "--dataset=cifar10"])
    for main, flags in (*readers.items(), named):
        with pytest.raises(Seen, match=str(asked)):
            exit_code(main, *flags, *["--download"] * asked)


@pytest.mark.parametrize("more", [{"temperature": 4.0}, {}, [], "x"])
def test_a_trials_record_names_only_values_of_its_search(more, strange, tmp_path):
    """Otherwise a continued search would train a stranger's network."""
    teacher, begun = tmp_path / "teacher.keras", {"trial": 0, "status": "running"}
    values = more | {"student": "strange:load"} if isinstance(more, dict) else more
    teacher.touch()
    for search in ("temperature:log:1:16", "student:choice:cnn_2,cnn_4"):
        folder, plan = tmp_path / search[:7], Plan(Config(teacher_checkpoint=str(teacher)), (search,), max_trials=2)
        records = TrialRecords(folder, plan)
        records.claim()
        records.write(begun | {"values": values, "started": 0, "ended": None, "executions": []})
        with pytest.raises(InputError, match="A record belongs to another search"):
            run_search(plan, folder)
    assert not strange.exists()
    known = begun | {"values": {"student": "cnn_4"}}
    records.write(known)
    assert records.all() == [known]


def fill(folder, *names):
    """Writes files with these names; returns all files of the folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("precious")
    return files_of(folder)


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


OVERWRITING = Config(loss="cross_entropy", overwrite=True)
SETTINGS = OVERWRITING.to_json()
OLDER = {name: value for name, value in SETTINGS.items() if name != "ema_momentum"} | {"gone": 1}


@pytest.mark.parametrize("settings", ['{"model_type": "bert"}', '{"dataset": "x", "loss": "y"}', "[1]", "// {}", "{"])
def test_overwrite_removes_nothing_of_another_program(settings, tmp_path):
    fill(tmp_path, "checkpoints/weights.pt", "saved_model/saved_model.pb", "result.json", "tensorboard/x")
    (tmp_path / "config.json").write_text(settings)
    before = files_of(tmp_path)
    for act in (lambda: Workdir(tmp_path, OVERWRITING), lambda: dry_run.describe(OVERWRITING, tmp_path)):
        with pytest.raises(InputError, match=r"not a run's|record of settings is damaged"):
            act()
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("settings", [SETTINGS, SETTINGS | {"resolved": {"radius": 1.0}}, OLDER])
@pytest.mark.parametrize("left", ["checkpoints/1.ckpt flags.txt student.keras result.json", "report.html", ""])
def test_overwrite_clears_a_run_in_every_state(settings, left, tmp_path):
    fill(tmp_path, "mine.txt", "teacher/student.keras", *left.split())
    write_json(tmp_path / "config.json", settings)
    assert "restarted from scratch" in dry_run.describe(OVERWRITING, tmp_path)
    Workdir(tmp_path, OVERWRITING)
    found = {str(path.relative_to(tmp_path)) for path in files_of(tmp_path)}
    assert found == {"config.json", "mine.txt", "teacher/student.keras"}


@pytest.mark.parametrize("config", [OVERWRITING, OVERWRITING.replace(overwrite=False)], ids=["overwrite", "new run"])
def test_a_flagfile_of_the_users_own_in_a_refused_workdir_stays(config, tmp_path):
    before = fill(tmp_path, "flags.txt")
    with pytest.raises(InputError, match="files of no known run"), locked(tmp_path):
        Workdir(tmp_path, config)
    assert files_of(tmp_path) == before


def test_overwrite_removes_a_link_and_not_what_it_leads_to(tmp_path):
    disk, run = tmp_path / "disk", tmp_path / "run"
    before = fill(disk, "step-1.ckpt")
    run.mkdir()
    (run / "checkpoints").symlink_to(disk)
    write_json(run / "config.json", SETTINGS)
    Workdir(run, OVERWRITING)
    assert files_of(run).keys() == {run / "config.json"} and files_of(disk) == before


@pytest.mark.parametrize("text", ['{"query": "cats"}', "{", "[]"])
def test_overwrite_removes_nothing_in_a_folder_that_is_not_a_searchs(text, tmp_path):
    plan = Plan(Config(teacher_checkpoint="teacher", overwrite=True), ("temperature:log:1:16",))
    (tmp_path / "search.json").write_text(text)
    before = fill(tmp_path, "trials/1/notes", "tensorboard/x", "final/x")
    with pytest.raises(InputError, match=r"not belong to a search|damaged.*choose another --workdir"):
        TrialRecords(tmp_path, plan).claim()
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(("module", "flag"), [(evaluate, "--model"), (skd_tf.report, "--run")])
def test_no_command_writes_over_a_runs_own_files(module, flag, tmp_path, monkeypatch, capsys):
    run = foreign_run(tmp_path / "run")
    before = fill(run, "metrics.jsonl", "student.keras")
    monkeypatch.chdir(run)
    for name in ("result.json", "config.json", "metrics.jsonl", "student.keras"):
        for output in (name, run / name, f"../run/{name}"):
            assert exit_code(module.cli_main, f"{flag}={run}", f"--output={output}") == 2
            assert "a file of the run" in capsys.readouterr().err
        require_output(tmp_path / name)  # not a run's folder
    assert files_of(run) == before
    require_output(run / "evaluation.json")


@pytest.mark.parametrize(
    "result", [{"models": [], "teacher": None, "class_names": []}, [], {"config": {}, "student": None}]
)
def test_every_reader_refuses_a_result_that_is_not_a_runs(result, tmp_path):
    config, run = Config(loss="cross_entropy"), foreign_run(tmp_path / "run", loss="cross_entropy")
    fill(run, "metrics.jsonl")
    write_json(run / "result.json", result)
    for read in (
        lambda: Workdir(run, config).result,
        lambda: dry_run.describe(config, run),
        lambda: export_student(run, tmp_path / "out"),
        lambda: report.write([run], tmp_path / "page.html"),
    ):
        with pytest.raises(InputError, match=r"not a run's.*result\.json.*Remove it"):
            read()
