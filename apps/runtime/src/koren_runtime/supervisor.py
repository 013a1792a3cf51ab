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
from koren_runtime.fast_json import dumps, loads
from koren_runtime.frames import BrokenFrame, Frames, pack
from koren_runtime.http import Connection, ProtocolError, Response, look_up, number, quote, unquote
from koren_runtime.log import TAIL_MAX_BYTES, Log
from koren_runtime.settings import WORKER, BadSetting, Settings, environment
from koren_runtime.worker import execute, work

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal

    from koren_runtime.http import Addresses
else:
    import _signal

REQUEST_TIMEOUT_S = 5.0
KEEP_TIMEOUT_S = 2.5
"""For a request that keeps the lease, on each of two connections; an answer waits for it."""
LOG_TIMEOUT_S = 1.0
LEASE_S = 10.0
"""A lease of which the gateway does not say how long it is."""
HEARTBEATS_A_LEASE = 3.3
RETRY_S = 1.0
"""Until a heartbeat is tried again that did not keep the lease."""
LONG_POLL_S = 90.0
"""An answer to `next` that takes longer will not come; the gateway's own limit is 25 s."""
REPORT_S = 60.0
"""So long the end of an event is reported again and again; its lease is gone long before."""

_PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_LEASE_LOST = 409
_OUT_OF_MEMORY = b"heap out of memory"
_ID_MAX = 512
_FRAMES_AT_ONCE = 1000
_PIPE_MAX_BYTES = 1 << 20
"""What a pipe holds at most: what comes while it is read need not be waited for."""


def _is_kept(response: Response) -> bool:
    """Whether the gateway can't renew the lease, but can't give the event to anyone else either."""
    return response.status == 503 and response.headers.get("koren-lease", "") == "kept"


class Invocation:
    """One attempt at one event.

    `lease_until` is when the lease must have run out, by the monotonic clock; nobody else has the
    event before. Raises ProtocolError when the answer hands out no event that could be reported.
    """

    __slots__ = (
        "attempt",
        "beat_at",
        "entered",
        "entered_known",
        "event_id",
        "id",
        "lease_s",
        "lease_until",
        "message",
    )

    def __init__(self, response: Response, since: float) -> None:
        self.id = response.headers.get("koren-invocation-id", "")
        self.attempt = response.headers.get("koren-attempt", "")
        if not (self.id.isascii() and self.id.isprintable() and 0 < len(self.id) <= _ID_MAX):
            raise ProtocolError(f"the gateway's event has the invocation id {self.id[:80]!r}")
        if number(self.attempt) is None:
            raise ProtocolError(f"the gateway's event has the attempt {self.attempt[:80]!r}")
        self.message = response.body
        try:
            self.event_id = unquote(response.headers.get("koren-event-id", "")) or self.id
        except ValueError:
            self.event_id = self.id  # the worker tells it, once it has read the event
        self.entered = False
        self.entered_known = False
        self.lease_s = LEASE_S
        self.renew(response, since)

    def renew(self, response: Response, since: float) -> None:
        """The lease lasts anew, from `since` on."""
        lease_ms = number(response.headers.get("koren-lease-ms", ""))
        if lease_ms:
            self.lease_s = lease_ms / 1000
        self.lease_until = since + self.lease_s
        self.beat_at = since + self.lease_s / HEARTBEATS_A_LEASE


class Worker:
    """The worker's process as its parent sees it.

    `program` is the command of a worker in another language; without one the worker is Python.
    """

    def __init__(self, settings: Settings, program: "list[str]") -> None:
        self.ready = False
        self.status: int | None = None
        """How it ended, as `waitpid` says; None while it runs."""
        self.control, theirs = _socket.socketpair()
        self.output, output = posix.pipe2(posix.O_CLOEXEC)
        self.pid = posix.fork()
        if self.pid == 0:
            if program:
                execute(theirs, output, program)
            work(theirs, output, settings)
        theirs.close()
        posix.close(output)
        posix.set_blocking(self.output, False)
        self.control.setblocking(False)
        self._frames = Frames(self.control)
        self._unsent = memoryview(b"")

    @property
    def is_written_to(self) -> bool:
        """Whether a part of an event is still to be written."""
        return len(self._unsent) > 0

    def send(self, invocation: Invocation) -> None:
        """Gives it an event. It may not read now: the function may hold its interpreter."""
        head = f"{invocation.id}\n{invocation.attempt}\n".encode()
        self._unsent = memoryview(pack(frames.EVENT, head + invocation.message))
        self.write()

    def write(self) -> None:
        """Writes of the event what it takes now."""
        try:
            while self._unsent:
                self._unsent = self._unsent[self.control.send(self._unsent) :]
        except BlockingIOError:
            pass
        except ConnectionError:
            self._unsent = memoryview(b"")  # its end will be noticed

    def said(self) -> "list[tuple[bytes, bytes]]":
        """The frames that have come from it. Kills it when it can say nothing any more."""
        said: list[tuple[bytes, bytes]] = []
        received: list[tuple[bytes, bytes]] | None
        try:
            # Whoever never stops talking must not keep this process from its clock.
            while (received := self._frames.receive()) and len(said) < _FRAMES_AT_ONCE:
                said += received
            said += received or []
        except BrokenFrame:
            received = None
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
        _end_orphans()
        self.control.close()
        posix.close(self.output)
        if posix.WIFSIGNALED(self.status):
            return f"signal {posix.WTERMSIG(self.status)}"
        return f"exit code {posix.WEXITSTATUS(self.status)}"


def _end_orphans() -> None:
    """Kills what a worker that has ended has left in sessions of its own.

    It is this process's by then: a pod's first process inherits orphans.
    """
    me = posix.getpid()
    while True:
        try:
            file = posix.open(f"/proc/{me}/task/{me}/children", posix.O_RDONLY | posix.O_CLOEXEC)
        except OSError:
            return  # a kernel without this list
        orphans = posix.read(file, 1 << 16).split()
        posix.close(file)
        if not orphans:
            return
        for orphan in orphans:
            try:
                posix.kill(int(orphan), _signal.SIGKILL)
                posix.waitpid(int(orphan), 0)
            except (ProcessLookupError, ChildProcessError):
                pass  # it was reaped already


class Supervisor:
    """Takes events, one at a time, until it is told to stop."""

    def __init__(self, settings: Settings, started_ms: int, program: "list[str]") -> None:
        self._settings = settings
        self._program = program
        self._started_ms = started_ms
        self._log = Log()
        self._stopping = False
        self._warm = False
        self._connection: Connection | None = None
        self._addresses: Addresses | None = None
        self._oom_counter: str | None = None
        # A new container has none, and a cold start has no time to look.
        self._oom_kills: int | None = 0
        self._answered_at = 0.0
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
        self._worker = Worker(self._settings, self._program)
        while (invocation := self._next()) is not None:
            self._log.belongs_to(invocation.event_id)
            self._invoke(invocation)
            self._warm = True
            self._log.belongs_to("-")
            self._send_log()
            if self._stopping:
                break
        self._end_worker()
        self._send_log()

    def _stop(self, number: int, frame: object) -> None:
        self._stopping = True

    # From the gateway

    def _next(self) -> Invocation | None:
        failures = 0
        while not self._stopping:
            try:
                response = self._ask_for_next()
                if response is None:
                    # The question is not answered: nothing else can be asked there.
                    self._disconnect()
                    break
                if response.status == 200:
                    invocation = Invocation(response, self._answered_at)
                    self._note_trouble("")
                    return invocation
            except OSError as error:
                self._disconnect()
                self._addresses = None
                self._note_trouble(str(error) or type(error).__name__)
            else:
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
        if not self._warm:
            started["Koren-Cold-Start"] = "1"
        connection.send("GET", "/v1/invocation/next", started)
        if self._warm:
            self._count_oom_kills()
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
        self._answered_at = time.monotonic()
        connection.limit(REQUEST_TIMEOUT_S)
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
                self._worker = Worker(self._settings, self._program)
            else:
                message = f"the process ended ({how}) as it loaded the handler"
                self._report_init_error(self._ended(how, message))

    def _report_init_error(self, body: bytes) -> None:
        self._log.say("the handler can't be loaded; it is tried again with the next event")
        try:
            # `next` is under way on the other connection.
            connection = self._new_connection()
            try:
                connection.send("POST", "/v1/init/error", {}, body)
                connection.receive()
                self._send_log(connection)
            finally:
                connection.close()
        except OSError as error:
            self._log.say(f"the gateway can't be told: {error}")

    # One event

    def _invoke(self, invocation: Invocation) -> None:
        deadline = time.monotonic() + self._settings.timeout_s
        worker = self._worker or self._restart_worker()
        given = renewed = False
        while True:
            for kind, body in self._take_said():
                if kind == frames.READY:
                    self._is_ready()
                elif kind == frames.ENTERED:
                    if invocation.entered:
                        continue
                    invocation.entered = True
                    if not self._keep(invocation):
                        return
                elif kind == frames.ANSWER:
                    self._answer(invocation, body)
                    return
                elif kind == frames.FAILED:
                    self._drain()
                    self._report(invocation, "error", self._with_oom(body))
                    return
                elif kind == frames.NOT_READY:
                    self._end_worker()
                    self._report(invocation, "error", self._with_oom(body))
                    return
            if worker.status is not None:
                if not worker.ready or invocation.entered or renewed:
                    self._report_crash(invocation)
                    return
                # It ended between two events; this one is not to pay for that with an attempt.
                worker = self._restart_worker()
                given, renewed = False, True
            if worker.ready and not given:
                worker.send(invocation)
                given = True
            now = time.monotonic()
            if now >= deadline:
                self._report_timeout(invocation)
                return
            if now >= invocation.lease_until:
                self._give_up(invocation, given)
                return
            if now >= invocation.beat_at and not self._keep(invocation):
                return
            self._wait(min(deadline, invocation.beat_at, invocation.lease_until) - now)

    def _keep(self, invocation: Invocation) -> bool:
        """Keeps the lease; False when it is lost, and the handler is ended with it.

        Until the gateway knows that the handler is entered, this tells it.
        """
        word = "entered" if invocation.entered and not invocation.entered_known else "heartbeat"
        sent = time.monotonic()
        invocation.beat_at = sent + min(RETRY_S, invocation.lease_s / HEARTBEATS_A_LEASE)
        response = self._ask_to_keep(invocation, word)
        if response is None:
            return True
        if response.status == _LEASE_LOST:
            # Another pod may be at this event by now; two at once is what a lease is to prevent.
            self._log.say(f"the lease is lost, attempt {invocation.attempt} is ended")
            self._restart_worker()
            return False
        if response.status == 204:
            invocation.entered_known = invocation.entered
            self._note_trouble("")
        else:
            self._note_trouble(f"it answered {response.problem()}")
        if response.status == 204 or _is_kept(response):
            invocation.renew(response, sent)
        return True

    def _ask_to_keep(self, invocation: Invocation, word: str) -> Response | None:
        """The gateway's answer; None when there is none.

        A connection that fails may be just old, and a gateway that can't renew the lease may have a
        replica that can: both are asked once more on a new connection.
        """
        before = self._connection
        response = None
        try:
            response = self._post(invocation, word, b"{}", self._time_to_keep(invocation))
            if not _is_kept(response):
                return response
        except OSError as error:
            self._disconnect()
            if before is None:
                self._note_trouble(str(error) or type(error).__name__)
                return None
        old, self._connection = self._connection, None
        try:
            response = self._post(invocation, word, b"{}", self._time_to_keep(invocation))
        except OSError as error:
            self._disconnect()
            self._connection = old
            if response is None:
                self._note_trouble(str(error) or type(error).__name__)
        else:
            if old is not None:
                old.close()
        return response

    def _time_to_keep(self, invocation: Invocation) -> float:
        return min(KEEP_TIMEOUT_S, invocation.lease_until - time.monotonic())

    def _give_up(self, invocation: Invocation, given: bool) -> None:
        self._log.say(
            f"the gateway has not renewed the lease in {invocation.lease_s:g} s: it must have run "
            f"out, attempt {invocation.attempt} is ended"
        )
        self._disconnect()
        if given:
            self._restart_worker()

    def _answer(self, invocation: Invocation, body: bytes) -> None:
        self._drain()
        response = self._report(invocation, "response", body)
        if response is not None and response.status in (400, 413):
            problem = f"the gateway did not take the answer: {response.problem()}"
            self._log.say(problem)
            self._report(invocation, "error", failure("AnswerRefused", problem))

    def _report_crash(self, invocation: Invocation) -> None:
        how = self._end_worker()
        body = self._ended(how, f"the function's process ended by itself ({how})")
        self._worker = Worker(self._settings, self._program)
        self._report(invocation, "error", body)

    def _report_timeout(self, invocation: Invocation) -> None:
        message = f"no answer within {self._settings.timeout_s:g} s"
        self._log.say(f"{message}; the handler is ended")
        self._restart_worker()
        self._report(invocation, "error", self._with_oom(failure("Timeout", message)))

    # Memory

    def _count_oom_kills(self) -> bool:
        """Whether the kernel has ended a process of this container for want of memory since."""
        from koren_runtime import memory

        if self._oom_counter is None:
            self._oom_counter = memory.find_counter() or ""
        before, self._oom_kills = self._oom_kills, memory.read_counter(self._oom_counter)
        return before is not None and self._oom_kills is not None and self._oom_kills > before

    def _ended(self, how: str, message: str) -> bytes:
        """The failure that a process's end is."""
        kind, limit = "WorkerEnded", self._settings.memory_limit
        if how == f"signal {_signal.SIGABRT:d}" and _OUT_OF_MEMORY in self._log.tail():
            # A language's own limit, of which the program itself tells before it aborts.
            kind, message = "OutOfMemory", self._out_of_memory()
        elif how == f"signal {_signal.SIGKILL:d}":
            if self._count_oom_kills():
                kind, message = "OutOfMemory", self._out_of_memory()
            elif self._oom_kills is None and limit:
                message += f"; it may have needed more memory than {limit}"
        self._log.say(message)
        return failure(kind, message)

    def _with_oom(self, body: bytes) -> bytes:
        """A failure, and that a child of the function was out of memory if one was."""
        if not self._count_oom_kills():
            return body
        what = f"a process that the function started was ended: {self._out_of_memory()}"
        self._log.say(what)
        try:
            said = loads(body.decode())
            return dumps({**said, "message": f"{said['message']} ({what})"})
        except (ValueError, TypeError, KeyError):
            return body  # the function has written it itself

    def _out_of_memory(self) -> str:
        limit = self._settings.memory_limit
        return f"out of memory, limit {limit}" if limit else "out of memory"

    # Reports

    def _report(self, invocation: Invocation, word: str, body: bytes) -> Response | None:
        """Tells the gateway how it ended, again and again if need be; None if it never answers."""
        until = time.monotonic() + REPORT_S
        failures = 0
        while True:
            try:
                response = self._post(invocation, word, body, REQUEST_TIMEOUT_S)
                if response.status == _LEASE_LOST:
                    self._log.say(f"the lease was lost, the {word} is dropped")
                if response.status < 500 and response.status not in (401, 403):
                    return response
                problem = f"it answered {response.problem()}"
                # Another replica may do better.
                self._disconnect()
                if _is_kept(response):
                    until = max(until, time.monotonic() + REPORT_S)
            except OSError as error:
                self._disconnect()
                problem = str(error) or type(error).__name__
            self._note_trouble(problem)
            if time.monotonic() >= until:
                self._log.say(f"the {word} could not be delivered in {REPORT_S:.0f} s")
                return None
            self._pause(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])
            failures += 1

    def _post(self, invocation: Invocation, word: str, body: bytes, timeout_s: float) -> Response:
        connection = self._connect(timeout_s)
        connection.send(
            "POST",
            f"/v1/invocation/{quote(invocation.id)}/{word}",
            {"Koren-Attempt": invocation.attempt, "Content-Type": "application/json"},
            body,
        )
        return connection.receive()

    def _send_log(self, connection: Connection | None = None) -> None:
        """Gives the gateway what the log has new, if anything; without an answer it is kept."""
        self._drain()
        self._log.end_line()
        tail = self._log.tail()
        if not tail:
            return
        text = tail.decode(errors="replace")
        body = dumps({"text": text})
        while len(body) > TAIL_MAX_BYTES:
            # JSON has made it longer: the share of it that fits, from the start of a line on.
            text = text[-(len(text) * TAIL_MAX_BYTES // (len(body) + 1)) :]
            text = text[text.find("\n") + 1 :] or text
            body = dumps({"text": text})
        try:
            using = connection or self._connect(LOG_TIMEOUT_S)
            using.limit(LOG_TIMEOUT_S)
            using.send("POST", "/v1/log", {"Content-Type": "application/json"}, body)
            if using.receive().status < 500:
                self._log.forget()
        except OSError:
            if connection is None:
                self._disconnect()

    # Plumbing

    def _connect(self, timeout_s: float = REQUEST_TIMEOUT_S) -> Connection:
        if self._connection is None:
            self._connection = self._new_connection(timeout_s)
        self._connection.limit(timeout_s)
        return self._connection

    def _new_connection(self, timeout_s: float = REQUEST_TIMEOUT_S) -> Connection:
        settings = self._settings
        if self._addresses is None:
            # Kept while an event is in hand: a look-up may take longer than the lease.
            self._addresses = look_up(settings.gateway_host, settings.gateway_port)
        return Connection(
            settings.gateway_host,
            settings.gateway_port,
            settings.token_path,
            timeout_s=timeout_s,
            addresses=self._addresses,
        )

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
            writable = select.POLLOUT if worker.is_written_to else 0
            poll.register(worker.control.fileno(), select.POLLIN | writable)
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
                worker.write()
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
        """Waits, but no longer than until the pod is to end."""
        until = time.monotonic() + pause_s
        while (left_s := until - time.monotonic()) > 0 and not self._stopping:
            self._wait(left_s)

    def _pause(self, pause_s: float) -> None:
        """Waits, also when the pod is to end."""
        until = time.monotonic() + pause_s
        while (left_s := until - time.monotonic()) > 0:
            self._wait(left_s)

    def _take_said(self) -> "list[tuple[bytes, bytes]]":
        said, self._said = self._said, []
        return said

    def _is_ready(self) -> None:
        if self._worker is not None:
            self._worker.ready = True

    def _drain(self) -> None:
        left = _PIPE_MAX_BYTES
        while left > 0 and self._worker is not None and (printed := self._worker.printed()):
            self._log.printed(printed)
            left -= len(printed)

    def _end_worker(self) -> str:
        self._drain()
        self._said = []
        worker, self._worker = self._worker, None
        return worker.end() if worker is not None else ""

    def _restart_worker(self) -> Worker:
        self._end_worker()
        self._worker = Worker(self._settings, self._program)
        return self._worker


def main() -> None:
    """The pod's program. Ends with code 2 when its settings can't be used.

    Its arguments are the command of the worker where the function is not in Python.
    """
    # When the process began is not to be had: until it became Python it was the container runtime's.
    started_ms = round(time.time() * 1000)
    variables = environment()
    if WORKER in variables:
        sys.stderr.write("runtime: this pod has its runtime already; a function can't start it\n")
        sys.exit(2)
    try:
        settings = Settings(variables)
    except BadSetting as error:
        sys.stderr.write(f"runtime: {error}\n")
        sys.exit(2)
    Supervisor(settings, started_ms, sys.argv[1:]).run()
