"""Raises the number of files that this process, and those that it starts, may have open."""

from __future__ import annotations

from contextlib import suppress

WANTED = 1 << 16
"""Enough for any sweep. Not the largest possible: some programs look at each number up to the limit."""


def allow_many_open_files() -> int | None:
    """Raise the soft limit towards the hard limit, up to `WANTED`. Returns the soft limit; None where there is none."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # a sandbox may forbid it; then the limit stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
