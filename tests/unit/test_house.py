"""The house as its imports draw it: data flows through the rooms in one direction."""

import ast
from pathlib import Path

import crlhf_ray

PACKAGE = Path(crlhf_ray.__file__).parent
#: Each may import those before it, and the modules of the ground floor.
ROOMS = [
    "problems",
    "policy",
    "rollout",
    "sandbox",
    "aggregation",
    "feedback",
    "reward",
    "learner",
    "config",
    "engines",
    "pipeline",
    "evaluation",
    "studies",
    "report",
]
#: Everybody may import these, and they import no room.
GROUND = {"errors", "settings", "parts", "jsonl", "output", "page", "visible", "actors", "cluster", "process_group"}
#: They put the rooms together, and no room imports them.
FRONT = {"loop", "cli", "plan", "memory", "devices", "doctor", "export"}


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(file: Path) -> set[str]:
    """The rooms that a file imports, at any depth: lazy imports and those for types too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "crlhf_ray":
            names |= {f"crlhf_ray.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    rooms = {name.split(".")[1] for name in names if name.startswith("crlhf_ray.")}
    return {room for room in rooms if (PACKAGE / room).exists() or (PACKAGE / f"{room}.py").exists()}


def files() -> list[Path]:
    return [file for file in PACKAGE.rglob("*.py") if file.parent != PACKAGE or file.name != "__init__.py"]


def test_a_room_imports_only_rooms_above_it():
    wrong = []
    for file in files():
        room = room_of(file)
        if room in FRONT:
            continue
        allowed = GROUND | (set() if room in GROUND else {room, *ROOMS[: ROOMS.index(room)]})
        wrong += [f"{file.relative_to(PACKAGE)} imports {other}" for other in sorted(imported(file) - allowed)]
    assert wrong == []


def test_every_module_has_its_place():
    assert {room_of(file) for file in files()} <= {*ROOMS, *GROUND, *FRONT}


def test_the_desk_is_handed_its_engine_and_imports_none():
    """Of aggregation it knows what a mark and an alert are, and no more."""
    names = set()
    for file in (PACKAGE / "feedback/desk").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("crlhf_ray.aggregation"):
                names.add(node.module)
    assert names <= {"crlhf_ray.aggregation.marks", "crlhf_ray.aggregation.monitors"}
