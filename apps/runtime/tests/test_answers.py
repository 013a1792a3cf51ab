"""What a handler may be and may return, and what it may decide on its event."""

from typing import Any

import pytest
from pods import Pod

from koren_runtime.local.double import GatewayDouble


def run(gateway: GatewayDouble, pod: Pod, code: str, events: int = 1) -> list[Any]:
    """What the handler in `code` answers to each event; an error as its type and message."""
    pod.write(code)
    for number in range(events):
        gateway.give(number, id=f"i{number}")
    pod.start()
    answers: list[Any] = []
    for number in range(events):
        paths = (f"i{number}/response", f"i{number}/error")
        gateway.wait_until(lambda ends=paths: any(c.path.endswith(ends) for c in gateway.calls))
        call = next(c for c in gateway.calls if c.path.endswith(paths))
        answers.append(call.body)
    return answers


def test_a_coroutine_function_is_a_handler(gateway: GatewayDouble, pod: Pod) -> None:
    code = """\
        import asyncio

        async def handle(event, context):
            await asyncio.sleep(0.01)
            if event["data"] == 1:
                raise KeyError("no camera")
            return [event["data"], context["function-name"]]
        """
    first, second, third = run(gateway, pod, code, 3)
    assert (first, third) == ([0, "handle"], [2, "handle"])
    assert (second["type"], second["message"]) == ("KeyError", "'no camera'")
    assert second["traceback"].count("File ") == 1
    assert 'handler.py", line 6, in handle' in second["traceback"]


def test_what_belongs_to_the_event_loop_lives_on(gateway: GatewayDouble, pod: Pod) -> None:
    code = """\
        import asyncio

        # As a module's client of a service has it: bound to the loop that it was first used in.
        lock = asyncio.Lock()
        queue = None
        loops = []

        async def serve():
            while True:
                value, done = await queue.get()
                done.set_result(value + 1)

        async def handle(event, context):
            global queue, server
            if queue is None:
                queue = asyncio.Queue()
                server = asyncio.ensure_future(serve())
            async with lock:
                await asyncio.sleep(0)
            done = asyncio.get_running_loop().create_future()
            await queue.put((event["data"], done))
            loops.append(asyncio.get_running_loop())
            return [await done, len(set(loops))]
        """
    assert run(gateway, pod, code, 3) == [[1, 1], [2, 1], [3, 1]]


def test_a_handler_with_a_loop_of_its_own_works(gateway: GatewayDouble, pod: Pod) -> None:
    code = """\
        import asyncio

        async def work(data):
            return data

        def handle(event, context):
            if event["data"] == 1:
                return work("awaited by the runtime")
            return asyncio.run(work("run by the handler"))
        """
    answers = run(gateway, pod, code, 3)
    assert answers == ["run by the handler", "awaited by the runtime", "run by the handler"]


@pytest.mark.parametrize(
    "handler",
    [
        "class Soon:\n    def __await__(self):\n        yield\n        return 1\n"
        "def handle(event, context): return Soon()",
        "import types\n@types.coroutine\ndef soon():\n    yield\n    return 1\n"
        "def handle(event, context): return soon()",
        "class Handler:\n    async def __call__(self, event, context): return 1\nhandle = Handler()",
    ],
)
def test_all_that_can_be_awaited_is(gateway: GatewayDouble, pod: Pod, handler: str) -> None:
    assert run(gateway, pod, handler) == [1]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("(n for n in range(3))", "it is a generator; collect what it yields in a list"),
        ("several()", "it is an asynchronous generator; collect what it yields in a list"),
        ("twice()", "it is a coroutine, which nothing awaits; await it and return its result"),
    ],
)
def test_an_answer_that_is_yet_to_run_is_named(
    gateway: GatewayDouble, pod: Pod, returned: str, message: str
) -> None:
    code = f"""\
        async def several():
            yield 1

        async def twice():
            async def inner():
                return 1
            return inner()

        def handle(event, context):
            return {returned}
        """
    (error,) = run(gateway, pod, code)
    assert error["type"] == "ValueError"
    assert message in error["message"]


@pytest.mark.parametrize("word", ["def", "async def"])
def test_a_handler_that_yields_is_refused_at_once(
    gateway: GatewayDouble, pod: Pod, word: str
) -> None:
    pod.write(f"{word} handle(event, context):\n    yield 1")
    pod.start()
    error = gateway.wait_for("init/error").body
    assert "handler.handle has a yield in it" in error["message"]


def test_a_handler_decides_on_its_event(gateway: GatewayDouble, pod: Pod) -> None:
    code = """\
        from koren_runtime import Reject, RetryAfter

        def handle(event, context):
            match event["data"]:
                case 0: raise Reject("no such camera: 7")
                case 1: raise RetryAfter(90.5, "too many requests")
                case 2: raise RetryAfter(10**9)
                case 3: raise RetryAfter(-1)
                case 4: raise RetryAfter(float("nan"))
                case 5: raise ValueError("as usual")
        """
    rejected, later, much_later, *wrong, usual = run(gateway, pod, code, 6)
    assert rejected["reject"] is True
    assert (rejected["type"], rejected["message"]) == ("Reject", "no such camera: 7")
    assert (later["retry_after_s"], later["message"]) == (90.5, "too many requests")
    assert much_later["retry_after_s"] == 86400
    for error in [*wrong, usual]:
        assert error["type"] == "ValueError"
        assert not {"reject", "retry_after_s"} & error.keys()


def test_a_decision_comes_out_of_a_pool_and_a_coroutine(gateway: GatewayDouble, pod: Pod) -> None:
    code = """\
        import asyncio
        from concurrent.futures import ProcessPoolExecutor
        from koren_runtime import Reject, RetryAfter

        def work(data):
            raise (Reject("no") if data == 0 else RetryAfter(5, "not yet"))

        async def handle(event, context):
            with ProcessPoolExecutor(1) as pool:
                await asyncio.get_running_loop().run_in_executor(pool, work, event["data"])
        """
    rejected, later = run(gateway, pod, code, 2)
    assert (rejected["reject"], rejected["message"]) == (True, "no")
    assert (later["retry_after_s"], later["message"]) == (5, "not yet")


def test_a_module_that_can_not_be_loaded_decides_nothing(gateway: GatewayDouble, pod: Pod) -> None:
    pod.write("from koren_runtime import Reject\nraise Reject('all of them')")
    pod.start()
    assert "reject" not in gateway.wait_for("init/error").body
    gateway.give(None)
    assert "reject" not in gateway.wait_for("invocation-1/error").body


def test_an_error_of_any_size_and_kind_is_reported(gateway: GatewayDouble, pod: Pod) -> None:
    code = """\
        class Broken(Exception):
            def __str__(self):
                raise RuntimeError

        def handle(event, context):
            if event["data"] == 0:
                raise ValueError("x" * 5_000_000)
            raise Broken
        """
    large, broken = run(gateway, pod, code, 2)
    assert large["type"] == "ValueError" and len(large["message"]) == 16_000
    assert broken["type"] == "Broken"
