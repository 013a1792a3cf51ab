# SPDX-License-Identifier: Apache-2.0
"""The files that a new function begins with."""

from __future__ import annotations

from pathlib import Path

from koren_faas.config import NAME
from koren_faas.errors import FunctionError
from koren_faas.function import Function

_FILES = {
    NAME: """\
# All that a deploy is told of these functions. `faas check` checks it, `faas apply` deploys it.
functions:
  "{name}":
    runtime: {runtime}
    handler: handler.handler
    from-file: .
    dependencies: requirements.txt
    # Events that start it. Without a topic, only calls do.
    # topic: events/{{region}}/+/accident
""",
    "handler.py": '''\
def handler(event, context):
    """Say hello to who the event names."""
    return {{"hello": event["data"]["who"]}}
''',
    "requirements.txt": "# Python packages of the function, each pinned: name==version\n",
    "tests/test_handler.py": """\
def test_says_hello(call, event):
    assert call(event.read("event.json")) == {{"hello": "you"}}
""",
    "tests/event.json": '{{"who": "you"}}\n',
    ".gitignore": "__pycache__/\n# What `faas run` is given.\nsecrets/\nstate.json\n",
}


def make(folder: Path, name: str, runtime: str) -> None:
    """Write a new function into a folder that is new or empty.

    Raises:
        FunctionError: the name or the runtime can't be accepted, or the folder has files.
    """
    Function(name=name, handler="handler.handler", runtime=runtime)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FunctionError(f"function {name!r}: {folder} is there and not empty; choose another name")
    for path, text in _FILES.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.format(name=name, runtime=runtime), encoding="utf-8")
