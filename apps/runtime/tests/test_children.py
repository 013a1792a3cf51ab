"""Processes that a function starts: they are the function's, never a second runtime."""

import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from pods import PYTHON, START, Pod

from koren_runtime.local.double import GatewayDouble

POOL = """\
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import dependency
from koren_runtime import state

_pool = None

def work(number):
    state.put(f"child/{number}", b"x")
    return [number * dependency.factor, os.getpid()]

def handle(event, context):
    global _pool
    if _pool is None:
        method = multiprocessing.get_context(event["data"])
        _pool = ProcessPoolExecutor(2, mp_context=method)
    done = [f.result() for f in [_pool.submit(work, n) for n in range(4)]]
    assert os.getpid() not in [pid for _, pid in done]
    return [result for result, _ in done]
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_a_pool_of_processes_works_and_lives_from_event_to_event(
    gateway: GatewayDouble, pod: Pod, method: str
) -> None:
    pod.write("factor = 10", name="site-packages/dependency.py")
    pod.write(POOL)
    for name in ("i1", "i2"):
        gateway.give(method, id=name)
    pod.start(FUNC_TIMEOUT="20")
    for name in ("i1", "i2"):
        assert gateway.wait_for(f"{name}/response", timeout_s=20).body == [0, 10, 20, 30]
    # One runtime asked for events, and each child wrote for the attempt that it worked for.
    assert gateway.nexts_before("i2/response") == 2
    assert set(gateway.writers) == {("i1", "1"), ("i2", "2")}
    assert "runtime:" not in pod.log


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_process_of_its_own_works(gateway: GatewayDouble, pod: Pod, method: str) -> None:
    pod.write(
        f"""\
        import multiprocessing

        def work(queue):
            queue.put("from the child")

        def handle(event, context):
            method = multiprocessing.get_context("{method}")
            queue = method.Queue()
            child = method.Process(target=work, args=(queue,))
            child.start()
            said = queue.get()
            child.join()
            return [said, child.exitcode]
        """
    )
    gateway.give(None)
    pod.start()
    assert gateway.wait_for("response").body == ["from the child", 0]
    assert gateway.nexts_before("response") == 1


def test_a_python_that_the_function_starts_finds_what_the_function_finds(
    gateway: GatewayDouble, pod: Pod
) -> None:
    pod.write("name = 'dependency'", name="site-packages/dependency.py")
    pod.write(
        "raise RuntimeError('in front of the standard library')", name="site-packages/uuid.py"
    )
    pod.write("name = 'other'", name="elsewhere/other.py")
    pod.write(f"{pod.folder}/elsewhere\n", name="site-packages/other.pth")
    pod.write("name = 'helper'", name="helper.py")
    pod.write(
        """\
        import sys
        import uuid, dependency, helper, other
        from koren_runtime import state
        state.put("from a script", b"x")
        print(dependency.name, helper.name, other.name, sys.argv[1:])
        """,
        name="script.py",
    )
    pod.write(
        """\
        import subprocess, sys

        def run(*command):
            done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
            return done.stdout + done.stderr

        def handle(event, context):
            return [
                run("-c", "import helper, dependency; print(helper.name)"),
                run("-m", "script", "a"),
                run(event["data"], "b"),
            ]
        """
    )
    gateway.give(str(pod.folder / "script.py"))
    pod.start()
    assert gateway.wait_for("response").body == [
        "helper\n",
        "dependency helper other ['a']\n",
        "dependency helper other ['b']\n",
    ]
    assert gateway.writers == [("invocation-1", "1")] * 2
    assert gateway.nexts_before("response") == 1


def test_a_function_sees_itself_as_the_program(gateway: GatewayDouble, pod: Pod) -> None:
    pod.write(
        """\
        import subprocess, sys

        def handle(event, context):
            again = subprocess.run(sys.orig_argv, capture_output=True, text=True)
            return [sys.argv, again.returncode, again.stdout]

        if __name__ == "__main__":
            print("as a script")
        """
    )
    gateway.give(None)
    pod.start()
    file = str(pod.folder / "handler.py")
    assert gateway.wait_for("response").body == [[file], 0, "as a script\n"]


def test_the_runtimes_own_command_starts_no_second_runtime(
    gateway: GatewayDouble, pod: Pod
) -> None:
    pod.write(
        f"""\
        import subprocess

        def handle(event, context):
            command = ["{PYTHON}", "-I", "-S", "{START}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=5)
            return [done.returncode, done.stderr]
        """
    )
    gateway.give(None)
    pod.start()
    code, said = gateway.wait_for("response").body
    assert code == 2
    assert "this pod has its runtime already" in said
    assert gateway.nexts_before("response") == 1


@pytest.mark.parametrize("end", ["return 'child'", "raise ValueError('child')"])
def test_a_child_that_comes_back_from_the_handler_answers_nothing(
    gateway: GatewayDouble, pod: Pod, end: str
) -> None:
    pod.write(
        f"""\
        import os

        def handle(event, context):
            child = os.fork()
            if child == 0:
                {end}
            os.waitpid(child, 0)
            return "parent"
        """
    )
    for name in ("i1", "i2"):
        gateway.give(None, id=name)
    pod.start()
    for name in ("i1", "i2"):
        assert gateway.wait_for(f"{name}/response").body == "parent"
    assert gateway.words() == ["entered", "response"] * 2


def test_a_module_that_forks_is_loaded_once(gateway: GatewayDouble, pod: Pod) -> None:
    pod.write(
        """\
        import os
        forked = os.fork()

        def handle(event, context):
            return forked != 0
        """
    )
    for name in ("i1", "i2"):
        gateway.give(None, id=name)
    pod.start()
    for name in ("i1", "i2"):
        assert gateway.wait_for(f"{name}/response").body is True
    assert gateway.words() == ["entered", "response"] * 2


def test_a_child_in_a_session_of_its_own_ends_with_its_handler(
    gateway: GatewayDouble, pod: Pod
) -> None:
    # As in a container, the runtime is the first process: it inherits what has lost its parent.
    first = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*first, "true"], capture_output=True).returncode != 0:
        pytest.skip("no PID namespace can be made")
    pod.write(
        """\
        import os, subprocess, time

        def handle(event, context):
            if event["data"] == "start":
                code = "sleep 60 & sleep 60"
                subprocess.Popen(["sh", "-c", code], start_new_session=True)
                time.sleep(60)
            return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
        """
    )
    gateway.give("start", id="i1")
    gateway.give("count", id="i2")
    pod.start(*first, FUNC_TIMEOUT="1")
    assert gateway.wait_for("i1/error").body["type"] == "Timeout"
    runtime, worker = gateway.wait_for("i2/response").body
    assert runtime == 1 and worker > 2


@pytest.fixture
def small_container(pod: Pod) -> Iterator[list[str]]:
    """The command that runs a command in a cgroup of 64 MiB, as a container has one."""
    own = next(
        (line for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line),
        None,
    )
    version_2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    if not version_2 and own is None:
        pytest.skip("no memory controller")
    parent = Path("/sys/fs/cgroup") if version_2 else Path("/sys/fs/cgroup/memory")
    group = parent / f"koren-runtime-test-{uuid.uuid4().hex[:8]}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made: {error}")
    try:
        limit = group / ("memory.max" if version_2 else "memory.limit_in_bytes")
        if not limit.exists():
            pytest.skip("cgroups here have no limit of memory")
        limit.write_text(str(64 * 2**20))
        swap = group / ("memory.swap.max" if version_2 else "memory.memsw.limit_in_bytes")
        if swap.exists():
            swap.write_text("0" if version_2 else str(64 * 2**20))
        procs = str(group / "cgroup.procs")
        yield ["/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"', procs]
    finally:
        pod.kill()
        until = time.monotonic() + 5
        while (group / "cgroup.procs").read_text() and time.monotonic() < until:
            time.sleep(0.01)
        group.rmdir()


def test_a_handler_that_needs_more_than_its_memory_is_said_to(
    gateway: GatewayDouble, pod: Pod, small_container: list[str]
) -> None:
    pod.write(
        """\
        def handle(event, context):
            if event["data"] == "fill":
                return len(b"x" * (200 * 2**20))
            if event["data"] == "kill":
                import os
                os.kill(os.getpid(), 9)
            return "well"
        """
    )
    pod.start(*small_container, FUNC_MEMORY_LIMIT="64Mi")
    gateway.give("fill", id="i1")
    gateway.give("kill", id="i2")
    gateway.give("fine", id="i3")
    error = gateway.wait_for("i1/error").body
    assert (error["type"], error["message"]) == ("OutOfMemory", "out of memory, limit 64Mi")
    # Another signal 9 is not taken for the same.
    error = gateway.wait_for("i2/error").body
    assert error["type"] == "WorkerEnded" and "memory" not in error["message"]
    assert gateway.wait_for("i3/response").body == "well"


def test_a_child_that_needs_more_than_its_memory_is_named(
    gateway: GatewayDouble, pod: Pod, small_container: list[str]
) -> None:
    pod.write(
        """\
        import subprocess, sys

        def handle(event, context):
            subprocess.run([sys.executable, "-c", "b'x' * (200 * 2**20)"], check=True)
        """
    )
    pod.start(*small_container, FUNC_MEMORY_LIMIT="64Mi")
    gateway.give(None)
    error = gateway.wait_for("error").body
    assert error["type"] == "CalledProcessError"
    assert error["message"].endswith("was ended: out of memory, limit 64Mi)")


def test_a_module_that_needs_more_than_its_memory_is_said_to(
    gateway: GatewayDouble, pod: Pod, small_container: list[str]
) -> None:
    pod.write("table = b'x' * (200 * 2**20)\ndef handle(event, context): ...")
    pod.start(*small_container, FUNC_MEMORY_LIMIT="64Mi")
    error = gateway.wait_for("init/error").body
    assert (error["type"], error["message"]) == ("OutOfMemory", "out of memory, limit 64Mi")
