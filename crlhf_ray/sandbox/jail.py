"""Starts the jail of one slot and the programs in it. Fails closed: no jail, no program."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import re
import select
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from crlhf_ray.errors import EngineError
from crlhf_ray.sandbox.cgroups import oom_kills
from crlhf_ray.sandbox.guest.wire import Channel, ProtocolError

if TYPE_CHECKING:
    from crlhf_ray.sandbox.limits import Limits

GUEST = Path(__file__).parent / "guest"
NOBODY = 65534
START_SECONDS = 60.0
SPAWN_SECONDS = 10.0  # a process is made, or gone, in milliseconds
INSTALL = (
    "install it with `make sandbox` (Debian, Ubuntu: `apt-get install bubblewrap`; Fedora: `dnf install bubblewrap`)"
)
#: Packages that are imported before the first program, because importing them takes longer than most programs.
IMPORTED_WARM = ("numpy", "pandas", "cvxpy")
WEAK = (
    "or set `isolation: weak` (`crlhf check` and `crlhf problems check`: `--isolation weak`), which runs programs with "
    "resource limits only and marks every verdict so"
)


class SlotLost(Exception):
    """The jail died or stopped answering: says nothing about the program."""


@dataclass(frozen=True)
class Ending:
    """How a program's process ended, as its parent saw it."""

    signal: int
    code: int
    cpu: float
    memory_kb: int


def package_paths(packages: tuple[str, ...]) -> list[Path]:
    """Files and folders of installed distributions and all that they require. Raises EngineError for a missing one."""
    paths: set[Path] = set()
    seen: set[str] = set()
    wanted = list(packages)
    while wanted:
        name = wanted.pop()
        if name.lower() in seen:
            continue
        seen.add(name.lower())
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            if name in packages:
                raise EngineError(f"a problem needs the package {name!r}: install it in this environment") from None
            continue
        root = Path(str(distribution.locate_file("")))
        tops = {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}
        paths.update(root / top for top in tops if not top.endswith(".pth") and (root / top).exists())
        for requirement in distribution.requires or ():
            if "extra ==" not in requirement:
                wanted.append(re.split(r"[^\w.-]", requirement)[0])
    return sorted(paths)


def interpreter() -> Path:
    """The interpreter that this environment was made from. Raises EngineError where it cannot be found."""
    path = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    if not path.exists():
        raise EngineError(f"the sandbox needs the interpreter {path}, which is not there")
    return path


def jail_command(packages: tuple[str, ...], *, as_root: bool) -> list[str]:
    """The bubblewrap command line up to the interpreter: an empty, read-only root with only what Python needs."""
    program = shutil.which("bwrap")
    if program is None:
        raise EngineError(f"the sandbox needs bubblewrap, and `bwrap` is not on the path: {INSTALL}; {WEAK}")
    bind: list[str] = []
    for path in map(Path, ("/lib", "/lib64", "/lib32", "/usr/lib", "/usr/lib64")):
        if path.is_symlink():
            bind += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            bind += ["--ro-bind", str(path), str(path)]
    # The interpreter without any package of its own: test sets may be installed there.
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = Path(sys.base_prefix) / "lib"
    bind += ["--ro-bind", str(interpreter()), str(interpreter())]
    if sys.base_prefix != "/usr":
        bind += ["--ro-bind", str(library / version), str(library / version)]
        for shared in library.glob("libpython*.so*"):
            bind += ["--ro-bind", str(shared), str(shared)]
    for packaged in (library / version / "site-packages", library / "python3" / "dist-packages"):
        if packaged.is_dir():
            bind += ["--tmpfs", str(packaged), "--remount-ro", str(packaged)]
    for path in package_paths(packages):
        bind += ["--ro-bind", str(path), f"/packages/{path.name}"]
    for device in ("null", "zero", "random", "urandom"):
        bind += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    # bubblewrap makes the folders that lead to a mount for its own user only, and the zygote will be another.
    targets = [Path(bind[i + 2]) for i, word in enumerate(bind) if word in ("--ro-bind", "--dev-bind")]
    folders = {folder for target in targets for folder in target.parents[:-1]} - set(targets)
    ways = [word for folder in sorted(folders) for word in ("--perms", "0755", "--dir", str(folder))]
    # Root keeps the two capabilities with which the zygote changes to an unprivileged user; others never had any.
    privileges = ["--cap-drop", "ALL"]
    privileges += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if as_root else ["--unshare-user"]
    return [
        program,
        *("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
        *privileges,
        *("--die-with-parent", "--new-session", "--hostname", "sandbox", "--clearenv"),
        *ways,
        *bind,
        *("--ro-bind", str(GUEST), "/guest", "--proc", "/proc", "--tmpfs", "/tmp", "--symlink", "/tmp", "/dev/shm"),
        *("--symlink", "/tmp/.stdin", "/dev/stdin"),  # a program that reads it there has a copy made
        *("--remount-ro", "/", "--chdir", "/"),
        *("--setenv", "PYTHONPATH", "/packages"),
    ]


ENVIRONMENT = {
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # the order of a set must not decide a verdict
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # its own would reserve a GiB of the address space that is limited
    "MALLOC_ARENA_MAX": "1",  # each thread's own would reserve 64 MiB of the address space that is limited
}


def mend(reason: str) -> str:
    """What to change, for what the kernel or container refused."""
    if platform.machine() not in ("x86_64", "aarch64"):
        return f"there is no system call table for {platform.machine()}: run on x86_64 or aarch64"
    if "change to user" in reason:
        return (
            "root may not become another user here: run as an ordinary user, or in a container add "
            "`--cap-add SETUID --cap-add SETGID` and map more than one user id into it"
        )
    if "user namespace" in reason or "uid_map" in reason or "uid map" in reason or "namespace" in reason:
        return (
            "unprivileged user namespaces are forbidden here: `sysctl -w kernel.unprivileged_userns_clone=1` (Debian), "
            "`sysctl -w kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu 24.04), "
            "`sysctl -w user.max_user_namespaces=10000`; in a container also "
            "`--security-opt seccomp=unconfined --security-opt apparmor=unconfined --cap-add SYS_ADMIN`"
        )
    if "mount" in reason or "proc" in reason.lower():
        return (
            "mounting is forbidden here: in a container add `--cap-add SYS_ADMIN --security-opt seccomp=unconfined "
            "--security-opt apparmor=unconfined --security-opt systempaths=unconfined`"
        )
    return "run `bwrap --unshare-all --ro-bind / / true` to see what is forbidden"


def _read(file: int, limit: int) -> str:
    return os.pread(file, limit, 0).decode("utf-8", "replace") if limit > 0 else ""


def below(pid: int, depth: int) -> list[int]:
    """The process ``depth`` generations below this one, and all below that. Empty ends are left out."""
    try:
        tasks = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
        children = [int(c) for task in tasks for c in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
    except OSError:
        children = []
    found = [process for child in children for process in below(child, max(0, depth - 1))]
    return found if depth else [pid, *found]


def cpu_seconds(pid: int) -> float:
    """Of a process and those below it that it has waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, IndexError):
        return 0.0


def proportional_mb(pid: int) -> float | None:
    """Resident memory in which a page counts as its share among the processes that have it; None: not to be read."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (ProcessLookupError, FileNotFoundError):  # has ended
        return 0.0
    except OSError:
        return None
    found = re.search(r"^Pss: +(\d+) kB", rollup, re.MULTILINE)
    return int(found[1]) / 1024 if found else None


class Jail:
    """The jail of one slot: a zygote in its own namespaces, and at most one program at a time.

    Raises EngineError where the machine forbids a part of it. Weak isolation runs the same zygote as an ordinary
    process: programs are limited in CPU, memory and files, and cannot open sockets, but see the machine's files.
    """

    def __init__(self, packages: tuple[str, ...] = (), *, weak: bool = False, cgroups: tuple[Path, ...] = ()):
        self.isolation = "weak" if weak else "jailed"
        found = {path.name for path in package_paths(packages)}
        self.libraries = tuple(name for name in ("numpy", "pandas") if name in found)
        # Standard input, output and error of the current program: new files for each, so that nothing can be left in
        # their contents, flags or attributes for the next one.
        self._files: list[int] = []
        self._groups, self._oom_kills = cgroups, 0
        self.memory_by: Literal["control group", "watch"] = "control group" if cgroups else "watch"
        self._log = os.memfd_create("log")  # of the zygote itself
        self.home = tempfile.mkdtemp(prefix="crlhf-sandbox-") if weak else "/tmp"
        self.control, theirs = socket.socketpair()
        config = {
            "jailed": not weak,
            "home": self.home,
            "control": theirs.fileno(),
            "uid": NOBODY,
            "gid": NOBODY,
            "packages": [name for name in packages if name in IMPORTED_WARM],
        }
        python = [str(interpreter()), "-s", "-S", "-P", "-B"]
        if weak:
            folders = dict.fromkeys(str(path.parent) for path in package_paths(packages))
            environment = {**ENVIRONMENT, "HOME": self.home, "PYTHONPATH": ":".join(folders)}
            command = [*python, str(GUEST / "zygote.py"), json.dumps(config)]
        else:
            environment = {}
            settings = [word for name, value in ENVIRONMENT.items() for word in ("--setenv", name, value)]
            jail = jail_command(packages, as_root=os.geteuid() == 0)
            command = [*jail, *settings, *python, "/guest/zygote.py", json.dumps(config)]
        if cgroups:
            join = " && ".join(f"echo $$ > {shlex.quote(str(cgroup / 'cgroup.procs'))}" for cgroup in cgroups)
            command = ["/bin/sh", "-c", f'{join} && exec "$@"', "sh", *command]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            pass_fds=(theirs.fileno(),),
            env=environment,
        )
        theirs.close()
        try:
            self._await_ready()
        except BaseException:
            self.close()
            raise

    def _await_ready(self) -> None:
        try:
            answer = self._hear(START_SECONDS)
        except SlotLost:
            said = _read(self._log, 2000).strip()
            if not said:
                raise  # it was killed, and not refused
            raise EngineError(f"the sandbox could not start: {said}. {mend(said)}; {WEAK}") from None
        if "ready" not in answer:
            raise EngineError(f"the sandbox could not start: {answer['failed']}. {mend(answer['failed'])}; {WEAK}")

    def _hear(self, seconds: float) -> dict[str, Any]:
        """One line from the zygote, which never runs a program and is trusted to speak plainly."""
        self.control.settimeout(seconds)
        line = b""
        try:
            while not line.endswith(b"\n"):
                part = self.control.recv(65536)
                if not part:
                    raise SlotLost("the zygote is gone")
                line += part
        except OSError as error:
            raise SlotLost(f"the zygote does not answer: {error!r}") from None
        answer: dict[str, Any] = json.loads(line)
        return answer

    def spawn(self, limits: Limits, deadline: float, *, script: bool = False, stdin: str = "") -> Channel:
        """Start a process for the next program; answers the channel to it. Raises SlotLost.

        deadline: of the channel's messages, in monotonic seconds. The start itself is ours and not the program's, and
        has time of its own.
        """
        self._close_files()
        self._oom_kills = oom_kills(self._groups)
        self._files = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
        if stdin:
            os.pwrite(self._files[0], stdin.encode("utf-8", "surrogatepass"), 0)
        ours, theirs = socket.socketpair()
        order = {
            "script": script,
            "cpu_seconds": max(1, math.ceil(limits.cpu_seconds)),
            **{name: getattr(limits, name) for name in ("memory_mb", "file_mb", "disk_mb", "processes")},
        }
        channel = Channel(ours, time.monotonic() + SPAWN_SECONDS)
        try:
            with theirs:
                descriptors = [theirs.fileno(), *self._files]
                socket.send_fds(self.control, [json.dumps({"spawn": order}).encode()], descriptors)
            hello = channel.receive()
        except (OSError, EOFError, TimeoutError, ProtocolError) as error:
            ours.close()
            raise SlotLost(f"no process for the program: {error!r}") from None
        if hello != ["ready"]:
            ours.close()
            self.finish()
            raise SlotLost(f"the program's process could not be set up: {hello}")
        channel.deadline = deadline
        return channel

    def usage(self, memory_mb: float) -> tuple[float, float]:
        """CPU seconds of the program and all that it has started, and MiB that those have now which still run.

        memory_mb: what they may have. Only beyond that is it looked at which pages they share, which takes long.
        """
        zygote, *programs = below(self.process.pid, 0 if self.isolation == "weak" else 2) or [0]
        ours = resident_mb(zygote)
        resident = [max(0.0, resident_mb(pid) - ours) for pid in programs]
        if len(programs) > 1 and sum(resident) > memory_mb:
            shares = map(proportional_mb, programs)
            resident = [
                most if share is None else min(most, share) for most, share in zip(resident, shares, strict=True)
            ]
        return sum(map(cpu_seconds, programs)), sum(resident)

    def wait(self, seconds: float) -> bool:
        """Whether the program has ended by itself, within so many seconds."""
        return bool(select.select([self.control], [], [], seconds)[0])

    def finish(self) -> Ending:
        """How the program ended; kills it if it has not. Raises SlotLost."""
        if not self.wait(0):
            try:
                self.control.sendall(b'{"kill": true}')
            except OSError:
                raise SlotLost("the zygote is gone") from None
        return Ending(**self._hear(SPAWN_SECONDS))

    def ran_out_of_memory(self) -> bool:
        """Whether a process of the slot was ended for want of memory since the last program's start."""
        return oom_kills(self._groups) > self._oom_kills

    def output(self, limit: int) -> str:
        """What the last program wrote to standard output, and then what it wrote to standard error: ``limit`` bytes."""
        texts = [_read(self._files[1], limit)]
        texts.append(_read(self._files[2], limit - len(texts[0])))
        return "".join(texts)

    def stdout(self, limit: int) -> str:
        """The first ``limit`` bytes of what the last program wrote to standard output."""
        return _read(self._files[1], limit)

    def _close_files(self) -> None:
        for file in self._files:
            os.close(file)
        self._files = []

    def close(self) -> None:
        """End the zygote and with it all that runs in the jail."""
        self.control.close()
        try:
            self.process.wait(2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._close_files()
        os.close(self._log)
        if self.isolation == "weak":
            shutil.rmtree(self.home, ignore_errors=True)
