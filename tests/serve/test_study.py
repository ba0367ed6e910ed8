"""The process in which studies are computed."""

import os
import subprocess
import sys
import time

SERVER = """
import os, time
from coalign.serve.process import one_process
if __name__ == "__main__":
    pool = one_process()
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(600)
"""


def test_a_server_that_is_killed_leaves_no_process(tmp_path):
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    server = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    study = int(server.stdout.readline())
    os.kill(study, 0)
    server.kill()
    server.wait()
    for _ in range(100):
        try:
            os.kill(study, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(study, 9)
    raise AssertionError("the study's process goes on without its server")
