"""Measures gpen, compiled and pure, against pen, haproxy and nginx stream: `python -m tests.bench --help`.

Where things are: `proxies.py` says how each balancer is started, `load.py` and `helpers.py` make the load,
`measure.py` reads CPU time and memory from /proc, `counts.py` counts instructions and system calls, `trials.py`
is what one measurement does, `run.py` takes the turns, `report.py` is the table and the targets, `process.py`
starts and ends programs. `instructions.py` records what a test holds gpen to; `tls.py`, `dns.py` and `galera.py`
are benchmarks of their own.

Each balancer runs alone on one core, everything else on another. A balancer is started anew for each
trial, on an address of its own, so that no trial inherits the ports, the TIME_WAIT entries or the memory
of another.
"""
