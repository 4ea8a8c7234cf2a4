"""MLflow's pages on this machine: what `counterpoint ui` starts."""

import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil

from cluster.files.storage import without_credentials
from cluster.processes.supervise import supervised
from cluster.settings import RunError, UserError
from cluster.tracking.config import connection_uri, store_file
from cluster.tracking.pages import start_page
from cluster.tracking.store import require_store

LOOPBACK = ("127.0.0.1", "localhost", "::1")
START_TIMEOUT_S = 300.0
HEALTH_TIMEOUT_S = 5.0
ANYWHERE = ("0.0.0.0", "::")
SHORTEST_PASSWORD = 12
LEAN = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # Jobs are of its pages for chats; their runners would be nine processes and two GiB more.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
"""Environment of the server."""
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""A proxy of the environment is not asked for a page of this machine."""
SERVED_VARIABLE = "MLFLOW_BACKEND_STORE_URI"
"""Tells the server its store: that of a database may hold a password, which a command line would show to everyone."""


def ui_command(*, host: str = "127.0.0.1", port: int = 5000) -> list[str]:
    """The server's command line: one worker (a quarter of the memory of the default four), loopback unless guarded.

    Its store stands in `SERVED_VARIABLE`.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    if host in LOOPBACK:
        return command
    names = [f"{_in_url(name)}:{port}" for name in _own_names(host)]  # MLflow answers 403 to a name it does not know
    origins = [f"http://{name}" for name in names]
    guard = ["--app-name", "basic-auth", "--allowed-hosts", ",".join(names)]
    return [*command, *guard, "--cors-allowed-origins", ",".join(origins)]


def serve_ui(store: str, *, host: str = "127.0.0.1", port: int = 5000) -> int:
    """Serve until Ctrl-C; print the URL once the pages are there.

    ``store`` is the SQLite or PostgreSQL URI of the runs, such as sqlite:////home/ann/outputs/mlflow.db.

    On another address than loopback the pages ask for the user ``admin`` and the password of
    MLFLOW_AUTH_ADMIN_PASSWORD; where that is not set one is made and kept in ``ui_password`` beside the store.

    Returns:
        0 after Ctrl-C or SIGTERM.

    Raises:
        UserError: if ``store`` is a server already, holds no runs, the port is taken, or the password is too short.
        RunError: if the server does not come up.
    """
    if store.startswith("http"):
        raise UserError(f"the runs are on a server already: open {without_credentials(store)}")
    require_store(store)
    path = store_file(store)
    if path is not None and not path.exists():
        raise UserError(f"{path}: no runs yet; start one, or name another folder")
    _free(host, port)
    beside = path.parent if path is not None else Path.cwd()
    with tempfile.TemporaryDirectory(prefix="counterpoint-ui-") as folder:
        guard = {} if host in LOOPBACK else _guard(beside, Path(folder))
        served = {SERVED_VARIABLE: connection_uri(store)}
        return _serve(ui_command(host=host, port=port), guard | served, (host, port))


def _guard(beside: Path, folder: Path) -> dict[str, str]:
    """Environment of a guarded server: its secrets travel there, where other users cannot read them.

    Its table of users lives as long as the server, so that the password is always the one that was given now.
    """
    password = os.environ.get("MLFLOW_AUTH_ADMIN_PASSWORD")
    if password is None:
        file = beside / "ui_password"
        if not file.exists():
            file.touch(mode=0o600)
            file.write_text(secrets.token_urlsafe(18), encoding="ascii")
        file.chmod(0o600)
        password = file.read_text(encoding="ascii").strip()
        print(f"user admin, password in {file}")
    if len(password) < SHORTEST_PASSWORD:
        raise UserError(f"the password of the pages has {len(password)} characters; take {SHORTEST_PASSWORD} or more")
    config = folder / "auth.ini"
    config.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder / 'users.db'}\n"
        "admin_username = admin\nauthorization_function = mlflow.server.auth:authenticate_request_basic_auth\n",
        encoding="utf-8",
    )
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
    }


def _serve(command: list[str], secret: dict[str, str], place: tuple[str, int]) -> int:
    silent, (host, port) = subprocess.DEVNULL, place
    environment = os.environ | LEAN | secret
    by_hand = f"{SERVED_VARIABLE}={without_credentials(secret[SERVED_VARIABLE])} {shlex.join(command)}"
    server = subprocess.Popen(
        supervised(command), env=environment, stdout=silent, stderr=silent, start_new_session=True
    )
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _wait(server, by_hand, host, port)
        print(start_page(page_address(host, port)))
        server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)
        if server.poll() is None:
            server.terminate()  # its supervisor ends all of them
            server.wait()
    raise RunError(f"the MLflow server ended with code {server.returncode}; try: {by_hand}")


def page_address(host: str, port: int) -> str:
    """The address of the pages, which a browser may open: MLflow answers 403 to ``http://0.0.0.0``."""
    return f"http://{_in_url(socket.gethostname() if host in ANYWHERE else host)}:{port}"


def _own_names(host: str) -> list[str]:
    """What a browser may write for this machine."""
    if host not in ANYWHERE:
        return [host, socket.gethostname(), socket.getfqdn()]
    addresses = [entry.address for cards in psutil.net_if_addrs().values() for entry in cards]
    return ["localhost", *[each for each in addresses if each.count(".") == 3], socket.gethostname(), socket.getfqdn()]


def _in_url(host: str) -> str:
    """A host as it stands before a port.

    >>> _in_url("::1"), _in_url("localhost")
    ('[::1]', 'localhost')
    """
    return f"[{host}]" if ":" in host else host


def _free(host: str, port: int) -> None:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise UserError(f"{host}: {error.strerror}; --host is an address or a name of this machine") from None
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise UserError(f"port {port} of {host}: {error.strerror}; choose another: --port {port + 1}") from None


def _wait(server: subprocess.Popen[bytes], by_hand: str, host: str, port: int) -> None:
    """MLflow needs about ten seconds to answer, minutes on a machine that is busy; its port listens before."""
    here = f"http://{_in_url('localhost' if host in ANYWHERE else host)}:{port}/health"
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with _DIRECT.open(here, timeout=HEALTH_TIMEOUT_S):
                return
        except OSError:  # refused, too slow, or an answer that is an error
            time.sleep(0.2)
    raise RunError(f"the MLflow server did not start (code {server.poll()}); try: {by_hand}")
