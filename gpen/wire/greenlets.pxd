cdef class Greenlets:
    cdef int _keep
    cdef object _hub, _faults
    cdef list _idle
    cpdef object start(self, object work)
