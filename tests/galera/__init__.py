"""gpen in front of a real three-node MariaDB Galera cluster on this machine.

Where things are: `cluster.py` starts the nodes and breaks them, `load.py` is the clients that must not notice,
`scene.py` puts gpen and its watcher between the two, `conftest.py` starts one cluster for all tests. The tests are
`test_events.py` (what happens to a node), `test_writer.py` (one node takes the writes) and `test_clients.py` (how
clients come through). `python -m tests.galera.bench` measures the same events with pen and haproxy as well, and
`python -m tests.galera.cost` what a watcher of many nodes takes.
"""
