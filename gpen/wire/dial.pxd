from gpen.wire cimport sockets
from gpen.wire.poller cimport Poller


cpdef object dial(object endpoint, object settings, Poller poller, double seconds, object protocol, object header=*)
cpdef object reach(object endpoint, object settings, Poller poller, double seconds, object header)
