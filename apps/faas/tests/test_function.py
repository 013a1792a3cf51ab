# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from koren_faas import Function, FunctionError


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"name": "Hello"}, "lower-case"),
        ({"name": "a" * 55}, "54"),
        ({"name": "faas-caller"}, "taken"),
        ({"handler": "hello"}, "module.function"),
        ({"handler": "hello.han-dler"}, "module.function"),
        ({"runtime": "python2.7"}, "Supported runtimes are: python3.11"),
        ({"memory": "lots"}, "memory"),
        ({"cpu": "1 core"}, "cpu"),
        ({"tmp_size": "0"}, "tmp-size"),
        ({"tmp_size": "500m"}, "tmp-size"),
        ({"tmp_size": "much"}, "tmp-size"),
        ({"packages": ("libgomp1", "-oDpkg::Pre-Invoke=x")}, "can't be a Debian package"),
        ({"packages": ("libgomp1 | libgl1",)}, "can't be a Debian package"),
        ({"packages": ("lib.*",)}, "can't be a Debian package"),
        ({"packages": ("libgomp1:i386",)}, "can't be a Debian package"),
        ({"timeout_s": 0}, "timeout"),
        ({"timeout_s": 86400}, "less than a day"),
        ({"concurrency": 0}, "concurrency is 0; give a number from 1 to 32"),
        ({"concurrency": 33}, "concurrency is 33; give a number from 1 to 32"),
        ({"batch_size": 0}, "batch-size is 0; give a number from 1 to 100"),
        ({"batch_size": 101}, "batch-size is 101; give a number from 1 to 100"),
        ({"batch_size": 2, "batch_window_s": 301}, "batch-window is 301s; give 5m at most"),
        ({"batch_window_s": 5}, "a batch-window without batches: give a batch-size above 1 with it"),
        ({"topic": "health/seoul/x"}, "events/<region>/"),
        ({"topic": "events/seoul/#/accident"}, "last level"),
        ({"topic": "events/seoul/cctv+/accident"}, "cctv+"),
        ({"closes": "cleared"}, "--opens"),
        ({"secrets": ("koren",)}, "koren"),
        ({"egress": ()}, "egress is empty"),
        ({"egress": ("none", "default")}, "can't be combined"),
        ({"egress": ("example.org:443",)}, "'example.org:443'"),
        ({"egress": ("10.0.0.1/8",)}, "host bits"),
        ({"egress": ("10.0.0.1:https",)}, "port 'https'"),
        ({"egress": ("10.0.0.1:0",)}, "port '0'"),
        ({"egress": ("fd00::1",)}, "'fd00::1'"),
        ({"env": {"FUNC_TIMEOUT": "1"}}, "set by the platform"),
        ({"env": {"a-b": "1"}}, "a-b"),
        ({"dependencies": Path("requirements.txt")}, "source"),
        ({"image": "registry.example/hello:1"}, "needs the runtime image"),
        ({"runtime": "image", "image": "--help"}, "is no reference"),
        ({"runtime": "image", "image": "hello", "source": Path("hello.tar")}, "two images"),
        ({"runtime": "image", "image": "hello", "packages": ("libgl1",)}, "in the image itself"),
    ],
)
def test_what_cannot_be_accepted_is_named(options: dict[str, object], named: str) -> None:
    with pytest.raises(FunctionError, match=r"^function ") as error:
        Function(**{"name": "hello", "handler": "hello.handler", **options})  # type: ignore[arg-type]
    assert named in str(error.value)


def test_each_region_gets_its_own_topic() -> None:
    function = Function(name="a", handler="a.b", topic="events/{region}/+/accident")
    assert function.for_region("seoul").topic == "events/seoul/+/accident"
    assert function.for_region("busan").topic == "events/busan/+/accident"


def test_a_topic_of_another_region_is_refused() -> None:
    function = Function(name="a", handler="a.b", topic="events/seoul/+/accident")
    assert function.for_region("seoul") == function
    with pytest.raises(FunctionError, match="busan"):
        function.for_region("busan")


def test_a_handler_may_be_in_a_package() -> None:
    function = Function(name="a", handler="pkg.mod.run")
    assert (function.module, function.entry) == ("pkg.mod", "run")


@pytest.mark.parametrize(
    ("runtime", "remedy"),
    [
        ("python3.7", "Use python3.13"),
        ("python3", "Use python3.13"),
        ("python2.7", "2to3"),
        ("nodejs14", "Use nodejs22"),
        ("go1.14", "use image"),
    ],
)
def test_a_runtime_that_there_is_not_says_which_to_use(runtime: str, remedy: str) -> None:
    with pytest.raises(FunctionError, match=f"Invalid runtime: {runtime}.*{remedy}"):
        Function(name="hello", handler="hello.handler", runtime=runtime)


def test_an_image_needs_no_handler() -> None:
    function = Function(name="hello", runtime="image", image="registry.example/hello:1")
    assert (function.module, function.entry, function.has_content) == ("", "", True)
    with pytest.raises(FunctionError, match=r"module\.function"):
        Function(name="hello", runtime="nodejs22")
