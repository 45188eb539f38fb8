"""The web server that runs the application."""

import ipaddress
import secrets
import signal
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from data_prep.errors import OptionError
from ecg_keras.model.model_files import ECGModel
from ecg_keras.serving.application import application
from ecg_keras.serving.uploads import Limits, Worker

_CONNECTIONS = 50
_SECONDS = 10.0  # for the headers of a connection's first request


class _Prompt(H11Protocol):
    """Closes connections that send no request in time: fifty such would keep out all others."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.loop.call_later(_SECONDS, self._require_request)

    def _require_request(self) -> None:
        if self.cycle is None:
            self.transport.close()


def serve(
    models: Mapping[str, Sequence[ECGModel]],
    limits: Limits,
    *,
    host: str,
    port: int,
) -> None:
    """Serve the page until interrupted.

    Args:
        models: the opened models of each name that can be chosen.
        limits: limits on uploads.
        host: address to listen on; unless it is a loopback address, a token is required.
        port: port to listen on; 0 for any free port.

    Raises:
        OptionError: if the address or port cannot be used.
    """
    token = None if _is_loopback(host) else secrets.token_urlsafe(16)
    listening = _listen(host, port)
    port = listening.getsockname()[1]
    if _is_any(host):  # no other machine could open this address
        host = socket.gethostname()
    shown = f"[{host}]" if ":" in host else host
    print(
        f"http://{shown}:{port}/{f'?token={token}' if token else ''} (Ctrl-C ends it)", flush=True
    )
    if token:
        print("Every machine that reaches this one can open the page with this token.", flush=True)
    config = uvicorn.Config(
        application(Worker(models, limits), token=token),
        http=_Prompt,
        log_level="warning",
        limit_concurrency=_CONNECTIONS,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    # A closed terminal must not leave recordings in the temporary folder; nohup ignores it.
    hangs_up = hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    if hangs_up and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    with listening:
        uvicorn.Server(config).run(sockets=[listening])


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise OptionError(
            f"nothing can listen on {host}, port {port} ({error.strerror}); give another --host or"
            " --port."
        ) from None
    return listening
