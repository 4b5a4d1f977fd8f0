from gpen.wire.flow_sockets cimport FlowSockets


cdef class Loops:
    cdef public long long dropped, changes
    cdef public FlowSockets flow_sockets
    cdef object _pool, _listeners
    cdef dict _servers, _ours
    cdef long long _seen
    cdef double _last
    cpdef object changed(self)
    cpdef bint drops(self, object sockaddr, object data=*) except -1


cpdef object place_of(object sockaddr)
