"""The process that has the function's code: it loads the handler and calls it, event by event."""

import _socket
import posix
import sys

from koren_runtime import frames
from koren_runtime.contract import failure, to_answer, to_context, to_event
from koren_runtime.fast_json import loads
from koren_runtime.frames import Frames, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from typing import Any, NoReturn, TextIO

    from koren_runtime.settings import Settings

    Handler = Callable[[dict[str, Any], dict[str, Any]], object]
else:
    import _signal


def work(control: _socket.socket, output: int, settings: "Settings") -> "NoReturn":
    """Runs until the supervisor is gone or kills it; `output` takes what the function prints."""
    try:
        _detach(control, output)
        _work(control, settings)
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


def _line_by_line(descriptor: int) -> "TextIO":
    return open(descriptor, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _work(control: _socket.socket, settings: "Settings") -> None:
    try:
        handler = _load(settings)
    except BaseException as error:
        control.sendall(pack(frames.NOT_READY, _describe(error)))
        return
    control.sendall(pack(frames.READY))
    incoming = Frames(control)
    while (received := incoming.receive()) is not None:
        for _, message in received:
            control.sendall(_handle(handler, message, control, settings))


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
    return handler


def _handle(
    handler: "Handler", message: bytes, control: _socket.socket, settings: "Settings"
) -> bytes:
    try:
        event = to_event(loads(message.decode()))
        control.sendall(pack(frames.ENTERED, str(event["event-id"]).encode(errors="replace")))
        answer = pack(frames.ANSWER, to_answer(handler(event, to_context(settings))))
    except BaseException as error:
        answer = pack(frames.FAILED, _describe(error))
    # The supervisor takes what stands here as printed for this event.
    _flush()
    return answer


def _describe(error: BaseException) -> bytes:
    import traceback

    # Without the frame of this file, in which every traceback begins.
    frame = error.__traceback__ and error.__traceback__.tb_next
    text = "".join(traceback.format_exception(type(error), error, frame))
    sys.stderr.write(text)
    _flush()
    return failure(type(error).__name__, str(error), text)


def _flush() -> None:
    stream: TextIO
    for stream in (sys.stdout, sys.stderr):
        try:  # noqa: SIM105
            stream.flush()
        except (OSError, ValueError):
            pass  # the function has closed it
