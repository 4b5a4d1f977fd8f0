cdef class Sessions:
    cdef public dict live
    cdef public object most, timed
    cdef public long long total
    cdef public double started
    cdef object _ids
