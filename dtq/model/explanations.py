"""Explanations: why a task does not run, or why it ended, in the coordinator's sentences."""

from __future__ import annotations

from typing import Annotated

from dtq.model import fields
from dtq.model.fields import ANSWERED
from dtq.model.snapshots import TaskView
from dtq.records import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """A command that helps, and its purpose.

    Attributes:
        command: the command line.
        purpose: its effect, in a few words.
    """

    command: fields.Sentence
    purpose: fields.Sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a task is in its state.

    Attributes:
        task: the task.
        count: how many tasks of its batch are in this state; 1 if one task was asked for.
        reasons: the facts, in sentences, the decisive one first.
        outlook: when it will run, or run again; empty if no moment is known.
        remedies: commands that help.
    """

    task: TaskView
    count: fields.Count = 1
    reasons: Annotated[tuple[fields.Sentence, ...], ANSWERED] = ()
    outlook: fields.Sentence = ""
    remedies: Annotated[tuple[Remedy, ...], ANSWERED] = ()
