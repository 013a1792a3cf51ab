"""Checks that a program speaks the Runtime API: `python -m koren_runtime.conformance --command '…'`.

The program is started for each check, with the environment that a pod has, against a gateway on the
loopback address. What its handler has to do is in the event's data:

    {"do": "answer", "value": …}               answer with the value
    {"do": "fail", "message": "…"}             fail with the message
    {"do": "wait", "seconds": …, "value": …}   wait so long, then answer with the value

With `KOREN_CONFORMANCE=init-error` in its environment, the program must fail to start its handler.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from koren_runtime.local.double import GatewayDouble

_END_S = 10.0
_SLACK_S = 4.0
_TIMEOUT_S = 2
_LEASE_S = 1.5
_ANSWER = {"text": "사고", "list": [1, 2.5, True, None]}


class Program:
    """The program that is checked, as one pod after the other.

    `log` is what it has printed so far.
    """

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        """`folder` is for the token; `{folder}` in the command stands for it."""
        self._command = [word.replace("{folder}", str(folder)) for word in command]
        self._log = folder / "log"
        self.token = folder / "token"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self, gateway: GatewayDouble, **environment: str) -> None:
        """Starts it. Raises OSError."""
        self.token.write_text(gateway.token)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                env={
                    **os.environ,
                    "MOD_NAME": "handler",
                    "FUNC_HANDLER": "handle",
                    "FUNC_TIMEOUT": "60",
                    "FUNC_RUNTIME": "image",
                    "FUNC_MEMORY_LIMIT": "256Mi",
                    "KOREN_GATEWAY": f"127.0.0.1:{gateway.port}",
                    "KOREN_TOKEN": str(self.token),
                    **environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def terminate(self) -> None:
        """Tells it to end, as the kubelet does."""
        assert self._process is not None
        self._process.terminate()

    def demand_end(self) -> None:
        """Raises AssertionError unless it ends with exit code 0."""
        assert self._process is not None
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it has not ended {_END_S:.0f} s after SIGTERM") from None
        assert code == 0, f"its exit code after SIGTERM is {code}, not 0"

    def close(self) -> None:
        """Ends it in any case."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_SLACK_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


Check = Callable[[GatewayDouble, Program], None]


def _answer(value: Any = None) -> dict[str, Any]:
    return {"do": "answer", "value": value}


def _wait(seconds: float) -> dict[str, Any]:
    return {"do": "wait", "seconds": seconds, "value": "done"}


def _demand_answer(gateway: GatewayDouble, id: str, value: Any) -> None:
    said = gateway.wait_for(f"{id}/response").body
    assert said == value, f"the response to {id} is {said!r}, not {value!r}"


def _demand_unsaid(gateway: GatewayDouble, *ends: str) -> None:
    said = [call.path for call in gateway.calls if call.path.endswith(ends)]
    assert not said, f"it told {', '.join(said)} without a lease"


def event(gateway: GatewayDouble, program: Program) -> None:
    """takes an event, tells that its handler is entered, and gives the answer"""
    gateway.give(_answer(_ANSWER), id="one")
    program.start(gateway)
    _demand_answer(gateway, "one", _ANSWER)
    assert gateway.words() == ["entered", "response"], f"it told {gateway.words()}"


def order(gateway: GatewayDouble, program: Program) -> None:
    """handles one event at a time, in order"""
    gateway.give(_wait(0.5), id="one")
    gateway.give(_answer("two"), id="two")
    program.start(gateway)
    _demand_answer(gateway, "two", "two")
    _demand_answer(gateway, "one", "done")
    asked = gateway.nexts_before("one/response")
    assert asked == 1, "it asked for another event while it had one"


def error(gateway: GatewayDouble, program: Program) -> None:
    """reports a handler's failure and goes on"""
    gateway.give({"do": "fail", "message": "as asked"}, id="one")
    gateway.give(_answer("two"), id="two")
    program.start(gateway)
    _demand_failure(gateway.wait_for("one/error").body, "as asked")
    _demand_answer(gateway, "two", "two")


def _demand_failure(said: Any, message: str = "") -> None:
    right = isinstance(said, dict) and all(isinstance(said.get(key), str) for key in ("type", "message"))
    assert right, f'it reported {said!r}; a failure is {{"type": text, "message": text}}'
    assert message in said["message"], f"the message is {said['message']!r}, not {message!r}"


def timeout(gateway: GatewayDouble, program: Program) -> None:
    """ends a handler that takes longer than FUNC_TIMEOUT, and goes on"""
    gateway.give(_wait(60), id="one")
    gateway.give(_answer("two"), id="two")
    program.start(gateway, FUNC_TIMEOUT=str(_TIMEOUT_S))
    _demand_failure(gateway.wait_for("one/error", timeout_s=_TIMEOUT_S + _SLACK_S).body)
    _demand_answer(gateway, "two", "two")


def heartbeat(gateway: GatewayDouble, program: Program) -> None:
    """keeps the lease while its handler runs"""
    gateway.lease_ms = round(_LEASE_S * 1000)
    gateway.give(_wait(3 * _LEASE_S), id="one")
    program.start(gateway)
    _demand_answer(gateway, "one", "done")
    kept = [call.at for call in gateway.calls if call.path.startswith("/v1/invocation/one/")]
    longest = max((after - before for before, after in pairwise(kept)), default=3 * _LEASE_S)
    assert longest < _LEASE_S, f"it let the lease of {_LEASE_S} s go for {longest:.1f} s"


def lost_lease(gateway: GatewayDouble, program: Program) -> None:
    """ends a handler whose heartbeat is answered 409, reports nothing, and goes on"""
    gateway.lease_ms = round(_LEASE_S * 1000)
    gateway.refuse["heartbeat"] = [409]
    gateway.give(_wait(30), id="one")
    gateway.give(_answer("two"), id="two")
    program.start(gateway)
    _demand_answer(gateway, "two", "two")
    _demand_unsaid(gateway, "one/response", "one/error")


def late_answer(gateway: GatewayDouble, program: Program) -> None:
    """drops an answer that is answered 409, and goes on"""
    gateway.refuse["response"] = [409]
    gateway.give(_answer("one"), id="one")
    gateway.give(_answer("two"), id="two")
    program.start(gateway)
    _demand_answer(gateway, "two", "two")
    _demand_unsaid(gateway, "one/response", "one/error")


def outage(gateway: GatewayDouble, program: Program) -> None:
    """asks and reports again when the gateway answers 503"""
    gateway.refuse = {"next": [503], "response": [503, 503]}
    gateway.give(_answer("one"), id="one")
    program.start(gateway)
    _demand_answer(gateway, "one", "one")


def token(gateway: GatewayDouble, program: Program) -> None:
    """reads its token anew, which the kubelet replaces"""
    program.start(gateway)
    gateway.wait_for_next()
    renewed = "another-token"
    program.token.write_text(renewed)
    gateway.token = renewed
    gateway.give(_answer("one"), id="one")
    _demand_answer(gateway, "one", "one")


def stop_idle(gateway: GatewayDouble, program: Program) -> None:
    """ends at once on SIGTERM while it waits for an event"""
    program.start(gateway)
    gateway.wait_for_next()
    program.terminate()
    program.demand_end()


def stop_busy(gateway: GatewayDouble, program: Program) -> None:
    """ends on SIGTERM after the event in hand, and takes no other"""
    gateway.give(_wait(1.5), id="one")
    gateway.give(_answer("two"), id="two")
    program.start(gateway)
    gateway.wait_for("one/entered")
    program.terminate()
    program.demand_end()
    _demand_answer(gateway, "one", "done")
    assert len(gateway.nexts) == 1, "it asked for another event after SIGTERM"


def slots(gateway: GatewayDouble, program: Program) -> None:
    """handles as many events side by side as FUNC_CONCURRENCY says, each in a slot of its own"""
    for id in ("one", "two", "three"):
        gateway.give(_wait(1.5), id=id)
    program.start(gateway, FUNC_CONCURRENCY="2")
    for id in ("one", "two"):
        gateway.wait_for(f"{id}/entered")
    assert len(gateway.nexts) == 2, "it asked for a third event while it had two"
    _demand_answer(gateway, "three", "done")
    assert gateway.nexts_before("/response") == 2, "it had one event at a time"
    assert gateway.slots["one"] != gateway.slots["two"], f"it had two events in slot {gateway.slots['one']}"


def init_error(gateway: GatewayDouble, program: Program) -> None:
    """reports that its handler can't be started"""
    program.start(gateway, KOREN_CONFORMANCE="init-error")
    _demand_failure(gateway.wait_for("/v1/init/error").body)


CHECKS: tuple[Check, ...] = (
    *(event, order, error, timeout, heartbeat, lost_lease, late_answer, outage),
    *(token, stop_idle, stop_busy, init_error),
)
"""Each is what the program does; it raises AssertionError, which says what the program does instead."""
OPTIONAL: tuple[Check, ...] = (slots,)
"""What a program may do, checked only where --only names it."""


def name_of(check: Check) -> str:
    """The name of a check on the command line."""
    return check.__name__.replace("_", "-")


def problem_of(check: Check, command: Sequence[str]) -> tuple[str, str]:
    """What is wrong with the program in this check, empty if nothing is; and its log."""
    with tempfile.TemporaryDirectory(prefix="koren-conformance-") as folder:
        gateway, program = GatewayDouble(), Program(command, Path(folder))
        try:
            check(gateway, program)
            assert not gateway.complaints, "; ".join(gateway.complaints)
        except AssertionError as wrong:
            return "; ".join(gateway.complaints) or str(wrong), program.log
        finally:
            program.close()
            gateway.close()
        return "", program.log


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the checks and prints a table; 1 if a check failed, 2 if the program can't be started."""
    names = [name_of(check) for check in (*CHECKS, *OPTIONAL)]
    parser = argparse.ArgumentParser(
        prog="python -m koren_runtime.conformance",
        description=__doc__,
        epilog=f"Checks: {', '.join(names)}. Those that need --only: {', '.join(map(name_of, OPTIONAL))}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--command",
        required=True,
        help="the program; {folder} in it stands for the folder of its token, which a container must mount there",
    )
    parser.add_argument("--only", action="append", choices=names, metavar="CHECK", help="run only this check")
    parser.add_argument("--skip", action="append", choices=names, default=[], metavar="CHECK", help="skip this check")
    asked = parser.parse_args(arguments)
    command = shlex.split(asked.command)
    if not command:
        parser.error("--command is empty: give the program")
    failed = 0
    for check in (*CHECKS, *OPTIONAL):
        name = name_of(check)
        wanted = name in asked.only if asked.only else check in CHECKS
        if not wanted or name in asked.skip:
            continue
        began = time.monotonic()
        try:
            problem, log = problem_of(check, command)
        except OSError as fault:
            parser.error(f"{command[0]} can't be started: {fault.strerror}")
        result = "FAILED" if problem else "ok"
        print(f"{name:12} {result:6} {time.monotonic() - began:5.1f} s  {check.__doc__}", flush=True)
        if problem:
            failed += 1
            print("".join(f"    {line}\n" for line in [problem, *log.splitlines()[-20:]]), end="", flush=True)
    print(f"{failed} checks failed" if failed else "All checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
