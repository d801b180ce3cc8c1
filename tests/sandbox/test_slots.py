"""Slots are lost and replaced; results are not lost."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import pydantic
import pytest

from crlhf_ray.errors import EngineError
from crlhf_ray.sandbox import cgroups, jail
from crlhf_ray.sandbox.sandbox import Limits, Sandbox, SandboxSettings

from .samples import DOUBLE, RIGHT, WRONG

SLOW = "\n    import time; time.sleep(0.02)\n    return 2 * x\n"


def below(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(pid for child in children for pid in below(int(child)))]


def killing(sandbox: Sandbox, pick, stop: threading.Event) -> threading.Thread:
    """Kills something of the sandbox's slots with SIGKILL, three times or until told to stop."""

    def run() -> None:
        for _ in range(3):
            if stop.wait(1.0):
                return
            with contextlib.suppress(ProcessLookupError, FileNotFoundError, IndexError):
                os.kill(pick(sandbox), signal.SIGKILL)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "pick",
    [
        pytest.param(lambda sandbox: sandbox._slots[0].process.pid, id="the verifier"),
        pytest.param(lambda sandbox: below(sandbox._slots[0].process.pid)[1], id="the jail"),
        pytest.param(lambda sandbox: below(sandbox._slots[0].process.pid)[3], id="the zygote"),
    ],
)
def test_a_slot_killed_in_the_middle_of_a_batch_loses_no_result(pick):
    completions = [SLOW, WRONG, RIGHT] * 30
    stop = threading.Event()
    with Sandbox(SandboxSettings(slots=2, attempts=5)) as sandbox:
        thread = killing(sandbox, pick, stop)
        try:
            verdicts = sandbox.check([(DOUBLE, completion) for completion in completions])
        finally:
            stop.set()
            thread.join()
    assert [verdict.passed for verdict in verdicts] == [completion != WRONG for completion in completions]


def test_a_slot_that_is_always_lost_is_an_infrastructure_error_and_not_a_failure(monkeypatch):
    from crlhf_ray.sandbox.slot import Slot

    def lost(*arguments, **named):
        raise jail.SlotLost("gone")

    monkeypatch.setattr(jail.Jail, "spawn", lost)
    slot = Slot(SandboxSettings(attempts=2))
    verdict = slot.check(DOUBLE, RIGHT)
    slot.close()
    assert verdict.status == "infra_error"
    assert "lost 2 times" in verdict.detail


def test_closing_leaves_no_process_group_or_folder():
    sandbox = Sandbox(SandboxSettings(slots=2))
    sandbox.check([(DOUBLE, RIGHT)] * 4)
    pids = [pid for slot in sandbox._slots for pid in below(slot.process.pid)]
    groups = [group for slot in sandbox._slots for group in slot.groups]
    sandbox.close()
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not any(group.exists() for group in groups)


def test_when_the_sandboxs_process_dies_its_slots_end_too():
    code = (
        "from crlhf_ray.sandbox.sandbox import Sandbox, SandboxSettings\n"
        "import time\n"
        "s = Sandbox(SandboxSettings(slots=1)); print(s._slots[0].process.pid, flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pids = below(int(process.stdout.readline()))
    assert len(pids) >= 4
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_slot_in_the_middle_of_a_program_ends_with_its_sandbox():
    code = (
        "import threading\n"
        "from crlhf_ray.sandbox.sandbox import Sandbox, SandboxSettings\n"
        "from tests.sandbox.samples import DOUBLE\n"
        "s = Sandbox(SandboxSettings(slots=1))\n"
        "sleeping = '\\n    print(flush=True); import time; time.sleep(30)\\n'\n"
        "threading.Timer(0.5, lambda: print(s._slots[0].process.pid, flush=True)).start()\n"
        "s.check([(DOUBLE, sleeping)])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pids = below(int(process.stdout.readline()))
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_slot_that_is_still_starting_ends_with_its_sandbox(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(100)")
    code = (
        "import os\n"
        "from crlhf_ray.sandbox.sandbox import Sandbox, SandboxSettings\n"
        "class Waiting(Sandbox):\n"
        "    def _await(self, number): print(self._slots[0].process.pid, flush=True); super()._await(number)\n"
        f"os.environ['PYTHONPATH'] = {str(tmp_path)!r}\n"
        "Waiting(SandboxSettings(slots=1))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    slot = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 50
    while is_running(slot) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(slot)


def is_running(pid: int) -> bool:
    """Not so a process that has ended and that nobody has asked about yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_slot_imports_nothing_that_takes_long():
    code = "import sys, crlhf_ray.sandbox.slot; print({'pydantic', 'numpy', 'rich', 'yaml'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_a_program_may_sleep_longer_where_it_may_compute_longer_or_the_machine_is_busy(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 0, 0))
    assert (Limits().wall(), Limits(cpu_seconds=40).wall()) == (30, 100)
    monkeypatch.setattr(os, "getloadavg", lambda: (8.0, 0, 0))
    assert (Limits().wall(), Limits(wall_seconds=7).wall()) == (120, 7)


def test_without_bubblewrap_nothing_runs_and_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(EngineError, match=r"bubblewrap.*make sandbox.*isolation: weak"):
        Sandbox(SandboxSettings(slots=1))


@pytest.mark.parametrize(
    "said, remedy",
    [
        ("create a user namespace: EPERM (Operation not permitted)", "kernel.unprivileged_userns_clone"),
        ("bwrap: No permissions to create new namespace", "--cap-add SYS_ADMIN"),
        ("change to user 65534: Operation not permitted", "--cap-add SETUID"),
        ("mount /tmp: EPERM (Operation not permitted)", "--security-opt"),
    ],
)
def test_a_refused_permission_is_named_with_its_mend(said, remedy):
    assert remedy in jail.mend(said)


def test_a_forbidden_namespace_fails_closed_and_names_the_permission(monkeypatch, tmp_path):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(EngineError, match=r"No permissions to create new namespace.*user namespaces are forbidden"):
        Sandbox(SandboxSettings(slots=1))


@pytest.mark.parametrize(
    "forbid, named",
    [
        ("echo 0 > /proc/sys/user/max_mnt_namespaces", r"namespace.*user\.max_user_namespaces"),
        ("true", r"change to user 65534: .*--cap-add SETUID"),  # root of a namespace that has no other user
    ],
)
def test_what_the_kernel_really_forbids_is_named_and_nothing_runs(forbid, named):
    unshared = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*unshared, "true"], capture_output=True).returncode:
        pytest.skip("this machine makes no user namespace to forbid things in")
    code = "from crlhf_ray.sandbox.sandbox import Sandbox, SandboxSettings; Sandbox(SandboxSettings(slots=1))"
    command = f"{forbid} && exec {shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    found = subprocess.run([*unshared, command], capture_output=True, text=True)
    assert found.returncode == 1
    assert re.search(rf"EngineError: the sandbox could not start: .*{named}.*isolation: weak", found.stderr), (
        found.stderr
    )


def test_weak_isolation_checks_too_and_every_verdict_says_so():
    with Sandbox(SandboxSettings(slots=1, isolation="weak", limits=Limits(cpu_seconds=1, wall_seconds=5))) as sandbox:
        verdicts = sandbox.check([(DOUBLE, RIGHT), (DOUBLE, WRONG), (DOUBLE, "\n    while True: pass\n")])
    assert [verdict.status for verdict in verdicts] == ["passed", "wrong", "timeout"]
    assert {verdict.isolation for verdict in verdicts} == {"weak"}


def test_groups_of_sandboxes_that_were_killed_are_swept_up(monkeypatch, tmp_path):
    monkeypatch.setattr(cgroups, "ROOT", tmp_path)
    gone, mine = tmp_path / "memory" / "crlhf-999999999-1", tmp_path / "memory" / f"crlhf-{os.getpid()}-1"
    gone.mkdir(parents=True)
    mine.mkdir()
    cgroups.sweep()
    assert (gone.exists(), mine.exists()) == (False, True)


def test_without_permission_for_control_groups_there_are_none(monkeypatch, tmp_path):
    monkeypatch.setattr(cgroups, "ROOT", tmp_path / "missing")
    assert cgroups.create("slot", 1 << 20, 10) == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_a_user_without_rights_gets_the_same_jail(tmp_path):
    """The way of a developer's machine: no root, only unprivileged user namespaces."""
    code = (
        "import os\n"
        "from crlhf_ray.sandbox.jail import Jail\n"
        "from crlhf_ray.sandbox.check import Check\n"
        "from crlhf_ray.sandbox.limits import Limits\n"
        "from tests.sandbox.samples import DOUBLE, RIGHT\n"
        "jail = Jail()\n"
        "print(os.geteuid(), Check(jail, Limits()).verdict(DOUBLE, RIGHT).status)\n"
        "jail.close()\n"
    )
    home, packages = Path(__file__).parent.parent.parent, sysconfig.get_path("purelib")
    as_nobody = {"user": 65534, "group": 65534, "extra_groups": [], "capture_output": True, "text": True, "cwd": "/"}
    for prefix in (sys.base_prefix, "/usr"):
        interpreter = Path(prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
        with contextlib.suppress(OSError):
            probe = subprocess.run([interpreter, "-c", f"open({__file__!r}); open({pydantic.__file__!r})"], **as_nobody)
            if probe.returncode == 0:
                break
    else:
        pytest.skip(f"{sys.base_prefix}, {home} or {packages} lies in a folder that another user may not enter")
    path = os.pathsep.join([str(home), packages])
    found = subprocess.run([interpreter, "-c", code], env={**os.environ, "PYTHONPATH": path}, **as_nobody)
    assert found.stdout.split() == ["65534", "passed"], found.stderr
