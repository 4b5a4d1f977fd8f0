"""gpen-galera(1), made from the usage texts, so that its options can't drift from the program.

    python -m gpen.galera.manual > man/gpen-galera.1
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from gpen import __version__
from gpen.control import roff
from gpen.galera.usage import USAGES

DATE = "November 2026"
HEADING = re.compile(r"(Usage|Options|Examples?|Exit status):(.*)")


def page() -> str:
    """The man page."""
    lines = [r".\" made by gpen.galera.manual from the usage texts: change them there",
             f'.TH GPEN\\-GALERA 1 "{DATE}" "gpen {__version__}" "User Commands"', ".SH NAME",
             r"gpen\-galera \- tell gpen how the nodes of a Galera cluster are, and which is the writer",
             ".SH SYNOPSIS"]
    synopses = [line for usage in USAGES.values() for line in _parts(usage)["Usage"]]
    lines += ["\n.br\n".join(roff.escape(line.strip()) for line in synopses)]
    lines += [".SH DESCRIPTION", *roff.paragraphs(_DESCRIPTION)]
    for command, usage in USAGES.items():
        lines += [f'.SH "{command.upper()}"', *_command(_parts(usage))]
    for heading, text in _SECTIONS:
        lines += [f'.SH "{heading}"', *roff.paragraphs(text)]
    return "\n".join([*lines, '.SH "SEE ALSO"', r"\fBgpen\fR(1), \fBgpenctl\fR(1)"]) + "\n"


def options_of(usage: str) -> list[tuple[str, str]]:
    """The options of a usage text, each with its help."""
    found: list[tuple[str, str]] = []
    for line in _parts(usage)["Options"]:
        option = re.match(r"  (-.*?)(?:   *(\S.*))?$", line)
        if option:
            found.append((option[1], option[2] or ""))
        else:
            found[-1] = found[-1][0], f"{found[-1][1]} {line.strip()}".strip()
    return found


def _parts(usage: str) -> dict[str, list[str]]:
    """The lines of a usage text by their heading; those before the first are called About, and those that follow a
    paragraph of options Notes."""
    parts: dict[str, list[str]] = {"About": [], "Notes": []}
    name = "About"
    for line in usage.splitlines():
        heading = HEADING.match(line)
        if heading:
            name = heading[1].rstrip("s") if heading[1].startswith("Example") else heading[1]
            parts[name] = [heading[2].strip()] if heading[2].strip() else []
        elif line and not line.startswith(" ") and name in ("Usage", "Options"):
            parts["Notes"].append(line)
        elif line:
            parts[name].append(line)
    return parts


def _command(parts: dict[str, list[str]]) -> Iterator[str]:
    yield from roff.paragraphs(" ".join(parts["About"] + parts["Notes"]))
    for option, text in options_of("Options:\n" + "\n".join(parts["Options"])):
        yield from roff.term(option, text)
    if "Exit status" in parts:
        yield from (".PP", roff.escape("Exit status: " + " ".join(parts["Exit status"])))
    if "Example" in parts:
        yield from (".PP", "Example:", *roff.as_it_is(map(str.strip, parts["Example"])))


_DESCRIPTION = """
A MariaDB server accepts connections and answers SELECT 1 while it is desynced, read only, or cut off from its cluster,
so a balancer that looks at connections alone sends clients where they fail. gpen-galera watch asks every node, four
times a second over one kept connection, and tells each gpen over its control socket which of its servers are up
(server N health up|down because REASON). The nodes are the servers of the gpens.

A gpen that is given by --reader spreads connections over all usable nodes; one that is given by --writer has one node
in front, the writer, and the others ranked behind it by prio, so that even without a watcher a dead writer fails over.

The watcher may be killed, restarted or stopped at any time: the gpens go on with what they know, for health_ttl
seconds if that is set, and a watcher that starts takes the writer as it is.
"""

_SECTIONS = (
    ("USABLE NODES", """
A node is usable when it is Synced, ready, in the primary component, not read_only, does not reject queries
(wsrep_reject_queries), and is of the group that most of the nodes are in, by wsrep_cluster_state_uuid,
wsrep_cluster_conf_id and wsrep_cluster_size. Of two groups of a size the one of the cluster that was followed so far
counts, then the newer one.

A node that was usable has a second to catch up when the membership changes; one that comes back must be of the group at
once. A node that owes an answer for --timeout seconds is not used; when it answers again, what it says is old, so it is
used only when it has been of the group for a second. A node that refuses the user or the password gets no verdict, for
that says nothing about it.

The sessions on a node that left the primary component, is not ready, rejects queries or is of another group are closed,
for all that they ask there fails. Those on a donor, a read_only node or one that does not answer are left to gpen's
setting on_down.
"""),
    ("THE WRITER", """
The first one is the server in front of the first --writer gpen that answers; where none is, the first of --prefer that
is usable, then the one with the lowest wsrep_local_index. It stays until it is not usable, until gpen does not reach it
for three seconds, until an operator sets it to drain or maint in gpen, or until gpen-galera move. Then the next one
takes over, and the sessions on the old one are closed (--keep-old-sessions to leave them; those on a server in state
drain are left anyway). With --failback a preferred node that has been usable for five seconds gets the role back,
unless an operator has moved it away.
"""),
    ("AGREEMENT", """
With --agree=SCHEMA the choice is the one row of the table SCHEMA.gpen_writer; every watcher of the cluster gets the
same option, --prefer and --failback, and has a row in SCHEMA.gpen_watcher. SCHEMA.gpen_instance says which process that
row belongs to. The tables are made when they are missing. Watchers of before, which do not know the third one, may go
on beside newer ones: an upgrade, one watcher after the other, needs no change of tables and no other rights. A choice
has a version; to change it is one UPDATE of the version that was read, and of two at a time Galera certifies one. A
watcher that does not hear from more than half of the nodes changes nothing, but ends a handover that has begun.

Each watcher tells its gpens that the writer alone is up. As long as somebody could still write on the old writer (a
move, a donor, drain), it is left in steps: the choice names an heir; each watcher takes the old writer away from its
gpens, closes the sessions there and confirms; when all have confirmed the heir is the writer. gpen's setting hold lets
clients wait for that, a quarter to three quarters of a second. When a watcher or one of its gpens hangs and does not
confirm within two seconds, the writer stays what it is, and status, move and the log name the one that is late. A
writer that is dead, cut off or refuses is left at once, whoever hangs, for the next usable node of the succession that
the choice names: by --prefer, then as it was agreed before, first by wsrep_local_index.

What an operator has moved stays where it is, whichever watcher was asked: --failback of none of them undoes it. Tables
that were emptied, dropped, or played back from a backup change nothing that is in use: a second later who has followed
the newest choice proposes it anew, with a version above all that were, and it counts when all have confirmed it. A
watcher that knows no choice does not fill a table while one on the list does; status and the log say for whom it waits.

A watcher is called by the machine's name and its --socket. When two are called so (cloned machines), the one that comes
second says so, takes no part, and gives its gpens no writer; start it with another --socket. A watcher that was started
takes part a second later, and one that has just come to the list leaves no writer that works for two seconds. One that
did not run for four times --interval or more uses no writer before it has read which it is.

A watcher that is ended by a signal takes itself off the list; one that was killed stays on it until it is started
again with the same --socket, or until an operator sets its row to active = 0. A gpen without a watcher goes by its own
prios, so start both together, and end the gpen before its watcher. The prios are the succession: when a watcher was
killed and then the writer dies, its gpen goes to the node that the others choose, health_ttl seconds later; but it
returns to the dead writer when that comes back, and does not pass over a node that accepts connections and is not
usable. Where health_ttl is 0 it is set to 5, so that when all watchers are dead gpen goes back to the order of prio. In
the configuration of a gpen the lines server N health down because not told yet, one for each server, let it use none
before the watcher has told it.
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

    CREATE USER watcher@'%' IDENTIFIED BY 'secret';
    CREATE DATABASE gpen;
    GRANT SELECT, INSERT, UPDATE, CREATE ON gpen.* TO watcher@'%';
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
    sys.stdout.write(page())
