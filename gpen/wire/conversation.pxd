cimport cython
from gpen.model.client cimport Client, ClientTable
from gpen.model.lease cimport Lease
from gpen.model.selector cimport Selector
from gpen.model.server cimport Server
from gpen.wire cimport kernel
from gpen.wire.greenlets cimport Greenlets
from gpen.wire.poller cimport Poller


cdef class Front:
    cdef public object name, settings, listener, hold, loops, quieter, tls, server_tls, protocol, routes, troubles
    cdef public object limits, handshakes
    cdef public Selector selector
    cdef public ClientTable clients
    cdef public Poller poller
    cdef public Greenlets greenlets
    cdef public long long dialing
    cpdef object fresh_id(self)
    cpdef object begin(self, Conversation session)
    cpdef bint no_room(self) except -1
    cpdef object watch(self, Conversation session)
    cpdef object resume(self)
    cpdef object stir(self)
    cpdef object ended(self, Conversation session)
    cpdef object forget(self, Conversation session)


cdef class Conversation:
    cdef readonly long long id
    cdef public Front _front
    cdef public Selector _selector
    cdef public object address, endpoint, ending, secured, secured_server
    cdef public ClientTable clients
    cdef public Client client
    cdef public Lease lease
    cdef public Server server
    cdef public int _port
    cdef public double _accepted, started, chosen, connected, finished
    cpdef tuple volumes(self)
    cpdef bint _admit(self) except -1


cdef class Seeker(Conversation):
    cdef public object _greenlet, _held, _pause, _problem
    @cython.locals(selector=Selector)
    cpdef Lease _reserve(self, bint denied, Client client, list tried)
