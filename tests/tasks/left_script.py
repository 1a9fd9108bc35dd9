"""A program that leaves behind in its own process whatever tasks may, and puts it back without looking at the rest."""

from __future__ import annotations

import faulthandler
import importlib
import sys

from dtq.worker.contexts import new_contexts
from dtq.worker.process_state import ProcessState, Spoilt
from dtq.worker.setters import Setters


def main(kinds: list[str]) -> None:
    """For each kind, say what is not as it was."""
    setters = Setters()
    setters.watch()
    faulthandler.enable()
    left_work = importlib.import_module("left_work")  # as user code is: after the functions have been wrapped
    setters.watch_imported()
    surroundings = ProcessState(keep_processes=False, setters=setters)
    new = new_contexts()
    right = new().run(left_work.find)
    surroundings.restore(everything=True)
    for kind in kinds:
        new().run(left_work.leave, kind)
        try:
            surroundings.restore(touched=True)
        except Spoilt as spoilt:
            print(f"{kind}: {spoilt}")
            continue
        found = new().run(left_work.find)
        for name in right:
            if found[name] != right[name]:
                print(f"{kind}: {name} is {found[name]}, not {right[name]}")
        surroundings.restore(everything=True)
    print("done")


main(sys.argv[1:])
