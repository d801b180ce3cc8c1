"""Runs a whole program that reads standard input and writes standard output."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import types

from .values import describe

OUT_OF_MEMORY = 137  # exit status of a script that ran into the memory limit


def whole_program(source: str) -> types.CodeType:
    """A script may end itself by `return`, as programs do that are handed in to a contest."""
    try:
        return compile(source, "<program>", "exec", dont_inherit=True)
    except SyntaxError as error:
        if "'return' outside function" not in str(error):
            raise
    import ast

    tree = ast.parse(source)
    (main,) = ast.parse("def main(): pass").body
    main.body, tree.body = tree.body, [main, *ast.parse("main()").body]  # type: ignore[attr-defined]
    return compile(ast.fix_missing_locations(tree), "<program>", "exec", dont_inherit=True)


def run_script(source: str) -> None:
    """Run a whole program that reads standard input and writes standard output, and end the process as it does."""
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    status = 0
    if "/dev/stdin" in source:  # a link to here, where there is no /proc that it could lead to
        with contextlib.suppress(OSError), open("/tmp/.stdin", "wb") as copy:
            copy.write(os.pread(0, os.fstat(0).st_size, 0))
    try:
        exec(whole_program(source), module.__dict__)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except MemoryError:
        status = OUT_OF_MEMORY
    except BaseException as error:
        print(*describe(error)[2:], sep=": ", file=sys.stderr)
        status = 1
    # The way in which Python itself ends: threads are awaited, exit handlers called, forgotten files written.
    ctypes.pythonapi.Py_Exit(status & 0xFF)
