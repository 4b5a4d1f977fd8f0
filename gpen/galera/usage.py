"""The usage texts that docopt reads, one for each command; the man page has the same options."""

from __future__ import annotations

from gpen.galera.notify import USAGE as NOTIFY

OVERVIEW = """\
Watch a MariaDB Galera cluster for gpen: which nodes are usable, which one is
written to.

Usage:
  gpen-galera COMMAND [ARGUMENTS...]
  gpen-galera (-h | --help | --version)

Commands:
  watch    tell gpens how the nodes are, and which is the writer
  status   the nodes and gpens of the running watcher, as tables
  move     make another node the writer
  adopt    follow another cluster: nodes of others are not used
  check    ask one node once: for gpen's `check exec`, and other balancers
  serve    answer in HTTP for one node, 200 or 503, as clustercheck does
  notify   wake the watcher: for Galera's wsrep_notify_cmd
`gpen-galera COMMAND --help` shows the options of a command, with examples.

Options:
  -h --help    Show this.
  --version    Show the version.

Examples:
  gpen -r -C /run/gpen/reader.ctl 3307 node1:3306 node2:3306 node3:3306
  gpen-galera watch --defaults-file=my.cnf --reader=/run/gpen/reader.ctl
  gpen-galera watch --gpen=/run/gpen/gpen.ctl --writer=writer
  gpen-galera status
  gpen-galera move node2
"""

LOGIN = """\
  --defaults-file=FILE   A my.cnf: its group [client] holds user and password,
                         and ssl-mode, ssl or ssl-... if TLS is wanted. Without
                         it, GPEN_GALERA_USER and GPEN_GALERA_PASSWORD count. A
                         password that everybody can read is told.
  --ssl-ca=FILE          Use TLS, with nodes whose certificate FILE vouches for.
"""
CONSOLE = """\
  --socket=PATH          Where the watcher answers status, move and adopt
                         [default: /run/gpen/galera.sock].
"""
AVAILABLE = """\
  --available-when-donor
                         Donors and desynced nodes are usable. The same:
                         AVAILABLE_WHEN_DONOR=1 in the environment.
  --available-when-readonly
                         Nodes with read_only are usable. The same:
                         AVAILABLE_WHEN_READONLY=1 in the environment.
"""
HELP = """\
  -h --help              Show this.
"""

WATCH = f"""\
Tell gpens how the nodes of a Galera cluster are, and which is the writer. The
nodes are the servers of the gpens.

Usage:
  gpen-galera watch [options] [--gpen=CONTROL...] [--reader=WHICH...]
                    [--writer=WHICH...]

Options:
  --gpen=CONTROL         A gpen with listeners for reads and for writes: the
                         /PATH or HOST:PORT of its option -C. Several share the
                         names: say --gpen A B or --gpen A --gpen B.
  --writer=WHICH         With --gpen: the NAME of its listener that gives all
                         connections to one node; that must have prio and
                         roundrobin. Without it, no listener is the writer's.
                         Without --gpen: the CONTROL of a gpen that does so, and
                         runs with -r -O prio. Several: as with --gpen.
  --reader=WHICH         With --gpen: the NAME of a listener, - for the one
                         without a name, that spreads connections over all
                         usable nodes. All listeners but the writer's do: one
                         that is named is missed when it is not there. Without
                         --gpen: the CONTROL of a gpen that spreads them.
{LOGIN}\
  --interval=SEC         Between two questions to a node [default: 0.25].
  --timeout=SEC          A node that owes an answer for so long is not used
                         [default: 1].
  --donor=POLICY         Donors and desynced nodes: avoid (used when nothing
                         better is left), use or never [default: avoid].
  --max-queue=N          A node with more than N write sets to apply
                         (wsrep_local_recv_queue) for a second is used only when
                         nothing better is left. Any number, unless given.
  --prefer=NODES         HOST:PORT,HOST:PORT... with numeric HOSTs: these become
                         the writer before others, in this order; then by
                         wsrep_local_index.
  --failback             Go back to a preferred writer that is well again.
  --keep-sessions        Leave the sessions on a node that has lost its cluster,
                         is not ready or rejects queries. They fail there.
  --keep-old-sessions    Leave the sessions on the old writer when it moves.
  --quiet=S              When the writer moves and the old one is well: seconds
                         that its sessions have to end between two exchanges,
                         while clients wait (hold); then they are closed. 0: at
                         once [default: 1].
  --agree=SCHEMA         Several watchers have one writer: the choice is a row
                         of the table SCHEMA.gpen_writer.
  --reserve=N            A node's max_connections less N is the `max` of the
                         servers, unless they have a lower one [default: 10].
  --discover             Add and delete servers of the gpens, following
                         wsrep_incoming_addresses.
  --map=PAIRS            A=B,A=B...: what calls itself A (HOST[:PORT], of
                         wsrep_incoming_addresses) is reached at B.
  --floor=N              Keep at least N servers [default: 1].
  --forget=SEC           Delete the server of a node that is gone for so long
                         [default: 60].
  --listen=ADDRESS       [HOST:]PORT (UDP) where `gpen-galera notify` wakes this
                         watcher. HOST is 127.0.0.1 unless given, and may be an
                         address that this machine gets later.
  --metrics=ADDRESS      [HOST:]PORT (HTTP) where /metrics is for Prometheus:
                         how the nodes are, their roles, what the watcher does.
                         HOST as with --listen.
{CONSOLE}\
  --verbose              Log every proposal, handover and wake-up as well.
{HELP}
SIGTERM, SIGINT and SIGHUP end it; what the gpens know they keep. A node, a gpen
or a client that says what nobody understands costs itself alone: that is told,
and tried again.
Exit status: 0; 1 the name in --listen or --metrics is not known, or not yet; 2
wrong usage, or something given can't be used.

Examples:
  gpen-galera watch --defaults-file=my.cnf --reader=/run/gpen/reader.ctl
  gpen-galera watch --gpen=/run/gpen/gpen.ctl --reader=- --writer=writer
  gpen-galera watch --writer=/run/gpen/writer.ctl --prefer=10.0.0.1:3306
  gpen-galera watch --reader=/run/gpen/reader.ctl --metrics=9181
"""

STATUS = f"""\
Show the nodes and gpens of the running watcher.

Usage:
  gpen-galera status [options]

Options:
{CONSOLE}\
  --json                 Print JSON instead of tables.
{HELP}
Exit status: 0 every node is usable, every gpen answers and the watcher itself
works; 1 not so; 2 wrong usage; 3 no watcher.
"""

MOVE = f"""\
Make another node the writer; waits until it is.

Usage:
  gpen-galera move [options] NODE

NODE is HOST:PORT, the node's wsrep_node_name, or how one of them begins.

Options:
{CONSOLE}\
{HELP}
Exit status: 0 it is the writer; 1 it is not, and why; 2 wrong usage; 3 no
watcher.

Example:
  gpen-galera move node2
"""

ADOPT = f"""\
Follow another cluster; nodes of one that is not followed are not used.

Usage:
  gpen-galera adopt [options] UUID

UUID is its wsrep_cluster_state_uuid, which gpen-galera status shows, or how it
begins; a node of it must answer. Where watchers agree, ask each of them.

Options:
{CONSOLE}\
{HELP}
Exit status: 0 it is followed; 1 it is not, and why; 2 wrong usage; 3 no
watcher.

Example:
  gpen-galera adopt 7f0c2a52
"""

CHECK = f"""\
Ask one node once: a line that says how it is.

Usage:
  gpen-galera check [options] NODE

NODE is HOST[:PORT], or the /PATH of its socket.

Options:
{LOGIN}\
  --timeout=SEC          For all of it: the way there, login and answer
                         [default: 1].
{AVAILABLE}\
{HELP}
Exit status: 0 usable; 1 not usable; 2 wrong usage.

Examples:
  gpen-galera check --defaults-file=/etc/gpen/galera.cnf 10.0.0.1:3306
  PROGRAM="/usr/local/bin/gpen-galera check --defaults-file=/etc/gpen/my.cnf"
  gpenctl /run/gpen.ctl check exec "$PROGRAM"
"""

SERVE = f"""\
Answer HTTP requests for one node: 200 usable, 503 not, and a line that says
why. One connection to the node is kept; requests cost it nothing. What is known
of the node grows old: without news of it, it is not usable. When the node
refuses the account (its password has expired, say), or has no room for it, what
was found last is told with its age and the reason, for 5 minutes.

Usage:
  gpen-galera serve [options] LISTEN

LISTEN is [HOST:]PORT; clustercheck's port is 9200. Without HOST, all IPv4
addresses. HOST may be an address that this machine gets later. A client has 5 s
for its request; there are 64 at a time, and the oldest gives way.

Options:
  --node=NODE            HOST[:PORT], or the /PATH of its socket
                         [default: 127.0.0.1:3306].
{LOGIN}\
  --interval=SEC         Between two questions to the node [default: 0.25].
  --timeout=SEC          A node that owes an answer for so long is not usable
                         [default: 1].
{AVAILABLE}\
{HELP}
Exit status: 0 after SIGTERM, SIGINT or SIGHUP; 1 the name in LISTEN is not
known, or not yet; 2 wrong usage, or LISTEN can't be had.

Example:
  AVAILABLE_WHEN_DONOR=1 gpen-galera serve --defaults-file=/etc/check.cnf 9200
"""

USAGES = {"watch": WATCH, "status": STATUS, "move": MOVE, "adopt": ADOPT, "check": CHECK, "serve": SERVE,
          "notify": NOTIFY}
