cimport cython
from gpen.wire.conversation cimport Front
from gpen.wire.flow cimport Flow
from gpen.wire.kernel cimport Datagrams, Handler
from gpen.wire.loops cimport Loops


cdef unsigned int EPOLLIN


cdef class DatagramListener(Handler):
    cdef readonly object socket, endpoint, bound_to, flows, waiting, remnants
    cdef readonly Datagrams clients
    cdef public Front front
    cdef public object admits
    cdef readonly int port
    cdef readonly bint is_kept
    cdef Loops _loops
    cdef long long _changes
    cdef int _most
    cdef long long _requests
    cdef object _host
    cdef bytes _own
    cdef bint _everywhere, _started, _closing, _suspended
    cpdef object ready(self, unsigned int events)
    cpdef object forget(self, object flows, object mark)
    cpdef bint covers(self, DatagramListener other) except -1
    @cython.locals(clients=Datagrams, flow=Flow, received=tuple)
    cpdef object _read(self, int most)
    @cython.locals(front=Front, flow=Flow)
    cdef Flow _begin(self, object key, object data)
