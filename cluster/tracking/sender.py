"""The thread that has a run's metrics and files sent to MLflow, so that no step waits for it."""

import logging
import shlex
import threading

from cluster.files.storage import without_credentials
from cluster.settings import UserError
from cluster.tracking.account import Account, Note, Trouble, is_waiting
from cluster.tracking.apart import Apart
from cluster.tracking.delivery import Delivery
from cluster.tracking.store import REQUEST_S, UNANSWERED

SEND_INTERVAL_S = 1.0
LONGEST_WAIT_S = 30.0
LAST_REQUEST_S = 2.0 * REQUEST_S + 1
"""How long a run that ends waits for a request that is under way when the time to send is over."""
_log = logging.getLogger(__name__)


class Sender(threading.Thread):
    """Has sent what MLflow lacks, waiting longer after every failure; a daemon, so it never keeps a process alive.

    Args:
        account: of the run.
        send: `Delivery` sends from this thread, `Apart` from a process of its own, for which this thread only waits.
        system_metrics_s: seconds between samples of the machine's load; 0 = none.
    """

    def __init__(
        self, account: Account, send: type[Delivery] | type[Apart] = Delivery, system_metrics_s: float = 0.0
    ) -> None:
        super().__init__(name="tracking", daemon=True)
        self._account = account
        self._delivery = send(account.folder, account.snapshot(), system_metrics_s)
        self._ending, self._over = threading.Event(), self._delivery.over
        self._trouble: Trouble | None = None

    def run(self) -> None:
        """Send until everything is sent after the end was announced, or the time is over."""
        wait_s = SEND_INTERVAL_S
        while not self._over.is_set():
            ending = self._ending.is_set()
            last = self._round()
            if "trouble" in last:
                self._note(last["trouble"])
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
                self._over.wait(SEND_INTERVAL_S) if ending else self._ending.wait(wait_s)
                continue
            self._trouble, wait_s = None, SEND_INTERVAL_S
            if last.get("done"):
                if ending:
                    return
                self._ending.wait(wait_s)  # at once when the run ends

    def finish(self, wait_s: float) -> bool:
        """Stop once everything is sent or the time is over, and close the account either way.

        A request under way is let end, or two senders might make the run twice. One that outlives even its own
        time-out is left alone, and where it is another process's that is killed: what it brings will be sent again,
        which changes nothing.

        Returns:
            Whether MLflow has everything; a warning says where the rest waits, and the remedy.
        """
        self._ending.set()
        self.join(wait_s)
        self._over.set()
        self.join(LAST_REQUEST_S)
        self._delivery.close()
        self._account.close()
        folder, state = self._account.folder, self._account.state
        if state["skipped"]:
            left_out = ", ".join(f"{name} ({count})" for name, count in state["skipped"].items())
            _log.warning("%s: MLflow takes no such values, they are left out: %s", folder.parent, left_out)
        try:
            waiting = is_waiting(folder.parent)
        except (OSError, UserError):
            waiting = True
        if waiting:
            _log.warning(
                "%s takes nothing (%s): parts of the run's log wait in %s; %s, then: counterpoint replay %s",
                without_credentials(state["uri"]),
                self._trouble["text"] if self._trouble else "it has not answered yet",
                folder,
                self._trouble["remedy"] if self._trouble else UNANSWERED,
                shlex.quote(str(folder.parent)),
            )
        return not waiting

    def _round(self) -> Note:
        """Send what there is now, and take down what became of it; the last note."""
        note = Note()
        for note in self._delivery.round(self._account.snapshot()):
            if not self._account.take(note):  # a request outlived the run's end
                break
        return note

    def _note(self, trouble: Trouble) -> None:
        """Keep why nothing is sent. A refusal is logged at once; that nobody answers, at the run's start."""
        if self._trouble is None and trouble["refusal"]:
            uri = without_credentials(self._account.state["uri"])
            _log.warning("%s takes nothing now (%s); %s", uri, trouble["text"], trouble["remedy"])
        self._trouble = trouble
