cimport cython
from gpen.model.server cimport Member, Target


cdef unsigned long long _ALL_BITS, _FIRST, _SECOND


cdef class Turns:
    cdef public object last, random, returns
    cdef public long long choices
    cdef public double share
    cdef public dict shares


@cython.locals(client=cython.ulonglong, bits=cython.ulonglong, least=double, u=double, score=double, weight=double,
               member=Member, target=Target)
cpdef object weighted_rendezvous(list members, object usable, Turns turns, object key)
@cython.locals(start=Py_ssize_t, index=Py_ssize_t, member=Member)
cpdef object round_robin(list members, object usable, Turns turns, object key)
