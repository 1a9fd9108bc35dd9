"""References to functions: the client makes one from a function, the slot finds the function by it.

Client, below `sync`; the worker's slot uses the other half. An importable function travels as ``module:qualname``,
after a check that this name leads back to the same object. Any other callable travels by value: bound methods and
partials of importable objects as plain pickles, lambdas, closures and functions of ``__main__`` through cloudpickle
(extra ``closures``). Each submission takes a fresh copy of a function by value, with the variables that the function
sees.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import pickle
import sys
import weakref
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from dtq.client import references
from dtq.client.by_value import MAINS, THIS_PYTHON, sentence
from dtq.client.payloads import (
    MAIN,
    PICKLE,
    EncodeCall,
    call_encoder,
    cloudpickle_dumps,
    decode_call,
    decode_result,
    encode_call,
    encode_result,
)
from dtq.client.tasks import Note, note_of, registered
from dtq.client.terms import NO_TERMS, Attribution, Terms, attribution_of, exception_name
from dtq.errors import (
    CannotImport,
    CannotPickle,
    CannotUnpickle,
    NotImportable,
    NotRegistered,
    OtherPython,
    ValueDamaged,
    ValueGone,
)
from dtq.model.fields import MAX_NAME
from dtq.model.options import Function, FunctionKind, Spec
from dtq.model.values import is_description, rest
from dtq.records import replace
from dtq.values.base import Values
from dtq.wording import PYTHON_VERSION

__all__ = [
    "Callee",
    "callee",
    "cannot_import",
    "decode_call",
    "decode_result",
    "encode_call",
    "encode_result",
    "exception_name",
    "reference",
    "resolve",
]

#: First line of a plain pickle; `THIS_PYTHON` of one that only the same minor version of Python can read.
ANY_PYTHON: Final = b"any\n"
#: First line of a function of a source bundle (`source_bundles`): the bundle's digest and ``module:qualname`` follow.
BUNDLE: Final = b"bundle\n"
#: Most remembered terms of one function.
_MAX_SPECS: Final = 1024


class Callee:
    """The client's knowledge of a function: its reference, its own terms, and the specs it was submitted with.

    Attributes:
        function: its reference.
        encode: encodes its calls.
        by_value: whether it must be pickled anew for every submission.
        large: whether its last call was so large that it became a value: the next one is likely to be, too.
    """

    __slots__ = ("__weakref__", "_below", "_plain", "_specs", "by_value", "encode", "function", "large")

    def __init__(self, function: Function, note: Note | None) -> None:
        self.function = function
        self.encode: EncodeCall = call_encoder(function.kind)
        self.by_value = function.kind is FunctionKind.VALUE
        self.large = False
        #: Its own terms.
        self._below = NO_TERMS if note is None else note.terms
        self._specs: dict[tuple[Any, ...], Spec] = {}
        #: By depth, the result of `called` if no terms are given.
        self._plain: dict[int, tuple[Spec, Attribution | None]] = {}

    def spec(self, terms: Terms, depth: int = 0) -> Spec:
        """The spec of a submission under (hashable) terms; the same object for the same terms.

        Args:
            terms: the given ones.
            depth: number of submitting tasks above it.

        Raises:
            InvalidValue: one of the terms is invalid.
        """
        key: tuple[Any, ...] = (terms, depth)
        if terms is not NO_TERMS and any([term is True or term is False for term in terms]):
            key = (terms, depth, *map(type, terms))  # True equals 1, but is not valid everywhere that 1 is
        found = self._specs.get(key)
        if found is not None:
            return found
        options = terms.over(self._below).options()
        spec = Spec(function=self.function, options=replace(options, depth=depth) if depth else options)
        if len(self._specs) >= _MAX_SPECS:
            self._specs.clear()
        self._specs[key] = spec
        return spec

    def over(self, terms: Terms) -> Terms:
        """The given terms; where unset, its own."""
        return terms if self._below is NO_TERMS else terms.over(self._below)

    def called(self, terms: Terms, depth: int = 0) -> tuple[Spec, Attribution | None]:
        """The spec of a submission without limits and label, and these: so those that differ in them share one.

        Args:
            terms, depth: as for `spec`.

        Raises:
            InvalidValue: as for `spec`.
        """
        if terms is NO_TERMS and (found := self._plain.get(depth)) is not None:
            return found
        attribution = attribution_of(terms.over(self._below) if self._below is not NO_TERMS else terms)
        if attribution is None:
            found = self.spec(terms, depth), None
        else:
            found = self.spec(terms._replace(limits=(), label=""), depth), attribution
        if terms is NO_TERMS:
            self._plain[depth] = found
        return found


#: Known functions, by identity, as long as they live.
_known: Final[dict[int, tuple[weakref.ref[Any], Callee]]] = {}


def callee(function: Callable[..., Any] | str | Function) -> Callee:
    """The client's knowledge of a function: gathered once for its life, unless it travels by value.

    Args:
        function: the function; or ``module:qualname`` or a registered name, for a function that need not exist here:
            its own terms are then looked up by `declared_terms`.

    Raises:
        NotImportable: the function can travel neither by name nor by value.
        InvalidValue: the name is malformed.
        TypeError: the function cannot be called.
    """
    entry = _known.get(id(function))
    if entry is not None and entry[0]() is function and not entry[1].by_value:
        return entry[1]
    return _look_at(function, None if entry is None or entry[0]() is not function else entry[1])


def _look_at(function: Callable[..., Any] | str | Function, before: Callee | None) -> Callee:
    if isinstance(function, str):
        own = _of_own_bundle(function)
        if own is not None:
            return Callee(own, note_of(_attribute(function)))
        kind = FunctionKind.IMPORT if ":" in function else FunctionKind.REGISTERED
        return _named(Function(kind=kind, name=function))
    if isinstance(function, Function):
        return Callee(function, None) if function.body else _named(function)
    fresh = _reference(function)
    if before is not None and before.function == fresh:
        return before
    known = Callee(fresh, note_of(function))
    key = id(function)
    forget = _known.pop  # at exit, the module's names may be gone before the last functions are

    def forgotten(_: object) -> None:
        forget(key, None)

    with contextlib.suppress(TypeError):  # an object without weak references is checked every time
        _known[key] = weakref.ref(function, forgotten), known
    return known


@functools.lru_cache(maxsize=1024)
def _named(function: Function) -> Callee:
    from dtq.client.declared_terms import declared_terms  # it reads sources; most programs do not need it

    return Callee(function, Note(name=None, terms=declared_terms(function)))


def reference(function: Callable[..., Any] | str | Function) -> Function:
    """The reference to a function.

    Raises:
        NotImportable: it can travel neither by name nor by value.
        InvalidValue: it was given as a name, which is malformed.
        TypeError: it cannot be called.
    """
    return callee(function).function


def _reference(function: Callable[..., Any]) -> Function:
    if not callable(function):
        raise TypeError(f"a task is a function, not {type(function).__name__} (pass its arguments after it)")
    note = note_of(function)
    if note is not None and note.name is not None:
        return Function(kind=FunctionKind.REGISTERED, name=note.name)
    problem = _problem(function)
    if not problem:
        name = f"{function.__module__}:{function.__qualname__}"
        return _of_own_bundle(name) or Function(kind=FunctionKind.IMPORT, name=name)
    name = _shown(function)
    return Function(kind=FunctionKind.VALUE, name=name[:MAX_NAME], body=_by_value(function, name, problem))


def _shown(function: Callable[..., Any]) -> str:
    """A name for people."""
    if isinstance(function, functools.partial):
        return f"partial:{_shown(function.func)}"
    owner = function if hasattr(function, "__qualname__") else type(function)
    return f"{getattr(owner, '__module__', None) or 'builtins'}:{owner.__qualname__}"


def _problem(function: Callable[..., Any]) -> str:
    """Why a function does not travel by name; empty if it does."""
    module = getattr(function, "__module__", None)
    qualname = getattr(function, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(qualname, str) or not qualname:
        return "it has no name of its own"
    if module in MAINS:
        return "it is defined in the main program, which workers do not have"
    if "<lambda>" in qualname:
        return "it is a lambda"
    if "<locals>" in qualname:
        return "it is defined inside a function"
    try:
        found: Any = sys.modules.get(module) or importlib.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return f"there is no {qualname} in the module {module}"
    # A class method is a new object at each look-up, but equal.
    same = found is function or (type(found) is type(function) and bool(found == function))
    return "" if same else f"{qualname} of the module {module} is something else"


def _by_value(function: Callable[..., Any], name: str, problem: str) -> bytes:
    """The body of a function that travels by value; a description around it, if it contains references."""
    if not references.made:
        return _pickled(function, name, problem)
    try:
        return references.encoding(lambda: _pickled(function, name, problem))
    except CannotPickle as error:
        raise NotImportable(name, f"{problem}, and {error}", "") from error


def _pickled(function: Callable[..., Any], name: str, problem: str) -> bytes:
    try:
        body = pickle.dumps(function, PICKLE)
        if MAIN not in body:
            return ANY_PYTHON + body
    except Exception:  # noqa: BLE001 - pickling runs code of what is pickled; cloudpickle takes more
        pass
    dumps = cloudpickle_dumps()
    if dumps is None:
        raise NotImportable(name, problem, NotImportable.closures)
    try:
        return THIS_PYTHON + dumps(function, PICKLE)
    except Exception as error:
        raise NotImportable(name, f"{problem}, and cannot be pickled: {sentence(error)}", "") from error


# -- in the slot ----------------------------------------------------------------------------------------------------


def resolve(function: Function, where: str = "this worker", values: Values | None = None) -> Callable[..., Any]:
    """The function behind a reference, imported or unpickled in this process.

    Args:
        function: the reference.
        where: this worker, for the error's sentence.
        values: to read it, if it is large and came by value.

    Raises:
        CannotImport: its module cannot be imported here, or has no callable of that name.
        NotRegistered: it is a task type that is not registered here.
        CannotUnpickle: it came by value, and cannot be unpickled here.
        ValueGone, ValueDamaged: it came by value, and cannot be read.
    """
    if function.kind is FunctionKind.VALUE:
        if is_description(function.body) and rest(function.body).startswith(BUNDLE):
            return _of_bundle(function, where, values)
        return _unpickled(function, values)
    if function.kind is FunctionKind.REGISTERED:
        handler = registered(function.name)
        if handler is None:
            raise NotRegistered(function.name, where)
        return handler
    return _imported(function.name, where)


def cannot_import(name: str, where: str, why: str | BaseException) -> CannotImport:
    """The error for a failed import, with this process's Python and path.

    Args:
        name: the function's.
        where: this worker.
        why: the reason; or the import's exception.
    """
    reason = why if isinstance(why, str) else sentence(why)
    return CannotImport(name, where, reason, PYTHON_VERSION, str(sys.path))


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        importlib.invalidate_caches()  # it may have been written a moment ago
        return importlib.import_module(module)


def _imported(name: str, where: str) -> Callable[..., Any]:
    module, _, qualname = name.partition(":")
    try:
        found: Any = _import(module)
    except BaseException as error:  # many a script without a guard ends with sys.exit()
        raise cannot_import(name, where, error) from error
    try:
        for part in qualname.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        place = getattr(sys.modules.get(module), "__file__", None) or "built in"
        raise cannot_import(name, where, f"the module {module} ({place}) has no {qualname}") from error
    if not callable(found):
        raise cannot_import(name, where, f"{qualname} is {type(found).__name__}, which cannot be called")
    resolved: Callable[..., Any] = found
    return resolved


class _OwnBundle(NamedTuple):
    """The source bundle of this process.

    Attributes:
        tops: the names of its modules, without what is below them.
        body: of its functions, up to the name.
    """

    tops: frozenset[str]
    body: bytes


#: Set in a slot that runs the code of a source bundle: what its tasks submit travels with that, too.
_own_bundle: _OwnBundle | None = None


def _of_own_bundle(name: str) -> Function | None:
    """The function of a name, if this process has its module from a source bundle."""
    if _own_bundle is None or name.partition(":")[0].partition(".")[0] not in _own_bundle.tops:
        return None
    return Function(kind=FunctionKind.VALUE, name=name, body=_own_bundle.body + name.encode())


def _attribute(name: str) -> Any:
    """What this process has imported under a name; None if it has not."""
    module, _, qualname = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _of_bundle(function: Function, where: str, values: Values | None) -> Callable[..., Any]:
    global _own_bundle
    from dtq.client import unpacking  # few slots ever need it

    try:
        with unpacking.entered(function, values) as (name, tops):
            _own_bundle = _OwnBundle(tops, function.body.removesuffix(name.encode()))
            return _imported(name, where)
    except OSError as error:
        raise cannot_import(function.name, where, error) from error


def _unpickled(function: Function, values: Values | None) -> Callable[..., Any]:
    try:
        if is_description(function.body):
            found = references.decode(
                function.body, values, function.name, lambda body, _: _loaded(function.name, body)
            )
        else:
            found = _loaded(function.name, function.body)
    except (CannotUnpickle, ValueGone, ValueDamaged):
        raise
    except BaseException as error:  # as above
        raise CannotUnpickle(function.name, f"{sentence(error)}, with sys.path {sys.path}") from error
    if not callable(found):
        raise CannotUnpickle(function.name, f"it is {type(found).__name__}, which cannot be called")
    resolved: Callable[..., Any] = found
    return resolved


def _loaded(name: str, body: bytes) -> Any:
    python, _, body = body.partition(b"\n")
    python += b"\n"
    if python not in (ANY_PYTHON, THIS_PYTHON):
        sent = python.decode("ascii", "replace").strip()
        raise OtherPython(name, sent, PYTHON_VERSION)
    if python == THIS_PYTHON and cloudpickle_dumps() is None:
        raise CannotUnpickle(name, "it was sent by value, which needs the extra dtq[closures] here too")
    return pickle.loads(body)
