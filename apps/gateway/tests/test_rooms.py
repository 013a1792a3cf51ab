"""The package's rooms: each uses only what is below it."""

import ast
from pathlib import Path

import koren_gateway

PACKAGE = Path(koren_gateway.__file__).parent
BASE = ("errors", "settings", "log", "metrics", "tasks", "tracing")
ROOMS = ("cluster", "queue", "scaling", "intake", "api")
LEVELS = {
    **dict.fromkeys(BASE, 0),
    **{room: level for level, room in enumerate(ROOMS, start=1)},
    **dict.fromkeys(("app", "__main__"), len(ROOMS) + 1),
}


def imported(module: Path) -> set[str]:
    """The rooms and base modules that it imports."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        match node:
            case ast.Import(names=names):
                paths = [alias.name for alias in names]
            case ast.ImportFrom(module=str(path), level=0, names=names):
                paths = [path] if path != "koren_gateway" else [f"{path}.{alias.name}" for alias in names]
            case ast.ImportFrom():
                raise AssertionError(f"{module}: import by the full name")
            case _:
                continue
        found |= {path.split(".")[1] for path in paths if path.startswith("koren_gateway.")}
    return found


def test_a_room_uses_only_rooms_below_it() -> None:
    for module in PACKAGE.rglob("*.py"):
        room = module.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        assert room in LEVELS, f"{module} is in no room"
        for other in imported(module):
            below = LEVELS[other] < LEVELS[room] or other == room or LEVELS[room] in (0, len(ROOMS) + 1)
            assert below, f"{module.relative_to(PACKAGE)} uses {other}, which is above it"
            assert LEVELS[room] > 0 or LEVELS[other] == 0, f"{module.name} is base, and uses {other}"
