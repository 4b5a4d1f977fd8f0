"""Hashed transfers while all that they pass through is stopped, reloaded, drained, moved: `python -m tests.chaos`.

transfers.py is what clients and servers do, faults.py what is done to gpen meanwhile, storm.py runs both and judges
each transfer by its hashes and by gpen's own log.
"""
