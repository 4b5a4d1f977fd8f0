"""gpen-galera(1), made from the usage texts, so that its options can't drift from the program.

    python -m gpen.galera.manual > man/gpen-galera.1

and its part of docs/METRICS.md, from the table of metrics:

    python -m gpen.galera.manual metrics >> docs/METRICS.md
"""

from __future__ import annotations

import sys

from gpen import __version__
from gpen.docs import roff
from gpen.docs.metrics import tables
from gpen.docs.usage_manual import command_of, synopsis
from gpen.galera.metrics import IDENTITIES, METRICS
from gpen.galera.usage import USAGES

DATE = "November 2026"


def page() -> str:
    """The man page."""
    lines = [r".\" made by gpen.galera.manual from the usage texts: change them there",
             f'.TH GPEN\\-GALERA 1 "{DATE}" "gpen {__version__}" "User Commands"', ".SH NAME",
             r"gpen\-galera \- tell gpen how the nodes of a Galera cluster are, and which is the writer",
             ".SH SYNOPSIS"]
    lines += [synopsis(USAGES.values())]
    lines += [".SH DESCRIPTION", *roff.paragraphs(_DESCRIPTION)]
    for command, usage in USAGES.items():
        lines += [f'.SH "{command.upper()}"', *command_of(usage)]
    for heading, text in _SECTIONS:
        lines += [f'.SH "{heading}"', *roff.paragraphs(text)]
    return "\n".join([*lines, '.SH "SEE ALSO"', r"\fBgpen\fR(1), \fBgpenctl\fR(1)"]) + "\n"


def metrics() -> str:
    """The part of docs/METRICS.md."""
    return _METRICS + "".join(tables(METRICS, IDENTITIES, _ABOUT))


_ABOUT = {"watcher": "The watcher", "cluster": "The cluster", "writer": "The writer", "node": "Nodes",
          "gpen": "gpens that it tells", "process": "The watcher's process"}
_METRICS = """
## gpen-galera

At `http://HOST:PORT/metrics`, with `gpen-galera watch --metrics=HOST:PORT`. `node` is a node's address, as
`gpen-galera status` shows it, and `gpen` a gpen as it is named on the command line. Those of the writer are there where
a gpen or listener gets the writes.
"""

_DESCRIPTION = """
A MariaDB server accepts connections and answers SELECT 1 while it is desynced, read only, or cut off from its cluster,
so a balancer that looks at connections alone sends clients where they fail. gpen-galera watch asks every node, four
times a second over one kept connection, and tells each gpen over its control socket which of its servers are up
(server N health up|drain|down because REASON). The nodes are the servers of the gpens.

A gpen that is given by --gpen has a listener for reads and one for writes, before the same servers: see LISTENERS. One
that is given by --reader spreads connections over all usable nodes; one that is given by --writer has one node in
front, the writer. All its other servers are held down, also those that an operator adds or moves, and ranked behind by
prio. What was said of a server's health lasts health_ttl seconds (5, where it is not set), so that without a watcher a
dead writer of --writer=CONTROL fails over then.

The watcher may be killed, restarted or stopped at any time: the gpens go on with what they know, for health_ttl
seconds if that is set, and a watcher that starts takes the writer as it is. A gpen that begins anew, or is reloaded, is
told all again, and sessions that other servers than the writer have got meanwhile are closed.

What the watcher tells goes to stderr, a line for each change, with the time in UTC. Where that is the journal of
systemd (JOURNAL_STREAM), how urgent a line is stands in front of it instead (sd-daemon(3)): a node or a gpen that is
not well, and whatever somebody should look after, is a warning.
"""

_SECTIONS = (
    ("LISTENERS", """
With --gpen=CONTROL, --writer=NAME names the listeners of that gpen that get the writes; all others, named by --reader
or not, spread connections over all usable nodes. Several gpens have the same names. A listener that is named and
missing is told of in status and the log. The one for writes needs a name, and the settings prio and roundrobin:

    gpen -r -C /run/gpen/gpen.ctl -O 'listener writer listen 3306' \\
        -O 'listener writer prio' 3307 10.0.0.1:3306 10.0.0.2:3306
    gpen-galera watch --gpen=/run/gpen/gpen.ctl --reader=- --writer=writer

How a node is belongs to the server, and so to all listeners; max too, which counts the sessions of all. The choice is
the listener's: it uses the writer's server and no other (listener NAME servers N), whatever fails, fills up or is
added, and while nobody may be used, such as in a handover, none (a number that no server has). Its prios are the
succession. When the writer moves, the sessions on the old one that came through this listener are closed; those of
other listeners go on there. What somebody else changes in that is put right within a second. Where all listeners share
an emergency server, listener NAME no emergency keeps writes off it. Over TCP the watcher needs control_access admin.

The choice does not expire as verdicts do: without a watcher the listener stays with the writer that it was told, also
when that dies, and none of its clients writes elsewhere than the others do. A watcher that starts takes it as it is.
Where there will be none, listener NAME servers all has the listener go by prio, and listener NAME servers N names the
writer.

A gpen that starts is told the choice before any server is said to be up. In its configuration the lines server N health
down because not told yet, one for each server, let it use none until then, or for health_ttl seconds. Where watchers
agree and the choice is not known yet, as in the second after a watcher has started, no server is said to be up for as
long as that.
"""),
    ("USABLE NODES", """
A node is usable when it is Synced, ready, in the primary component, not read_only, does not reject queries
(wsrep_reject_queries), is not in maintenance (pxc_maint_mode of Percona XtraDB Cluster), and is of the group that most
of the nodes are in, by wsrep_cluster_state_uuid, wsrep_cluster_conf_id, wsrep_cluster_size and
wsrep_incoming_addresses. Of two groups of a size the newer one counts. When more nodes tell of a group than it has
members, none of them is used.

The cluster (wsrep_cluster_state_uuid) that was followed is followed until none of its nodes has answered for five
minutes, however many of another one do: a server of another cluster is down, and its reason names that cluster.
gpen-galera adopt has another one followed at once. A watcher that starts follows the cluster that most nodes are in.

A node that was usable has a second to catch up when the membership changes, counted to the next question, so that slow
answers of before do no harm; one that comes back must be of the group at once. A node that owes an answer for --timeout
seconds is not used; when it answers again, what it says is old, so it is used only when it has been of the group for a
second.

What is about the watcher and not about the node is no verdict: its user or password is refused, its account is locked,
expired or has reached a limit, its address is blocked, TLS fails, it has no descriptors. The watcher is blind to that
node then: the last verdict stays, as long as the node can be connected to and the group of the others is not without
it; a node that was never seen has none. status shows such a node as blind, since when and why, and is not well; the log
says so when it begins and when it ends.

A node that gets more than it applies has a queue, and at a length that wsrep_provider_options sets (gcs.fc_limit) it
makes all nodes wait: flow control. status shows each node's queue, and in the column paused for what share of the last
second its writes waited; the log tells of it from a tenth on, with the longest queue, and when it is over. With
--max-queue a node whose queue was longer for a second is used only when all others are as bad, as a donor is; what it
serves is older than elsewhere, and the writer moves away from it.

The sessions on a node that left the primary component, is not ready, rejects queries or is of another group are closed,
for all that they ask there fails. Those on a node that serves, but shall get no new ones, go on: on a donor, until it
has caught up (Donor/Desynced, then Joined), on one in maintenance, and on one that lags; gpen is told drain, not down,
so that its setting on_down does not count. Those on a read_only node or one that does not answer are left to on_down:
keep, its default, keeps them, close ends them. A gpen of before, which does not know drain, is named in status and
the log, and gives such a node clients still.

In a gpen or listener of --writer the writer drains likewise, as long as no other node can follow it. Once one does, the
sessions on the old one are closed as ever, drained or not.
"""),
    ("OTHER ADDRESSES", """
What nodes call themselves (wsrep_incoming_addresses) is often not what gpen connects to: behind NAT, in containers. A
node that answers is matched by its wsrep_local_index, one that does not by what it called itself before; --map says it
for those that no watcher has met. With --discover an address is added when a node of the followed cluster, and none
that is a server already by its wsrep_node_name, was met there; an address that can't be reached is told once. Watchers
that agree may reach the nodes at different addresses: the choice names a node as it calls itself, or by its address
where it does not know its own (AUTO), or another one says the same.
"""),
    ("THE WRITER", """
The first one is the server in front of the first gpen for writes that answers; where none is, the first of --prefer
that is usable, then the one with the lowest wsrep_local_index. It stays until it is not usable, until gpen does not
reach it for three seconds, until an operator sets it to drain or maint in gpen, or until gpen-galera move. Then the
next one takes over, and the sessions on the old one are closed (--keep-old-sessions to leave them; those on a server in
state drain are left anyway, but not those that are left of one that was deleted since). A gpen that has reached no
other node since does not have it moved again, and what a gpen said last, before it died, counts for five seconds. With
--failback a preferred node that has been usable for five seconds gets the role back, unless an operator has moved it
away.

A node that the watcher is blind to is not made the writer; nor is the writer left for that, since somebody may be
writing there: only the operator moves it then.
"""),
    ("SEVERAL GPENS, SEVERAL WATCHERS", """
The writer is a node that all gpens for writes have as a server: status and the log tell which of them lacks one, and a
move there is refused. Two watchers that are not told to agree, and want different writers at one gpen, are told of in
status and the log, once one has put another node in front three times in ten seconds.
"""),
    ("ROOM", """
The max of a server is set to the node's max_connections less --reserve, and follows it. A max that is lower already,
and was not set by this watcher, is an operator's, and stays; give servers one where several gpens share the nodes. So
does one that a watcher of before has set, when max_connections was raised while none ran: status tells of each max that
is lower than a node has room for, and 'server N max 0' has the watcher set it. A node that greets with error 1040 in
spite of that is full, not away: the writer does not move for it, gpen's clients wait as its setting hold says, it is
tried again at once, and status tells it. A node on which only the connection for SUPER users is left greets a client,
and refuses it after the login, when gpen can't help it any more: so a node that has max_connections of them gets no new
clients (health drain), until one has gone.
"""),
    ("AGREEMENT", """
With --agree=SCHEMA the choice is the one row of the table SCHEMA.gpen_writer; every watcher of the cluster gets the
same option, --prefer and --failback, and has a row in SCHEMA.gpen_watcher. SCHEMA.gpen_instance says which process that
row belongs to. The tables are made when they are missing. Watchers of before, which do not know the third one, may go
on beside newer ones: an upgrade, one watcher after the other, needs no change of tables and no other rights. A choice
has a version; to change it is one UPDATE of the version that was read, and of two at a time Galera certifies one. A
watcher that does not hear from more than half of the nodes changes nothing, but ends a handover that has begun.

Each watcher tells its gpens that the writer alone is up. As long as somebody could still write on the old writer (a
move, a donor, maintenance, drain), it is left in steps: the choice names an heir; each watcher takes the old writer
away from its gpens, closes the sessions there and confirms; when all have confirmed the heir is the writer. gpen's
setting hold lets clients wait for that, a quarter to three quarters of a second, and with --quiet as much longer as
the old one's transactions take. When a watcher or one of its gpens
hangs and does not confirm within two seconds, the writer stays what it is, and status, move and the log name the one
that is late. A writer that is dead, cut off or refuses is left at once, whoever hangs, for the next usable node of the
succession that the choice names: by --prefer, then as it was agreed before, first by wsrep_local_index.

What an operator has moved stays where it is, whichever watcher was asked: --failback of none of them undoes it. Tables
that were emptied, dropped, or played back from a backup change nothing that is in use: a second later who has followed
the newest choice proposes it anew, with a version above all that were, and it counts when all have confirmed it. A
watcher that knows no choice does not fill a table while one on the list does; status and the log say for whom it waits.

A watcher is called by the machine's name and its --socket. When two are called so (cloned machines), the one that comes
second says so, takes no part, and gives its gpens no writer; start it with another --socket. A watcher that was started
takes part a second later, and one that has just come to the list leaves no writer that works for two seconds. One that
did not run for four times --interval or more uses no writer before it has read which it is.

A watcher that is ended by a signal takes itself off the list; one that was killed stays on it until it is started again
with the same --socket, or until an operator sets its row to active = 0. A gpen without a watcher goes by what it was
told, so start both together, and end the gpen before its watcher. When a watcher was killed and then the writer dies, a
listener for writes has none until a watcher is back. A gpen of --writer=CONTROL goes by its prios, which are the
succession, to the node that the others choose, health_ttl seconds later; but it returns to the dead writer when that
comes back, and does not pass over a node that accepts connections and is not usable. Where health_ttl is 0 it is set to
5, so that when all watchers are dead it does so. In the configuration of a gpen the lines server N health down because
not told yet, one for each server, let it use none before the watcher has told it.
"""),
    ("BLOCKED ADDRESSES", """
A node refuses an address (error 1129) from which max_connect_errors connections in a row have ended without a login,
100 unless set: a port scan, or a monitor that only connects. Behind a balancer that is the balancer's address, so that
all clients are turned away, until FLUSH HOSTS (or a higher limit) on the node. A login that succeeds begins the count
anew; a password that is wrong is not counted. No balancer can prevent it. The remedy is one of these:

    # in the group [mariadbd] of each node's configuration
    max_connect_errors = 4294967295

    # in gpen: proxy_protocol v2; so a node counts, and blocks, each client by itself
    proxy_protocol_networks = "ADDRESSES OF THE BALANCERS"

The watcher warns of a node whose limit is below 1,000,000 (a gpen passes on some 10,000 new connections a second, so
with that nobody must log in for 100 seconds), once, and again when it is another one; not where all its gpens use
proxy_protocol, and not where the node does not count (skip_name_resolve, or a host_cache_size of 0). status shows the
limit, and the warning.

The watcher's own login and goodbye leave no trace. One that is broken off (TLS that fails, a password plugin that
PyMySQL lacks) is counted, so the watcher tries again only after a minute; check does each time that it is called.
"""),
    ("RIGHTS", """
The user of the watcher, of check and of serve needs to log in and nothing else. With --agree also SELECT, INSERT,
UPDATE and CREATE on the schema, which must exist:

    CREATE USER IF NOT EXISTS watcher@'%' IDENTIFIED BY 'secret';
    CREATE DATABASE IF NOT EXISTS gpen;
    GRANT SELECT, INSERT, UPDATE, CREATE ON gpen.* TO watcher@'%';
"""),
    ("TLS TO THE NODES", """
In the group [client], MySQL's and MariaDB's words count: ssl-mode (DISABLED, PREFERRED, REQUIRED, VERIFY_CA,
VERIFY_IDENTITY), ssl, skip-ssl, ssl-ca, ssl-capath, ssl-cert, ssl-key, ssl-verify-server-cert. Without any of them
there is no TLS; PREFERRED wants it as REQUIRED does, and with a CA both want a certificate that the CA vouches for, as
ssl-ca alone and --ssl-ca do. A user that is to REQUIRE SSL is refused with error 1045 without TLS.

MySQL 8's caching_sha2_password wants the password itself at a user's first login. Without TLS it is locked by a key
that the server hands out (PyMySQL's extra rsa, which gpen's extra galera brings), and who sits between can hand out
another.
"""),
    ("METRICS", """
With --metrics=9181 the watcher answers http://127.0.0.1:9181/metrics, in Prometheus' text or in OpenMetrics: the state,
verdict and role of each node, its receive queue, the time in which its writes waited for flow control, the write sets
that it has committed and its connections; the cluster's size, and whether there is a primary component; the writer's
changes; what came of the questions to each node, and of what each gpen was told; how long the watcher's passes take.
gpen has metrics of its own (its setting metrics). A watcher that hangs, or whose process does not run, does not answer,
so an alarm for a scrape that fails finds it. There are 8 clients at a time, and the oldest gives way. Whoever may
connect may read: with an address that others reach, a firewall says who. docs/METRICS.md lists all names,
contrib/prometheus and contrib/grafana have alerts and a dashboard.
"""),
    ("RIGHTS OF THE PROCESS", """
watch and serve need none of root's. Once they run they can gain no rights (no_new_privs); where they are root's, they
keep the capabilities that gpen(1) names. In a directory that others may write watch follows no symbolic link to its
--socket.
"""),
    ("ENVIRONMENT", """
GPEN_GALERA_USER and GPEN_GALERA_PASSWORD: the credentials, where --defaults-file does not give them.
AVAILABLE_WHEN_DONOR and AVAILABLE_WHEN_READONLY: 1 is the same as the option of check and serve.
"""),
)


if __name__ == "__main__":
    sys.stdout.write(metrics() if sys.argv[1:] == ["metrics"] else page())
