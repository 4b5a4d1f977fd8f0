"""gpen: a small load balancer for TCP and UDP that understands the services behind it.

A tour of the sources, in the order in which they are best read:

1. ``model/settings.py``   every setting, declared once, and whose it is: of the process or of each listener
2. ``model/pool.py``       the servers, for all listeners (``server.py``: a server, the ways to reach it, and how a
   listener uses it); ``health.py`` says what is known of each, and what leads from one state to another; ``lease.py``
   counts places, ``silence.py`` is for UDP; ``selector.py`` says which server a client of one listener gets, out of its
   ``roster.py``, by a rule of ``scheduler.py`` (``client.py``, ``acl.py`` beside it), which ``slowstart.py`` eases for
   servers that came back (``evenly.py`` says whose turn it is); ``rates.py`` is what may come or pass in a time;
   ``route.py`` says which route a client takes by what it asks for, ``routes.py`` has a selector for each;
   ``listener.py`` is all that a listener has of these, ``shared.py`` what its peers are told of clients, ``balance.py``
   how sessions should be spread: plain Python, no socket, no clock of its own
3. ``control/commands.py`` every command, declared once; ``script.py`` turns lines into calls and back; ``draft.py``
   is what they change as long as it does not count, ``validation.py`` whether that makes sense together, ``ways.py``
   over which transports and ports its listeners reach servers, ``configuration.py`` what counts, ``difference.py``
   what HUP changes
4. ``proto/protocol.py``   what a session asks of what its client and server speak; ``mysql.py`` and ``mysql_talk.py``,
   which follows commands, ``http.py`` and what they need, ``passed_tls.py`` and its ``client_hello.py``,
   ``proxy_header.py`` (``proxy_tlvs.py``), ``certificate.py``, ``peers.py``: bytes in, bytes and verdicts out
5. ``wire/session.py``    one TCP conversation from accept to log line; ``relay.py`` moves its bytes, in bulk through
   ``pipes.py``; ``poller.py`` says when, ``kernel.py`` is what both ask of the kernel; ``listener.py`` and
   ``control.py`` accept; ``dial.py`` and ``hold.py`` get a client to a server, which learns who that is by
   ``introduction.py`` and ``transparent.py``; ``check.py`` asks whether a server is well, and ``agent.py`` its agent;
   ``tls.py`` is what may be on the wire of a side, ``server_tls.py`` that to servers, and ``http.py`` what may be done
   on the way; ``limits.py`` is how often clients come (``throttle.py``) and how fast bytes move (``shaping.py``);
   ``flow.py``, ``datagram.py``, ``loops.py``, ``flow_sockets.py`` and ``remnants.py`` are UDP; ``worker_session.py`` is
   a session in a worker, ``remote.py`` what the main process has of it, ``channel.py`` the way between them;
   ``quiet.py`` ends sessions between two exchanges, which ``follower.py`` knows of MySQL; ``pacing.py`` lets long work
   leave others time, ``alarm.py`` is when something is to be done, ``faults.py`` lets what goes on for ever survive
   what fails
6. ``daemon/balancer.py`` makes all of these and tells each what it needs of the others: ``front.py`` is a listener,
   ``listeners.py`` all of them, ``logs.py`` where they log, ``sessions.py`` the register of their sessions;
   ``changes.py`` changes the configuration, ``executor.py`` runs commands, ``queries.py`` answers, ``readiness.py``
   says whether clients can be served, ``ports.py`` whether there are ports for all; ``process.py`` makes it a daemon,
   ``fork_server.py`` forks workers, ``worker.py`` is one, ``workers.py`` what the main process has of them;
   ``checks.py`` has servers checked, ``agents.py`` asks what runs beside them, ``alerts.py`` tells a program of
   changes; ``drain.py``, ``rebalance.py`` and ``ages.py`` have sessions end quietly; ``activation.py`` takes what
   systemd listens on (``wire/given.py``), ``notify.py`` tells it how gpen is;
   ``handover.py`` and ``inheritance.py`` are the two sides when another gpen takes its place; ``door.py`` lets HTTP in
   (``wire/web_server.py``), ``metrics.py`` collects what is measured; ``peers.py`` are the other balancers
   (``wire/peers.py`` talks with one). Where servers answer clients themselves, ``dsr/`` is in the place of ``wire/``:
   ``listener.py`` reads frames, ``flow.py`` is what one client sends. What is answered there is ``web/``:
   ``application.py``, ``metrics.py``, the table, ``exposition.py``, its text, and ``page/``
7. ``cli.py`` and ``gpenctl/``: the programs gpen and gpenctl; ``galera/`` and ``discover/``: gpen-galera and
   gpen-discover, each of which has a tour of its own; ``netlog/``: gpenlog and gpenlogd; ``docs/``: manuals, reference
   and completion
8. ``usage.py``, ``files.py``, ``rights.py`` and ``journal.py``: how they complain of a command line, make, write and
   give away files, what they may do once they serve, and how they tell systemd's journal how urgent a line is;
   ``log.py``, ``console.py``, ``clients.py``, ``service.py`` and ``gpenctl/lines.py``: what gpen-galera and
   gpen-discover have in common; ``core.py``: whether the modules that can be compiled are; ``build.py``: what
   --version tells

docs/ARCHITECTURE.md has pictures of the rooms and of the life of a connection.

Imports run daemon -> web, control, dsr -> wire -> proto -> model, never back (tests/test_laws.py holds this).
"""

import sys

from gpen.core import CORE

__version__ = "0.1.0"

sys.meta_path.insert(0, CORE)
