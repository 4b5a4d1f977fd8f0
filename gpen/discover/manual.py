"""gpen-discover(1), made from the usage texts, so that its options can't drift from the program.

    python -m gpen.discover.manual > man/gpen-discover.1
"""

from __future__ import annotations

import sys

from gpen import __version__
from gpen.discover.sources import SOURCES
from gpen.discover.usage import COMMON, USAGES, source_usage
from gpen.docs import roff
from gpen.docs.usage_manual import command_of, synopsis

DATE = "November 2026"


def page() -> str:
    """The man page."""
    lines = [r".\" made by gpen.discover.manual from the usage texts: change them there",
             f'.TH GPEN\\-DISCOVER 1 "{DATE}" "gpen {__version__}" "User Commands"', ".SH NAME",
             r"gpen\-discover \- keep the servers of gpens as a source outside says", ".SH SYNOPSIS",
             synopsis(USAGES.values()), ".SH DESCRIPTION", *roff.paragraphs(_DESCRIPTION)]
    for name, kind in SOURCES.items():
        lines += [f'.SH "THE SOURCE {name.upper()}"', *command_of(source_usage(name, kind, ""))]
    lines += ['.SH "OPTIONS OF ALL SOURCES"', *command_of(f"Options:\n{COMMON}"), ".SH STATUS",
              *command_of(USAGES["status"])]
    for heading, text in _SECTIONS:
        lines += [f'.SH "{heading}"', *roff.paragraphs(text)]
    return "\n".join([*lines, '.SH "SEE ALSO"', r"\fBgpen\fR(1), \fBgpenctl\fR(1), \fBgpen\-galera\fR(1)"]) + "\n"


_DESCRIPTION = """
Which servers there are is often known elsewhere: in a file that a deployment writes, in DNS, in a registry of services.
gpen-discover watches one such source, and tells any number of gpens over their control sockets: a server that is new
there is added, another weight, prio or limit is taken over, and one that has left is drained, and deleted once it has
no sessions. It ends and starts without harm: the gpens keep what they have, and it knows its servers by their owner.

Each gpen is looked at every two seconds, by a thread of its own, so that one which hangs or is away delays no other. A
gpen that is back, be it another one that has forgotten everything, is brought up to date, and what somebody changes by
hand at these servers is put back, where the source says it.

What it tells goes to stderr, a line for each change, with the time in UTC. Where that is the journal of systemd
(JOURNAL_STREAM), how urgent a line is stands in front of it instead (sd-daemon(3)).
"""

_SECTIONS = (
    ("ANSWERS THAT COUNT", """
An answer counts as a whole or not at all. One that can't be had, breaks off, is not understood, or has a server in it
that makes no sense changes nothing, in no gpen; the log says why, once, status goes on saying so, and the source is
asked again a second later. So does an answer without any server, for that is more often a fault than meant;
--allow-empty has it believed.

Where all servers of a source are replaced at once by others that don't work, the last ones are kept: as long as fewer
than --floor servers of the source can be used (1 unless given), so many of those that have left stay in use, and status
and the log name them.
"""),
    ("SERVERS AND OWNERS", """
What gpen-discover makes has an owner (server N owner WORD, discover unless --owner says otherwise), and it changes and
deletes nothing else. A server that is there already, with another owner or none, counts as there: it is not made again,
and not changed. The owner is part of the configuration: write saves it, and a reload, an upgrade and gpen --replace
keep it. A reload also keeps these servers themselves, unless the file has one with the same number.

Several sources tell one gpen as several processes, each with an owner and a --socket of its own.

A server that has left has the verdict drain (server N health drain because ...): it gets no new clients, and its
sessions go on, for --drain seconds if that is given. The state of a server (ready, drain, maint) is the operator's, and
is never touched. A server that comes back meanwhile is taken back. For a gpen that gpen-galera gives verdicts, too,
use one of the two programs.

What the source says of a server (weight, prio, max) is kept as it says; what it does not say is the operator's. prio
and weight count where the rule by which a gpen chooses heeds them.
"""),
    ("LISTENERS", """
A listener uses all servers, unless it is told which (listener NAME servers 100-199). Numbers of servers that are not
there yet may be said: so give such a listener a range, and the source that is for it the same one:

    gpenctl /run/gpen/gpen.ctl listener web servers 100-199
    gpen-discover file /etc/gpen/web --gpen=/run/gpen/gpen.ctl --owner=web --numbers=100-199 \\
        --socket=/run/gpen/discover-web.sock

A gpen that has a control socket may start without servers.
"""),
    ("FILES", """
Lines hold a server each, HOST:PORT, and what is to be said of it; what follows a # is a comment. The last line ends as
all do: one without an end may be half a line, and the file is not taken.

    10.0.0.1:3306 weight 5
    [2001:db8::2]:3306 prio 1 max 100  # in the other house

In JSON and YAML it is a list, or a list that is called servers: of texts HOST:PORT, of objects with host and port (or
address) and weight, prio, max, or of groups as Prometheus has them in files (targets, labels), whose labels weight,
prio and max count.

    [{"host": "10.0.0.1", "port": 3306, "weight": 5}, "10.0.0.2:3306"]
    [{"targets": ["10.0.0.1:3306"], "labels": {"weight": "5"}}]

Replace a file by renaming a new one to it, so that it is never seen half written; one that is written in place is read
when it has not changed for a moment. A symbolic link is followed wherever it leads now, as the files of a Kubernetes
ConfigMap need it. With the package watchdog a change counts at once, by inotify; without it, or where inotify can't
see it (NFS), within a second. YAML needs PyYAML.
"""),
    ("DNS", """
A and AAAA records are asked for, or SRV records and then the addresses of their targets; over TCP where an answer does
not fit, and through CNAMEs. What is used first is what expires first: then all is asked again, but not before --ttl-min
seconds and not after --ttl-max. The name is taken as it is: no search list is gone through, and /etc/hosts is not read.

The priority of an SRV record is the server's prio, and its weight the weight; 0, which is a small weight there and none
to gpen, is 1. A target that is a dot says that there is no such service: an empty answer.

NXDOMAIN, SERVFAIL and silence change nothing, nor does it count when only one of the answers can't be had. Needs the
package dnspython.
"""),
    ("ETCD, CONSUL AND KUBERNETES", """
All three are asked over HTTP, and tell of a change at once. An answer has four seconds, and 8 MiB. A watch that says
nothing is begun anew: with etcd and Consul after 10 seconds, with Kubernetes after 20. Of several URLs the next is
asked when one fails. A certificate is always verified, redirects and proxies are not followed, and files with secrets,
authorities and certificates are read again when they are used, so that they may be rotated.

The value of a key in etcd is a server as in the line of a file, or an object of JSON. Each key of etcd, and each
instance of Consul, counts for itself, as each is made by somebody else: what is not understood is told; what was said
there before holds, and one that was never understood is no server. Where none of them is understood, nothing changes.
A key that was put with a lease (etcdctl put --lease=ID) goes with it, and the server leaves.

An instance of Consul has its own address, or else its node's, and its weight when it passes. The token needs
service:read and node:read.

An endpoint of Kubernetes is a server as long as it is ready, or that is not known, and not terminating. In a pod its
service account is used, which needs the verbs list and watch of endpointslices (discovery.k8s.io); contrib/kubernetes
has an example. A token goes by HTTPS only.
"""),
    ("RIGHTS OF THE PROCESS", """
It needs none of root's: only to open the control sockets, for which it best runs as gpen's user, and its source. Over
TCP it needs control_access operate. Once it runs it can gain no rights (no_new_privs).
"""),
)


if __name__ == "__main__":
    sys.stdout.write(page())
