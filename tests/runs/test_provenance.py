"""The commit in a record is that of skd_tf's own checkout, or none."""

import subprocess

from skd_tf.runs import provenance


def test_a_project_around_the_installed_package_is_not_its_source(tmp_path, monkeypatch):
    def git(*command):
        identity = ("-c", "user.name=A", "-c", "user.email=a@b.c")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *command], check=True, capture_output=True)

    installed = tmp_path / "venv" / "provenance.py"
    installed.parent.mkdir()
    installed.write_text("")
    (tmp_path / ".gitignore").write_text("venv\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "theirs")
    monkeypatch.setattr(provenance, "__file__", str(installed))
    assert provenance.git_commit() is None
    git("add", "--force", "venv")
    git("commit", "--quiet", "-m", "ours")
    assert len(provenance.git_commit()) == 40
