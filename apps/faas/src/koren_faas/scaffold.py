# SPDX-License-Identifier: Apache-2.0
"""The files that a new function begins with."""

from __future__ import annotations

from pathlib import Path

from koren_faas.config import NAME
from koren_faas.errors import FunctionError
from koren_faas.function import Function
from koren_faas.runtimes import IMAGE, NODEJS, PYTHON, RUNTIMES

_CONFIG = """\
# All that a deploy is told of these functions. `faas check` checks it, `faas apply` deploys it.
functions:
  "{name}":
    runtime: {runtime}
    handler: handler.handler
    from-file: .
    dependencies: {dependencies}
    # Events that start it. Without a topic, only calls do.
    # topic: events/{{region}}/+/accident
"""
_EVENT = '{{"who": "you"}}\n'
_OF_A_RUN = "# What `faas run` is given.\nsecrets/\nstate.json\n"
_FILES = {
    PYTHON: {
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
        ".gitignore": f"__pycache__/\n{_OF_A_RUN}",
    },
    NODEJS: {
        "handler.js": """\
'use strict';

/** Say hello to who the event names. */
module.exports.handler = async (event, context) => ({{ hello: event.data.who }});
""",
        "package.json": '{{\n  "private": true,\n  "dependencies": {{}}\n}}\n',
        # What npm writes of it.
        "package-lock.json": """\
{{
  "name": "{name}",
  "lockfileVersion": 3,
  "requires": true,
  "packages": {{
    "": {{}}
  }}
}}
""",
        "tests/handler.test.js": """\
'use strict';

const assert = require('node:assert');
const test = require('node:test');
const {{ handler }} = require('../handler.js');

test('says hello', async () => {{
  assert.deepStrictEqual(await handler({{ data: require('./event.json') }}, {{}}), {{ hello: 'you' }});
}});
""",
        ".gitignore": f"node_modules/\n{_OF_A_RUN}",
    },
}


def make(folder: Path, name: str, runtime: str) -> None:
    """Write a new function into a folder that is new or empty.

    Raises:
        FunctionError: the name or the runtime can't be accepted, or the folder has files.
    """
    Function(name=name, handler="handler.handler", runtime=runtime)
    if runtime == IMAGE:
        raise FunctionError(
            f"function {name!r}: the runtime {IMAGE} has no code to begin with; choose another one, or"
            " see the Runtime API, which an image speaks"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FunctionError(f"function {name!r}: {folder} is there and not empty; choose another name")
    chosen = RUNTIMES[runtime]
    files = {NAME: _CONFIG, "tests/event.json": _EVENT, **_FILES[chosen.language]}
    for path, text in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        written = text.format(name=name, runtime=runtime, dependencies=chosen.dependencies)
        file.write_text(written, encoding="utf-8")
