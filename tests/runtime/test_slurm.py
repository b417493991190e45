"""The cluster of a Slurm job step, and the committed sbatch file on one machine with made-up variables."""

import json
import os
import pathlib
import stat
import subprocess
import sys

import pytest
import tensorflow as tf

from skd_tf.errors import InputError
from skd_tf.runtime import cluster, slurm
from tests.helpers.runs import SMALL, as_flags, read_json

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEP = {"SLURM_PROCID": "2", "SLURM_STEP_NODELIST": "gpu[08-10,2],b", "SLURM_STEP_TASKS_PER_NODE": "2,1(x4)"}


def test_addresses_are_those_of_tensorflows_resolver(monkeypatch):
    step = STEP | {"SLURM_STEP_NODELIST": "b,gpu[08-10]", "SLURM_STEP_TASKS_PER_NODE": "1,2,1(x2)"}
    for name, value in (step | {"SLURM_STEP_NUM_TASKS": "5", "SLURM_LOCALID": "0"}).items():
        monkeypatch.setenv(name, value)
    gpus = {"gpus_per_node": 2, "gpus_per_task": 1, "auto_set_gpu": False}
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(port_base=20_000, **gpus)
    spec = resolver.cluster_spec()
    member = cluster.member("multi_worker", os.environ)
    assert member.addresses == spec.job_tasks("worker")
    assert (member.index, member.workers) == (2, 5) and resolver.get_task_info() == ("worker", 2)
    assert cluster.member("auto", os.environ) is None  # a job of one process
    elsewhere = {"TF_CONFIG": json.dumps({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}})}
    assert cluster.member("multi_worker", os.environ | elsewhere).addresses == ["a:1"]


def test_jobs_and_their_steps_have_different_ports_on_a_node():
    step = {"SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "a", "SLURM_STEP_TASKS_PER_NODE": "8"}
    ports = set()
    for job, number in (("7", "0"), ("7", "1"), ("7", "4"), ("8", "0"), ("9", "0")):
        addresses, _ = slurm.addresses(step | {"SLURM_JOB_ID": job, "SLURM_STEP_ID": number})
        ports |= {*addresses}
    assert len(ports) == 40


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"SLURM_STEP_NODELIST": ""}, "no node"),
        ({"SLURM_STEP_NODELIST": "a[x]"}, "malformed"),
        ({"SLURM_STEP_TASKS_PER_NODE": "2"}, "5 nodes, but tasks for 1"),
        ({"SLURM_STEP_TASKS_PER_NODE": "two"}, "'two' is not a number of tasks"),
        ({"SLURM_PROCID": "6"}, "no task 6 among 6"),
    ],
)
def test_malformed_variables_are_one_line(changed, problem):
    with pytest.raises(InputError, match=f"Slurm.*{problem}.*Expected.*Received") as caught:
        slurm.addresses(STEP | changed)
    assert "\n" not in str(caught.value)


SRUN = """#!{python}
import os, subprocess, sys
command = [argument for argument in sys.argv[1:] if not argument.startswith("--kill-on-bad-exit")]
step = {{"SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_TASKS_PER_NODE": "2"}}
tasks = [subprocess.Popen(command, env=os.environ | step | {{"SLURM_PROCID": str(i)}}) for i in range(2)]
sys.exit(max(task.wait() for task in tasks))
"""
SCONTROL = "#!/bin/sh\necho scontrol $*\n"


@pytest.mark.slow
def test_the_sbatch_file_trains_two_workers_and_queues_a_stopped_job_again(tmp_path):
    programs = {"srun": SRUN.format(python=sys.executable), "scontrol": SCONTROL}
    programs["python"] = f'#!/bin/sh\nexec {sys.executable} "$@"\n'
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(stat.S_IRWXU)
    environment = os.environ | {"SLURM_JOB_ID": "4711", "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    flags = [*as_flags({k: v for k, v in SMALL.items() if k != "strategy"}), "--loss=cross_entropy", "--noreport"]
    command = ["bash", str(ROOT / "tools" / "clusters" / "train.sbatch"), *flags, f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "workers: 2" in read_json(tmp_path / "run" / "result.json")["device"]
    assert "scontrol" not in done.stdout
    (tmp_path / "srun").write_text("#!/bin/sh\nexit 143\n")
    stopped = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert stopped.returncode == 143 and f"scontrol requeue {environment['SLURM_JOB_ID']}" in stopped.stdout
