"""MLflow's pages on this machine: what `counterpoint ui` starts."""

import importlib.util
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from cluster.settings import RunError, UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
TRAINING_PAGES = "workflowType=machine_learning"
"""Without it MLflow opens its pages for chats and traces."""
START_TIMEOUT_S = 300.0


def ui_command(store: str, *, host: str = "127.0.0.1", port: int = 5000) -> list[str]:
    """The server's command line: one worker (a quarter of the memory of the default four), loopback unless guarded.

    Args:
        store: SQLite or PostgreSQL URI of the runs, such as sqlite:////home/ann/outputs/mlflow.db.
        host: address to listen on; another than loopback needs MLFLOW_AUTH_ADMIN_PASSWORD and mlflow[auth].
        port: to listen on.

    Raises:
        UserError: if the pages would be open to others without a password.
    """
    guard: list[str] = []
    if host not in LOOPBACK:
        if not os.environ.get("MLFLOW_AUTH_ADMIN_PASSWORD") or importlib.util.find_spec("flask_wtf") is None:
            raise UserError(
                f"--host {host} would show every run to whoever reaches this machine; set MLFLOW_AUTH_ADMIN_PASSWORD "
                "and `pip install 'mlflow[auth]'`, or stay on 127.0.0.1 and use `ssh -L`"
            )
        guard = ["--app-name", "basic-auth"]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
    return [*command, "--host", host, "--port", str(port), "--workers", "1", *guard]


def serve_ui(store: str, *, host: str = "127.0.0.1", port: int = 5000, show: Callable[[str], None] = print) -> int:
    """Serve until Ctrl-C; ``show`` is given the URL once the pages are there.

    Returns:
        0 after Ctrl-C or SIGTERM.

    Raises:
        UserError: if ``store`` is a server already, holds no runs, or the port is taken.
        RunError: if the server does not come up.
    """
    if store.startswith("http"):
        raise UserError(f"the runs are on a server already: open {store}")
    path = store.removeprefix("sqlite:///")
    if path != store and not Path(path).exists():
        raise UserError(f"{path}: no runs yet; start one, or name another folder")
    _free(host, port)
    quiet = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_LOGGING_LEVEL": "WARNING"}
    command = ui_command(store, host=host, port=port)
    silent = subprocess.DEVNULL
    server = subprocess.Popen(command, env=os.environ | quiet, stdout=silent, stderr=silent, start_new_session=True)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        _wait(server, command, host, port)
        show(f"http://{host}:{port}/#/experiments?{TRAINING_PAGES}")
        server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()
    raise RunError(f"the MLflow server ended with code {server.returncode}; try: {shlex.join(command)}")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"port {port} of {host}: {error.strerror}; choose another: --port {port + 1}") from None


def _wait(server: subprocess.Popen[bytes], command: list[str], host: str, port: int) -> None:
    """MLflow needs about ten seconds to answer, minutes on a machine that is busy."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection((host, port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RunError(f"the MLflow server did not start (code {server.poll()}); try: {shlex.join(command)}")
