"""Credentials of a cluster: the token that it requires, and whether anything answers at its address.

Ray writes the file itself at a first local start, readable by everyone on the machine; ours comes first.
"""

import errno
import os
import secrets
import socket
from pathlib import Path

from cluster.machine.scratch import private_folder
from cluster.ray_runtime.private import forget_token
from cluster.settings import UserError

REACH_TIMEOUT_S = 5.0


def token_path() -> Path:
    """The file Ray reads the token from, unless RAY_AUTH_TOKEN holds the token itself."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if named:
        return Path(named)
    try:
        return Path.home() / ".ray" / "auth_token"
    except RuntimeError:  # no HOME, and no line in /etc/passwd
        return Path("/.ray/auth_token")


def has_token() -> bool:
    """Whether this process can show a token to a cluster."""
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or os.access(token_path(), os.R_OK)


def ensure_token() -> None:
    """Make a token where there is none, and keep the file to its owner (mode 600).

    Where there is no home that can be written to, the token lies in the user's folder below /tmp, and
    RAY_AUTH_TOKEN_PATH of this process names it. Raises UserError if a file that it names can neither be read nor made.
    """
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = token_path()
    try:
        _ensure(path)
    except OSError as error:
        if os.environ.get("RAY_AUTH_TOKEN_PATH"):
            raise UserError(
                f"RAY_AUTH_TOKEN_PATH={path}: {error.strerror}; set it to a file that this user can write"
            ) from error
        own = private_folder() / "auth_token"
        try:
            _ensure(own)
        except OSError as other:
            raise UserError(
                f"no place for Ray's token ({path}: {error.strerror}; {own}: {other.strerror}); set "
                "RAY_AUTH_TOKEN_PATH to a file that this user can write"
            ) from other
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(own)


def _ensure(path: Path) -> None:
    if not path.is_absolute():
        raise OSError(errno.EINVAL, "a relative path, which means another file to every process")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        mine = path.with_name(f".{path.name}.{os.getpid()}")
        mine.touch(mode=0o600)
        mine.write_text(secrets.token_hex(32), encoding="ascii")
        try:
            os.link(mine, path)  # unlike a rename it fails where another process was first: all use one token
        except FileExistsError:
            pass
        finally:
            mine.unlink()
    if path.stat().st_mode & 0o077 and path.stat().st_uid == os.getuid():
        path.chmod(0o600)
    path.read_bytes()  # another user's cannot be read


def require_token() -> None:
    """Refuse to talk to a cluster without a token, unless RAY_AUTH_MODE=disabled.
    The UserError names where it is expected.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() == "token" and not has_token():
        raise UserError(
            f"no token for the cluster: copy the head's ~/.ray/auth_token to {token_path()} (mode 600) "
            "or set RAY_AUTH_TOKEN; RAY_AUTH_MODE=disabled if the cluster really has none"
        )


def use_token() -> None:
    """Make this process show its token, unless RAY_AUTH_MODE disables tokens; Ray's clients do not by themselves."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    forget_token()


def reach(address: str) -> None:
    """Ask a socket whether host:port is there; Ray would wait a minute. Raises UserError if nothing answers."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"{address!r} is no address of a cluster; write host:port, for example 10.0.0.1:6379")
    try:
        socket.create_connection((host, int(port)), timeout=REACH_TIMEOUT_S).close()
    except OSError as error:
        raise UserError(
            f"{address}: nothing answers ({error}); is the cluster's head running, and is this its port?"
        ) from error
