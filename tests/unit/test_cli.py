"""The command line, before anything heavy starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from crlhf_ray.cli import app
from crlhf_ray.cli.stopping import CONTINUES
from crlhf_ray.errors import ConfigError, DataError


def run(*words: str):
    return CliRunner().invoke(app, list(words))


@pytest.mark.parametrize(
    "option, named",
    [
        (["--shard-size", "5GB"], "--shard-size"),
        (["--adapter"], "--adapter/--merged"),
        (["--dtype", "float16", "--checkpoint", "latest"], "--dtype, --checkpoint"),
    ],
)
def test_options_about_weights_are_refused_beside_an_export_of_reviews(option, named):
    error = run("export", "anywhere", "--feedback", *option).exception
    assert isinstance(error, ConfigError)
    assert str(error).startswith(f"{named} has no effect with --feedback")


@pytest.mark.parametrize("rows", [None, "a,b\n1,2\n", "task,worker,label\n"])
def test_labels_that_cannot_be_read_leave_no_folder(tmp_path, rows):
    labels = tmp_path / "labels.csv"
    if rows:
        labels.write_text(rows)
    assert isinstance(run("aggregate", str(labels), "--out", str(tmp_path / "made" / "here")).exception, DataError)
    assert not (tmp_path / "made").exists()


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "labels.csv").write_text("task,worker,label\n")
    error = run("aggregate", str(tmp_path / "labels.csv"), "--out", str(tmp_path / "labels.csv" / "out")).exception
    assert isinstance(error, DataError)
    assert "lies below one" in str(error)


def test_every_command_that_resumes_says_how_after_a_stop():
    commands = {command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands}
    resumable = {name for name in commands if "--resume" in run(name, "--help").output} - {"check"}  # says it itself
    assert resumable <= set(CONTINUES) <= commands


@pytest.mark.parametrize(
    "sent, code, said", [(signal.SIGINT, 130, "Stopped."), (signal.SIGTERM, 143, "Stopped by SIGTERM.")]
)
def test_a_stop_is_one_line_and_an_exit_code_of_its_own(sent, code, said):
    script = (
        "import os, signal, sys, types\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # whoever runs the tests may ignore it
        f"def long(*_): [os.kill(os.getpid(), {int(sent)}) for _ in range(2)]; signal.pause()\n"
        "sys.modules['crlhf_ray.studies.command'] = types.SimpleNamespace(run=long)\n"
        "from crlhf_ray.cli import main\n"
        "sys.argv = ['crlhf', 'study', 'padding']\n"
        "main()"
    )
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr.strip()) == (code, f"{said} {CONTINUES['study']}")
