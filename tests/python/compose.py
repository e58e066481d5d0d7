"""Runs docker-compose several times, loading it once: a second and a half of processor time each on a slow machine.

Each line of the standard input is one run: the file for its output and the arguments, with tabs between. The answer is its exit code.
The first line of all answers is the version.
"""

import os
import signal
import sys

from compose import __version__
from compose.cli import main

# Longer than anything that the test waits for itself.
RUN_S = 170


def run(output, arguments):
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, stream in enumerate([nothing, file, file]):
        os.dup2(stream, number)
    signal.alarm(RUN_S)
    sys.argv = ["docker-compose", *arguments]
    main.main()


print(__version__, flush=True)
for line in sys.stdin:
    output, *arguments = line.rstrip("\n").split("\t")
    child = os.fork()
    if child == 0:
        run(output, arguments)
        sys.exit(0)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
