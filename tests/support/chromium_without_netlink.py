#!/usr/bin/env python3
"""Chromium, with the arguments given, but without netlink sockets.

Containers that come and go change the machine's network interfaces. Chromium hears of that by
netlink and gives up what it is connecting to with ERR_NETWORK_CHANGED, although the way to a
server under test, which is loopback, is as it was. Without netlink it takes the network for one
that never changes.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

CHROMIUM = "/usr/bin/chromium"

_SOCKET = {"x86_64": 41, "aarch64": 198}
_AF_NETLINK, _EAFNOSUPPORT = 16, 97
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER_AT, _FIRST_ARGUMENT_AT = 0, 16
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000 | _EAFNOSUPPORT


def refuse_netlink() -> None:
    """This process, and what it becomes, gets EAFNOSUPPORT for such sockets (linux/seccomp.h)."""
    steps = (
        (_LOAD_WORD, 0, 0, _NUMBER_AT),
        (_JUMP_IF_EQUAL, 0, 3, _SOCKET[platform.machine()]),
        (_LOAD_WORD, 0, 0, _FIRST_ARGUMENT_AT),
        (_JUMP_IF_EQUAL, 0, 1, _AF_NETLINK),
        (_RETURN, 0, 0, _FAIL),
        (_RETURN, 0, 0, _ALLOW),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = struct.pack("@HP", len(steps), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0
    ):
        raise OSError(ctypes.get_errno(), "netlink can't be refused")


if __name__ == "__main__":
    refuse_netlink()
    os.execv(CHROMIUM, [CHROMIUM, *sys.argv[1:]])  # noqa: S606
