"""A process beside the server's."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context, parent_process


def one_process() -> Executor:
    """A process beside the server's, so that what is computed there holds up no answer."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_end_with_server)


def _end_with_server() -> None:
    """A server that is killed takes its study with it, which would wait for work for ever."""
    server = parent_process()

    def watch() -> None:
        if server is not None:
            server.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
