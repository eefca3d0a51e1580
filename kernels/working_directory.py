"""Keeps the working directory from frameworks: it may be a model's folder, and what they read from it can run code.

Drivers, compilers and configurations look for files and libraries there when they start and when they compile. They do
so in a thread whose working directory is the root directory. Linux gives a thread a directory of its own with
`unshare(CLONE_FS)`, so the rest of the process keeps its own, and threads that a framework starts inherit the root.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterable
from contextvars import copy_context
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from hashbench.kernels.contract import Unavailable

P = ParamSpec("P")
T = TypeVar("T")

_CLONE_FS = 0x200
_here = threading.local()


def outside_working_directory(*reads: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Makes a function run in a thread whose working directory is the root directory, while its caller waits.

    Relative paths mean nothing in the function. Some sandboxes and systems allow no directory of a thread's own. There
    the function runs in the caller's thread, and only if the working directory has none of the files to be kept away.

    Args:
        reads: the names that the function's frameworks are known to read in the working directory.

    Raises:
        Unavailable: the function is called, and the working directory can neither be kept away nor is free of `reads`.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def call(*arguments: P.args, **options: P.kwargs) -> T:
            if getattr(_here, "is_root", False):
                return function(*arguments, **options)
            done: list[T] = []
            errors: list[BaseException] = []
            context = copy_context()

            def run() -> None:
                try:
                    if not _enter_root():
                        _check_absent(reads)
                    done.append(context.run(function, *arguments, **options))
                except BaseException as error:
                    errors.append(error)

            # A daemon: an interrupted program does not wait for a compiler.
            thread = threading.Thread(target=run, name="outside the working directory", daemon=True)
            thread.start()
            thread.join()
            if errors:
                raise errors.pop()
            return done[0]

        return call

    return decorate


def _enter_root() -> bool:
    """Makes the root directory this thread's own; False where that is not possible."""
    unshare = getattr(ctypes.CDLL(None), "unshare", None)
    if unshare is None or unshare(_CLONE_FS) != 0:
        return False
    os.chdir("/")
    _here.is_root = True
    return True


def _check_absent(names: Iterable[str]) -> None:
    found = [name for name in names if os.path.lexists(name)]
    if found:
        raise Unavailable(
            f"the working directory {Path.cwd()} has {found[0]}, which the framework would read, and this system does "
            "not let a thread have another directory: start in another one"
        )
