"""gpenctl, the command: asks and steers a running gpen (or pen). Free of gevent, so that it starts at once.

``main.py`` reads the command line, ``link.py`` speaks to the daemon, ``show.py`` and ``tables.py`` show what it says,
``prompt.py``, ``watch.py`` and ``progress.py`` (of a drain) are what their names say.
"""
