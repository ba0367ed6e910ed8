"""`coalign serve`."""

from __future__ import annotations

import secrets
import signal
import socket
import sys
import webbrowser
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from coalign.arguments import PAIRS_HELP, OptionalName, OptionalPath, Pairs, run_config, say
from coalign.cli.commands import Help
from coalign.errors import InputError

HELP = Help("a trained run", "RUN …", "search, alignment and data in the browser", 35)


def command(
    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN ...", help="Folders of runs, one or several.")],
    data: Annotated[str | None, arg(metavar="PAIRS", help=PAIRS_HELP, help_behavior_hint="")] = None,
    images: OptionalPath = None,
    regions: OptionalPath = None,
    port: int = 8765,
    host: str = "127.0.0.1",
    token: OptionalName = None,
    browser: Annotated[bool, arg(help_behavior_hint="")] = True,
) -> int:
    """Search, alignment maps, the data and the learning curves of runs, as pages on this machine.

    Args:
        images: The folder of the pictures: the image paths of --data are relative to it, by default to the table's
            folder; those of an index lie below it, by default below the folders that it was made from.
        regions: Region features of the pictures, for models that read regions.
        port: The port to listen on; 0 takes a free one.
        host: The address to listen on. Another than this machine's own is served with a token alone.
        token: The token that requests must bring. By default drawn where the address is not this machine's own.
        browser: Do not open a browser.
    """
    import uvicorn

    from coalign.checkpoints.hub import local_folder
    from coalign.data.regions.files import open_regions
    from coalign.serve.app import app
    from coalign.serve.security import is_loopback

    if not runs:
        raise InputError("give the folder of a run, or several: coalign serve runs/quickstart")
    loopback = is_loopback(host)
    if token is None and not loopback:
        token = secrets.token_urlsafe(24)
    if token is not None and len(token) < 8:
        raise InputError("--token has fewer than 8 characters; give a longer one")
    runs = tuple(map(local_folder, runs))
    reads_streams = [bool(run_config(run).get("series")) for run in runs]
    served = app(
        runs,
        None if data is None or all(reads_streams) else Pairs(data, images).open(),
        token,
        series=data if any(reads_streams) else None,
        regions=None if regions is None else open_regions(regions),
        loopback=loopback,
        names=(socket.gethostname(),),
        images=images,
    )
    listening = _listen(host, port)
    number = listening.getsockname()[1]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    link = f"http://{shown}:{number}/" + ("" if token is None else f"?token={token}")
    print(f"coalign serve: {link}", flush=True)
    if not loopback:
        say(f"this listens on {host}: whoever can reach this machine and has the link sees the runs and their pictures")
    if browser:
        webbrowser.open(link)
    quiet: Any = {"log_level": "warning", "server_header": False, "date_header": False, "lifespan": "off"}
    signal.signal(signal.SIGTERM, end)
    try:
        uvicorn.Server(uvicorn.Config(served, **quiet, timeout_graceful_shutdown=2)).run(sockets=[listening])
    finally:
        served.state.service.close()
    return 0


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(512)
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen on {host}, port {port}: {error}; give another --port or --host") from None
    return listening


def end(number: int, frame: object) -> None:
    """Ends this process, and with it those of studies: uvicorn sends a signal again when it is done."""
    del frame
    sys.exit(128 + number)
