"""gpen-discover: keeps the servers of gpens as a source outside says.

A tour, in the order in which the files are best read:

1. ``source.py``    what a source is, and what it tells; ``sources.py`` is the table of all: ``file.py`` (``listing.py``
   reads what is in it), ``dns.py``; ``etcd.py``, ``consul.py`` and ``kubernetes.py``, which ``http_source.py`` and
   ``http_client.py`` serve; ``entries.py``: what is understood of each server, where many say so
2. ``plan.py``      what a gpen has to be told so that its servers are those of the source: pure, no socket, no clock
3. ``watch.py``     a thread that asks the source; ``gpen_client.py``: one for each gpen, so that one that hangs delays
   no other
4. ``status.py``    what `gpen-discover status` shows; ``usage.py`` and ``main.py``: the command line

An answer counts as a whole or not at all, and a gpen is brought to the whole of it, again and again: so what was missed
in between, by whomever, is made up for with the next look.
"""
