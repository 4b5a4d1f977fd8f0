"""The network log: one access log for all web servers behind a balancer, with the addresses of the real clients.

A web server behind a balancer sees the balancer's address and logs that. So the balancer (pen, or gpen, with
``-l HOST:PORT``) tells a collector of each request, in a datagram; the web servers pipe their logs into gpenlog, which
sends the lines to the same collector; and the collector, gpenlogd, writes these lines with the client's address in the
place of the balancer's. It is what pen has penlog and penlogd for, and each of the programs works with all the others.

``entries.py`` knows what is in a datagram, ``matcher.py`` whose request a line is about, ``merge.py`` makes lines of
datagrams: these do no I/O. ``sender.py`` is gpenlog, ``collector.py`` gpenlogd, which writes by ``output.py``.
``arguments.py`` reads their command lines, ``manual.py`` makes their man pages.
"""
