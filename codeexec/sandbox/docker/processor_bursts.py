"""Processor time that a sandbox has left unused may be used at once, where that can be allowed.

A sandbox gets its share in each period (`policy.CPU_PERIOD_US`). Without a burst, a start or a
compilation that needs more stands still until the next one, although nothing ran before it. Docker
has no option for bursts: they are written into the container's control group. Only root on the
Engine's own host can do that; elsewhere sandboxes have none.
"""

from __future__ import annotations

from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_FILES = (
    # Of both versions of control groups, each as Docker's two drivers name the groups.
    "docker/{id}/cpu.max.burst",
    "system.slice/docker-{id}.scope/cpu.max.burst",
    "cpu/docker/{id}/cpu.cfs_burst_us",
    "cpu/system.slice/docker-{id}.scope/cpu.cfs_burst_us",
)


def allow_burst(container_id: str, microseconds: int, *, root: Path = _ROOT) -> bool:
    """Whether the kernel lets the container use so much besides its share of one period. The kernel
    allows at most that share, and keeps the average.
    """
    for name in _FILES:
        try:
            (root / name.format(id=container_id)).write_text(str(microseconds))
        except OSError:
            continue
        return True
    return False
