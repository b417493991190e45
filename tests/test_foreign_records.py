"""Records that somebody else wrote: what they name is not run, and what another program left is neither read nor removed."""

import sys

import pytest

from skd_tf import data, evaluate, export, tune
from skd_tf.config import Config
from skd_tf.errors import InputError
from skd_tf.search.plan import Plan
from skd_tf.search.records import Records
from skd_tf.workdir import write_json

CALLED = "a strange function was called"


@pytest.fixture
def strange(tmp_path, monkeypatch):
    """A module with a function that leaves a trace where it is called, at its import too."""
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
    """The records of a run that somebody else has finished."""
    config = Config(**settings).to_json()
    folder.mkdir()
    write_json(folder / "config.json", config)
    write_json(folder / "result.json", {"student": {}, "config": config, "class_names": []})
    return folder


@pytest.mark.parametrize("command", ["evaluate", "export"])
@pytest.mark.parametrize("dataset", ["strange:load", "kubric:strange/config"])
def test_code_is_not_run_because_a_record_names_it(command, dataset, strange, tmp_path, monkeypatch, capsys):
    run = foreign_run(tmp_path / "run", dataset=dataset)
    module, flags = {
        "evaluate": (evaluate, [f"--model={run}"]),
        "export": (export, [f"--workdir={run}", f"--output={tmp_path / 'out'}"]),
    }[command]

    def ended(*more):
        monkeypatch.setattr(sys, "argv", [command, *flags, *more])
        with pytest.raises(SystemExit) as end:
            module.cli_main()
        assert end.value.code == 2
        return capsys.readouterr().err

    for named in ([], ["--download"]):
        assert f"Expected --dataset={dataset} from you" in ended(*named)
    assert not strange.exists() and not (tmp_path / "out").exists()
    if dataset == "strange:load":  # the user's own word
        with pytest.raises(RuntimeError, match=CALLED):
            ended(f"--dataset={dataset}")
        assert strange.read_text() == "imported called "


def test_an_export_takes_no_other_dataset_than_the_runs(tmp_path):
    with pytest.raises(InputError, match="the run's own data"):
        export.export(foreign_run(tmp_path / "run"), tmp_path / "out", dataset_name="mnist")


@pytest.mark.parametrize("asked", [False, True])
def test_a_download_takes_the_users_own_word(asked, tmp_path, monkeypatch):
    class Seen(Exception):
        pass

    def load(config, *_, **__):
        raise Seen(config.download)

    run = foreign_run(tmp_path / "run", dataset="cifar10", download=True)
    monkeypatch.setattr(data, "load", load)
    for module, flags in (
        (evaluate, [f"--model={run}"]), (evaluate, [f"--model={run}", "--dataset=cifar10"]),
        (export, [f"--workdir={run}", f"--output={tmp_path / 'out'}"]),
    ):  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["command", *flags, *["--download"] * asked])
        with pytest.raises(Seen, match=str(asked)):
            module.cli_main()


@pytest.mark.parametrize("values", [{"temperature": 4.0, "student": "strange:load"}, {"student": "strange:load"}, [], "x"])
def test_a_trials_record_names_nothing_that_the_search_does_not(values, strange, tmp_path):
    """Else a search that is continued would train a network of a stranger's."""
    plan = Plan(Config(teacher_checkpoint="teacher"), ("temperature:log:1:16",), max_trials=2)
    listed = Plan(Config(teacher_checkpoint="teacher"), ("student:choice:cnn_2,cnn_4",), max_trials=2)
    for name, searched in (("one", plan), ("other", listed)):
        records = Records(tmp_path / name, searched)
        records.claim()
        records.write({"trial": 0, "status": "running", "values": values, "started": 0, "ended": None, "executions": []})
        with pytest.raises(InputError, match="not of this search"):
            tune.search(searched, tmp_path / name)
    assert not strange.exists()
    known = {"trial": 0, "status": "running", "values": {"student": "cnn_4"}}
    records.write(known)
    assert records.all() == [known]
