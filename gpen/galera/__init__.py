"""gpen-galera: tells gpens how the nodes of a MariaDB Galera cluster are, and which one gets the writes.

A tour, in the order in which the files are best read:

1. ``report.py``    what a node says of itself, in one query; ``cluster.py`` judges all nodes together,
   ``blocking.py`` says whether one may block its gpens
2. ``plan.py``      what each gpen shall think of its servers; ``writer.py`` and ``election.py`` choose the writer and
   its successors, ``agree.py`` does when there are several watchers, each of a name of its own (``identity.py``);
   ``discover.py`` finds nodes
3. ``watch.py``     the watcher: one thread, the only one that changes what is known; it asks the files above
4. ``node.py`` and ``balancer.py``: a thread for each node and for each gpen, so that one that hangs delays no other;
   ``ledger.py``: the tables of the agreement
5. ``console.py``   status and move; ``notify.py`` wakes the watcher; ``check.py``, ``serve.py`` answer for one node
6. ``access.py`` and ``main.py``: credentials, and the command line

The first two groups are pure: no socket, no thread, no clock of their own.
"""
