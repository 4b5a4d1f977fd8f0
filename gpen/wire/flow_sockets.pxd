cdef class FlowSockets:
    cdef dict _by_place, _by_port, _full, _taken, _freed
    cdef bint _is_short
    cpdef tuple open(self, object endpoint, object settings, object flow)
    cpdef object add(self, tuple place, object endpoint, object flow, object sock)
    cpdef object remove(self, tuple place, object flow)
