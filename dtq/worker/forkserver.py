"""The fork server: a small process with one thread that has imported the modules of slots, and forks slots.

Worker, started by the supervisor as ``python -m dtq.worker.forkserver``, by way of `forking`. Its modules are in memory
once, however many slots there are, and a replaced slot is ready in a few milliseconds. It runs no task, has no key, and
ends with the worker.

A slot's reaper is forked twice, so that its parent is the supervisor, which is a subreaper: it is then the same as one
that the supervisor has started, in a session of its own, and survives the end of the fork server.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Final

from dtq.client.functions import cannot_import
from dtq.client.import_path import find_modules
from dtq.transport import safepickle
from dtq.worker.failures import bounded, traceback_of
from dtq.worker.reaper import die_with, guard
from dtq.worker.reports import MAX_TRACE, Ready, Unusable, plain
from dtq.worker.requests import LONGEST, Request, receive
from dtq.worker.siblings import empty_main
from dtq.worker.slot import main as run_slot
from dtq.worker.sources import Sources

#: Pause between two looks whether the intermediate process has ended, in seconds.
_PAUSE_S: Final = 0.0002


def _serve(sock: socket.socket, parent: int) -> Request | None:
    """Fork slots until the supervisor is gone: then return None. Returns also in each process that becomes a reaper."""
    while (request := receive(sock)) is not None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        between = os.fork()
        if between:
            for descriptor in request:
                if descriptor >= 0:
                    os.close(descriptor)
            os.waitpid(between, 0)
            continue
        if os.fork():
            os._exit(0)
        os.setsid()
        while os.getppid() != parent:
            if _is_gone(parent):
                os._exit(1)
            time.sleep(_PAUSE_S)
        try:
            os.write(request.reply, str(os.getpid()).encode())
        except BrokenPipeError:  # the supervisor has been killed
            os._exit(1)
        os.close(request.reply)
        return request
    return None


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def _import(modules: tuple[str, ...], worker: str) -> Unusable | None:
    """Import the modules of slots; the sentence for a failure."""
    what = ""
    try:
        for what in modules:
            importlib.import_module(what)
            threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
            if threads:
                raise RuntimeError(
                    f"it starts a thread ({threads[0]}), which no process has that is forked; "
                    "--import has each slot import it instead of --preload"
                )
    except BaseException as error:  # noqa: BLE001 - the edge to user code, at import
        why = cannot_import(what, f"the worker {worker}", error)
        args = tuple([bounded(str(arg), MAX_TRACE) for arg in why.args])
        return Unusable(bounded(traceback_of(error, __file__), MAX_TRACE), args)
    return None


def main(arguments: list[str]) -> int:
    """Entry point: ``parent-pid socket-fd``; the rest comes through the socket."""
    parent, descriptor = map(int, arguments)
    die_with(parent, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sock = socket.socket(fileno=descriptor)
    sock.set_inheritable(False)
    greeting = b""
    with suppress(ConnectionResetError):
        greeting = sock.recv(LONGEST)
    if not greeting:
        return 0
    worker, paths, modules = safepickle.loads(greeting)
    find_modules(paths)
    empty_main()
    sources = Sources()
    sources.begin()
    failed = _import(modules, worker)
    with suppress(BrokenPipeError, ConnectionResetError):  # that the supervisor is gone shows next
        sock.send(safepickle.dumps(plain(failed or Ready(os.getpid()))))
    if failed is not None:
        return 1
    sources.note()
    gc.enable()  # the process that forks this one may do without it while it starts
    gc.collect()
    gc.freeze()  # or the first collection in each slot would copy the memory of all objects
    request = _serve(sock, parent)
    sock.close()
    if request is None:
        return 0
    if request.output >= 0:
        for stream in (1, 2):
            os.dup2(request.output, stream)
        os.close(request.output)
    reaper = guard(parent, request.channel, request.position)
    return run_slot(reaper, request.channel, request.position, forked=sources, tracker=request.tracker)


if __name__ == "__main__":
    # As in `reaper`: user code must find no module of dtq's as __main__.
    from dtq.worker.forkserver import main as begin

    sys.exit(begin(sys.argv[1:]))
