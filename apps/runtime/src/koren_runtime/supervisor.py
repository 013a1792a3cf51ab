"""The pod's first process: takes events from the gateway and has them handled by the worker.

The function's code runs in a process of its own, which loads the handler while this one asks for
the event. So a handler can be killed when its time is up, may crash or exhaust its memory, or hold
the interpreter for minutes, and the event's lease is kept and its end reported all the same.
"""

import _socket
import posix
import select
import sys
import time

from koren_runtime import frames
from koren_runtime.contract import failure
from koren_runtime.frames import Frames, pack
from koren_runtime.http import Connection, Response, quote
from koren_runtime.log import Log
from koren_runtime.settings import BadSetting, Settings, environment
from koren_runtime.worker import work

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal

REQUEST_TIMEOUT_S = 5.0
HEARTBEAT_S = 3.0
"""The gateway's lease is 10 s: two may be lost."""
LONG_POLL_S = 90.0
"""An answer to `next` that takes longer will not come; the gateway's own limit is 25 s."""
REPORT_S = 60.0
"""So long the end of an event is reported again and again; its lease is gone long before."""

_PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_LEASE_LOST = 409


class Invocation:
    """One attempt at one event."""

    __slots__ = ("attempt", "id", "message")

    def __init__(self, id: str, attempt: str, message: bytes) -> None:
        self.id = id
        self.attempt = attempt
        self.message = message


class Worker:
    """The worker's process as its parent sees it."""

    def __init__(self, settings: Settings) -> None:
        self.ready = False
        self.status: int | None = None
        """How it ended, as `waitpid` says; None while it runs."""
        self.control, theirs = _socket.socketpair()
        self.output, output = posix.pipe2(posix.O_CLOEXEC)
        self.pid = posix.fork()
        if self.pid == 0:
            work(theirs, output, settings)
        theirs.close()
        posix.close(output)
        posix.set_blocking(self.output, False)
        self._frames = Frames(self.control)

    def send(self, message: bytes) -> None:
        """Gives it an event; it must be ready, so that it reads."""
        try:  # noqa: SIM105 (contextlib is an import)
            self.control.sendall(pack(frames.EVENT, message))
        except ConnectionError:
            pass  # its end will be noticed

    def said(self) -> "list[tuple[bytes, bytes]]":
        """The frames that have come from it. Kills it when it can say nothing any more."""
        said: list[tuple[bytes, bytes]] = []
        while received := self._frames.receive(_socket.MSG_DONTWAIT):
            said += received
        if received is None and self.status is None:
            # It is ending anyway, or the function has closed what is not its own.
            posix.kill(self.pid, _signal.SIGKILL)
        return said

    def printed(self) -> bytes:
        """What it has printed and is not read yet."""
        try:
            return posix.read(self.output, 1 << 16)
        except BlockingIOError:
            return b""

    def end(self) -> str:
        """Kills it, if it runs, and all that it started; says how it ended."""
        try:  # noqa: SIM105
            posix.killpg(self.pid, _signal.SIGKILL)
        except ProcessLookupError:
            pass  # it had not come to make its session, or nothing is left of it
        if self.status is None:
            posix.kill(self.pid, _signal.SIGKILL)
            self.status = posix.waitpid(self.pid, 0)[1]
        self.control.close()
        posix.close(self.output)
        if posix.WIFSIGNALED(self.status):
            return f"signal {posix.WTERMSIG(self.status)}"
        return f"exit code {posix.WEXITSTATUS(self.status)}"


class Supervisor:
    """Takes events, one at a time, until it is told to stop."""

    def __init__(self, settings: Settings, started_ms: int) -> None:
        self._settings = settings
        self._started_ms = started_ms
        self._log = Log()
        self._stopping = False
        self._connection: Connection | None = None
        self._trouble = ""
        self._worker: Worker | None = None
        self._said: list[tuple[bytes, bytes]] = []
        self._wake, wake = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        _signal.signal(_signal.SIGCHLD, lambda *_: None)  # for the byte that it writes to `wake`
        _signal.signal(_signal.SIGTERM, self._stop)
        _signal.signal(_signal.SIGINT, self._stop)
        _signal.set_wakeup_fd(wake)

    def run(self) -> None:
        """Returns when the pod is to end and no event is in hand."""
        self._worker = Worker(self._settings)
        while (invocation := self._next()) is not None:
            # Until the worker has read the event's own id.
            self._log.belongs_to(invocation.id)
            self._invoke(invocation)
            self._log.belongs_to("-")
            if self._stopping:
                break
        if self._worker is not None:
            self._worker.end()

    def _stop(self, number: int, frame: object) -> None:
        self._stopping = True

    # From the gateway

    def _next(self) -> Invocation | None:
        failures = 0
        while not self._stopping:
            try:
                response = self._ask_for_next()
            except OSError as error:
                self._disconnect()
                self._note_trouble(str(error) or type(error).__name__)
            else:
                if response is None:
                    break
                if response.status == 200:
                    self._note_trouble("")
                    return Invocation(
                        response.headers.get("koren-invocation-id", ""),
                        response.headers.get("koren-attempt", ""),
                        response.body,
                    )
                if response.status == 204:
                    self._note_trouble("")
                    failures = 0
                    continue
                self._note_trouble(f"it answered {response.problem()}")
            self._rest(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])
            failures += 1
        return None

    def _ask_for_next(self) -> Response | None:
        """The gateway's answer; None when the pod is to end and nothing has come."""
        connection = self._connect()
        started = {"Koren-Started-Ms": str(self._started_ms)}
        connection.send("GET", "/v1/invocation/next", started)
        until = time.monotonic() + LONG_POLL_S
        while not self._wait(until - time.monotonic(), connection):
            self._listen_while_idle()
            if self._stopping:
                # One last look: an event that is here already is handled, not lost to its lease.
                if self._wait(0, connection):
                    break
                return None
            if time.monotonic() >= until:
                raise TimeoutError(f"no answer in {LONG_POLL_S:.0f} s")
        return connection.receive()

    def _listen_while_idle(self) -> None:
        for kind, body in self._take_said():
            if kind == frames.READY:
                self._is_ready()
            elif kind == frames.NOT_READY:
                self._end_worker()
                self._report_init_error(body)
        worker = self._worker
        if worker is not None and worker.status is not None:
            how = self._end_worker()
            if worker.ready:
                self._log.say(f"the function's process ended ({how}) between two events")
                self._worker = Worker(self._settings)
            else:
                message = f"the process ended ({how}) as it loaded the handler"
                self._report_init_error(failure("WorkerEnded", message))

    def _report_init_error(self, body: bytes) -> None:
        self._log.say("the handler can't be loaded; it is tried again with the next event")
        settings = self._settings
        try:
            # `next` is under way on the other connection.
            connection = Connection(
                settings.gateway_host,
                settings.gateway_port,
                settings.token_path,
                timeout_s=REQUEST_TIMEOUT_S,
            )
            try:
                connection.send("POST", "/v1/init/error", {}, body)
                connection.receive()
            finally:
                connection.close()
        except OSError as error:
            self._log.say(f"the gateway can't be told: {error}")

    # One event

    def _invoke(self, invocation: Invocation) -> None:
        deadline = time.monotonic() + self._settings.timeout_s
        next_beat = time.monotonic() + HEARTBEAT_S
        worker = self._worker or self._restart_worker()
        given = entered = renewed = False
        while True:
            for kind, body in self._take_said():
                if kind == frames.READY:
                    self._is_ready()
                elif kind == frames.ENTERED:
                    entered = True
                    if not self._keep(invocation, "entered"):
                        return
                elif kind == frames.ANSWER:
                    self._answer(invocation, body)
                    return
                elif kind == frames.FAILED:
                    self._drain()
                    self._report(invocation, "error", body)
                    return
                elif kind == frames.NOT_READY:
                    self._end_worker()
                    self._report(invocation, "error", body)
                    return
            if worker.status is not None:
                if not worker.ready or entered or renewed:
                    self._report_crash(invocation)
                    return
                # It ended between two events; this one is not to pay for that with an attempt.
                worker = self._restart_worker()
                given, renewed = False, True
            if worker.ready and not given:
                worker.send(invocation.message)
                given = True
            now = time.monotonic()
            if now >= deadline:
                self._report_timeout(invocation)
                return
            if now >= next_beat:
                next_beat = now + HEARTBEAT_S
                if not self._keep(invocation, "heartbeat"):
                    return
            self._wait(min(deadline, next_beat) - now)

    def _keep(self, invocation: Invocation, word: str) -> bool:
        """Keeps the lease; False when it is lost, and the handler is ended with it."""
        try:
            response = self._post(invocation, word, b"{}")
        except OSError as error:
            self._disconnect()
            self._note_trouble(str(error) or type(error).__name__)
            return True
        if response.status != _LEASE_LOST:
            return True
        # Another pod may be at this event by now; two at once is what a lease is to prevent.
        self._log.say(f"the lease is lost, attempt {invocation.attempt} is ended")
        self._restart_worker()
        return False

    def _answer(self, invocation: Invocation, body: bytes) -> None:
        self._drain()
        response = self._report(invocation, "response", body)
        if response is not None and response.status in (400, 413):
            problem = f"the gateway did not take the answer: {response.problem()}"
            self._log.say(problem)
            self._report(invocation, "error", failure("AnswerRefused", problem))

    def _report_crash(self, invocation: Invocation) -> None:
        how = self._end_worker()
        message = f"the function's process ended by itself ({how})"
        if how == "signal 9" and self._settings.memory_limit:
            message += f"; it may have needed more memory than {self._settings.memory_limit}"
        self._log.say(message)
        self._worker = Worker(self._settings)
        self._report(invocation, "error", failure("WorkerEnded", message))

    def _report_timeout(self, invocation: Invocation) -> None:
        message = f"no answer within {self._settings.timeout_s:g} s"
        self._log.say(f"{message}; the handler is ended")
        self._restart_worker()
        self._report(invocation, "error", failure("Timeout", message))

    def _report(self, invocation: Invocation, word: str, body: bytes) -> Response | None:
        """Tells the gateway how it ended, again and again if need be; None if it never answers."""
        until = time.monotonic() + REPORT_S
        failures = 0
        while True:
            try:
                response = self._post(invocation, word, body)
                if response.status == _LEASE_LOST:
                    self._log.say(f"the lease was lost, the {word} is dropped")
                if response.status < 500 and response.status not in (401, 403):
                    return response
                problem = f"it answered {response.problem()}"
            except OSError as error:
                self._disconnect()
                problem = str(error) or type(error).__name__
            self._note_trouble(problem)
            if time.monotonic() >= until:
                self._log.say(f"the {word} could not be delivered in {REPORT_S:.0f} s")
                return None
            self._rest(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])
            failures += 1

    def _post(self, invocation: Invocation, word: str, body: bytes) -> Response:
        connection = self._connect()
        connection.send(
            "POST",
            f"/v1/invocation/{quote(invocation.id)}/{word}",
            {"Koren-Attempt": invocation.attempt, "Content-Type": "application/json"},
            body,
        )
        return connection.receive()

    # Plumbing

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = Connection(
                self._settings.gateway_host,
                self._settings.gateway_port,
                self._settings.token_path,
                timeout_s=REQUEST_TIMEOUT_S,
            )
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _note_trouble(self, trouble: str) -> None:
        """Says what is wrong with the gateway once, and once that it is over."""
        if trouble != self._trouble:
            self._log.say(f"gateway: {trouble or 'reached again'}")
            self._trouble = trouble

    def _wait(self, timeout_s: float, connection: Connection | None = None) -> bool:
        """Waits for the worker, the order to stop, and the connection; whether this has data."""
        poll = select.poll()
        worker = self._worker
        if worker is not None and worker.status is None:
            poll.register(worker.control.fileno(), select.POLLIN)
            poll.register(worker.output, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        if connection is not None:
            poll.register(connection.fileno(), select.POLLIN)
        answered = False
        for descriptor, _ in poll.poll(max(0.0, timeout_s) * 1000):
            if connection is not None and descriptor == connection.fileno():
                answered = True
            elif descriptor == self._wake:
                posix.read(self._wake, 64)
                self._reap()
            elif worker is None or worker.status is not None:
                pass  # its end was noticed in this round
            else:
                # Also when it has printed only: what it said before tells whose the line is.
                self._listen(worker)
                if descriptor == worker.output:
                    self._log.printed(worker.printed())
        return answered

    def _listen(self, worker: Worker) -> None:
        for kind, body in worker.said():
            if kind == frames.ENTERED:
                self._log.belongs_to(body.decode(errors="replace"))
            self._said.append((kind, body))

    def _reap(self) -> None:
        """Takes the end of processes in: the worker's, and what it left behind (this is PID 1)."""
        worker = self._worker
        while True:
            try:
                pid, status = posix.waitpid(-1, posix.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if worker is not None and pid == worker.pid:
                worker.status = status
                # Its last words: it may have answered before it ended.
                self._listen(worker)

    def _rest(self, pause_s: float) -> None:
        until = time.monotonic() + pause_s
        while (left_s := until - time.monotonic()) > 0 and not self._stopping:
            self._wait(left_s)

    def _take_said(self) -> "list[tuple[bytes, bytes]]":
        said, self._said = self._said, []
        return said

    def _is_ready(self) -> None:
        if self._worker is not None:
            self._worker.ready = True

    def _drain(self) -> None:
        while self._worker is not None and (printed := self._worker.printed()):
            self._log.printed(printed)

    def _end_worker(self) -> str:
        self._drain()
        self._said = []
        worker, self._worker = self._worker, None
        return worker.end() if worker is not None else ""

    def _restart_worker(self) -> Worker:
        self._end_worker()
        self._worker = Worker(self._settings)
        return self._worker


def main() -> None:
    """The pod's program. Ends with code 2 when its settings can't be used."""
    # When the process began is not to be had: until it became Python it was the container runtime's.
    started_ms = round(time.time() * 1000)
    try:
        settings = Settings(environment())
    except BadSetting as error:
        sys.stderr.write(f"runtime: {error}\n")
        sys.exit(2)
    Supervisor(settings, started_ms).run()
