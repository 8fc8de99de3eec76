"""The lanes of a plan: each carries its steps out one after the other, and undoes each of them."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import psycopg

from harness.chaos.board import Board, class_of, is_expected, words_of
from harness.chaos.model import Done, Lane, Step
from harness.chaos.refreshers import SchedulerProcess
from harness.errors import BadInputError, EnvironmentMissingError, HarnessError, WaitTimeoutError
from harness.faults import Fault, Site

# What a `DeadlineConnection` waits for: the server did not answer, and nothing more.
ANSWER_LABEL = "an answer from the server"
# Makes what a step does, for a block; yields it in words.
Make = Callable[[Step, random.Random], AbstractContextManager[str]]


class NotHereError(Exception):
    """This step can't be done on this machine or server."""


class LanePlayer(threading.Thread):
    """Carries out the steps of one lane.

    Args:
        lane: which.
        steps: in the order of time.
        make: does a step.
        board: shared by all.
    """

    def __init__(self, lane: Lane, steps: Sequence[Step], make: Make, board: Board) -> None:
        super().__init__(name=f"chaos {lane}", daemon=True)
        self._steps = steps
        self._make = make
        self._board = board

    def run(self) -> None:
        """The thread's work; never raises."""
        for step in self._steps:
            if self._board.stopping.wait(max(0.0, step.at_s - self._board.now_s())):
                return
            self._play(step)

    def _play(self, step: Step) -> None:
        at_s, target, outcome, detail = self._board.now_s(), "", "done", ""
        with self._board.active(step):
            try:
                with self._make(step, random.Random(step.chance)) as target:  # noqa: S311 - no secret
                    self._board.stopping.wait(step.lasts_s)
            except NotHereError as error:
                outcome, detail = "not here", str(error)
            except (HarnessError, psycopg.Error) as error:
                outcome, detail = "failed", f"{class_of(error)}: {words_of(error)}"
                if isinstance(error, WaitTimeoutError) and error.label != ANSWER_LABEL:
                    # Undoing goes on for a minute: what was not undone by then is no longer the cluster that it was.
                    self._board.trouble("not_undone", f"{step.lane} {step.kind}", detail)
                elif (
                    not is_expected(error, (*self._board.kinds_since(at_s), step.kind), is_client=True)
                    and step.lane is Lane.DDL
                ):
                    self._board.trouble("unexpected_error", f"{step.lane} {step.kind}", detail)
            except Exception as error:  # a bug of ours: the others go on, and the run fails
                outcome, detail = "broken", f"{class_of(error)}: {words_of(error)}"
                self._board.bug(f"{step.lane} {step.kind}", error)
        self._board.add_done(Done(step, at_s, self._board.now_s(), target, outcome, detail))


def fault_maker(site: Site, faults: Mapping[str, Fault]) -> Make:
    """Does steps by the registry of faults; the step's own chance chooses the target."""
    # A link that is put in for a fault changes the worker's address: not while workers come and go.
    addresses = threading.Lock()

    @contextlib.contextmanager
    def make(step: Step, chance: random.Random) -> Iterator[str]:
        fault = faults[step.kind]
        try:
            applies = fault.applies(site)
        except (psycopg.Error, HarnessError):  # it asks the server, which may be gone just now
            applies = True
        if not applies:
            raise NotHereError(fault.about)
        try:
            with contextlib.ExitStack() as stack:
                is_shape = step.lane is Lane.SHAPE and step.kind.startswith("worker_")
                if is_shape or (step.kind.startswith("link_") and not site.links):
                    stack.enter_context(addresses)
                yield stack.enter_context(fault.inject(site, chance))
        except (EnvironmentMissingError, BadInputError) as error:
            raise NotHereError(error.message) from error

    return make


def scheduler_maker(scheduler: SchedulerProcess) -> Make:
    """Does steps to the scheduler; it runs again at the end of each."""

    @contextlib.contextmanager
    def make(step: Step, _chance: random.Random) -> Iterator[str]:
        {
            "scheduler_stopped": scheduler.stop,
            "scheduler_killed": scheduler.kill,
            "scheduler_frozen": scheduler.freeze,
        }[step.kind]()
        try:
            yield "harness scheduler run"
        finally:
            scheduler.thaw()
            scheduler.start()

    return make
