"""The pod's first process: takes events from the gateway and has them handled by the worker.

The function's code runs in a process of its own, which loads the handler while this one asks for
the event. So a handler can be killed when its time is up, may crash or exhaust its memory, or hold
the interpreter for minutes, and the event's lease is kept and its end reported all the same.

A pod that may have several events in hand has a slot for each, with a worker of its own: a thread of
this process, which waits most of the time. One event at a time needs no thread.
"""

import _socket
import _thread
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
    from collections.abc import Callable

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


class Processes:
    """The workers' processes, and what they leave behind: it is this process's then, for a pod's
    first process inherits orphans. Several threads may use this."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._statuses: dict[int, int | None] = {}
        """How each worker ended; None while it runs."""

    def fork(self) -> int:
        """As `posix.fork`, for a worker."""
        with self._lock:
            pid = posix.fork()
            if pid:
                self._statuses[pid] = None
        return pid

    def status(self, pid: int) -> int | None:
        """How the worker ended, as `waitpid` says; None while it runs."""
        with self._lock:
            self._reap()
            return self._statuses[pid]

    def reap(self) -> None:
        """Takes in the end of whatever has ended."""
        with self._lock:
            self._reap()

    def kill(self, pid: int) -> None:
        """Kills the worker, if it runs."""
        with self._lock:
            if self._statuses[pid] is None:
                posix.kill(pid, _signal.SIGKILL)

    def end(self, pid: int) -> int:
        """Kills the worker, if it runs, and all that it started; how it ended."""
        with self._lock:
            try:  # noqa: SIM105
                posix.killpg(pid, _signal.SIGKILL)
            except ProcessLookupError:
                pass  # it had not come to make its session, or nothing is left of it
            status = self._statuses.pop(pid)
            if status is None:
                posix.kill(pid, _signal.SIGKILL)
                status = posix.waitpid(pid, 0)[1]
            self._end_orphans(pid)
        return status

    def _reap(self) -> None:
        while True:
            try:
                pid, status = posix.waitpid(-1, posix.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._statuses:
                self._statuses[pid] = status

    def _end_orphans(self, worker: int) -> None:
        """Kills what a worker that has ended has left in sessions of its own.

        While other workers run, an orphan that does not say whose it is may be theirs.
        """
        me = posix.getpid()
        its_own = f"{WORKER}={worker}".encode()
        spared: set[int] = set()
        while True:
            children = _read(f"/proc/{me}/task/{me}/children")  # nothing of a kernel without this list
            orphans = {int(child) for child in children.split()} - self._statuses.keys() - spared
            if not orphans:
                return
            for orphan in orphans:
                if self._statuses and its_own not in _read(f"/proc/{orphan}/environ").split(b"\0"):
                    spared.add(orphan)
                    continue
                try:
                    posix.kill(orphan, _signal.SIGKILL)
                    posix.waitpid(orphan, 0)
                except (ProcessLookupError, ChildProcessError):
                    pass  # it was reaped already


def _read(path: str) -> bytes:
    """The beginning of a file; nothing when it can't be read."""
    try:
        file = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return posix.read(file, 1 << 18)
    except OSError:
        return b""  # of a process that has ended
    finally:
        posix.close(file)


class Worker:
    """The worker's process as its parent sees it.

    `program` is the command of a worker in another language; without one the worker is Python.
    """

    def __init__(self, settings: Settings, program: "list[str]", processes: Processes) -> None:
        self.ready = False
        self.status: int | None = None
        """How it ended, as `waitpid` says, once its last words are heard; None before."""
        self._processes = processes
        self.control, theirs = _socket.socketpair()
        self.output, output = posix.pipe2(posix.O_CLOEXEC)
        self.pid = processes.fork()
        if self.pid == 0:
            if program:
                execute(theirs, output, program)
            work(theirs, output, settings)
        self.ended = posix.pidfd_open(self.pid)
        """Can be read from once it has ended."""
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
        if received is None:
            # It is ending anyway, or the function has closed what is not its own.
            self._processes.kill(self.pid)
        return said

    def end_seen(self) -> int | None:
        """How it ended, if it has."""
        return self._processes.status(self.pid)

    def printed(self) -> bytes:
        """What it has printed and is not read yet."""
        try:
            return posix.read(self.output, 1 << 16)
        except BlockingIOError:
            return b""

    def end(self) -> str:
        """Kills it, if it runs, and all that it started; says how it ended."""
        status = self.status = self._processes.end(self.pid)
        self.control.close()
        posix.close(self.output)
        posix.close(self.ended)
        if posix.WIFSIGNALED(status):
            return f"signal {posix.WTERMSIG(status)}"
        return f"exit code {posix.WEXITSTATUS(status)}"


class Line:
    """The way to the gateway: one connection, used for one request after the other."""

    def __init__(self, settings: Settings, log: Log) -> None:
        self.connection: Connection | None = None
        self.addresses: Addresses | None = None
        """Kept while an event is in hand: a look-up may take longer than the lease."""
        self._settings = settings
        self._log = log
        self._trouble = ""

    def connect(self, timeout_s: float = REQUEST_TIMEOUT_S) -> Connection:
        """The connection, for what has to be done in so many seconds."""
        if self.connection is None:
            self.connection = self.open(timeout_s)
        self.connection.limit(timeout_s)
        return self.connection

    def open(self, timeout_s: float = REQUEST_TIMEOUT_S) -> Connection:
        """A connection beside this one."""
        settings = self._settings
        if self.addresses is None:
            self.addresses = look_up(settings.gateway_host, settings.gateway_port)
        return Connection(
            settings.gateway_host,
            settings.gateway_port,
            settings.token_path,
            timeout_s=timeout_s,
            addresses=self.addresses,
        )

    def drop(self) -> None:
        """Ends the connection; the next request gets another."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def note_trouble(self, trouble: str) -> None:
        """Says what is wrong with the gateway once, and once that it is over."""
        if trouble != self._trouble:
            self._log.say(f"gateway: {trouble or 'reached again'}")
            self._trouble = trouble

    def send_log(self, connection: Connection | None = None) -> None:
        """Gives the gateway what the log has new, if anything; without an answer it is kept."""
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
            using = connection or self.connect(LOG_TIMEOUT_S)
            using.limit(LOG_TIMEOUT_S)
            using.send("POST", "/v1/log", {"Content-Type": "application/json"}, body)
            if using.receive().status < 500:
                self._log.forget()
        except OSError:
            if connection is None:
                self.drop()


class Slot:
    """Handles events, one at a time, with a worker of its own.

    `progress` is called when a handler is entered.
    """

    def __init__(
        self,
        settings: Settings,
        program: "list[str]",
        processes: Processes,
        line: Line,
        log: Log,
        progress: "Callable[[], None]",
    ) -> None:
        self.worker: Worker | None = None
        self.line = line
        self.log = log
        self._settings = settings
        self._program = program
        self._processes = processes
        self._tell_progress = progress
        self._said: list[tuple[bytes, bytes]] = []
        self._oom_counter: str | None = None
        # A new container has none, and a cold start has no time to look.
        self._oom_kills: int | None = 0

    def handle(self, invocation: Invocation) -> None:
        """Returns when the event's end is reported, or its lease is lost."""
        self.log.belongs_to(invocation.event_id)
        self._invoke(invocation)
        self.log.belongs_to("-")
        self.send_log()

    def send_log(self, connection: Connection | None = None) -> None:
        """Gives the gateway what the log has new, if anything."""
        self._drain()
        self.log.end_line()
        self.line.send_log(connection)

    def _invoke(self, invocation: Invocation) -> None:
        deadline = time.monotonic() + self._settings.timeout_s
        worker = self.worker or self._restart_worker()
        given = renewed = False
        while True:
            for kind, body in self.take_said():
                if kind == frames.READY:
                    self.is_ready()
                elif kind == frames.ENTERED:
                    if invocation.entered:
                        continue
                    invocation.entered = True
                    if not self._keep(invocation):
                        return
                    self._tell_progress()
                elif kind == frames.ANSWER:
                    self._answer(invocation, body)
                    return
                elif kind == frames.FAILED:
                    self._drain()
                    self._report(invocation, "error", self._with_oom(body))
                    return
                elif kind == frames.NOT_READY:
                    self.end_worker()
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
            self.log.say(f"the lease is lost, attempt {invocation.attempt} is ended")
            self._restart_worker()
            return False
        if response.status == 204:
            invocation.entered_known = invocation.entered
            self.line.note_trouble("")
        else:
            self.line.note_trouble(f"it answered {response.problem()}")
        if response.status == 204 or _is_kept(response):
            invocation.renew(response, sent)
        return True

    def _ask_to_keep(self, invocation: Invocation, word: str) -> Response | None:
        """The gateway's answer; None when there is none.

        A connection that fails may be just old, and a gateway that can't renew the lease may have a
        replica that can: both are asked once more on a new connection.
        """
        before = self.line.connection
        response = None
        try:
            response = self._post(invocation, word, b"{}", self._time_to_keep(invocation))
            if not _is_kept(response):
                return response
        except OSError as error:
            self.line.drop()
            if before is None:
                self.line.note_trouble(str(error) or type(error).__name__)
                return None
        old, self.line.connection = self.line.connection, None
        try:
            response = self._post(invocation, word, b"{}", self._time_to_keep(invocation))
        except OSError as error:
            self.line.drop()
            self.line.connection = old
            if response is None:
                self.line.note_trouble(str(error) or type(error).__name__)
        else:
            if old is not None:
                old.close()
        return response

    def _time_to_keep(self, invocation: Invocation) -> float:
        return min(KEEP_TIMEOUT_S, invocation.lease_until - time.monotonic())

    def _give_up(self, invocation: Invocation, given: bool) -> None:
        self.log.say(
            f"the gateway has not renewed the lease in {invocation.lease_s:g} s: it must have run "
            f"out, attempt {invocation.attempt} is ended"
        )
        self.line.drop()
        if given:
            self._restart_worker()

    def _answer(self, invocation: Invocation, body: bytes) -> None:
        self._drain()
        response = self._report(invocation, "response", body)
        if response is not None and response.status in (400, 413):
            problem = f"the gateway did not take the answer: {response.problem()}"
            self.log.say(problem)
            self._report(invocation, "error", failure("AnswerRefused", problem))

    def _report_crash(self, invocation: Invocation) -> None:
        how = self.end_worker()
        body = self.failure_of(how, f"the function's process ended by itself ({how})")
        self.start_worker()
        self._report(invocation, "error", body)

    def _report_timeout(self, invocation: Invocation) -> None:
        message = f"no answer within {self._settings.timeout_s:g} s"
        self.log.say(f"{message}; the handler is ended")
        self._restart_worker()
        self._report(invocation, "error", self._with_oom(failure("Timeout", message)))

    # Memory

    def count_oom_kills(self) -> bool:
        """Whether the kernel has ended a process of this container for want of memory since."""
        from koren_runtime import memory

        if self._oom_counter is None:
            self._oom_counter = memory.find_counter() or ""
        before, self._oom_kills = self._oom_kills, memory.read_counter(self._oom_counter)
        return before is not None and self._oom_kills is not None and self._oom_kills > before

    def failure_of(self, how: str, message: str) -> bytes:
        """The failure that a process's end is."""
        kind, limit = "WorkerEnded", self._settings.memory_limit
        if how == f"signal {_signal.SIGABRT:d}" and _OUT_OF_MEMORY in self.log.tail():
            # A language's own limit, of which the program itself tells before it aborts.
            kind, message = "OutOfMemory", self._out_of_memory()
        elif how == f"signal {_signal.SIGKILL:d}":
            if self.count_oom_kills():
                kind, message = "OutOfMemory", self._out_of_memory()
            elif self._oom_kills is None and limit:
                message += f"; it may have needed more memory than {limit}"
        self.log.say(message)
        return failure(kind, message)

    def _with_oom(self, body: bytes) -> bytes:
        """A failure, and that a child of the function was out of memory if one was."""
        if not self.count_oom_kills():
            return body
        what = f"a process that the function started was ended: {self._out_of_memory()}"
        self.log.say(what)
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
                    self.log.say(f"the lease was lost, the {word} is dropped")
                if response.status < 500 and response.status not in (401, 403):
                    return response
                problem = f"it answered {response.problem()}"
                # Another replica may do better.
                self.line.drop()
                if _is_kept(response):
                    until = max(until, time.monotonic() + REPORT_S)
            except OSError as error:
                self.line.drop()
                problem = str(error) or type(error).__name__
            self.line.note_trouble(problem)
            if time.monotonic() >= until:
                self.log.say(f"the {word} could not be delivered in {REPORT_S:.0f} s")
                return None
            self._pause(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])
            failures += 1

    def _post(self, invocation: Invocation, word: str, body: bytes, timeout_s: float) -> Response:
        connection = self.line.connect(timeout_s)
        connection.send(
            "POST",
            f"/v1/invocation/{quote(invocation.id)}/{word}",
            {"Koren-Attempt": invocation.attempt, "Content-Type": "application/json"},
            body,
        )
        return connection.receive()

    # The worker

    def start_worker(self) -> Worker:
        """Starts another one."""
        self.worker = Worker(self._settings, self._program, self._processes)
        return self.worker

    def end_worker(self) -> str:
        """Ends it, if there is one; says how it ended."""
        self._drain()
        self._said = []
        worker, self.worker = self.worker, None
        return worker.end() if worker is not None else ""

    def _restart_worker(self) -> Worker:
        self.end_worker()
        return self.start_worker()

    def is_ready(self) -> None:
        """The worker has loaded the handler."""
        if self.worker is not None:
            self.worker.ready = True

    def take_said(self) -> "list[tuple[bytes, bytes]]":
        """What the worker has said."""
        said, self._said = self._said, []
        return said

    def register(self, poll: "select.poll") -> None:
        """Has `poll` look at the worker."""
        worker = self.worker
        if worker is not None and worker.status is None:
            writable = select.POLLOUT if worker.is_written_to else 0
            poll.register(worker.control.fileno(), select.POLLIN | writable)
            poll.register(worker.output, select.POLLIN)
            poll.register(worker.ended, select.POLLIN)

    def attend(self, ready: "set[int]") -> None:
        """Takes in what the worker says on the descriptors that `poll` has found."""
        worker = self.worker
        if worker is None or worker.status is not None:
            return
        if worker.control.fileno() in ready or worker.output in ready:
            # Also when it has printed only: what it said before tells whose the line is.
            self._listen(worker)
            worker.write()
            if worker.output in ready:
                self.log.printed(worker.printed())
        if worker.ended in ready and (status := worker.end_seen()) is not None:
            # Its last words: it may have answered before it ended.
            self._listen(worker)
            worker.status = status

    def _listen(self, worker: Worker) -> None:
        for kind, body in worker.said():
            if kind == frames.ENTERED:
                self.log.belongs_to(body.decode(errors="replace"))
            self._said.append((kind, body))

    def _wait(self, timeout_s: float) -> None:
        """Waits for the worker."""
        poll = select.poll()
        self.register(poll)
        self.attend({descriptor for descriptor, _ in poll.poll(max(0.0, timeout_s) * 1000)})
        self._processes.reap()

    def _pause(self, pause_s: float) -> None:
        until = time.monotonic() + pause_s
        while (left_s := until - time.monotonic()) > 0:
            self._wait(left_s)

    def _drain(self) -> None:
        left = _PIPE_MAX_BYTES
        while left > 0 and self.worker is not None and (printed := self.worker.printed()):
            self.log.printed(printed)
            left -= len(printed)


class Supervisor:
    """Takes events, as many as there are slots, until it is told to stop.

    A slot that has nothing in hand is this thread's, the others are their own threads'.
    """

    def __init__(self, settings: Settings, started_ms: int, program: "list[str]") -> None:
        self._settings = settings
        self._program = program
        self._started_ms = started_ms
        self._log = Log()
        self._line = Line(settings, self._log)
        self._processes = Processes()
        self._stopping = False
        self._warm = False
        self._progress = False
        """Whether a handler was entered and the gateway told so, or an event has ended."""
        self._answered_at = 0.0
        self._wake, self._wakes = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        self._shares = settings.concurrency > 1
        self._idle: list[Slot] = []
        """The one that was used last is the last."""
        self._busy: dict[Slot, int] = {}
        """The number by which the gateway knows each of them."""
        self._asked = 0
        """That of the slot for which an event is asked for."""
        self._done: list[Slot] = []
        """Those of the busy ones that are done."""
        _signal.signal(_signal.SIGCHLD, lambda *_: None)  # for the byte that it writes to `wake`
        _signal.signal(_signal.SIGTERM, self._stop)
        _signal.signal(_signal.SIGINT, self._stop)
        _signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)

    def run(self) -> None:
        """Returns when the pod is to end and no event is in hand."""
        first = self._new_slot()
        first.start_worker()
        self._idle.append(first)
        while not self._stopping:
            if len(self._busy) == self._settings.concurrency or (self._busy and not self._progress):
                # The first event's start shares the processor with no other's.
                self._wait()
            elif (invocation := self._next()) is not None:
                self._hand_out(invocation)
        while self._busy:
            self._wait()
        for slot in self._idle:
            slot.end_worker()
            slot.send_log()
        if self._shares:
            self._line.send_log()

    def _stop(self, number: int, frame: object) -> None:
        self._stopping = True

    # Slots

    def _new_slot(self) -> Slot:
        log = Log() if self._shares else self._log
        line = Line(self._settings, log) if self._shares else self._line
        return Slot(self._settings, self._program, self._processes, line, log, self._note_progress)

    def _hand_out(self, invocation: Invocation) -> None:
        """Has a slot handle the event, one with a worker if there is any."""
        self._idle.sort(key=lambda slot: slot.worker is not None)
        slot = self._idle.pop() if self._idle else self._new_slot()
        if not self._shares:
            slot.handle(invocation)
            self._idle.append(slot)
        else:
            if self._warm:
                slot.count_oom_kills()  # others' are not this event's
            slot.line.addresses = self._line.addresses
            self._busy[slot] = self._asked
            _thread.start_new_thread(self._handle, (slot, invocation))
        self._warm = True

    def _handle(self, slot: Slot, invocation: Invocation) -> None:
        """A thread."""
        try:
            slot.handle(invocation)
        except BaseException:
            # As an error of the first thread: the pod ends, and all its leases with it.
            sys.excepthook(*sys.exc_info())
            posix._exit(1)
        self._done.append(slot)
        self._note_progress()

    def _note_progress(self) -> None:
        self._progress = True
        if self._shares:
            try:  # noqa: SIM105
                posix.write(self._wakes, b".")
            except BlockingIOError:
                pass  # it is full of reasons to wake up

    # From the gateway

    def _next(self) -> Invocation | None:
        failures = 0
        while not self._stopping:
            try:
                response = self._ask_for_next()
                if response is None:
                    # The question is not answered: nothing else can be asked there.
                    self._line.drop()
                    break
                if response.status == 200:
                    invocation = Invocation(response, self._answered_at)
                    self._line.note_trouble("")
                    return invocation
            except OSError as error:
                self._line.drop()
                self._line.addresses = None
                self._line.note_trouble(str(error) or type(error).__name__)
            else:
                if response.status == 204:
                    self._line.note_trouble("")
                    failures = 0
                    continue
                self._line.note_trouble(f"it answered {response.problem()}")
            self._rest(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])
            failures += 1
        return None

    def _ask_for_next(self) -> Response | None:
        """The gateway's answer; None when the pod is to end and nothing has come."""
        connection = self._line.connect()
        started = {"Koren-Started-Ms": str(self._started_ms)}
        if not self._warm:
            started["Koren-Cold-Start"] = "1"
        taken = self._busy.values()
        self._asked = next(number for number in range(self._settings.concurrency) if number not in taken)
        if self._asked:
            started["Koren-Slot"] = str(self._asked)
        connection.send("GET", "/v1/invocation/next", started)
        if self._warm and not self._shares:
            self._idle[0].count_oom_kills()
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
        for slot in self._idle:
            for kind, body in slot.take_said():
                if kind == frames.READY:
                    slot.is_ready()
                elif kind == frames.NOT_READY:
                    slot.end_worker()
                    self._report_init_error(slot, body)
            worker = slot.worker
            if worker is not None and worker.status is not None:
                how = slot.end_worker()
                if worker.ready:
                    slot.log.say(f"the function's process ended ({how}) between two events")
                    slot.start_worker()
                else:
                    message = f"the process ended ({how}) as it loaded the handler"
                    self._report_init_error(slot, slot.failure_of(how, message))

    def _report_init_error(self, slot: Slot, body: bytes) -> None:
        slot.log.say("the handler can't be loaded; it is tried again with the next event")
        try:
            # `next` is under way on the other connection.
            connection = self._line.open()
            try:
                connection.send("POST", "/v1/init/error", {}, body)
                connection.receive()
                slot.send_log(connection)
            finally:
                connection.close()
        except OSError as error:
            slot.log.say(f"the gateway can't be told: {error}")

    # Plumbing

    def _wait(self, timeout_s: float | None = None, connection: Connection | None = None) -> bool:
        """Waits for idle workers, for busy slots, the order to stop, and the connection; whether this
        has data."""
        poll = select.poll()
        for slot in self._idle:
            slot.register(poll)
        poll.register(self._wake, select.POLLIN)
        if connection is not None:
            poll.register(connection.fileno(), select.POLLIN)
        found = poll.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000)
        ready = {descriptor for descriptor, _ in found}
        for slot in self._idle:
            slot.attend(ready)
        if self._wake in ready:
            posix.read(self._wake, 1 << 16)
            self._processes.reap()
            while self._done:
                slot = self._done.pop()
                del self._busy[slot]
                self._idle.append(slot)
        return connection is not None and connection.fileno() in ready

    def _rest(self, pause_s: float) -> None:
        """Waits, but no longer than until the pod is to end."""
        until = time.monotonic() + pause_s
        while (left_s := until - time.monotonic()) > 0 and not self._stopping:
            self._wait(left_s)


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
