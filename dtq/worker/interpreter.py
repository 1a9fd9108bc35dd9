"""The interpreter's process-wide state, as aspects to compare and restore; without system calls.

Worker, in the slot's process. Modules that a task may do without are checked only once they are imported.
"""

from __future__ import annotations

import builtins
import gc
import logging
import socket
import sys
import threading
import warnings
from typing import Any, Final

from dtq.worker.aspects import Aspect

_STREAMS: Final = ("stdin", "stdout", "stderr")
_HOOKS: Final = ("excepthook", "displayhook", "unraisablehook", "breakpointhook")
_threading: Final[Any] = threading
#: The watchers of running code, since Python 3.12.
_watching: Final[Any] = getattr(sys, "monitoring", None)
_warnings: Final[Any] = warnings
_builtins: Final[dict[str, Any]] = vars(builtins)


def _streams() -> tuple[Any, ...]:
    return sys.stdin, sys.stdout, sys.stderr


def _set_streams(right: tuple[Any, ...]) -> None:
    for name, stream in zip(_STREAMS, right, strict=True):
        setattr(sys, name, stream)


def closed_stream() -> str:
    """The name of a closed standard stream; empty for none."""
    for name in _STREAMS:
        if getattr(getattr(sys, name), "closed", False):
            return f"sys.{name}"
    return ""


def _limits() -> tuple[Any, ...]:
    return (
        sys.getrecursionlimit(),
        sys.getswitchinterval(),
        sys.get_int_max_str_digits(),
        threading.stack_size(),
        sys.getdlopenflags(),
        sys.dont_write_bytecode,
    )


def _set_limits(right: tuple[Any, ...]) -> None:
    depth, interval, digits, stack, flags, sys.dont_write_bytecode = right
    sys.setrecursionlimit(depth)
    sys.setswitchinterval(interval)
    sys.set_int_max_str_digits(digits)
    threading.stack_size(stack)
    sys.setdlopenflags(flags)


def _hooks() -> tuple[Any, ...]:
    return (
        sys.excepthook,
        sys.displayhook,
        sys.unraisablehook,
        sys.breakpointhook,
        threading.excepthook,
        sys.get_asyncgen_hooks(),
        sys.get_coroutine_origin_tracking_depth(),
    )


def _set_hooks(right: tuple[Any, ...]) -> None:
    *hooks, threading.excepthook, generators, depth = right
    for name, hook in zip(_HOOKS, hooks, strict=True):
        setattr(sys, name, hook)
    sys.set_asyncgen_hooks(*generators)
    sys.set_coroutine_origin_tracking_depth(depth)


def _tracing() -> tuple[Any, ...]:
    return sys.gettrace(), sys.getprofile(), _threading._trace_hook, _threading._profile_hook, _monitoring()


def _set_tracing(right: tuple[Any, ...]) -> None:
    trace, profile, _threading._trace_hook, _threading._profile_hook, tools = right
    sys.settrace(trace)
    sys.setprofile(profile)
    for tool, (now, before) in enumerate(zip(_monitoring(), tools, strict=True)):
        if now is not None and before is None:
            _end_monitoring(tool)


def _monitoring() -> tuple[Any, ...]:
    return () if _watching is None else tuple(map(_watching.get_tool, range(6)))


def _end_monitoring(tool: int) -> None:
    _watching.set_events(tool, 0)
    for event in (1 << bit for bit in range(20)):
        try:
            _watching.register_callback(tool, event, None)
        except ValueError:
            break  # all events are known
    _watching.free_tool_id(tool)


def _collection() -> tuple[Any, ...]:
    return gc.isenabled(), gc.get_threshold(), gc.get_debug(), gc.callbacks


def _keep_collection(now: tuple[Any, ...]) -> tuple[Any, ...]:
    return *now[:-1], list(now[-1])


def _set_collection(right: tuple[Any, ...]) -> None:
    enabled, threshold, debug, gc.callbacks[:] = right
    gc.set_threshold(*threshold)
    gc.set_debug(debug)
    (gc.enable if enabled else gc.disable)()


def _filters() -> tuple[Any, ...]:
    return warnings.filters, warnings.showwarning, _warnings._showwarnmsg_impl, _warnings.defaultaction


def _keep_filters(now: tuple[Any, ...]) -> tuple[Any, ...]:
    return list(now[0]), *now[1:]


def _set_filters(right: tuple[Any, ...]) -> None:
    filters, warnings.showwarning, _warnings._showwarnmsg_impl, _warnings.defaultaction = right
    _warnings.filters[:] = filters
    changed = getattr(_warnings, "_filters_mutated", None) or _warnings._filters_mutated_lock_held
    changed()


def _program() -> tuple[Any, ...]:
    main = sys.modules.get("__main__")
    # A program's module keeps its variables, like other modules; a slot's empty one has none.
    return sys.argv, main, vars(main) if main is not None and not hasattr(main, "__file__") else None


def _set_program(right: tuple[Any, ...]) -> None:
    arguments, main, variables = right
    sys.argv = list(arguments)
    sys.modules["__main__"] = main
    if variables is not None:
        vars(main).clear()
        vars(main).update(variables)


def _keep_program(now: tuple[Any, ...]) -> tuple[Any, ...]:
    arguments, main, variables = now
    return list(arguments), main, None if variables is None else dict(variables)


def _set_path(right: list[str]) -> None:
    sys.path[:] = right


class _Finders:
    """The finders of modules. The first import of a module may add a finder (six does), which must stay."""

    def __init__(self) -> None:
        self._modules = set(sys.modules)

    def __call__(self) -> tuple[Any, ...]:
        return sys.meta_path, sys.path_hooks

    def put_back(self, right: tuple[Any, ...]) -> None:
        """Restore them, except those that new modules have added."""
        for now, before in zip(self(), right, strict=True):
            brought = [finder for finder in now if finder not in before and self._is_new(finder)]
            before[:0] = brought
            now[:] = before
        self._modules = set(sys.modules)

    def keep(self, now: tuple[Any, ...]) -> tuple[Any, ...]:
        """A copy."""
        self._modules = set(sys.modules)
        return tuple(map(list, now))

    def _is_new(self, finder: Any) -> bool:
        owner = finder if isinstance(finder, type) or hasattr(finder, "__qualname__") else type(finder)
        name = getattr(owner, "__module__", None)
        return name in sys.modules and name not in self._modules

    def aspect(self) -> Aspect:
        """The aspect of them."""
        return Aspect(name="its import hooks", look=self, put_back=self.put_back, keep=self.keep)


def _logging() -> tuple[Any, ...]:
    root = logging.root
    return root.level, root.disabled, root.handlers, root.filters, root.manager.disable, logging.getLoggerClass()


def _keep_logging(now: tuple[Any, ...]) -> tuple[Any, ...]:
    level, disabled, handlers, filters, *rest = now
    return level, disabled, list(handlers), list(filters), *rest


def _set_logging(right: tuple[Any, ...]) -> None:
    root = logging.root
    level, root.disabled, handlers, filters, below, kind = right
    root.handlers[:] = handlers
    root.filters[:] = filters
    logging.disable(below)
    logging.setLoggerClass(kind)
    root.setLevel(level)  # which also clears the levels that loggers have cached


def _loop() -> tuple[Any, ...]:
    """The policy of event loops, its loop for this thread, and the running loop."""
    events: Any = sys.modules.get("asyncio.events")
    if events is None:
        return None, None, False, None
    policy = events._event_loop_policy
    local = getattr(policy, "_local", None)
    return policy, getattr(local, "_loop", None), getattr(local, "_set_called", False), events._get_running_loop()


def _set_loop(right: tuple[Any, ...]) -> None:
    """The task's loop is not closed: a module's variable may keep it, for later use."""
    events: Any = sys.modules["asyncio.events"]
    events._event_loop_policy, loop, set_called, running = right
    events._set_running_loop(running)
    local = getattr(events._event_loop_policy, "_local", None)
    if local is not None:
        local._loop, local._set_called = loop, set_called


def _methods() -> Any:
    """multiprocessing's start method, if set."""
    context: Any = sys.modules.get("multiprocessing.context")
    return None if context is None else context._default_context._actual_context


def _set_methods(right: Any) -> None:
    context: Any = sys.modules["multiprocessing.context"]
    context._default_context._actual_context = right


def _is_traced() -> bool:
    module: Any = sys.modules.get("tracemalloc")
    return False if module is None else bool(module.is_tracing())


def _set_traced(right: bool) -> None:
    module: Any = sys.modules["tracemalloc"]
    (module.start if right else module.stop)()


#: The unchanged template of decimal contexts, from which `decimal.Context` is made.
_USUAL_DECIMALS: Final = (28, "ROUND_HALF_EVEN", -999_999, 999_999, 1, 0)


def _decimals() -> tuple[Any, ...]:
    """The template of new decimal contexts; a task's context is its own."""
    module: Any = sys.modules.get("decimal")
    return _USUAL_DECIMALS if module is None else tuple(module.DefaultContext.__reduce__()[1][:6])


def _set_decimals(right: tuple[Any, ...]) -> None:
    default = sys.modules["decimal"].DefaultContext
    default.prec, default.rounding, default.Emin, default.Emax, default.capitals, default.clamp = right


def _set_builtins(right: dict[str, Any]) -> None:
    for name in _builtins.keys() - right.keys():
        del _builtins[name]
    _builtins.update(right)


def aspects() -> tuple[Aspect, ...]:
    """Aspects that cost next to nothing to check, for the process in its present state."""
    return (
        Aspect(name="sys.stdin, sys.stdout or sys.stderr", look=_streams, put_back=_set_streams),
        Aspect(name="its limits of the interpreter", look=_limits, put_back=_set_limits),
        Aspect(name="its hooks", look=_hooks, put_back=_set_hooks),
        Aspect(name="its tracing", look=_tracing, put_back=_set_tracing),
        Aspect(name="its garbage collection", look=_collection, put_back=_set_collection, keep=_keep_collection),
        Aspect(
            name="its default time-out of sockets", look=socket.getdefaulttimeout, put_back=socket.setdefaulttimeout
        ),
        Aspect(name="its warning filters", look=_filters, put_back=_set_filters, keep=_keep_filters),
        Aspect(name="sys.path", look=lambda: sys.path, put_back=_set_path, keep=list),
        _Finders().aspect(),
        Aspect(name="sys.argv or __main__", look=_program, put_back=_set_program, keep=_keep_program),
        Aspect(name="its root logger", look=_logging, put_back=_set_logging, keep=_keep_logging, quiet=True),
        Aspect(name="its event loop", look=_loop, put_back=_set_loop, quiet=True),
        Aspect(name="its way to start processes", look=_methods, put_back=_set_methods, quiet=True),
        Aspect(name="its tracing of memory", look=_is_traced, put_back=_set_traced),
    )


def slower_aspects() -> tuple[Aspect, ...]:
    """Aspects that cost some microseconds each."""
    return (
        Aspect(name="its builtins", look=lambda: _builtins, put_back=_set_builtins, keep=dict),
        Aspect(name="its decimal contexts", look=_decimals, put_back=_set_decimals),
    )
