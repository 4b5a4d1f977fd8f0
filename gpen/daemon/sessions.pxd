cdef class Sessions:
    cdef public dict live, endings
    cdef public object most
    cdef public long long total
    cdef public double started
    cdef object _ids
