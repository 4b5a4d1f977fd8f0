from gpen.wire cimport kernel
from gpen.wire.greenlets cimport Greenlets
from gpen.wire.kernel cimport Handler


cdef class Incoming(Handler):
    cdef object _listener, _sock, _begin, _no_room
    cdef Greenlets _greenlets
    cpdef object ready(self, unsigned int events)
