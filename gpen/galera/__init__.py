"""gpen-galera: tells gpens how the nodes of a MariaDB Galera cluster are, and which one gets the writes.

A tour, in the order in which the files are best read:

1. ``report.py``    what a node says of itself; ``group.py`` says which of them are the cluster, ``cluster.py`` judges
   all nodes together, ``blocking.py`` says whether one may block its gpens, ``lag.py`` whether one is behind the others
2. ``plan.py``      what each gpen shall think of its servers, ``listeners.py`` which of them its listeners for writes
   use; ``writer.py`` and ``election.py`` choose the writer and its successors, ``agree.py`` does when there are several
   watchers, each of a name of its own (``identity.py``); ``discover.py`` finds nodes, ``members.py`` says where they
   are
3. ``watch.py``     the watcher: one thread, the only one that changes what is known; it asks the files above
4. ``node.py`` and ``gpen_client.py``: a thread for each node and for each gpen, so that one that hangs delays no other;
   ``ledger.py``: the tables of the agreement; ``scout.py`` tries addresses that the cluster tells of;
   ``parting.py``: how sessions leave a writer that is well
5. ``gpen/console.py``   status, move, adopt; ``notify.py`` wakes the watcher; ``check.py`` and ``serve.py`` answer for
   a node, ``exporter.py`` tells Prometheus what there is in the table of ``metrics.py`` (``tally.py`` counts); both by
   ``http_server.py``, ``gpen/clients.py`` so many clients at a time, and no longer
6. ``access.py``, ``bounded.py`` and ``main.py``: credentials, logins, and the command line

The first two groups are pure: no socket, no thread, no clock of their own.

Whatever comes from outside costs itself alone: what goes wrong with one node, gpen or client, in whatever way, is told
once (``gpen/log.py``) and tried again, and what was known of it before grows old.
"""
