"""Guard of mapped files: a file that is cut short, or a disk that fails, costs its vectors and never the process.

Reading a mapped page that the file no longer has raises SIGBUS, and nothing keeps others from truncating a file.
Reading by system calls would avoid it, at twice the cost of a look-up that fails: it visits eight tables. So the signal
is handled, as virtual machines and systemd do: the mapping of the damaged file is replaced by zeros, and the
instruction goes on. Zeros are no entry and match no checksum. On Linux with 64 bits only; elsewhere files are mapped
without a guard.

The handler is entered within a copy from the mapping, which holds the interpreter lock and no other, so that Python may
run there. Faults elsewhere are left to whoever handled the signal before.
"""

import ctypes
import mmap
import signal
import sys
import threading

import numpy as np

_IS_SUPPORTED = sys.platform == "linux" and ctypes.sizeof(ctypes.c_void_p) == 8
_SA_SIGINFO = 0x4
_SA_NODEFER = 0x40000000
_ADDRESS_IN_SIGINFO = 16
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000


class _Action(ctypes.Structure):
    """`struct sigaction` of Linux."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class Region:
    """The addresses of one mapping. `is_lost`: its file had an end there, and zeros are read instead."""

    __slots__ = ("end", "is_lost", "start")

    def __init__(self, start: int, length: int) -> None:
        self.start = start
        self.end = start + length
        self.is_lost = False


class _Guard:
    """The handler of the process, and the regions that it knows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._regions: tuple[Region, ...] = ()  # replaced as a whole: the handler reads it without the lock
        self._before = _Action()
        self._is_installed = False
        # Calls that keep the interpreter lock: between the fault and the mapping of zeros nobody else shall run.
        self._c = ctypes.PyDLL(None)
        self._c.mmap.restype = ctypes.c_void_p
        self._c.mmap.argtypes = (
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_long,
        )
        self._c.sigaction.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        self._handler = ctypes.PYFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(self._on_fault)

    def add(self, region: Region) -> None:
        with self._lock:
            self._regions = (*self._regions, region)
            if not self._is_installed:
                action = _Action(flags=_SA_SIGINFO | _SA_NODEFER)
                action.handler = ctypes.cast(self._handler, ctypes.c_void_p).value
                before = ctypes.byref(self._before)
                self._is_installed = self._c.sigaction(signal.SIGBUS, ctypes.byref(action), before) == 0

    def remove(self, region: Region) -> None:
        with self._lock:
            self._regions = tuple(known for known in self._regions if known is not region)

    def _on_fault(self, number: int, info: int, _context: int) -> None:
        address = ctypes.c_size_t.from_address(info + _ADDRESS_IN_SIGINFO).value
        for region in self._regions:
            # Lost already: by another thread, which was here while this one waited for the interpreter lock.
            if region.start <= address < region.end and (region.is_lost or self._replace(region)):
                return
        # The instruction is repeated, and its fault then is what it was before there was a guard.
        self._c.sigaction(number, ctypes.byref(self._before), None)

    def _replace(self, region: Region) -> bool:
        """Map zeros in place of a region."""
        region.is_lost = True
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED | _MAP_NORESERVE
        length = region.end - region.start
        mapped = self._c.mmap(region.start, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
        return bool(mapped == region.start)


_guard = _Guard() if _IS_SUPPORTED else None


def guard(mapped: mmap.mmap) -> Region:
    """Guard a mapping until `release`, which must come before it is closed."""
    # An array exports the buffer, which keeps the mapping from being closed: only its address is kept.
    region = Region(int(np.frombuffer(mapped, np.uint8).ctypes.data), len(mapped))
    if _guard is not None:
        _guard.add(region)
    return region


def release(region: Region) -> None:
    """Forget a guarded mapping."""
    if _guard is not None:
        _guard.remove(region)
