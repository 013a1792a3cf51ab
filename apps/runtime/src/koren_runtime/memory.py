"""What the kernel says of the memory of this container."""

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = "/sys/fs/cgroup"
OWN = "/proc/self/cgroup"

_COUNTER = b"oom_kill "


def find_counter(root: str = ROOT, own: str = OWN) -> str | None:
    """The file that counts this container's processes that ended for want of memory; None if none.

    cgroup v2 has it in `memory.events`, v1 in `memory.oom_control`.
    """
    for path in _candidates(root, own):
        if read_counter(path) is not None:
            return path
    return None


def read_counter(path: str) -> int | None:
    """How many processes the kernel has ended for want of memory; None when it does not say."""
    for line in _read(path).splitlines():
        if line.startswith(_COUNTER):
            count = line[len(_COUNTER) :].strip()
            return int(count) if count.isdigit() else None
    return None


def _candidates(root: str, own: str) -> "Iterator[str]":
    # Without a namespace of cgroups the path is the host's, and what is mounted may be the
    # container's part alone: the root of the mount is the second guess.
    for line in _read(own).decode(errors="replace").splitlines():
        _, controllers, path = line.split(":", 2) if line.count(":") >= 2 else ("", "-", "")
        if controllers == "":
            folder, file = root, "memory.events"
        elif "memory" in controllers.split(","):
            folder, file = root + "/memory", "memory.oom_control"
        else:
            continue
        yield f"{folder}{path.rstrip('/')}/{file}"
        yield f"{folder}/{file}"


def _read(path: str) -> bytes:
    try:
        file = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return posix.read(file, 1 << 16)
    except OSError:
        return b""
    finally:
        posix.close(file)
