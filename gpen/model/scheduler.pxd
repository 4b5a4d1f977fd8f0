cimport cython
from gpen.model.server cimport Member


cdef class Turns:
    cdef public object last, random
    cdef public double share
    cdef public dict shares


@cython.locals(start=Py_ssize_t, index=Py_ssize_t, member=Member)
cpdef object round_robin(list members, object usable, Turns turns, object key)
