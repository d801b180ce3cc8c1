"""The jailed parent of all programs of one slot: warms an interpreter up, then clones it once per program.

It never runs a program itself, never sees a test, and holds nothing that a program could use. For each program it is
given four descriptors: the program's socket, and the files that are its standard input, output and error.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import gc
import importlib
import io
import json
import os
import resource
import select
import signal
import socket
import sys
import types

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWIPC = 0x20000, 0x10000000, 0x20000000, 0x08000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
PR_SET_DUMPABLE, PR_CAPBSET_DROP = 4, 24
SYS_CLONE = {"x86_64": 56, "aarch64": 220}
CONTROL = 3
# What most programs import. Each module more makes every fork dearer, so the rare and the heavy are left out.
WARM = "abc array bisect collections copy enum functools heapq io itertools math operator random re string types typing"

libc = ctypes.PyDLL(None, use_errno=True)


class SetupError(Exception):
    """A step of the jail was refused; the text says which."""


def must(result: int, step: str) -> None:
    """Raise for a failed system call, naming the step and the error."""
    if result != 0:
        code = ctypes.get_errno()
        raise SetupError(f"{step}: {errno.errorcode.get(code, code)} ({os.strerror(code)})")


def mount_tmpfs(path: str, flags: int, options: str, step: str) -> None:
    must(libc.mount(b"tmpfs", path.encode(), b"tmpfs", flags, options.encode()), step)


def enter_user_namespace(uid: int, gid: int) -> None:
    """Leave the privileges that made the jail, then own only namespaces that programs are cloned into."""
    if os.geteuid() == 0:
        try:
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        except OSError as error:
            raise SetupError(f"change to user {uid}: {error.strerror}") from None
    # Dropping the uid took /proc/self away from us, and the maps are written there.
    must(libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "set dumpable")
    uid, gid = os.getuid(), os.getgid()
    must(libc.unshare(CLONE_NEWUSER | CLONE_NEWNS), "create a user namespace")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        try:
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        except OSError as error:
            raise SetupError(f"write {name}: {error.strerror}") from None
    mount_tmpfs("/proc", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,mode=555", "hide /proc")
    for capability in range(64):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            break


def import_guest() -> None:
    """Have the files beside this one as the package `guest`, wherever they lie."""
    package = types.ModuleType("guest")
    package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
    sys.modules["guest"] = package


def private_folder(home: str) -> str:
    """A new folder for one program, where there is no private mount for it."""
    folder: str = importlib.import_module("tempfile").mkdtemp(dir=home)
    return folder


class Output(io.FileIO):
    """A standard stream that keeps what fits into the file size limit, and drops the rest."""

    def write(self, data) -> int:  # type: ignore[no-untyped-def]
        try:
            return super().write(data)
        except OSError:
            return len(data)


def stream(descriptor: int) -> io.TextIOWrapper:
    """Writes each line as it ends, so that a kill loses none."""
    raw = io.BufferedWriter(Output(descriptor, "w", closefd=False))
    return io.TextIOWrapper(raw, encoding="utf-8", errors="replace", line_buffering=True)


class Zygote:
    def __init__(self, config: dict):
        self.jailed: bool = config["jailed"]
        if config["control"] != CONTROL:
            os.dup2(config["control"], CONTROL)
            os.close(config["control"])
            config["control"] = CONTROL
        self.control = socket.socket(fileno=CONTROL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else what children used would be forgotten as they end
        self.home: str = config["home"]
        statm = open("/proc/self/statm")  # noqa: SIM115 - read after /proc is hidden
        self.oom_score = os.open("/proc/self/oom_score_adj", os.O_RDWR)
        self.own_score = os.pread(self.oom_score, 16, 0)
        if self.jailed:
            enter_user_namespace(config["uid"], config["gid"])
        import_guest()
        self.filter = importlib.import_module("guest.seccomp").Filter()
        for name in WARM.split() + config["packages"]:
            importlib.import_module(name)
        self.wire, self.script, self.worker = (
            importlib.import_module(f"guest.{name}") for name in ("wire", "script", "worker")
        )
        exec(compile("class _Warm:\n  def f(self, x=1): return [i for i in (x,)]\n", "<warm>", "exec"), {})
        with statm:
            self.base_bytes = int(statm.read().split()[0]) * resource.getpagesize()
        self.clone_flags = CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWNS | signal.SIGCHLD
        self.clone_number = SYS_CLONE[os.uname().machine]
        sys.stdout = sys.__stdout__ = stream(1)  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = stream(2)  # type: ignore[misc]
        sys.argv = [""]
        importlib.import_module("site").setquit()  # exit() and quit(), which -S leaves out
        for name, value in ((resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_MSGQUEUE, 0)):
            resource.setrlimit(name, (value, value))
        gc.collect()
        gc.freeze()
        gc.disable()

    def serve(self) -> None:
        """One program after the other, until the verifier closes the control socket."""
        self.say({"ready": True})
        while True:
            message, descriptors, _, _ = socket.recv_fds(self.control, 4096, 4)
            if not message:
                return
            order = json.loads(message)
            if "spawn" not in order:
                continue  # a kill that came after its program had ended
            folder = self.home if self.jailed else private_folder(self.home)
            # What memory there is not, the program shall be ended for, and not its parent.
            os.pwrite(self.oom_score, b"1000", 0)
            child = self.clone()
            if child == 0:
                self.become_worker(order["spawn"], descriptors, folder)
            os.pwrite(self.oom_score, self.own_score, 0)
            for descriptor in descriptors:
                os.close(descriptor)
            self.wait(child)
            if not self.jailed:
                importlib.import_module("shutil").rmtree(folder, ignore_errors=True)

    def say(self, message: dict) -> None:
        self.control.sendall(json.dumps(message).encode() + b"\n")

    def clone(self) -> int:
        """Like os.fork, but into new namespaces: one system call instead of a fork and an unshare."""
        if not self.jailed:
            return os.fork()
        ctypes.pythonapi.PyOS_BeforeFork()
        pid = libc.syscall(self.clone_number, self.clone_flags, 0, 0, 0, 0)
        if pid == 0:
            ctypes.pythonapi.PyOS_AfterFork_Child()
            return 0
        ctypes.pythonapi.PyOS_AfterFork_Parent()
        if pid < 0:
            must(-1, "clone into new namespaces")
        return pid

    def wait(self, child: int) -> None:
        """Report how the program ended; kill it when told to, or when the verifier is gone."""
        pidfd = os.pidfd_open(child)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(self.control, select.POLLIN)
        gone = False
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if pidfd in ready:
                break
            gone = not self.control.recv(4096)
            if not self.jailed:
                # Without a PID namespace the program's descendants only share its session.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
            os.kill(child, signal.SIGKILL)
            poll.unregister(self.control)
        os.close(pidfd)
        _, status, usage = os.wait4(child, 0)
        if gone:
            os._exit(0)
        self.say(
            {
                "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
                "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0,
                "cpu": usage.ru_utime + usage.ru_stime,
                "memory_kb": usage.ru_maxrss,
            }
        )

    def become_worker(self, order: dict, descriptors: list[int], folder: str) -> None:
        """Give up everything but the program's own socket and files, then run the program. Never returns."""
        try:
            os.setsid()
            self.confine(order, folder)
            files = descriptors[1:]
            if not order["script"]:
                files[0] = os.open("/dev/null", os.O_WRONLY)  # a function has no input: reading it is an OSError
            for number, file in enumerate(files):
                os.dup2(file, number)
            for number in (1, 2):
                fcntl.fcntl(number, fcntl.F_SETFL, os.O_APPEND)
            channel_fd = os.dup2(descriptors[0], CONTROL, inheritable=False)
            os.closerange(CONTROL + 1, 64)
            self.filter.install()
            channel = self.wire.Channel(
                socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=channel_fd)  # all named: saves asking
            )
            gc.enable()
            channel.send(["ready"])
            source = order["script"] and channel.receive()
        except BaseException as error:
            self.wire.Channel(socket.socket(fileno=descriptors[0])).send(["failed", repr(error)])
            os._exit(1)
        if order["script"]:
            channel.sock.close()
            self.script.run_script(source)
        try:
            self.worker.Worker(channel).serve()
        finally:
            os._exit(1)

    def confine(self, order: dict, folder: str) -> None:
        if self.jailed:
            size = f"size={order['disk_mb']}m,nr_inodes=1024,mode=700"
            mount_tmpfs("/tmp", MS_NOSUID | MS_NODEV | MS_NOEXEC, size, "mount /tmp")
        os.chdir(folder)
        for name, value in (
            (resource.RLIMIT_CPU, order["cpu_seconds"]),
            (resource.RLIMIT_AS, self.base_bytes + (order["memory_mb"] << 20)),
            (resource.RLIMIT_FSIZE, order["file_mb"] << 20),
            (resource.RLIMIT_NPROC, order["processes"]),
        ):
            if name == resource.RLIMIT_NPROC and not self.jailed:
                continue  # it would count every process of this user, not only this program's
            resource.setrlimit(name, (value, value))
        if self.jailed:
            header = (ctypes.c_uint32 * 2)(0x20080522, 0)
            must(libc.capset(header, (ctypes.c_uint32 * 6)()), "drop capabilities")


def main() -> None:
    config = json.loads(sys.argv[1])
    try:
        zygote = Zygote(config)
    except BaseException as error:
        text = str(error) if isinstance(error, SetupError) else f"{type(error).__name__}: {error}"
        os.write(config["control"], json.dumps({"failed": text}).encode() + b"\n")
        os._exit(1)
    try:
        zygote.serve()
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
