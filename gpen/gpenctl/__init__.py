"""gpenctl, the command: asks and steers a running gpen (or pen). Free of gevent, so that it starts at once.

``quick.py`` carries out the common call, and ``main.py`` reads all other command lines. ``link.py`` speaks to the
daemon, ``show.py`` and ``tables.py`` show what it says, ``prompt.py``, ``watch.py`` and ``progress.py`` (of what takes
long) are what their names say. ``top.py`` obeys keys (``keys.py``): what it knows is in ``board.py`` (with
``sheet.py``, a table to sort, and ``rates.py``), how it looks in ``dashboard.py`` (with ``signs.py``), the one file
that needs rich. ``feed.py`` asks the daemon for watch and top, ``screen.py`` has the terminal.
"""
