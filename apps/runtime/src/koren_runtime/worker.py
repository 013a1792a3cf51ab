"""The process that has the function's code: it loads the handler and calls it, event by event."""

import _socket
import posix
import sys

from koren_runtime import frames
from koren_runtime.contract import (
    failure,
    is_awaitable,
    to_answer,
    to_context,
    to_event,
)
from koren_runtime.fast_json import loads
from koren_runtime.frames import Frames, pack
from koren_runtime.settings import INVOCATION_FILE, INVOCATION_FILE_BYTES, WORKER

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    import signal as _signal
    from collections.abc import Callable
    from typing import Any, NoReturn, TextIO

    from koren_runtime.settings import Settings

    Handler = Callable[[dict[str, Any], dict[str, Any]], object]
else:
    import _signal


_GENERATOR = 0x20 | 0x200
_pid = 0
_invocation_file = -1


def work(control: _socket.socket, output: int, settings: "Settings") -> "NoReturn":
    """Runs until the supervisor is gone or kills it; `output` takes what the function prints."""
    global _pid, _invocation_file
    try:
        _pid = posix.getpid()
        _detach(control, output)
        _invocation_file = posix.memfd_create("invocation")
        _set_up_for_children(settings)
        _work(control, settings)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        # Whatever happens, this process must not go on as a second supervisor.
        posix._exit(1)


def execute(control: _socket.socket, output: int, program: "list[str]") -> "NoReturn":
    """Becomes the worker's program, which speaks frames on descriptor 3 and prints to `output`."""
    try:
        posix.setsid()
        posix.dup2(output, 1)
        posix.dup2(output, 2)
        posix.dup2(control.fileno(), frames.CONTROL)
        # A descriptor that is where it should be already keeps its flags.
        posix.set_inheritable(frames.CONTROL, True)
        _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
        variables = {**posix.environ, WORKER.encode(): str(posix.getpid()).encode()}
        posix.execve(program[0], program, variables)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        # Whatever happens, this process must not go on as a second supervisor.
        posix._exit(1)


def _detach(control: _socket.socket, output: int) -> None:
    # A session of its own: what the function starts dies with it.
    posix.setsid()
    _signal.set_wakeup_fd(-1)
    for number in (_signal.SIGTERM, _signal.SIGINT, _signal.SIGCHLD):
        _signal.signal(number, _signal.SIG_DFL)
    for name in posix.listdir("/proc/self/fd"):
        # The supervisor's connection and pipes must end when it ends them.
        if int(name) > 2 and int(name) not in (control.fileno(), output):
            try:  # noqa: SIM105 (contextlib is an import)
                posix.close(int(name))
            except OSError:
                pass  # that of the listing
    posix.dup2(output, 1)
    posix.dup2(output, 2)
    sys.stdout = _line_by_line(1)
    sys.stderr = _line_by_line(2)


def _set_up_for_children(settings: "Settings") -> None:
    """Has the Pythons that the function starts be the function's, not the runtime's."""
    module = settings.folder + "/" + settings.module.replace(".", "/") + ".py"
    sys.argv = [module]
    sys.orig_argv = [sys.executable, module]
    main = sys.modules["__main__"]
    # multiprocessing runs this file in each of its children.
    del main.__file__
    here = __file__.rsplit("/", 2)[0]
    path = f"{here}/koren_runtime/child:{settings.folder}:{here}"
    own = posix.environ.get(b"PYTHONPATH", b"").decode(errors="surrogateescape")
    variables = {
        "PYTHONPATH": f"{path}:{own}" if own else path,
        WORKER: str(_pid),
        INVOCATION_FILE: f"/proc/{_pid}/fd/{_invocation_file}",
    }
    for name, value in variables.items():
        # `os` is not imported yet; it takes its variables from here.
        posix.environ[name.encode()] = value.encode(errors="surrogateescape")
        posix.putenv(name, value)


def _line_by_line(descriptor: int) -> "TextIO":
    return open(descriptor, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _work(control: _socket.socket, settings: "Settings") -> None:
    try:
        handler = _load(settings)
    except BaseException as error:
        failed = _describe(error)
        _end_if_forked()
        control.sendall(pack(frames.NOT_READY, failed))
        return
    _end_if_forked()
    control.sendall(pack(frames.READY))
    incoming = Frames(control)
    while (received := incoming.receive()) is not None:
        for _, body in received:
            control.sendall(_handle(handler, body, control, settings))


def _load(settings: "Settings") -> "Handler":
    packages = settings.folder + "/site-packages"
    sys.path.insert(0, settings.folder)
    sys.path.append(packages)
    try:
        names = posix.listdir(packages)
    except OSError:
        names = []
    if any(name.endswith(".pth") for name in names):
        # Rare, and as costly as the rest of the start: only who needs it pays.
        import site

        site.addsitedir(packages)
    __import__(settings.module)
    handler: Handler | None = getattr(sys.modules[settings.module], settings.handler, None)
    if not callable(handler):
        raise ImportError(
            f"{settings.module} has no function {settings.handler}; "
            "deploy it with the --handler that names what the file defines"
        )
    code = getattr(handler, "__code__", None)
    if code is not None and code.co_flags & _GENERATOR:
        raise TypeError(
            f"{settings.module}.{settings.handler} has a yield in it, so a call of it runs nothing; "
            "return the answer instead"
        )
    return handler


def _handle(
    handler: "Handler", body: bytes, control: _socket.socket, settings: "Settings"
) -> bytes:
    invocation, attempt, message = body.split(b"\n", 2)
    # One write, always as long: whoever reads meanwhile finds the old or the new.
    text = (invocation + b"\n" + attempt + b"\n").ljust(INVOCATION_FILE_BYTES)
    posix.pwrite(_invocation_file, text, 0)
    try:
        event = to_event(loads(message.decode()))
        control.sendall(pack(frames.ENTERED, str(event["event-id"]).encode(errors="replace")))
        answer = pack(frames.ANSWER, to_answer(_call(handler, event, to_context(settings))))
    except BaseException as error:
        answer = pack(frames.FAILED, _describe(error, _decision(error)))
    # The supervisor takes what stands here as printed for this event.
    _flush()
    _end_if_forked()
    return answer


def _end_if_forked() -> None:
    """Ends this process if the function has forked and this is the child: the parent answers."""
    if posix.getpid() != _pid:
        posix._exit(0)


def _call(handler: "Handler", event: "dict[str, Any]", context: "dict[str, Any]") -> object:
    value = handler(event, context)
    if is_awaitable(value):
        return _loop().run_until_complete(_await(value))
    return value


async def _await(value: "Any") -> object:
    return await value


def _loop() -> "asyncio.AbstractEventLoop":
    """The event loop of this process: one for all events, so that what is bound to it lives on."""
    import asyncio

    try:
        loop = asyncio.get_event_loop_policy().get_event_loop()
        if not loop.is_closed():
            return loop
    except RuntimeError:
        pass  # the function has run a loop of its own
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


def _decision(error: BaseException) -> "dict[str, object]":
    """What the handler has decided on its event by this exception."""
    outcome = sys.modules.get("koren_runtime.outcome")
    if outcome is None:
        return {}
    if isinstance(error, outcome.Reject):
        return {"reject": True}
    if isinstance(error, outcome.RetryAfter):
        return {"retry_after_s": error.seconds}
    return {}


def _describe(error: BaseException, decision: "dict[str, object] | None" = None) -> bytes:
    import traceback

    # Without the frames down to this package's last one, with which every traceback begins.
    frame = walk = error.__traceback__
    while walk is not None:
        if walk.tb_frame.f_code.co_filename == __file__:
            frame = walk.tb_next
        walk = walk.tb_next
    text = "".join(traceback.format_exception(type(error), error, frame))
    sys.stderr.write(text)
    _flush()
    try:
        message = str(error)
    except Exception:
        message = "(its message can't be had)"
    return failure(type(error).__name__, message, text, **(decision or {}))


def _flush() -> None:
    stream: TextIO
    for stream in (sys.stdout, sys.stderr):
        try:  # noqa: SIM105
            stream.flush()
        except (OSError, ValueError):
            pass  # the function has closed it
