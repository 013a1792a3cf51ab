# SPDX-License-Identifier: Apache-2.0
"""Shows a run as one line a play; a log file has the whole output."""

from __future__ import annotations

DOCUMENTATION = r"""
name: stages
type: stdout
short_description: Shows one line a play and writes the whole output to a log file
description:
  - Shows each play with its number, the time that it took and how many hosts it changed.
  - Shows failures, the messages of C(debug) tasks and the recap in full.
  - Shows each change, too, with C(--check) or C(--diff).
  - Names the log file at the end. It has what the callback P(ansible.builtin.default#callback) prints.
  - With C(-v) it is that callback, and writes no log file.
options:
  log_folder:
    description: Folder for the log files; the C(20) newest stay.
    type: path
    default: .state/log
    ini:
      - section: callback_stages
        key: log_folder
    env:
      - name: KOREN_LOG_FOLDER
extends_documentation_fragment:
  - default_callback
  - result_format_callback
requirements:
  - set C(stdout_callback) to it
author: the koren.faas authors
"""

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ansible import constants as C
from ansible import context
from ansible.plugins.callback.default import CallbackModule as Default

KEPT = 20
TITLE_WIDTH = 62
PROGRESS = {"koren.faas.bundle": "build", "koren.faas.bundle_mirror": "fetch"}
"""Modules whose tasks say by their names how much of a long build or download remains, with the option that says so."""
COLOR = re.compile(r"\x1b\[[0-9;]*m")


class Log:
    """Takes the place of Ansible's display: writes to a file, and shows what is said while it is `loud`."""

    def __init__(self, display: Any, file: TextIO) -> None:
        self._display = display
        self._file = file
        self.loud = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._display, name)

    def display(self, msg: str, *args: Any, screen_only: bool = False, log_only: bool = False, **options: Any) -> None:
        """Say `msg`."""
        if not screen_only:
            self._file.write(COLOR.sub("", msg) + "\n")
        if self.loud and not log_only:
            self._display.display(msg, *args, screen_only=screen_only, **options)

    def banner(self, msg: str, *args: Any, **options: Any) -> None:
        """Say `msg` as the title of what follows."""
        self._file.write(f"\n{msg} {time.strftime('[%T]')}\n")
        # The screen has a task's name already, which is shown with its first result that is.
        if self.loud and not msg.startswith(("TASK", "RUNNING HANDLER")):
            self._display.banner(msg, *args, **options)


class CallbackModule(Default):
    """The callback plugin."""

    CALLBACK_NAME = "koren.faas.stages"
    _display: Any

    def __init__(self) -> None:
        super().__init__()
        self._log: Log | None = None
        self._path = Path()
        self._count = self._number = 0
        self._title = ""
        self._began = 0.0
        self._ran = False
        self._changed: set[str] = set()
        self._shown: str | None = None
        self._live = False  # whether the screen's last line is one that is to be written over

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """The run begins."""
        if self._display.verbosity == 0:
            name = Path(playbook._file_name).stem
            folder = Path(self.get_option("log_folder"))
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for old in sorted(folder.glob("[0-9]*T[0-9]*-*-[0-9]*.log"))[: -KEPT + 1 or None]:
                old.unlink(missing_ok=True)
            self._path = folder / f"{time.strftime('%Y%m%dT%H%M%S')}-{name}-{os.getpid()}.log"
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            self._log = Log(self._display, os.fdopen(file, "w", buffering=1))
            self._display = self._log
            self._count = len(playbook.get_plays())
        super().v2_playbook_on_start(playbook)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """A play begins."""
        self._end_stage()
        self._number += 1
        self._title = play.get_name().strip()
        self._began, self._ran = time.monotonic(), False
        self._changed.clear()
        super().v2_playbook_on_play_start(play)

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """A task begins."""
        self._ran = True
        if task.args.get(PROGRESS.get(task.action)):
            with self._loudly():
                self._display.display(f"        {task.get_name().strip()}")
        self._show_live(task)
        super().v2_playbook_on_task_start(task, is_conditional)

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        """A handler begins."""
        self._show_live(task)
        super().v2_playbook_on_handler_task_start(task)

    def v2_runner_on_ok(self, result: Any) -> None:
        """A task is done on a host."""
        changed = bool(result.result.get("changed"))
        if changed:
            self._changed.add(result.host.get_name())
        self._say_message(result)
        # What a loop has changed was shown item by item.
        with self._loudly(result.task, changed and not result.task.loop and _changes_shown()):
            super().v2_runner_on_ok(result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        """One item of a task's loop is done on a host."""
        self._say_message(result)
        with self._loudly(result.task, bool(result.result.get("changed")) and _changes_shown()):
            super().v2_runner_item_on_ok(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """A task failed on a host."""
        with self._loudly(result.task, not ignore_errors and not _rescued(result.task)):
            super().v2_runner_on_failed(result, ignore_errors)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """One item of a task's loop failed on a host."""
        with self._loudly(result.task, not result.task.ignore_errors and not _rescued(result.task)):
            super().v2_runner_item_on_failed(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """A host could not be reached."""
        with self._loudly(result.task, not result.task.ignore_unreachable):
            super().v2_runner_on_unreachable(result)

    def v2_on_file_diff(self, result: Any) -> None:
        """A task tells what it changed."""
        with self._loudly(result.task, _changes_shown()):
            super().v2_on_file_diff(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """The run is over."""
        self._end_stage()
        with self._loudly():
            super().v2_playbook_on_stats(stats)
        if self._log:
            self._log._display.display(f"The whole output is in {self._path}")

    def _handle_exception(self, result: Any, use_stderr: bool = False) -> None:
        # It would be shown whatever becomes of the error; the log file has it with the task's result.
        if not self._log or self._log.loud:
            super()._handle_exception(result, use_stderr=use_stderr)

    @contextmanager
    def _loudly(self, task: Any = None, wanted: bool = True) -> Iterator[None]:
        """Have the screen show what is said meanwhile, below the name of `task`."""
        if not self._log or not wanted:
            yield
            return
        self._clear_live()
        if task and self._shown != task._uuid:
            self._shown = task._uuid
            self._log._display.display(f"\nTASK [{task.get_name().strip()}]")
        self._log.loud = True
        try:
            yield
        finally:
            self._log.loud = False

    def _say_message(self, result: Any) -> None:
        if self._log and result.task.action in C._ACTION_DEBUG and "msg" in result.result:
            message = result.result["msg"]
            self._clear_live()
            for line in message if isinstance(message, list) else [message]:
                self._log._display.display(str(line))

    def _end_stage(self) -> None:
        if not self._log or not self._ran:
            return
        self._clear_live()
        seconds = round(time.monotonic() - self._began)
        took = f"{seconds // 60:3}:{seconds % 60:02}"
        hosts = len(self._changed)
        note = f"  changed on {hosts} {'host' if hosts == 1 else 'hosts'}" if hosts else ""
        self._log._display.display(
            f"[{self._number:2}/{self._count}] {self._title:<{TITLE_WIDTH}.{TITLE_WIDTH}} {took}{note}",
            color=C.COLOR_CHANGED if hosts else C.COLOR_OK,
        )
        self._ran = False

    def _show_live(self, task: Any) -> None:
        if self._log and sys.stdout.isatty():
            line = f"[{self._number:2}/{self._count}] {self._title}: {task.get_name().strip()}"
            width = shutil.get_terminal_size().columns - 1
            sys.stdout.write(f"\r\x1b[K{line[:width]}")
            sys.stdout.flush()
            self._live = True

    def _clear_live(self) -> None:
        if self._live:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()
            self._live = False


def _rescued(task: Any) -> bool:
    """Whether a block around `task` takes care of its failure."""
    block, inside = task._parent, task
    while block:
        if getattr(block, "rescue", None) and inside._uuid in {one._uuid for one in block.block}:
            return True
        block, inside = block._parent, block
    return False


def _changes_shown() -> bool:
    """Whether to show each change, which is the purpose of C(--check) and C(--diff)."""
    return bool(context.CLIARGS.get("check") or context.CLIARGS.get("diff"))
