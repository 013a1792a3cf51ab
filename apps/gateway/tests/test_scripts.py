"""What scripts are sent: what their headers name, and nothing else."""

import re
from pathlib import Path
from typing import Any

import msgpack
import pytest

import koren_gateway.queue
from koren_gateway.cluster.functions import Function
from koren_gateway.queue.queue import Queue
from koren_gateway.queue.store import Store, _fields_of

SCRIPTS = {
    path.stem: path.read_text() for path in (Path(koren_gateway.queue.__file__).parent / "scripts").glob("*.lua")
}
LIBRARY = SCRIPTS.pop("lib")
FUNCTION = re.compile(r"^local function (\w+)\(.*?^end$", re.MULTILINE | re.DOTALL)
BODIES = {found[1]: found[0] for found in FUNCTION.finditer(LIBRARY)}


def read_by(text: str, done: frozenset[str] = frozenset()) -> set[str]:
    """The fields of P that the text reads, itself or by the library's functions that it calls."""
    code = re.sub(r"--.*", "", text)
    found = set(re.findall(r"\bP\.(\w+)", code))
    for name in set(re.findall(r"\b(\w+)\(", code)) & BODIES.keys() - done:
        found |= read_by(BODIES[name], done | {name})
    return found


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_a_script_reads_what_its_header_names_and_no_more(script: str) -> None:
    # The padding takes memory, which is all that it is for.
    of_no_use = {"padding"} if script == "probe" else set()
    # It hands all of P on.
    verdict = {"state", "told", "answered", "history"} if script == "end" else set()
    assert _fields_of(SCRIPTS[script]) - of_no_use == read_by(SCRIPTS[script]) | verdict


def test_nothing_in_the_library_but_its_functions_reads_what_is_sent() -> None:
    outside = FUNCTION.sub("", LIBRARY)
    assert not re.findall(r"^[^-]*\bP\.\w+", outside, re.MULTILINE)


@pytest.mark.asyncio
async def test_nothing_is_sent_that_the_header_does_not_name(
    store: Store, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[dict[str, Any]] = []
    evaluate = store._evaluate

    async def listened(script: str, packed: bytes) -> Any:
        sent.append(msgpack.unpackb(packed))
        return await evaluate(script, packed)

    monkeypatch.setattr(store, "_evaluate", listened)
    await queue.take(Function(name="a"), "pod-a", 1)
    await queue.backlog(Function(name="a"))
    assert [sorted(argument) for argument in sent] == [
        ["budgets", "cold", "grace", "holder", "lease", "name", "started", "timeout"],
        ["name"],
    ]
