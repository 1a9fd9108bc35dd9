"""Tasks that do to their process, on purpose or not, whatever a task can: one function a kind.

`KINDS` has them all, each with the outcomes that are honest for it: "ok" for a result, else the name of the outcome.
None of them harms what is not its own slot's; so none signals processes that it does not know to be that.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import ctypes
import faulthandler
import gc
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from tests.tasks import rude_work
from tests.tasks import value_work as rude_values

#: How long a kind goes on that is to be ended, in seconds: far longer than its time limit.
LONG_S = 600.0

KINDS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {}


def kind(*outcomes: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Add a kind, with the outcomes that are honest for it."""

    def add(function: Callable[[], Any]) -> Callable[[], Any]:
        KINDS[function.__name__] = function, outcomes
        return function

    return add


def hostile(name: str) -> object:
    """Be of a kind."""
    function, _ = KINDS[name]
    return function()


def innocent(number: int) -> int:
    """A task that finds the process as it should be."""
    print(f"task {number}")
    assert os.getcwd()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    return number * number


def _forever() -> NoReturn:
    while True:
        time.sleep(LONG_S)


# -- ends -----------------------------------------------------------------------------------------------------------


@kind("crashed")
def exits_with_0() -> None:
    os._exit(0)


@kind("crashed")
def exits_with_3() -> None:
    os._exit(3)


@kind("failed")
def calls_sys_exit() -> None:
    sys.exit()


@kind("failed")
def calls_sys_exit_with_text() -> None:
    sys.exit("that is all\x1b[2J")


@kind("failed")
def raises_keyboard_interrupt() -> None:
    raise KeyboardInterrupt


@kind("failed")
def raises_generator_exit() -> None:
    raise GeneratorExit


@kind("ok")
def exits_in_a_thread() -> None:
    thread = threading.Thread(target=sys.exit)
    thread.start()
    thread.join()


@kind("crashed")
def ends_the_process_in_a_thread() -> None:
    threading.Thread(target=os._exit, args=(5,)).start()
    _forever()


@kind("crashed")
def aborts() -> None:
    os.abort()


@kind("crashed")
def reads_at_address_0() -> None:
    ctypes.string_at(0)


@kind("crashed")
def kills_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@kind("timed out")
def stops_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    _forever()


@kind("crashed")
def terminates_itself() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    _forever()


@kind("crashed")
def kills_its_warden() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    _forever()


@kind("crashed", "timed out")
def terminates_its_warden() -> None:
    os.kill(os.getppid(), signal.SIGTERM)
    _forever()


@kind("timed out")
def stops_its_warden() -> None:
    os.kill(os.getppid(), signal.SIGSTOP)
    _forever()


@kind("crashed")
def outlives_its_warden() -> None:
    ctypes.CDLL(None).prctl(1, 0)  # no signal when the parent ends
    os.kill(os.getppid(), signal.SIGKILL)
    _forever()


@kind("crashed")
def kills_its_group() -> None:
    os.killpg(os.getpgid(0), signal.SIGKILL)
    _forever()


@kind("crashed")
def becomes_another_program() -> None:
    os.execv("/bin/true", ["true"])


@kind("crashed", "timed out")
def becomes_a_program_that_goes_on() -> None:
    os.execv("/bin/sleep", ["sleep", str(LONG_S)])


# -- descriptors, pipe and memory -----------------------------------------------------------------------------------


@kind("ok")
def closes_all_and_returns() -> str:
    return rude_work.close_everything(0.0)


@kind("crashed", "timed out")
def closes_all_and_goes_on() -> str:
    os.closerange(3, 1000)
    _forever()


@kind("ok")
def closes_its_streams() -> None:
    os.closerange(0, 3)


@kind("ok")
def closes_sys_stdout() -> None:
    sys.stdout.close()


@kind("crashed")
def writes_to_every_descriptor() -> None:
    for descriptor in range(3, 100):
        with contextlib.suppress(OSError):
            os.write(descriptor, b"hello")
    _forever()


@kind("crashed")
def writes_into_the_pipe_and_returns() -> str:
    return rude_work.write_into_pipe(b"\x00\x00\x00\x10" * 4, 0.0)


@kind("ok", "crashed")
def shuts_the_pipe_down() -> None:
    pipe = socket.socket(fileno=os.dup(rude_work._pipe()))
    pipe.shutdown(socket.SHUT_RDWR)


@kind("ok")
def reads_from_the_pipe() -> str:
    return rude_work.read_from_pipe(0.1)


@kind("ok", "crashed")
def puts_a_file_in_the_pipes_place() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, rude_work._pipe())


@kind("ok", "crashed")
def scribbles_over_the_page() -> str:
    return rude_work.scribble(0, bytes(128), 0.0)


@kind("crashed", "timed out")
def scribbles_over_everything() -> str:
    return rude_work.scribble(0, b"", LONG_S)


@kind("crashed", "timed out")
def says_it_began_in_an_hour() -> str:
    import struct

    return rude_work.scribble(0, struct.pack("=d", time.monotonic() + 3600), LONG_S)


@kind("crashed")
def unmaps_the_memory() -> None:
    libc = ctypes.CDLL(None)
    begin, size = rude_work.shared_memory()
    libc.munmap(ctypes.c_void_p(begin), ctypes.c_size_t(size))


@kind("crashed")
def protects_the_memory() -> None:
    begin, size = rude_work.shared_memory()
    ctypes.CDLL(None).mprotect(ctypes.c_void_p(begin), ctypes.c_size_t(size), 0)


# -- processes ------------------------------------------------------------------------------------------------------


@kind("ok")
def forks_and_the_child_returns() -> int:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    return os.getpid()


@kind("ok")
def forks_and_the_child_raises() -> None:
    child = os.fork()
    if not child:
        raise ValueError("in the child")
    os.waitpid(child, 0)


@kind("ok")
def forks_and_the_child_exits() -> None:
    child = os.fork()
    if not child:
        sys.exit(3)
    os.waitpid(child, 0)


@kind("failed")
def forks_and_the_parent_raises() -> None:
    if os.fork():
        raise ValueError("in the parent")
    _forever()


@kind("ok")
def leaves_a_daemon() -> None:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            _forever()
        os._exit(0)


@kind("ok")
def leaves_many_processes() -> None:
    for _ in range(10):
        subprocess.Popen(["sleep", str(LONG_S)], start_new_session=True)


@kind("ok")
def changes_its_session_and_group() -> None:
    with contextlib.suppress(OSError):
        os.setsid()
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)


@kind("ok", "crashed", "timed out")
def asks_to_be_traced() -> None:
    ctypes.CDLL(None).ptrace(0, 0, 0, 0)
    subprocess.run(["true"], check=True)  # whose end is a signal, for which a traced process stops


@kind("ok")
def leaves_a_thread_that_raises() -> None:
    def later() -> None:
        time.sleep(0.05)
        raise ValueError("in a thread")

    threading.Thread(target=later, daemon=True).start()


@kind("ok")
def leaves_an_exit_handler() -> None:
    atexit.register(_forever)


# -- what is raised and returned ------------------------------------------------------------------------------------


@kind("failed")
def recurses_for_ever() -> int:
    return rude_work.recurse(0)


@kind("crashed")
def uses_its_stack_up() -> None:
    rude_work.recurse_in_c()


@kind("failed")
def returns_something_deep() -> object:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


@kind("failed")
def raises_a_long_name() -> None:
    rude_work.raise_named(20 << 20)


@kind("failed")
def raises_without_words() -> None:
    raise rude_work.Unspeakable


class _Awkward(Exception):
    """Does as told when it is printed, pickled or looked at."""

    def __init__(self, how: Callable[[], Any]) -> None:
        self.how = how

    def __str__(self) -> str:
        return str(self.how())

    def __reduce__(self) -> Any:
        return self.how()

    __repr__ = __str__


@kind("failed")
def raises_what_exits_when_printed() -> None:
    raise _Awkward(sys.exit)


@kind("crashed")
def raises_what_ends_the_process_when_printed() -> None:
    raise _Awkward(lambda: os._exit(9))


@kind("timed out")
def raises_what_is_never_printed() -> None:
    raise _Awkward(_forever)


class _Result:
    def __init__(self, how: Callable[[], Any]) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        return self.how()


@kind("failed")
def returns_what_exits_when_pickled() -> object:
    return _Result(sys.exit)


@kind("crashed")
def returns_what_ends_the_process_when_pickled() -> object:
    return _Result(lambda: os._exit(9))


@kind("timed out")
def returns_what_is_never_pickled() -> object:
    return _Result(_forever)


@kind("failed")
def returns_a_lock() -> object:
    return threading.Lock()


@kind("ok")
def returns_more_than_a_message_holds() -> bytes:
    return bytes(64 << 20)


@kind("failed")
def raises_what_dtq_raises() -> None:
    rude_work.raise_own("CannotImport")


@kind("failed")
def imports_what_is_not_there() -> None:
    rude_work.raise_own("ModuleNotFoundError")


@kind("failed")
def raises_surrogates() -> None:
    raise ValueError("\ud800\udfff\x00\x1b[2J\u202e" * 10_000)


@kind("failed")
def raises_a_group_in_a_group() -> None:
    group: Exception = ValueError("inside")
    for _ in range(500):
        group = ExceptionGroup("outside", [group, ValueError("beside")])
    raise group


# -- what it says ---------------------------------------------------------------------------------------------------


@kind("ok")
def floods_with_progress() -> None:
    from dtq.client import current

    for number in range(3_000):
        current._slot.report(float(number), 3_000.0)


@kind("failed")
def says_progress_that_is_none() -> None:
    from dtq import current_task

    current_task().progress(float("nan"), 1.0)


@kind("crashed")
def says_progress_that_cannot_be() -> None:
    from dtq.client import current

    current._slot.report(float("nan"), float("inf"))
    _forever()


@kind("ok")
def floods_its_output() -> None:
    for _ in range(5_000):
        print("\x1b[2J\x00\x07\r" * 10, "\udcff" if not sys.stdout.errors else "")


# -- the interpreter ------------------------------------------------------------------------------------------------


@kind("ok")
def traces_itself() -> None:
    def trace(*_: object) -> None:
        return None

    sys.settrace(trace)
    threading.settrace(trace)
    sys.setprofile(trace)


@kind("ok")
def turns_collection_off() -> None:
    gc.disable()
    gc.freeze()
    gc.set_threshold(0)


@kind("ok", "failed", "crashed", "timed out")
def breaks_the_slots_own_code() -> None:
    from dtq.worker import result_buffer

    result_buffer.ResultBuffer.flush = None  # type: ignore[assignment,method-assign]  # that is the point


@kind("ok", "failed", "crashed", "timed out")
def takes_the_slots_locks() -> None:
    from dtq.worker.channel import Channel

    for thing in gc.get_objects():
        if isinstance(thing, Channel):
            thing._sending.acquire()


@kind("ok", "failed", "crashed", "timed out")
def removes_builtins() -> None:
    for name in ("len", "enumerate", "range", "isinstance", "print", "open"):
        delattr(builtins, name)


@kind("ok", "failed", "crashed", "timed out")
def forgets_all_modules() -> None:
    sys.modules.clear()


@kind("ok")
def replaces_its_streams() -> None:
    class Stream:
        def __getattr__(self, name: str) -> NoReturn:
            raise SystemExit(name)

    sys.stdout = sys.stderr = Stream()  # type: ignore[assignment]  # as tests do


@kind("ok")
def replaces_the_clock() -> None:
    for module in list(sys.modules.values()):
        with contextlib.suppress(Exception):
            if getattr(module, "monotonic", None) is time.monotonic:
                module.monotonic = lambda: 1e18  # type: ignore[attr-defined]  # as freezing libraries do


@kind("ok")
def replaces_its_hooks() -> None:
    sys.excepthook = sys.unraisablehook = threading.excepthook = lambda *_: sys.exit(3)
    sys.setswitchinterval(1000.0)


@kind("ok")
def makes_warnings_errors() -> None:
    warnings.simplefilter("error")


# -- the process ----------------------------------------------------------------------------------------------------


@kind("ok")
def ignores_and_blocks_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


@kind("timed out")
def ignores_signals_and_holds_the_lock() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    ctypes.PyDLL(None).usleep(int(LONG_S * 1e6))


@kind("crashed")
def has_a_dump_end_it() -> None:
    faulthandler.dump_traceback_later(0.05, exit=True)
    _forever()


@kind("crashed")
def has_an_alarm_end_it() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    _forever()


@kind("ok")
def leaves_an_alarm() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    signal.setitimer(signal.ITIMER_PROF, 0.2)


@kind("ok")
def removes_its_directory() -> None:
    place = tempfile.mkdtemp()
    os.chdir(place)
    shutil.rmtree(place)


@kind("ok")
def is_nice() -> None:
    os.umask(0o777)
    os.nice(19)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@kind("ok")
def empties_its_environment() -> None:
    os.environ.clear()


@kind("ok")
def may_open_no_file() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


@kind("ok", "crashed")
def may_write_no_file() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    print("written")


@kind("failed", "crashed")
def may_have_no_memory() -> bytes:
    resource.setrlimit(resource.RLIMIT_AS, (256 << 20, resource.getrlimit(resource.RLIMIT_AS)[1]))
    return bytes(1 << 30)


@kind("timed out")
def sleeps() -> None:
    _forever()


@kind("timed out")
def spins() -> None:
    while True:
        pass


# -- large results --------------------------------------------------------------------------------------------------

#: More than a message holds.
_TOO_MUCH = 20_000_000
_MUCH = 1_000_000


class _Pickled:
    """Does something when it is pickled."""

    def __init__(self, does: Callable[[], Any]) -> None:
        self._does = does

    def __reduce__(self) -> Any:
        self._does()
        return str, ("pickled",)


@kind("ok")
def closes_all_and_returns_much() -> bytes:
    os.closerange(3, 4096)
    return bytes(_MUCH)


@kind("ok")
def has_a_file_in_the_place_of_everything() -> bytes:
    with tempfile.TemporaryFile() as file:
        for descriptor in range(3, 64):
            with contextlib.suppress(OSError):
                os.fstat(descriptor)
                if descriptor != file.fileno():
                    os.dup2(file.fileno(), descriptor)
        return bytes(_MUCH)


@kind("ok")
def forks_while_much_is_pickled() -> list[Any]:
    return [bytes(_MUCH), _Pickled(os.fork), bytes(_MUCH)]


@kind("crashed")
def ends_while_much_is_pickled() -> list[Any]:
    return [bytes(_MUCH), _Pickled(lambda: os._exit(7)), bytes(_MUCH)]


@kind("timed out")
def hangs_while_much_is_pickled() -> list[Any]:
    return [bytes(_MUCH), _Pickled(_forever), bytes(_MUCH)]


@kind("failed")
def cannot_be_pickled_after_much() -> list[Any]:
    return [bytes(_MUCH), threading.Lock()]


@kind("ok")
def may_write_no_file_and_returns_much() -> bytes:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return bytes(_MUCH)


@kind("failed")
def may_write_no_file_and_returns_too_much() -> bytes:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return bytes(_TOO_MUCH)


@kind("ok")
def hides_what_it_returns() -> bytes:
    os.umask(0o777)
    return bytes(_MUCH)


@kind("crashed")
def returns_what_is_not_there() -> bytes:
    return rude_values.lie(_MUCH, "nowhere")


@kind("crashed")
def returns_more_than_is_there() -> bytes:
    return rude_values.lie(_MUCH, "too long")
