from gpen.wire.conversation cimport Conversation, Front as Base


cdef class Front(Base):
    cdef public object scope, session_log
    cdef public dict endings
    cdef public long long count, total
    cdef object _shared, _register, _holds, _short, _refusals, _leaving, _workers
    cpdef object fresh_id(self)
    cpdef object begin(self, Conversation session)
    cpdef bint no_room(self) except -1
    cpdef object watch(self, Conversation session)
    cpdef object resume(self)
    cpdef object stir(self)
    cpdef object ended(self, Conversation session)
    cpdef object forget(self, Conversation session)
