"""The command line, and the only place where the parts of hwsparse are put together.

main.py      the commands and how errors become exit codes
targets.py   `hwsparse targets`: list, show, probe
work.py      on this machine: inspect, optimize, compile, front, verify
service.py   `hwsparse serve`, `request`, `download`, and the worker process of a job
job.py       what that worker does
progress.py  progress bars, and plain lines where there is no terminal
interrupt.py Ctrl-C that cannot be lost
"""

from hwsparse.cli.main import main

__all__ = ["main"]
