"""Whether what frameworks cache on disk can be trusted: it holds pickles and compiled code, so whoever writes it runs.

A folder is private if nobody but its user and the superuser can write to it.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path


def private_folder(*parts: str) -> Path | None:
    """A folder of the user's cache, which may not be there yet; None if it is not private."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", *parts).expanduser()
    except RuntimeError:  # a user without a home
        return None
    return folder if is_private(folder) else None


def is_private(folder: Path) -> bool:
    """Whether a folder, or the nearest above it that exists, is private. A relative path never is."""
    try:
        folder = folder.expanduser()
        if not folder.is_absolute():
            return False
        existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path)).resolve(strict=True)
        return _is_private(existing.stat()) and not any(map(_lets_replace, existing.parents))
    except (OSError, RuntimeError):  # no access, a dangling link, or a user without a home
        return False


def _is_private(status: os.stat_result) -> bool:
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (0, os.geteuid()) or status.st_mode & stat.S_IWOTH:
        return False
    return not status.st_mode & stat.S_IWGRP or _is_users_own(status.st_gid)


def _lets_replace(parent: Path) -> bool:
    """Whether somebody else may put another folder in the place of one in `parent`."""
    status = parent.stat()
    if status.st_mode & stat.S_ISVTX:  # what is in it is moved by its owner, or that of `parent`, alone
        return status.st_uid not in (0, os.geteuid())
    return not _is_private(status)


def _is_users_own(group: int) -> bool:
    """Whether a group is the one that many systems make for each user, of that name and without another member."""
    try:
        user, found = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return user.pw_gid == group and found.gr_name == user.pw_name and set(found.gr_mem) <= {user.pw_name}
