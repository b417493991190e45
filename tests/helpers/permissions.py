"""Permissions that also bind root, for tests that run as root."""

import contextlib
import ctypes
import os
import typing

import pytest


class _Capabilities(ctypes.Structure):
    _fields_: typing.ClassVar = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


@contextlib.contextmanager
def bound_by_permissions():
    """Binds this thread and those it starts, even as root: takes CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH away."""
    libc, header = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (_Capabilities * 2)()

    def call(name):
        if getattr(libc, name)(header, sets):
            pytest.skip(f"{name}: {os.strerror(ctypes.get_errno())}")

    call("capget")
    held = sets[0].effective
    sets[0].effective = held & ~0b110
    call("capset")
    try:
        yield
    finally:
        sets[0].effective = held
        call("capset")
