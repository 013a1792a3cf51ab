"""Fixtures of pytest for the tests of functions: `event`, `state`, `secrets` and `call`.

    def test_says_hello(call, event):
        assert call(event({"who": "you"})) == {"hello": "you"}

The handler runs as in a pod, in a process of its own, so breakpoints in it do not stop the test.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from koren_runtime.local import Outcome, Pod, State, new_event, serving

_HANDLER = "handler.handler"


class CallFailed(Exception):
    """The handler failed. `outcome` has the error's kind, message, traceback and what is next."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        super().__init__(f"{outcome.error}: {outcome.message}\n{outcome.traceback}".rstrip())


class Events:
    """Makes CloudEvents: `event(data, type=…, subject=…)`, or `event.read("event.json")`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, data: Any = None, **attributes: Any) -> dict[str, Any]:
        """An event with this data; `attributes` replace its own."""
        return new_event(data, **attributes)

    def read(self, file: str, **attributes: Any) -> dict[str, Any]:
        """The event of a file beside the test: a CloudEvent, or the data of one."""
        content = json.loads((self._folder / file).read_text(encoding="utf-8"))
        if isinstance(content, dict) and "specversion" in content:
            return {**content, **attributes}
        return new_event(content, **attributes)


class Secrets:
    """Gives the function secrets: `secrets("sns", token="…")` is the file `/run/secrets/sns/token`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, secret: str, **values: str) -> Path:
        """Writes values of a secret; the folder that has them on this machine."""
        place = self.folder / secret
        place.mkdir(exist_ok=True)
        for key, value in values.items():
            (place / key).write_text(value, encoding="utf-8")
        return place


class Call:
    """Calls the handler: `call(event(…))` is what it returns. It raises CallFailed.

    A call with what is no CloudEvent is one with an event of that data. The handler's process, and
    so its globals, live as long as the test.
    """

    def __init__(self, **settings: Any) -> None:
        self._settings = settings
        self._env: dict[str, str] = settings.pop("env")
        self._folder: Path = settings.pop("folder")
        self._pod: Pod | None = None

    def env(self, **variables: str) -> None:
        """Sets environment variables of the function, before the first call of the test."""
        assert self._pod is None, "the function runs already: set its variables before its first call"
        self._env |= variables

    def __call__(self, event: Any = None) -> Any:
        """What the handler returns for this event."""
        if self._pod is None:
            self._pod = Pod(self._folder, env=self._env, on_line=print, **self._settings)
            self._pod.start()
        whole = isinstance(event, dict) and "specversion" in event
        outcome = self._pod.call(event if whole else new_event(event))
        if outcome.error is not None:
            raise CallFailed(outcome)
        return outcome.result

    def close(self) -> None:
        """Ends the handler's process."""
        if self._pod is not None:
            self._pod.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options by which `faas test` says what `faas.yaml` does."""
    group = parser.getgroup("koren", "functions")
    group.addoption("--koren-folder", type=Path, help="The function's folder.  [default: rootdir]")
    group.addoption("--koren-packages", type=Path, help="Folder that its requirements are in.")
    group.addoption("--koren-timeout", type=float, default=180.0, help="Its time limit in seconds.")
    group.addoption(
        "--koren-env", action="append", default=[], metavar="KEY=VALUE", help="A variable of its."
    )
    group.addoption("--koren-handler", help=f"What is called.  [default: {_HANDLER}]")
    parser.addini("koren_handler", "What the fixture `call` calls.", default=_HANDLER)


@pytest.fixture
def event(request: pytest.FixtureRequest) -> Events:
    """Makes events: `event(data, subject=…)`; `event.read("event.json")` reads one of a file."""
    return Events(request.path.parent)


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    """The function's state, a mapping of keys to bytes; `koren_runtime.state` of the test has it too."""
    state = State()
    with serving(state) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield state


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    """Gives the function secrets: `secrets("sns", token="…")`."""
    folder = tmp_path / "koren-secrets"
    folder.mkdir()
    return Secrets(folder)


@pytest.fixture
def call(request: pytest.FixtureRequest, state: State) -> Iterator[Call]:
    """Calls the handler by the runtime: `call(event(…))` is what it returns."""
    config = request.config
    given = "secrets" in request.fixturenames
    made = Call(
        folder=config.getoption("--koren-folder") or config.rootpath,
        packages=config.getoption("--koren-packages"),
        handler=config.getoption("--koren-handler") or config.getini("koren_handler"),
        timeout_s=config.getoption("--koren-timeout"),
        env=dict(pair.split("=", 1) for pair in config.getoption("--koren-env")),
        secrets=request.getfixturevalue("secrets").folder if given else None,
        state=state,
    )
    yield made
    made.close()
