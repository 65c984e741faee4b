"""The server of the page: one address of this machine, no request to any other."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address

from senet.deploy.extras import need
from senet.deploy.serving.page import make_page, page_options
from senet.errors import SenetError
from senet.zoo import LoadedModel

__all__ = ["is_loopback", "serve"]


def serve(
    loaded: LoadedModel,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    topk: int = 5,
    started: Callable[[str], None] = lambda url: print(url, flush=True),
) -> None:
    """Serve a page for a network until Ctrl-C or SIGTERM.

    Uploaded images lie in a temporary folder, which is deleted at the end. Nothing is sent to another machine.

    Args:
        loaded: The network, see `senet.load_model`.
        host: Address to listen at. The default is reachable from this machine alone.
        port: Port to listen at. 0 chooses a free one.
        topk: Number of shown classes.
        started: Called with the page's address once the port is taken.

    Raises:
        SenetError: Gradio isn't installed, or the address can't be used.

    Example:
        >>> import senet
        >>> senet.deploy.serve(senet.load_model("runs/flowers"), port=8000)  # doctest: +SKIP
        http://127.0.0.1:8000
    """
    need("gradio", "senet serve", "serve")
    import fastapi
    import gradio
    import uvicorn

    with _listening(host, port) as listener, _own_uploads():
        app = gradio.mount_gradio_app(fastapi.FastAPI(), make_page(loaded, topk=topk), "/", **page_options())
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
        started(_address(*listener.getsockname()[:2]))
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:  # uvicorn ends in order and raises it again
            return


def is_loopback(host: str) -> bool:
    """Whether an address is reachable from this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a socket that listens at an address, taken before the slow parts start."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SenetError(f"--host {host}: this machine has no such address") from error
    with listener:
        try:
            if os.name == "posix":  # a port just left may be taken again
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
        except OSError as error:
            reason = REASONS.get(error.errno or 0, error.strerror or str(error))
            raise SenetError(f"port {port} of {host}: {reason}; choose another --port or --host") from error
        yield listener


REASONS = {
    errno.EADDRINUSE: "already in use",
    errno.EACCES: "not allowed",
    errno.EADDRNOTAVAIL: "this machine has no such address",
}


@contextmanager
def _own_uploads() -> Iterator[None]:
    """Keep uploads in a folder of this process, deleted at the end."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    with tempfile.TemporaryDirectory(prefix="senet-serve-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = before
