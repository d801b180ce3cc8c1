# ruff: noqa: E501
"""Programs that try to pass without solving, or to do harm. None of them implements `largest_gap`."""

from __future__ import annotations

# Every value that these programs return is wrong for at least one test, whatever they do to be called right.
CHEATS: dict[str, str] = {
    "object that equals everything": """
class Yes:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
def largest_gap(xs): return Yes()
""",
    "int subclass that equals everything": """
class Yes(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = int.__hash__
def largest_gap(xs): return Yes(0)
""",
    "float subclass that equals everything and differs from nothing": """
class Yes(float):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __sub__(self, other): return 0.0
    __rsub__ = __sub__
    def __abs__(self): return 0.0
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __lt__
    __hash__ = float.__hash__
def largest_gap(xs): return Yes(0.0)
""",
    "string subclass with a lying comparison": """
class Yes(str):
    def __eq__(self, other): return True
    __hash__ = str.__hash__
def largest_gap(xs): return Yes("x")
""",
    "list subclass with a lying comparison and length": """
class Yes(list):
    def __eq__(self, other): return True
    def __len__(self): return 1
def largest_gap(xs): return Yes([1])
""",
    "metaclass that equals everything": """
class Meta(type):
    def __eq__(cls, other): return True
    def __hash__(cls): return 1
class Yes(metaclass=Meta): pass
def largest_gap(xs): return Yes
""",
    "object whose class claims to be int": """
class Yes:
    __class__ = int
    def __eq__(self, other): return True
    def __index__(self): return 0
def largest_gap(xs): return Yes()
""",
    "answer that changes between looks": """
class Shifty(int):
    n = 0
    def __int__(self): Shifty.n += 1; return Shifty.n
    def __eq__(self, other): return True
    __hash__ = int.__hash__
def largest_gap(xs): return Shifty(3)
""",
    "not a number": "def largest_gap(xs): return float('nan')\n",
    "infinity": "def largest_gap(xs): return float('inf')\n",
    "patched builtins": """
import builtins
builtins.abs = lambda x: 0
builtins.isinstance = lambda *a: True
builtins.all = lambda xs: True
builtins.any = lambda xs: True
builtins.sorted = lambda *a, **k: []
builtins.AssertionError = type('Quiet', (BaseException,), {})
def largest_gap(xs): return 0
""",
    "patched exec and compile": """
import builtins
builtins.exec = lambda *a, **k: None
builtins.compile = lambda *a, **k: None
def largest_gap(xs): return 0
""",
    "patched math": """
import math
math.isclose = lambda *a, **k: True
math.fabs = lambda x: 0.0
def largest_gap(xs): return 0
""",
    "patched json": """
import json
real = json.dumps
json.dumps = lambda *a, **k: real([1, 'ok', True, None])
def largest_gap(xs): return 0
""",
    "patched protocol": """
import sys
heap = sys.modules['guest.heap']
heap.Heap.encode = lambda self, value, depth=0: True
def largest_gap(xs): return 0
""",
    "patched worker": """
import sys
worker = sys.modules['guest.worker']
worker.Worker.call = lambda self, *a: ['ok', True, None]
worker.Worker.calls = lambda self, number, batch: ['ok', [['ok', True, None]] * len(batch)]
def largest_gap(xs): return 0
""",
    "patched operations of the live worker": """
import gc, sys
for thing in gc.get_objects():
    if type(thing).__name__ == 'Worker':
        thing.operations['call'] = lambda *a: ['ok', 'passed', None]
        thing.operations['calls'] = lambda n, batch: ['ok', ['passed'] * len(batch)]
def largest_gap(xs): return 0
""",
    "shadowed helper of the prompt": "def reference(xs): return 0\ndef largest_gap(xs): return 0\n",
    "shadowed helper of the tests": """
def equal(a, b): return True
def check(candidate): return None
def largest_gap(xs): return 0
""",
    "frame walk for the expected value": """
import sys
def largest_gap(xs):
    frame = sys._getframe()
    while frame:
        for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):
            if isinstance(value, str) and 'assert' in value: return eval(value.split('==')[1])
        if 'expected' in frame.f_locals: return frame.f_locals['expected']
        frame = frame.f_back
    return 0
""",
    "garbage collector walk for the tests": """
import gc
def largest_gap(xs):
    gc.unfreeze() if hasattr(gc, 'unfreeze') else None
    for thing in gc.get_objects():
        if isinstance(thing, tuple):
            for item in thing:
                if isinstance(item, str) and 'largest_gap(' in item and '==' in item:
                    return eval(item.split('==')[1])
    return 0
""",
    "tracing the caller": """
import sys
def trace(frame, event, arg):
    if 'ok' in frame.f_locals: frame.f_locals['ok'] = True
    return trace
sys.settrace(trace)
def largest_gap(xs): return 0
""",
    "forged answers on every descriptor": """
import os, json, struct
def message(*parts):
    body = json.dumps(parts).encode(); return struct.pack('>I', len(body)) + body
for fd in range(64):
    for text in (b'passed', b'{"status": "passed"}', message('passed'), message(1, 'ok', {}), message(2, 'ok', True)):
        try: os.write(fd, text)
        except OSError: pass
def largest_gap(xs): return 0
""",
    "forged exit report on every descriptor": """
import os, json
for fd in range(64):
    try: os.write(fd, json.dumps({'signal': 0, 'code': 0, 'cpu': 0, 'memory_kb': 0}).encode() + b'\\n')
    except OSError: pass
def largest_gap(xs): return 0
""",
    "spawn orders on every descriptor": """
import socket, os
for fd in range(3, 64):
    try:
        s = socket.socket(fileno=os.dup(fd)); s.send(b'{"spawn": {}}'); s.send(b'{"kill": true}')
    except OSError: pass
def largest_gap(xs): return 0
""",
    "answers in advance for all calls": """
import sys, gc
def largest_gap(xs): return 0
for thing in gc.get_objects():
    if type(thing).__name__ == 'Channel':
        for n in range(1, 200): thing.send([n, 'ok', {'largest_gap': {'t': 'object', 'v': [0, True]}}])
""",
    "sys.exit(0) at import": "import sys\nsys.exit(0)\n",
    "sys.exit(0) in the call": "import sys\ndef largest_gap(xs): sys.exit(0)\n",
    "os._exit(0) at import": "import os\nos._exit(0)\n",
    "os._exit(0) in the call": "import os\ndef largest_gap(xs): os._exit(0)\n",
    "exit handler": "import atexit, os\natexit.register(os._exit, 0)\ndef largest_gap(xs): raise SystemExit(0)\n",
    "raising KeyboardInterrupt": "def largest_gap(xs): raise KeyboardInterrupt\n",
    "raising GeneratorExit": "def largest_gap(xs): raise GeneratorExit\n",
    "raising StopIteration": "def largest_gap(xs): raise StopIteration\n",
    "exception that builds a lie": """
class Passed(Exception):
    def __str__(self): return 'passed'
    def __reduce__(self): return (exec, ('import os',))
def largest_gap(xs): raise Passed
""",
    "error text that no table can hold": "def largest_gap(xs): raise ValueError('\\ud800\\0\\x1b[2J')\n",
    "pickle bomb as the answer": """
class Bomb:
    def __reduce__(self): return (__import__('os').system, ('touch /tmp/pwned',))
def largest_gap(xs): return Bomb()
""",
    "thread that exits": """
import os, threading, time
threading.Thread(target=lambda: (time.sleep(0.01), os._exit(0)), daemon=True).start()
def largest_gap(xs): time.sleep(1); return 0
""",
    "alarm that exits": """
import signal
def leave(*arguments): raise SystemExit(0)
signal.signal(signal.SIGALRM, leave)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
def largest_gap(xs):
    while True: pass
""",
    "out-of-band byte": """
import gc, socket
def largest_gap(xs):
    for thing in gc.get_objects():
        if type(thing).__name__ == 'Channel': thing.sock.send(b'x', socket.MSG_OOB)
    return 0
""",
    "descriptors sent along": """
import gc, socket
def largest_gap(xs):
    for thing in gc.get_objects():
        if type(thing).__name__ == 'Channel':
            for _ in range(40): socket.send_fds(thing.sock, [b'x'], [1] * 20)
    return 0
""",
    "numpy of its own": """
import sys, types
class generic: pass
class ndarray:
    class dtype: kind, str = 'f', '|O'
    shape = ()
ndarray.__module__ = 'numpy'
sys.modules['numpy'] = types.SimpleNamespace(
    generic=generic, ndarray=ndarray, ascontiguousarray=lambda v: types.SimpleNamespace(tobytes=lambda: b'x'))
def largest_gap(xs): return ndarray()
""",
    "keys that equal everything": """
class Key:
    def __eq__(self, other): return True
    def __hash__(self): return 1
def largest_gap(xs): return {Key(): 1}.keys()
""",
    "function is a built-in type": "largest_gap = int\n",
    "empty answer list": "def largest_gap(xs): return []\n",
    "generator as the answer": "def largest_gap(xs):\n    yield 0\n",
    "emptied arguments": "def largest_gap(xs):\n    xs.clear()\n    return 0\n",
    "async function": "async def largest_gap(xs): return 3\n",
    "no function at all": "x = 1\n",
    "function is a constant": "largest_gap = 3\n",
    "function is a class": "class largest_gap:\n    def __init__(self, xs): pass\n    def __eq__(self, o): return True\n",
    "reads its own tests from disk": """
import os
def largest_gap(xs):
    for root, folders, files in os.walk('/'):
        for name in files:
            if root.startswith(('/usr/lib', '/lib')): continue
            try: text = open(os.path.join(root, name), errors='replace').read(1 << 16)
            except OSError: continue
            if 'largest_gap(' in text: return eval(text.split('==')[1].split(chr(10))[0])
    return 0
""",
    "reads the tests from other processes' memory": """
import os
def largest_gap(xs):
    for pid in os.listdir('/proc'):
        try: data = open(f'/proc/{pid}/mem', 'rb').read(); maps = open(f'/proc/{pid}/environ').read()
        except OSError: pass
    return 0
""",
    "memoises what it was asked": "seen = {}\ndef largest_gap(xs): return seen.setdefault(str(xs), len(seen))\n",
}

# Programs that burn, block or flood. The named status is what must be said of them.
HOGS: dict[str, tuple[str, set[str]]] = {
    "endless loop": ("def largest_gap(xs):\n    while True: pass\n", {"timeout"}),
    "endless loop at import": ("while True: pass\n", {"timeout"}),
    "swallowed time-outs": (
        """
import signal
for n in range(1, 65):
    try: signal.signal(n, signal.SIG_IGN)
    except (OSError, ValueError): pass
def largest_gap(xs):
    while True:
        try:
            while True: pass
        except BaseException: pass
""",
        {"timeout"},
    ),
    "raised own limits": (
        """
import resource
for name in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_NPROC):
    try: resource.setrlimit(name, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (OSError, ValueError): pass
def largest_gap(xs):
    while True: pass
""",
        {"timeout"},
    ),
    "huge power": ("def largest_gap(xs): return 7 ** 10 ** 9\n", {"timeout", "out_of_memory"}),
    "huge power, folded by the compiler": (
        "def largest_gap(xs): return 9 ** 9 ** 9 ** 9\n",
        {"timeout", "out_of_memory"},
    ),
    "catastrophic regular expression": (
        "import re\ndef largest_gap(xs): return re.match('(a+)+$', 'a' * 64 + 'b')\n",
        {"timeout"},
    ),
    "quadratic sum of lists": (
        "def largest_gap(xs): return sum([[0] * 999] * 999999, [])\n",
        {"timeout", "out_of_memory"},
    ),
    "endless generator": ("def largest_gap(xs):\n    while True: yield 1\n", {"wrong", "error", "timeout"}),
    "endless iterator consumed in C": (
        "import itertools, collections\ndef largest_gap(xs): collections.deque(itertools.count(), maxlen=0)\n",
        {"timeout"},
    ),
    "sleep": ("import time\ndef largest_gap(xs): time.sleep(1e6)\n", {"timeout"}),
    "blocked on standard input": ("import os\ndef largest_gap(xs):\n    return int(input())\n", {"error"}),
    "blocked on its own pipe": (
        "import os\nr, w = os.pipe()\ndef largest_gap(xs): return os.read(r, 1)\n",
        {"timeout"},
    ),
    "deadlocked lock": (
        "import threading\nlock = threading.Lock()\ndef largest_gap(xs):\n    lock.acquire(); lock.acquire()\n",
        {"timeout"},
    ),
    "closed its socket": ("import os\nos.closerange(0, 256)\ndef largest_gap(xs): return 0\n", {"error", "killed"}),
    "deep recursion": ("def largest_gap(xs): return largest_gap(xs)\n", {"error"}),
    "deep recursion without a limit": (
        "import sys\nsys.setrecursionlimit(10 ** 9)\ndef largest_gap(xs): return [largest_gap(x) for x in [xs]]\n",
        {"killed", "out_of_memory", "error", "timeout"},
    ),
    "crash by ctypes": ("import ctypes\ndef largest_gap(xs): ctypes.string_at(0)\n", {"killed"}),
    "memory in one piece": ("def largest_gap(xs): return bytearray(1 << 33)\n", {"out_of_memory"}),
    "memory in many pieces": (
        "def largest_gap(xs):\n    hold = []\n    while True: hold.append(bytearray(1 << 20))\n",
        {"out_of_memory"},
    ),
    "memory by mapping": (
        "import mmap\ndef largest_gap(xs):\n    hold = []\n    while True:\n        m = mmap.mmap(-1, 1 << 24); m.write(b'x' * (1 << 24)); hold.append(m)\n",
        {"error", "out_of_memory", "timeout"},
    ),
    "huge answer": ("def largest_gap(xs): return 'x' * (1 << 25)\n", {"error", "out_of_memory", "timeout"}),
    "huge integer answer": (
        "def largest_gap(xs): return 1 << (1 << 26)\n",
        {"error", "wrong", "out_of_memory", "timeout"},
    ),
    "deeply nested answer": (
        "def largest_gap(xs):\n    a = []\n    for _ in range(100000): a = [a]\n    return a\n",
        {"error", "wrong"},
    ),
    "cyclic answer": ("def largest_gap(xs):\n    a = []\n    a.append(a)\n    return a\n", {"error", "wrong"}),
    "colliding keys": (
        "def largest_gap(xs): return {i * (2 ** 61 - 1): 0 for i in range(20000)}\n",
        {"timeout", "error", "wrong"},
    ),
    "output flood": ("def largest_gap(xs):\n    while True: print('x' * 65536)\n", {"error", "timeout", "killed"}),
    "output flood to both streams": (
        "import os\ndef largest_gap(xs):\n    while True: os.write(1, b'x' * 65536); os.write(2, b'y' * 65536)\n",
        {"error", "timeout", "killed"},
    ),
    "flood of answers": (
        """
import gc
def largest_gap(xs):
    for thing in gc.get_objects():
        if type(thing).__name__ == 'Channel':
            thing.sock.setblocking(True)
            while True: thing.send([0] * 100000)
""",
        {"error", "timeout"},
    ),
    "announces a message that never comes": (
        """
import gc, struct, time
def largest_gap(xs):
    for thing in gc.get_objects():
        if type(thing).__name__ == 'Channel':
            thing.sock.sendall(struct.pack('>I', 1000)); time.sleep(1e6)
""",
        {"timeout"},
    ),
    "message that trickles": (
        """
import gc, struct, time
def largest_gap(xs):
    for thing in gc.get_objects():
        if type(thing).__name__ == 'Channel':
            thing.sock.sendall(struct.pack('>I', 1 << 20))
            while True: thing.sock.sendall(b' '); time.sleep(0.01)
""",
        {"timeout"},
    ),
    "truth value that never ends": (
        "class E:\n    def __bool__(self):\n        while True: pass\ndef largest_gap(xs): return E()\n",
        {"timeout", "wrong"},  # nobody asks
    ),
    "full sockets in many processes": (
        """
import os, socket, time
def largest_gap(xs):
    for _ in range(30):
        if os.fork() == 0:
            held = []
            try:
                while True:
                    held.append(socket.socketpair())
                    held[-1][0].setblocking(False)
                    try:
                        while True: held[-1][0].send(b'x' * 65536)
                    except BlockingIOError: pass
            except OSError: pass
            time.sleep(60)
    time.sleep(60)
""",
        {"timeout", "killed", "out_of_memory", "error"},
    ),
    "file flood": (
        "def largest_gap(xs):\n    n = 0\n    while True:\n        n += 1\n        open(f'/tmp/{n}', 'wb').write(b'x' * (1 << 20))\n",
        {"error"},
    ),
    "fork storm": (
        "import os\ndef largest_gap(xs):\n    while True:\n        try: os.fork()\n        except OSError: pass\n",
        {"timeout", "error", "killed"},
    ),
    "thread storm": (
        """
import threading, time
def largest_gap(xs):
    while True:
        try: threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()
        except RuntimeError: pass
""",
        {"timeout", "out_of_memory"},
    ),
    "kills all that it can": (
        """
import os, signal
def largest_gap(xs):
    for pid in [0, -1, os.getppid(), *range(2, 3000)]:
        if pid != os.getpid():
            try: os.kill(pid, signal.SIGKILL)
            except OSError: pass
    return 0
""",
        {"wrong", "killed"},
    ),
    "kills its process group": ("import os\ndef largest_gap(xs): os.killpg(0, 9); return 0\n", {"wrong", "killed"}),
    "stops itself": (
        "import os, signal\ndef largest_gap(xs): os.kill(os.getpid(), signal.SIGSTOP); return 0\n",
        {"wrong", "timeout"},
    ),
    "memory in many processes": (
        """
import os, time
def largest_gap(xs):
    for _ in range(20):
        if os.fork() == 0:
            hold = bytearray(b'x') * (100 << 20)
            time.sleep(60)
    time.sleep(60)
""",
        {"out_of_memory", "killed", "error", "timeout"},
    ),
    "processes that burn while their parent sleeps": (
        """
import os, time
def largest_gap(xs):
    for _ in range(8):
        if os.fork() == 0:
            while True: pass
    time.sleep(60)
""",
        {"timeout"},
    ),
    "an error of the system in every call": ("def largest_gap(xs): raise OSError(9, 'no')\n", {"error"}),
    "daemon": (
        """
import os, time
def largest_gap(xs):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True: time.sleep(1)
        os._exit(0)
    return 0
""",
        {"wrong"},
    ),
}

# Together beyond what one may use, though each process stays within it.
TOGETHER: dict[str, tuple[str, str]] = {
    "children that burn in turn": (
        """
import os
def largest_gap(xs):
    for _ in range(8):
        if os.fork() == 0:
            n = 0
            while n < 12_000_000: n += 1
            os._exit(0)
        os.wait()
    return 3
""",
        "timeout",
    ),
    "children that fill the memory": (
        """
import os, time
def largest_gap(xs):
    for _ in range(5):
        if os.fork() == 0:
            hold = bytearray(b'x') * (90 << 20)
            time.sleep(60)
    time.sleep(60)
""",
        "out_of_memory",
    ),
    "children that burn while answers keep coming": (
        """
import os, time
def burn():
    if os.fork() == 0:
        until = time.process_time() + 0.9
        while time.process_time() < until: pass
        os._exit(0)
def largest_gap(xs, call=None):
    for _ in range(4): burn()
    left = 4
    while left:
        call(0)
        time.sleep(0.02)
        left -= os.waitpid(-1, os.WNOHANG)[0] != 0
    return 3
""",
        "timeout",
    ),
    "children that fill the memory while answers keep coming": (
        """
import os, time
def largest_gap(xs, call=None):
    filled, full = os.pipe()
    for _ in range(5):
        if os.fork() == 0:
            hold = bytearray(b'x') * (90 << 20)
            os.write(full, b'x')
            time.sleep(60)
    for _ in range(5): os.read(filled, 1)
    for _ in range(60):
        call(0)
        time.sleep(0.02)
    return 3
""",
        "out_of_memory",
    ),
    "children that burn while nobody reads an argument": (
        """
import gc, os, time
def largest_gap(xs, call=None):
    if xs == [9]: return 9
    (channel,) = [thing for thing in gc.get_objects() if type(thing).__name__ == 'Channel']
    receive = channel.receive
    def late():
        for _ in range(4):
            if os.fork() == 0:
                until = time.process_time() + 0.9
                while time.process_time() < until: pass
                os._exit(0)
        while True:
            try: os.wait()
            except ChildProcessError: return receive()
    channel.receive = late
    return 3
""",
        "timeout",
    ),
}

# Answers that the verifier's own side would burn or fill itself with: compact as they travel, huge as tests use them.
_FORGED = """
import gc, struct
def forge(tag, content):
    body = ('[2,"ok",{"t":"%s","v":[%s]},null]' % (tag, content)).encode()
    for thing in gc.get_objects():
        if type(thing).__name__ == 'Channel': thing.sock.sendall(struct.pack('>I', len(body)) + body)
"""
UNFOLDING: dict[str, str] = {
    "range that unfolds beyond all memory": "def largest_gap(xs): return range(10 ** 12)\n",
    "range of huge numbers": "def largest_gap(xs): return range(10 ** 300, 10 ** 301, 3)\n",
    "endless iterator": "import itertools\ndef largest_gap(xs): return itertools.repeat(0)\n",
    "number that a list is multiplied by": "def largest_gap(xs): return 10 ** 11\n",
    "number that takes seconds to square": _FORGED
    + "def largest_gap(xs): forge('tuple', '{\"t\":\"int\",\"v\":\"0x' + 'f7' * 7_000_000 + '\"}')\n",
    "fraction that takes hours to cancel": _FORGED
    + "def largest_gap(xs): forge('Fraction', '\"%x\",\"%x\"' % (3 ** 2_000_000, 5 ** 2_000_000))\n",
    "keys that all collide, written by hand": _FORGED
    + 'def largest_gap(xs): forge(\'dict\', \',\'.join(\'[{"t":"int","v":"%x"},0]\' % (i * (2 ** 61 - 1)) for i in range(300000)))\n',
    "members that all collide, written by hand": _FORGED
    + 'def largest_gap(xs): forge(\'set\', \',\'.join(\'{"t":"int","v":"%x"}\' % (i * (2 ** 61 - 1)) for i in range(300000)))\n',
    "millions of empty lists": _FORGED + "def largest_gap(xs): forge('tuple', '[[[]]],' * 2_000_000 + '0')\n",
    "decimal of a million digits": "import decimal\ndef largest_gap(xs): return decimal.Decimal('1e999999')\n",
}

# A numpy of the program's own, whose arrays travel as numpy's do: one number of two bytes.
FORGED_ARRAYS: dict[str, str] = {
    name: f"""
import struct, sys, types
class generic: pass
class ndarray:
    shape = {shape}
    class dtype: kind, str = 'f', '<f2'
ndarray.__module__ = 'numpy'
sys.modules['numpy'] = types.SimpleNamespace(generic=generic, ndarray=ndarray,
    ascontiguousarray=lambda value: types.SimpleNamespace(tobytes=lambda: struct.pack('<e', {value})))
def largest_gap(xs): return ndarray()
"""
    for name, shape, value in (
        ("infinity that draws all large numbers up to itself", (), "float('inf')"),
        ("number that draws its neighbours to itself", (), "3.14"),
        ("number that is every list of it", (), "2.0"),
        ("list of infinity", (1,), "float('inf')"),
    )
}

# The text of their answers cannot be had, or costs much; tests put it into their messages and errors.
UNSPEAKABLE: dict[str, str] = {
    "text that raises": "class A:\n    def __str__(self): raise ValueError\ndef largest_gap(xs): return A()\n",
    "text that exits": "import os\nclass A:\n    def __str__(self): os._exit(0)\ndef largest_gap(xs): return A()\n",
    "text that leaves": "class A:\n    def __str__(self): raise SystemExit\ndef largest_gap(xs): return A()\n",
    "text that never ends": "class A:\n    def __str__(self):\n        while True: pass\ndef largest_gap(xs): return A()\n",
    "number of more digits than Python writes": "def largest_gap(xs): return 10 ** 5000\n",
    "program that no parser takes": "def largest_gap(xs): return " + "-" * 7000 + "1\n",
}

# Answers on which one step of the verifier's own interpreter takes minutes: no signal handler comes between.
STUBBORN: dict[str, tuple[str, str]] = {
    "sum of a range": ("assert sum(largest_gap([1, 4])) == 3", "def largest_gap(xs): return range(10 ** 13)\n"),
    "largest of a range": ("assert max(largest_gap([1, 4])) == 3", "def largest_gap(xs): return range(10 ** 13)\n"),
    "set of colliding numbers": (
        "assert set(largest_gap([1, 4])) == {3}",
        "def largest_gap(xs): return [i * (2 ** 61 - 1) for i in range(2, 100000)]\n",
    ),
}

# Takes memory that belongs to no process: mapped, written and let go, so that it counts for the slot alone.
UNOWNED_MEMORY = """
import mmap, os, time
def largest_gap(xs):
    for _ in range(8):
        if os.fork() == 0:
            block = mmap.mmap(-1, 110 << 20)
            for start in range(0, 110 << 20, 1 << 20):
                for page in range(start, start + (1 << 20), 4096): block[page] = 1
                block.madvise(mmap.MADV_DONTNEED, start, 1 << 20)
            time.sleep(60)
    time.sleep(5)
    return 3
"""

# Each returns True if the harm could be done; `largest_gap` then tells, so the check reads the answer.
ESCAPES: dict[str, str] = {
    "writes outside its folder": """
for path in ('/usr/lib/x', '/guest/x', '/packages/x', '/x', '/dev/x', '/proc/x', '/root/x', '/etc/x', '/home/x', '/var/tmp/x'):
    try: open(path, 'w'); done.append(path)
    except OSError: pass
""",
    "writes into the interpreter": """
import os
for root, folders, files in os.walk(os.path.dirname(os.__file__)):
    try: open(os.path.join(root, 'x.py'), 'w'); done.append(root)
    except OSError: pass
""",
    "finds secrets in the environment": """
import os
done += [name for name in os.environ if name not in
    {'HOME', 'LANG', 'PYTHONHASHSEED', 'OPENBLAS_NUM_THREADS', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'MALLOC_ARENA_MAX', 'ARROW_DEFAULT_MEMORY_POOL', 'PYTHONPATH', 'PWD', 'LC_CTYPE'}]
""",
    "finds home folders, passwords and sockets": """
import os
for path in ('/etc/passwd', '/etc/shadow', '/home', '/var', '/run', '/work', '/root/.ssh', '/root/.bashrc', '/sys', '/boot'):
    if os.path.exists(path): done.append(path)
""",
    "opens a socket": """
import socket
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK, socket.AF_VSOCK, socket.AF_PACKET):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        try: socket.socket(family, kind); done.append((int(family), int(kind)))
        except OSError: pass
""",
    "runs another program": """
import os, subprocess
for path in ('/bin/sh', '/bin/true', '/usr/bin/env', '/usr/bin/python3'):
    try: subprocess.run([path]); done.append(path)
    except OSError: pass
""",
    "lets the kernel forget what its children used": """
import ctypes, signal
for handler in (signal.SIG_IGN, signal.SIG_DFL):
    try: signal.signal(signal.SIGCHLD, handler); done.append(str(handler))
    except OSError: pass
libc = ctypes.CDLL(None)
for flags in (0, 2):  # SA_NOCLDWAIT
    action = (ctypes.c_uint64 * 20)(1 - flags // 2, *[0] * 16, flags)
    if libc.sigaction(17, action, None) == 0: done.append(flags)
signal.getsignal(signal.SIGCHLD) in (signal.SIG_DFL, None) or done.append('changed')
signal.signal(signal.SIGALRM, signal.SIG_IGN)
""",
    "sees other processes": """
import os
try: done += [name for name in os.listdir('/proc')]
except OSError: pass
for pid in range(2, 5000):
    try: os.kill(pid, 0); done.append(pid)
    except OSError: pass
""",
    "is privileged": """
import os
if 0 in os.getresuid() + os.getresgid(): done.append('root')
for act in (lambda: os.setuid(0), lambda: os.setgroups([0]), lambda: os.chroot('/tmp'), lambda: os.nice(-5),
            lambda: os.mknod('/tmp/disk', 0o60600, os.makedev(8, 0)), lambda: os.chown('/tmp', 0, 0)):
    try: act(); done.append('privilege')
    except OSError: pass
""",
    "makes namespaces and mounts": """
import ctypes
libc = ctypes.CDLL(None)
for flag in (0x20000, 0x10000000, 0x20000000, 0x40000000, 0x08000000, 0x04000000, 0x02000000):
    if libc.unshare(flag) == 0: done.append(hex(flag))
    pid = libc.syscall(56, flag | 17, 0, 0, 0, 0)
    if pid == 0: import os; os._exit(0)
    if pid > 0: done.append('clone')
for source, target, kind in ((b'tmpfs', b'/tmp', b'tmpfs'), (b'proc', b'/tmp', b'proc'), (b'/', b'/tmp', None)):
    if libc.mount(source, target, kind, 0, None) == 0: done.append('mount')
if libc.umount2(b'/proc', 2) == 0 or libc.umount2(b'/tmp', 2) == 0: done.append('umount')
""",
    "makes forbidden system calls": """
import ctypes
libc = ctypes.CDLL(None)
for name, number, args in (('ptrace', 101, (0, 0, 0, 0)), ('memfd', 319, (b'x', 0)), ('keyctl', 250, (0, -3, 1)), ('bpf', 321, (0, 0, 0)),
    ('userfaultfd', 323, (0,)), ('perf', 298, (0, 0, -1, -1, 0)), ('io_uring', 425, (8, 0)), ('shmget', 29, (0, 1 << 20, 0o1600)),
    ('clone3', 435, (0, 0)), ('personality', 135, (0x0040000,)), ('pidfd_getfd', 438, (3, 0, 0))):
    if libc.syscall(number, *args) >= 0: done.append(name)
""",
    "watches files and asks about mounts": """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for name, number, args in (('inotify', 253, ()), ('inotify1', 294, (0,)), ('watch', 254, (3, b'/', 0xfff)), ('statmount', 457, (0, 0, 0, 0)),
    ('listmount', 458, (0, 0, 0, 0)), ('fsopen', 430, (b'tmpfs', 0)), ('memfd_secret', 447, (0,)), ('landlock', 444, (0, 0, 1))):
    if libc.syscall(number, *args) >= 0: done.append(name)
    if ctypes.get_errno() not in (1, 38): done.append((name, ctypes.get_errno()))
for number in range(470, 520):
    if libc.syscall(number, 0, 0, 0, 0, 0, 0) >= 0: done.append(number)
""",
    "gains rights by executing": """
import os, sys
for path in ('/', '/usr/lib', '/usr/lib64', '/guest', '/tmp', os.path.dirname(os.__file__), sys.executable):
    try:
        if not os.statvfs(path).f_flag & os.ST_NOSUID and path != '/': done.append(path)
    except OSError: pass
for path in ('/usr/lib/dbus-1.0/dbus-daemon-launch-helper', '/usr/lib/openssh/ssh-keysign'):
    pid = os.fork()
    if pid == 0:
        try: os.execv(path, [path])
        except OSError: os._exit(1)
    os.waitpid(pid, 0)
if os.geteuid() == 0: done.append('root')
""",
    "leaves something for the next program": """
import os
for folder in ('/tmp', '/dev/shm', '/var/tmp', '.'):
    try: done += os.listdir(folder)
    except OSError: pass
import sys
if hasattr(sys, 'left_behind'): done.append('sys')
sys.left_behind = True
for folder in ('/tmp', '/dev/shm', '.'):
    try: open(folder + '/left', 'w').write('x')
    except OSError: pass
""",
    "leaves something on its standard files": """
import fcntl, os
for fd in (0, 1, 2):
    status = os.fstat(fd)
    try: done += [('attribute', fd, name) for name in os.listxattr(fd)]
    except OSError: pass
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK: done.append(('flag', fd))
    if status.st_size or status.st_mode & 0o777 == 0o123: done.append(('file', fd))
    if fcntl.fcntl(fd, fcntl.F_GETSIG): done.append(('signal', fd))
    for act in (lambda: os.setxattr(fd, 'user.left', b'x'), lambda: os.fchmod(fd, 0o123), lambda: os.write(fd, b'left'),
                lambda: fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK), lambda: fcntl.fcntl(fd, fcntl.F_SETSIG, 12)):
        try: act()
        except OSError: pass
""",
    "uses up what the whole machine shares": """
import ctypes
libc = ctypes.CDLL(None)
for n in range(64):
    context = ctypes.c_ulong(0)
    if libc.syscall(206, 4096, ctypes.byref(context)) == 0: done.append('asynchronous input and output')
""",
    "holds descriptors that lead outside": """
import os, stat
for fd in range(3, 256):
    try: mode = os.fstat(fd).st_mode
    except OSError: continue
    if not stat.S_ISSOCK(mode): done.append(fd)
    elif fd != 3: done.append(fd)
""",
}
