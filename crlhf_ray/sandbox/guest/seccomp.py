"""The system calls that a program may not make, as a classic BPF filter.

Of the older ones those are named that are refused; of those that came with Linux 5.1 or later, which have the same
numbers everywhere, those that are allowed: what a future kernel brings is refused.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import signal
import struct

# (x86_64, aarch64). No sockets, no new namespaces or mounts, no tracing, no memory that the limits do not count.
_DENIED = {
    "accept": (43, 202),
    "accept4": (288, 242),
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bind": (49, 200),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "connect": (42, 203),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "finit_module": (313, 273),
    "fsetxattr": (190, 7),
    "inotify_add_watch": (254, 27),  # tells of files that other programs have open
    "inotify_init": (253, 26),
    "inotify_init1": (294, 26),
    "init_module": (175, 105),
    "io_setup": (206, 0),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "listen": (50, 201),
    "lsetxattr": (189, 6),
    "memfd_create": (319, 279),
    "migrate_pages": (256, 238),
    "mount": (165, 40),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "semget": (64, 190),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "setxattr": (188, 5),
    "shmat": (30, 196),
    "shmget": (29, 194),
    "socket": (41, 198),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
    "vmsplice": (278, 75),
}
_FIRST_OF_THE_NEW = 424
_ALLOWED_NEW = {
    "pidfd_send_signal": 424,
    "pidfd_open": 434,
    "clone3": 435,  # answered below
    "close_range": 436,
    "openat2": 437,
    "faccessat2": 439,
    "epoll_pwait2": 441,
    "futex_waitv": 449,
    "fchmodat2": 452,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
}
_X86_ONLY = (154, 172, 173)  # modify_ldt, iopl, ioperm
_CLONE, _CLONE3 = (56, 220), (435, 435)
_SIGACTION = (13, 134)
_NEW_NAMESPACE = 0x7E020080  # every CLONE_NEW* bit
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _FAIL, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2


def filter_program(machine: str) -> bytes:
    """The filter as ``struct sock_filter[]``; raises NotImplementedError for an architecture without a table."""
    if machine not in _ARCHITECTURES:
        raise NotImplementedError(f"no system call table for {machine}: only {', '.join(_ARCHITECTURES)}")
    column, audit = _ARCHITECTURES[machine]
    denied = sorted({numbers[column] for numbers in _DENIED.values()} | set(_X86_ONLY if column == 0 else ()))
    code = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
    ]
    if machine == "x86_64":  # the x32 interface has the same calls under other numbers
        code += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _KILL)]
    for number in denied:
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _FAIL | errno.EPERM)]
    allowed = sorted(_ALLOWED_NEW.values())
    code += [(_AT_LEAST, 0, len(allowed) + 1, _FIRST_OF_THE_NEW)]
    code += [(_EQUAL, len(allowed) - place, 0, number) for place, number in enumerate(allowed)]
    code += [(_RETURN, 0, 0, _FAIL | errno.ENOSYS)]
    code += [
        # clone3 hides its flags from a filter; without it the C library falls back to clone.
        (_EQUAL, 0, 1, _CLONE3[column]),
        (_RETURN, 0, 0, _FAIL | errno.ENOSYS),
        # A program that ignores the end of its children makes the kernel forget what CPU time they took.
        (_EQUAL, 0, 9, _SIGACTION[column]),
        (_LOAD, 0, 0, 16),
        (_EQUAL, 1, 0, signal.SIGCHLD),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, 24),  # where the new action lies, in two halves; nowhere where one only asks
        (_EQUAL, 0, 3, 0),
        (_LOAD, 0, 0, 28),
        (_EQUAL, 0, 1, 0),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
        (_EQUAL, 0, 3, _CLONE[column]),
        (_LOAD, 0, 0, 16),
        (_ANY_BIT, 0, 1, _NEW_NAMESPACE),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


class Filter:
    """A filter made ready before the fork, so that a child only makes the two system calls that install it."""

    def __init__(self) -> None:
        program = filter_program(platform.machine())
        self._code = ctypes.create_string_buffer(program, len(program))
        header = struct.pack("@HxxxxxxP", len(program) // 8, ctypes.addressof(self._code))
        self._header = ctypes.create_string_buffer(header, len(header))
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl

    def install(self) -> None:
        """For this process and all that it starts, for good. Raises OSError where the kernel has no seccomp."""
        if self._prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or self._prctl(
            PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(self._header), 0, 0
        ):
            code = ctypes.get_errno()
            raise OSError(code, f"seccomp filter: {errno.errorcode.get(code, code)}")
