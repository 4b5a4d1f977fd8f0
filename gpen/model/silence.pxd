cdef class Silence:
    cdef public object endpoint
    cdef public double excused, told
    cdef long long _flows
    cdef double _asked, _counted
