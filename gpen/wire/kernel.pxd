# The contract of kernel.py in C's words.

cdef class Handler:
    cpdef object ready(self, unsigned int events)
    cpdef object failed(self)


cdef extern from "sys/epoll.h" nogil:
    ctypedef union epoll_data_t:
        unsigned long long u64
    struct epoll_event:
        unsigned int events
        epoll_data_t data


cdef class Epoll:
    cdef public double now
    cdef int _fd
    cdef unsigned int _serial
    cdef list _handlers
    cdef unsigned int* _serials
    cdef epoll_event _events[64]
    cdef object _failed
    cpdef int fileno(self)
    cpdef object add(self, int fd, unsigned int mask, Handler handler)
    cpdef object change(self, int fd, unsigned int mask)
    cpdef object remove(self, int fd)
    cpdef object closed(self, int fd)
    cpdef int dispatch(self, double seconds) except -1
    cpdef object close(self)
    cdef int _control(self, int operation, int fd, unsigned int mask, unsigned int serial) except -1
    cdef int _make_room(self, int fd) except -1
    cdef int _wait(self, double seconds) except -1


cdef class Socket:
    cdef int fd
    cdef readonly short family
    cdef int _type
    cdef object _python
    cpdef int fileno(self)
    cpdef object setsockopt(self, int level, int option, object value)
    cpdef object shutdown(self, int how)
    cpdef object close(self)


cdef class Pipe:
    cdef int _inlet, _outlet
    cdef Py_ssize_t _count
    cpdef Py_ssize_t fill(self, Socket sock, Py_ssize_t most)
    cpdef Py_ssize_t drain(self, Socket sock, int flags)
    cpdef object close(self)


cdef class Datagrams:
    cdef object _sock
    cdef int _fd
    cdef int _ours
    cpdef object receive(self)
    cpdef Py_ssize_t answer(self, bytes data, bytes key) except -1
    cpdef object close(self)
    cpdef object peer(self, bytes key)
    cdef Py_ssize_t _answer_from(self, bytes data, char* address, unsigned int length)


cpdef double monotonic() noexcept
cpdef object accept(object sock)
cpdef Socket stream(int family)
cpdef int connect(Socket sock, object endpoint) except -1
cpdef int progress(Socket sock) except -1
cdef (Py_ssize_t, Py_ssize_t) forward(Socket source, Socket target, object view, int flags) noexcept
cdef Py_ssize_t receive(Socket sock, object view) noexcept
cdef Py_ssize_t transmit(Socket sock, object view, Py_ssize_t count, int flags) noexcept
cpdef Socket datagram(int family)
cpdef object place(Socket sock)
cpdef object take(Socket sock)
cpdef Py_ssize_t post(Socket sock, bytes data) except -1
cpdef Py_ssize_t hear(Socket sock, object view) except -2
cpdef Py_ssize_t say(Socket sock, bytes data, int flags) except -3
