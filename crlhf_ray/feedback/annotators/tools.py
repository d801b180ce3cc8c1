"""Static tools over programs that a model wrote: findings by line of the completion.

The tools read the programs and never run them. They get no shell, no environment of ours (keys are in it), a folder of
their own, and bounds on CPU, memory, output and time. Where one fails on a batch, the batch is halved until the program
that it fails on is alone; of that it says nothing.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from crlhf_ray.aggregation.marks import Item
from crlhf_ray.errors import ConfigError
from crlhf_ray.feedback.annotators.settings import ChecksSettings

#: (line of the completion, code of the rule). None in place of findings: the tool could say nothing of the program.
Findings = list[tuple[int, str]]
#: What a tool finds in each of some files; None where it failed on all of them together.
Look = Callable[[Sequence[Path], ChecksSettings], list[Findings | None] | None]

_OUTPUT_BYTES = 16 << 20
_COMPILE = """
import json, sys, warnings
warnings.simplefilter("ignore")
found = []
for name in sys.argv[1:]:
    try:
        compile(open(name, "rb").read(), "program", "exec", dont_inherit=True)
        found.append(None)
    except SyntaxError as error:
        found.append(error.lineno or 1)
    except (ValueError, RecursionError, MemoryError, OverflowError):
        found.append(0)
print(json.dumps(found))
"""


def find(items: Sequence[Item], settings: ChecksSettings) -> list[Findings | None]:
    """What the tool finds in each program's completion; None where it could not read the program."""
    found: list[Findings | None] = [None] * len(items)
    suffix = settings.suffix if settings.tool == "command" else ".py"
    with tempfile.TemporaryDirectory(prefix="crlhf-checks-") as folder:
        files = []
        for number, item in enumerate(items):
            file = Path(folder) / f"p{number}{suffix}"
            file.write_text(item.prompt + "\n".join(item.lines), encoding="utf-8", errors="replace", newline="\n")
            files.append(file)
        readable = [n for n, item in enumerate(items) if item.language in settings.languages]
        for number, some in zip(readable, _halving([files[n] for n in readable], settings), strict=True):
            before = items[number].prompt.count("\n") + 1  # the completion goes on in the prompt's last line
            lines = range(len(items[number].lines))
            found[number] = None if some is None else [(n - before, c) for n, c in some if n - before in lines]
    return found


def _halving(files: Sequence[Path], settings: ChecksSettings) -> list[Findings | None]:
    if not files:
        return []
    found = _LOOKS[settings.tool](files, settings)
    if found is not None:
        return found
    if len(files) == 1:
        return [None]
    half = len(files) // 2
    return [*_halving(files[:half], settings), *_halving(files[half:], settings)]


def _python(files: Sequence[Path], settings: ChecksSettings) -> list[Findings | None] | None:
    said = _run([sys.executable, "-I", "-c", _COMPILE, *map(str, files)], files[0].parent, settings, (0,))
    if said is None:
        return None
    # 0: the compiler gave up without naming a line
    return [None if at == 0 else [] if at is None else [(at, "syntax")] for at in json.loads(said)]


def _ruff(files: Sequence[Path], settings: ChecksSettings) -> list[Findings | None] | None:
    options = ["--isolated", "--no-cache", "--no-fix", "--output-format=json", f"--select={','.join(settings.rules)}"]
    command = [program("ruff"), "check", *options, "--", *map(str, files)]
    said = _run(command, files[0].parent, settings, (0, 1))
    if said is None:
        return None
    found: dict[str, Findings | None] = {file.name: [] for file in files}
    for one in json.loads(said):
        name, code, some = Path(one["filename"]).name, one["code"], found[Path(one["filename"]).name]
        if code is None or not re.fullmatch(r"[A-Z]+[0-9]+", code):  # a syntax error: no rule was tried
            found[name] = None
        elif some is not None:
            some.append((one["location"]["row"], code))
    return list(found.values())


def _mypy(files: Sequence[Path], settings: ChecksSettings) -> list[Findings | None] | None:
    options = ["--config-file=", f"--cache-dir={os.devnull}", "--no-site-packages", "--ignore-missing-imports"]
    options += ["--follow-imports=skip", "--check-untyped-defs", "--output=json", "--no-error-summary"]
    command = [program("mypy"), *options, "--", *map(str, files)]
    said = _run(command, files[0].parent, settings, (0, 1))  # 2: it could not read one of them
    if said is None:
        return None
    found: dict[str, Findings] = {file.name: [] for file in files}
    for line in said.splitlines():
        one = json.loads(line)
        if one["severity"] == "error":
            found[Path(one["file"]).name].append((one["line"], one["code"] or "error"))
    return list(found.values())


def _command(files: Sequence[Path], settings: ChecksSettings) -> list[Findings | None]:
    found: list[Findings | None] = []
    for file in files:
        name, *arguments = settings.command
        command = [program(name), *(argument.replace("{file}", str(file)) for argument in arguments)]
        said = _run(command, file.parent, settings, settings.exit_codes)
        found.append(
            None if said is None else [(int(m["line"]), "finding") for m in re.finditer(settings.pattern, said)]
        )
    return found


_LOOKS: dict[str, Look] = {"python": _python, "ruff": _ruff, "mypy": _mypy, "command": _command}


def program(name: str) -> str:
    """Where a tool is installed: beside this Python, or on the PATH. Raises ConfigError where it is not."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if "/" not in name and beside.exists() else shutil.which(name)
    if found is None:
        raise ConfigError(
            f"feedback.annotators: {name!r} is not installed where the run is started; install it "
            f"(`pip install {name}` for ruff and mypy), or leave the annotator out"
        )
    return found


def _run(command: Sequence[str], folder: Path, settings: ChecksSettings, fine: Sequence[int]) -> str | None:
    """What a tool printed; None where it was ended or its exit status is not among the ``fine`` ones."""
    environment = {"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": str(folder), "RAYON_NUM_THREADS": "1"}
    with tempfile.TemporaryFile(dir=folder) as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            seconds = int(settings.seconds) + 1
            _limit(process.pid, resource.RLIMIT_CPU, seconds)
            _limit(process.pid, resource.RLIMIT_AS, settings.memory_mb << 20)
            _limit(process.pid, resource.RLIMIT_FSIZE, _OUTPUT_BYTES)
            status = process.wait(settings.seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if status not in fine:
            return None
        output.seek(0)
        return output.read(_OUTPUT_BYTES).decode("utf-8", errors="replace")


def _limit(pid: int, kind: int, value: int) -> None:
    try:
        resource.prlimit(pid, kind, (value, value))
    except ProcessLookupError:  # it has ended already
        return
