# cython: boundscheck=False, wraparound=False
"""What is asked of the kernel for each connection and each byte, in C; kernel.py says what, and is the same in Python.

A descriptor's number comes back soon after it is closed. So what is watched has a serial number as well, which epoll
tells with each event: one that was meant for an earlier owner of the descriptor is dropped.
"""

import _socket
import errno as names
import os
import struct
from select import EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP

from gpen.model.address import UNIX, Endpoint, normalize

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.errno cimport EAGAIN, EINPROGRESS, EINTR, EINVAL, ENOMEM, ENOSYS, EPERM, errno
from libc.limits cimport INT_MAX
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

cdef extern from "Python.h":
    PyObject* PyList_GET_ITEM(object list, Py_ssize_t index)
    ctypedef struct PyMemoryViewObject:
        int flags
        Py_buffer view
    enum:
        _Py_MEMORYVIEW_RELEASED, _Py_MEMORYVIEW_C
    bint PyMemoryView_Check(object thing)
    const char* PyUnicode_AsUTF8(object text) except NULL

cdef extern from "sys/epoll.h" nogil:
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int operation, int fd, epoll_event* event)
    int epoll_wait(int epfd, epoll_event* events, int most, int milliseconds)
    enum:
        EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, _EDGE "EPOLLET"

cdef extern from "sys/socket.h" nogil:
    struct sockaddr:
        pass
    struct sockaddr_storage:
        unsigned short ss_family
    ctypedef unsigned int socklen_t
    int c_socket "socket"(int family, int type, int protocol)
    int c_connect "connect"(int fd, const sockaddr* address, socklen_t length)
    int accept4(int fd, sockaddr* address, socklen_t* length, int flags)
    int getpeername(int fd, sockaddr* address, socklen_t* length)
    int getsockname(int fd, sockaddr* address, socklen_t* length)
    int c_setsockopt "setsockopt"(int fd, int level, int option, const void* value, socklen_t length)
    int c_shutdown "shutdown"(int fd, int how)
    ssize_t recv(int fd, void* buffer, size_t length, int flags)
    ssize_t send(int fd, const void* buffer, size_t length, int flags)
    ssize_t recvfrom(int fd, void* buffer, size_t length, int flags, sockaddr* address, socklen_t* size)
    ssize_t sendto(int fd, const void* buffer, size_t length, int flags, const sockaddr* address, socklen_t size)
    ssize_t recvmsg(int fd, msghdr* message, int flags)
    ssize_t sendmsg(int fd, const msghdr* message, int flags)
    struct iovec:
        void* iov_base
        size_t iov_len
    struct msghdr:
        void* msg_name
        socklen_t msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr* CMSG_FIRSTHDR(msghdr* message)
    unsigned char* CMSG_DATA(cmsghdr* header)
    size_t CMSG_LEN(size_t length)
    size_t CMSG_SPACE(size_t length)
    enum:
        AF_INET, AF_INET6, SOCK_STREAM, SOCK_DGRAM, SOCK_NONBLOCK, SOCK_CLOEXEC, MSG_NOSIGNAL, MSG_MORE, MSG_PEEK

cdef extern from "netinet/in.h" nogil:
    enum:
        IPPROTO_IP, IPPROTO_IPV6, IPV6_PKTINFO
    struct in_addr:
        pass
    struct in6_addr:
        pass
    struct sockaddr_in:
        unsigned short sin_family
        unsigned short sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_family
        unsigned short sin6_port
        unsigned int sin6_flowinfo
        in6_addr sin6_addr
        unsigned int sin6_scope_id

cdef extern from "arpa/inet.h" nogil:
    const char* inet_ntop(int family, const void* address, char* text, socklen_t length)
    int inet_pton(int family, const char* text, void* address)
    unsigned short htons(unsigned short number)
    unsigned short ntohs(unsigned short number)
    unsigned int htonl(unsigned int number)
    unsigned int ntohl(unsigned int number)

cdef extern from "unistd.h" nogil:
    int c_close "close"(int fd)
    int pipe2(int* ends, int flags)

cdef extern from "fcntl.h" nogil:
    ssize_t splice(int source, void* source_offset, int target, void* target_offset, size_t length, unsigned int flags)
    int fcntl(int fd, int command, ...)
    enum:
        O_CLOEXEC, O_NONBLOCK, F_SETPIPE_SZ, SPLICE_F_MOVE, SPLICE_F_NONBLOCK, SPLICE_F_MORE

cdef extern from "time.h" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* time)
    enum:
        CLOCK_MONOTONIC

AGAIN = -1
LOST = -2
MORE = MSG_MORE
cdef enum:
    _MOST_EVENTS = 64
BATCH = _MOST_EVENTS
cdef int _STREAM = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC
cdef unsigned int _SPLICE = SPLICE_F_MOVE | SPLICE_F_NONBLOCK
cdef int _DATAGRAMS = SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC
cdef enum:
    _IP_PKTINFO = 8
    _LARGEST = 65536
    _WORDS = 8  # for a struct cmsghdr, which wants that alignment
    _ANCILLARY = 64  # bytes: so many words
    _ADDRESSES = 144  # a struct sockaddr_storage, and one of ours
IP_PKTINFO = _IP_PKTINFO
cdef char _datagram[_LARGEST]


cpdef double monotonic() noexcept:
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return time.tv_sec + time.tv_nsec * 1e-9


cdef class Handler:
    """What is told of the events of a descriptor that is watched."""

    cpdef object ready(self, unsigned int events):
        raise NotImplementedError

    cpdef object failed(self):
        raise


cdef class Epoll:
    """An epoll with a handler for each descriptor."""

    def __cinit__(self, *arguments):
        self.now = monotonic()
        self._fd = -1
        self._handlers = []
        self._make_room(_MOST_EVENTS)
        self._fd = epoll_create1(EPOLL_CLOEXEC)
        if self._fd < 0:
            PyErr_SetFromErrno(OSError)

    def __init__(self, failed):
        self._failed = failed

    def __dealloc__(self):
        if self._fd >= 0:
            c_close(self._fd)
        free(self._serials)

    cdef int _make_room(self, int fd) except -1:
        cdef Py_ssize_t size = 2 * max(<Py_ssize_t>fd, len(self._handlers))
        cdef void* memory = realloc(self._serials, size * sizeof(unsigned int))
        if memory == NULL:
            raise MemoryError()
        self._serials = <unsigned int*>memory
        self._handlers.extend([None] * (size - len(self._handlers)))
        return 0

    @property
    def watched(self):
        return len(self._handlers) - self._handlers.count(None)

    cpdef int fileno(self):
        return self._fd

    cdef int _control(self, int operation, int fd, unsigned int mask, unsigned int serial) except -1:
        cdef epoll_event event
        event.events = mask
        event.data.u64 = (<unsigned long long>serial << 32) | <unsigned int>fd
        if epoll_ctl(self._fd, operation, fd, &event) < 0:
            PyErr_SetFromErrno(OSError)
        return 0

    cpdef object add(self, int fd, unsigned int mask, Handler handler):
        if fd < 0:
            raise ValueError("a descriptor that is closed can't be watched")
        self._serial += 1
        self._control(EPOLL_CTL_ADD, fd, mask, self._serial)  # not if it is no descriptor, or watched already
        if fd >= len(self._handlers):
            try:
                self._make_room(fd)
            except BaseException:
                self._control(EPOLL_CTL_DEL, fd, 0, 0)
                raise
        self._serials[fd] = self._serial
        self._handlers[fd] = handler

    cpdef object change(self, int fd, unsigned int mask):
        if not 0 <= fd < len(self._handlers):
            raise ValueError("a descriptor that is closed can't be watched")
        self._control(EPOLL_CTL_MOD, fd, mask if mask else <unsigned int>_EDGE, self._serials[fd])

    cpdef object remove(self, int fd):
        if 0 <= fd < len(self._handlers) and self._handlers[fd] is not None:
            self._handlers[fd] = None
            self._control(EPOLL_CTL_DEL, fd, 0, 0)

    cpdef object closed(self, int fd):
        if 0 <= fd < len(self._handlers):
            self._handlers[fd] = None

    cpdef int dispatch(self, double seconds) except -1:
        cdef int count = self._wait(seconds), number = 0, fd
        cdef unsigned long long whom
        cdef Handler handler = None
        while number < count:
            try:  # one for all of them, until it is needed
                while number < count:
                    whom = self._events[number].data.u64
                    fd = <int>(whom & 0xFFFFFFFFu)
                    number += 1
                    if self._serials[fd] == <unsigned int>(whom >> 32):
                        handler = <Handler>PyList_GET_ITEM(self._handlers, fd)
                        if handler is not None:
                            handler.ready(self._events[number - 1].events)
            except Exception:
                self._failed(handler)
        return count

    cdef int _wait(self, double seconds) except -1:
        """At first without giving other threads a chance, which costs more than the question: most often something
        has come."""
        cdef int count = epoll_wait(self._fd, self._events, _MOST_EVENTS, 0), milliseconds
        if count == 0 and seconds > 0:
            milliseconds = <int>min(seconds * 1000 + 0.999, <double>INT_MAX)
            with nogil:
                count = epoll_wait(self._fd, self._events, _MOST_EVENTS, milliseconds)
        if count < 0:
            if errno != EINTR:
                PyErr_SetFromErrno(OSError)
            PyErr_CheckSignals()
            count = 0
        self.now = monotonic()
        return count

    cpdef object close(self):
        if self._fd >= 0:
            c_close(self._fd)
            self._fd = -1


@cython.no_gc
cdef class Socket:
    """A socket of a connection by its descriptor. For whatever is not here it makes one of Python's, and keeps it."""

    def __cinit__(self):
        self.fd = -1

    def __init__(self, int family, int type=SOCK_STREAM, int proto=0, fileno=None):
        self.family = family
        self._type = type
        if fileno is None:
            self.fd = c_socket(family, type | SOCK_CLOEXEC, proto)
            if self.fd < 0:
                PyErr_SetFromErrno(OSError)
        elif fileno < 0:
            raise ValueError("negative file descriptor")
        else:
            self.fd = fileno

    def __dealloc__(self):
        if self.fd >= 0 and self._python is None:
            c_close(self.fd)

    def __getattr__(self, name):
        if self._python is None:
            if self.fd < 0:
                raise OSError(names.EBADF, os.strerror(names.EBADF))
            self._python = _socket.socket(self.family, self._type, 0, self.fd)
        return getattr(self._python, name)

    cpdef int fileno(self):
        return self.fd

    cpdef object setsockopt(self, int level, int option, object value):
        if not isinstance(value, int):
            self.__getattr__("setsockopt")(level, option, value)
            return
        cdef int number = value
        if c_setsockopt(self.fd, level, option, &number, sizeof(number)) < 0:
            PyErr_SetFromErrno(OSError)

    cpdef object shutdown(self, int how):
        if c_shutdown(self.fd, how) < 0:
            PyErr_SetFromErrno(OSError)

    def detach(self):
        cdef int fd = self.fd
        self.fd = -1
        if self._python is not None:
            self._python.detach()
            self._python = None
        return fd

    cpdef object close(self):
        cdef int fd = self.fd
        if fd >= 0:
            self.fd = -1
            if self._python is None:
                c_close(fd)
            else:
                self._python.close()


cdef Socket _adopted(int fd, int family, int type=_STREAM):
    cdef Socket sock
    try:
        sock = Socket.__new__(Socket)
    except MemoryError:
        c_close(fd)
        raise
    sock.family = family
    sock._type = type
    sock.fd = fd
    return sock


cpdef object accept(object sock):
    cdef sockaddr_storage address
    cdef socklen_t length = sizeof(address)
    cdef int fd = accept4(sock.fileno(), <sockaddr*>&address, &length, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if fd < 0:
        if errno == EAGAIN:
            return None
        PyErr_SetFromErrno(OSError)
    cdef Socket client = _adopted(fd, address.ss_family)
    if address.ss_family != AF_INET and address.ss_family != AF_INET6:
        return client, UNIX, 0
    return client, _host(&address), _port(&address)


cdef str _host(const sockaddr_storage* address):
    """The address of the internet, in its one form."""
    cdef char text[46]
    if address.ss_family == AF_INET:
        return _dotted(<unsigned char*>&(<sockaddr_in*>address).sin_addr)
    inet_ntop(AF_INET6, &(<sockaddr_in6*>address).sin6_addr, text, sizeof(text))
    return normalize(text.decode("ascii"))


cdef int _port(const sockaddr_storage* address):
    return ntohs((<sockaddr_in*>address).sin_port if address.ss_family == AF_INET else
                 (<sockaddr_in6*>address).sin6_port)


cdef str _dotted(const unsigned char* octets):
    """An IPv4 address as text: inet_ntop takes 900 instructions, this 100."""
    cdef char text[16]
    cdef int length = 0, number
    cdef unsigned char octet
    for number in range(4):
        octet = octets[number]
        if octet >= 100:
            text[length] = 48 + octet // 100
            length += 1
        if octet >= 10:
            text[length] = 48 + octet // 10 % 10
            length += 1
        text[length] = 48 + octet % 10
        text[length + 1] = b"."
        length += 2
    return text[:length - 1].decode("ascii")


cpdef Socket stream(int family):
    cdef int fd = c_socket(family, _STREAM, 0)
    if fd < 0:
        PyErr_SetFromErrno(OSError)
    return _adopted(fd, family)


cpdef int connect(Socket sock, object endpoint) except -1:
    cdef sockaddr_storage address
    cdef socklen_t length = _packed(endpoint, &address)
    if not length:
        return sock.connect_ex(endpoint.sockaddr)
    return 0 if c_connect(sock.fd, <sockaddr*>&address, length) == 0 else errno


cdef socklen_t _packed(object endpoint, sockaddr_storage* address) except? 0:
    """Where ``endpoint`` is, as the kernel wants it; 0 when that is a path, or an address that Python must read."""
    cdef sockaddr_in* four = <sockaddr_in*>address
    cdef sockaddr_in6* six = <sockaddr_in6*>address
    if not isinstance(endpoint, Endpoint):
        raise TypeError("an Endpoint is where to connect")
    cdef int family = (<tuple>endpoint)[0]
    if family != AF_INET and family != AF_INET6:
        return 0
    cdef tuple where = (<tuple>endpoint)[1]
    if len(where) < 2:
        raise TypeError("an address has a host and a port")
    cdef const char* host = PyUnicode_AsUTF8(where[0])
    memset(address, 0, sizeof(sockaddr_storage))
    if family == AF_INET:
        four.sin_family = AF_INET
        four.sin_port = htons(where[1])
        return sizeof(sockaddr_in) if inet_pton(AF_INET, host, &four.sin_addr) == 1 else 0
    six.sin6_family = AF_INET6
    six.sin6_port = htons(where[1])
    if len(where) > 2:
        six.sin6_flowinfo = htonl(where[2])
    if len(where) > 3:
        six.sin6_scope_id = where[3]
    return sizeof(sockaddr_in6) if inet_pton(AF_INET6, host, &six.sin6_addr) == 1 else 0


cpdef int progress(Socket sock) except -1:
    cdef sockaddr_storage address
    cdef socklen_t length = sizeof(address)
    cdef char first
    if getpeername(sock.fd, <sockaddr*>&address, &length) == 0 or recv(sock.fd, &first, 1, MSG_PEEK) >= 0:
        return 0
    return EINPROGRESS if errno == EAGAIN else errno


cdef inline Py_ssize_t _told(Py_ssize_t count) noexcept:
    """What a system call has answered: how many bytes, or AGAIN or LOST."""
    if count >= 0:
        return count
    return AGAIN if errno == EAGAIN else LOST


# C calls these with sockets and views of its own; what Python calls looks at them first.


@cython.nonecheck(False)
cdef (Py_ssize_t, Py_ssize_t) forward(Socket source, Socket target, object view, int flags) noexcept:
    cdef Py_buffer* buffer = &(<PyMemoryViewObject*>view).view
    cdef Py_ssize_t count = recv(source.fd, buffer.buf, buffer.len, 0)
    if count <= 0:
        return _told(count), 0
    return count, _told(send(target.fd, buffer.buf, count, flags | MSG_NOSIGNAL))


@cython.nonecheck(False)
cdef Py_ssize_t receive(Socket sock, object view) noexcept:
    cdef Py_buffer* buffer = &(<PyMemoryViewObject*>view).view
    return _told(recv(sock.fd, buffer.buf, buffer.len, 0))


cpdef Py_ssize_t hear(Socket sock, object view) except -2:
    cdef Py_buffer* buffer = _bytes_of(view)
    cdef Py_ssize_t count = recv(sock.fd, buffer.buf, buffer.len, 0)
    if count >= 0:
        return count
    if errno != EAGAIN:
        PyErr_SetFromErrno(OSError)
    return AGAIN


@cython.nonecheck(False)
cdef Py_ssize_t transmit(Socket sock, object view, Py_ssize_t count, int flags) noexcept:
    return _told(send(sock.fd, (<PyMemoryViewObject*>view).view.buf, count, flags | MSG_NOSIGNAL))


def _forward(Socket source not None, Socket target not None, view, int flags):
    _bytes_to_write(view)
    return forward(source, target, view, flags)


def _receive(Socket sock not None, view):
    _bytes_to_write(view)
    return receive(sock, view)


def _transmit(Socket sock not None, view, Py_ssize_t count, int flags):
    if not 0 <= count <= _bytes_of(view).len:
        raise ValueError("more than there is")
    return transmit(sock, view, count, flags)


globals().update(forward=_forward, receive=_receive, transmit=_transmit)


cdef Py_buffer* _bytes_to_write(object view) except NULL:
    cdef Py_buffer* buffer = _bytes_of(view)
    if buffer.readonly:
        raise TypeError("what is read goes into memory that may be written")
    return buffer


cdef Py_buffer* _bytes_of(object view) except NULL:
    """The memory of a view, if it has one, without gaps."""
    if PyMemoryView_Check(view):
        if (<PyMemoryViewObject*>view).flags & (_Py_MEMORYVIEW_RELEASED | _Py_MEMORYVIEW_C) == _Py_MEMORYVIEW_C:
            return &(<PyMemoryViewObject*>view).view
    raise ValueError("no view of memory in one piece")


@cython.no_gc
cdef class Pipe:
    """A pipe through which bytes go from one socket to another."""

    def __cinit__(self):
        self._outlet = self._inlet = -1

    def __init__(self, int size):
        cdef int ends[2]
        if pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0:
            PyErr_SetFromErrno(OSError)
        self._outlet, self._inlet = ends[0], ends[1]
        if fcntl(self._inlet, F_SETPIPE_SZ, size) < 0:
            PyErr_SetFromErrno(OSError)

    def __dealloc__(self):
        self.close()

    def __len__(self):
        return self._count

    cpdef Py_ssize_t fill(self, Socket sock, Py_ssize_t most):
        cdef Py_ssize_t count = splice(sock.fd, NULL, self._inlet, NULL, most, _SPLICE)
        if count < 0:
            return 0 if errno in (EAGAIN, EINVAL, ENOSYS, EPERM, ENOMEM) else LOST
        self._count = count
        return count

    cpdef Py_ssize_t drain(self, Socket sock, int flags):
        cdef Py_ssize_t sent = splice(self._outlet, NULL, sock.fd, NULL, self._count,
                                      _SPLICE | SPLICE_F_MORE if flags & MSG_MORE else _SPLICE)
        if sent < 0:
            return AGAIN if errno == EAGAIN else LOST
        self._count -= sent
        return sent

    cpdef object close(self):
        if self._inlet >= 0:
            c_close(self._outlet)
            c_close(self._inlet)
            self._outlet = self._inlet = -1


cpdef Socket datagram(int family):
    cdef int fd = c_socket(family, _DATAGRAMS, 0)
    if fd < 0:
        PyErr_SetFromErrno(OSError)
    return _adopted(fd, family, _DATAGRAMS)


cpdef object place(Socket sock):
    cdef sockaddr_storage address
    cdef socklen_t length = sizeof(address)
    if getsockname(sock.fd, <sockaddr*>&address, &length) < 0:
        PyErr_SetFromErrno(OSError)
    return _host(&address), _port(&address)


cpdef object take(Socket sock):
    cdef ssize_t count = recv(sock.fd, _datagram, _LARGEST, 0)
    if count >= 0:
        return PyBytes_FromStringAndSize(_datagram, count)
    if errno == EAGAIN:
        return None
    PyErr_SetFromErrno(OSError)


cpdef Py_ssize_t post(Socket sock, bytes data) except -1:
    cdef ssize_t count = send(sock.fd, PyBytes_AS_STRING(data), len(data), MSG_NOSIGNAL)
    if count < 0:
        PyErr_SetFromErrno(OSError)
    return count


cdef class Datagrams:
    """A key is what the kernel has written: a struct sockaddr_in or sockaddr_in6, and our address behind it."""

    def __init__(self, sock, everywhere):
        self._sock = sock
        self._fd = sock.fileno()
        self._ours = 0 if not everywhere else 4 if sock.family == AF_INET else 16

    cpdef object receive(self):
        cdef char address[_ADDRESSES]
        cdef unsigned long long ancillary[_WORDS]
        cdef iovec data
        cdef msghdr message
        cdef cmsghdr* header
        cdef socklen_t length = sizeof(sockaddr_storage)
        cdef ssize_t count
        if not self._ours:
            count = recvfrom(self._fd, _datagram, _LARGEST, 0, <sockaddr*>address, &length)
        else:
            data.iov_base, data.iov_len = _datagram, _LARGEST
            memset(&message, 0, sizeof(message))
            message.msg_name, message.msg_namelen = address, length
            message.msg_iov, message.msg_iovlen = &data, 1
            message.msg_control, message.msg_controllen = ancillary, _ANCILLARY
            count = recvmsg(self._fd, &message, 0)
        if count < 0:
            if errno == EAGAIN:
                return None
            PyErr_SetFromErrno(OSError)
        if self._ours:
            length = message.msg_namelen
            header = CMSG_FIRSTHDR(&message)
            if header == NULL:
                raise OSError(names.EPROTO, "the kernel does not tell which address was asked")
            memcpy(&address[length], CMSG_DATA(header) + (4 if self._ours == 4 else 0), self._ours)
        return PyBytes_FromStringAndSize(_datagram, count), PyBytes_FromStringAndSize(address, length + self._ours)

    cpdef Py_ssize_t answer(self, bytes data, bytes key) except -1:
        cdef char* address = PyBytes_AS_STRING(key)
        cdef socklen_t length = len(key) - self._ours
        cdef ssize_t count
        if not self._ours:
            count = sendto(self._fd, PyBytes_AS_STRING(data), len(data), MSG_NOSIGNAL, <sockaddr*>address, length)
        else:
            count = self._answer_from(data, address, length)
        if count < 0:
            PyErr_SetFromErrno(OSError)
        return count

    cdef Py_ssize_t _answer_from(self, bytes data, char* address, unsigned int length):
        """Send from the address that stands behind that of the client."""
        cdef unsigned long long ancillary[_WORDS]
        cdef iovec part
        cdef msghdr message
        cdef size_t size = 12 if self._ours == 4 else 20
        part.iov_base, part.iov_len = PyBytes_AS_STRING(data), len(data)
        memset(&message, 0, sizeof(message))
        memset(ancillary, 0, _ANCILLARY)
        message.msg_name, message.msg_namelen = address, length
        message.msg_iov, message.msg_iovlen = &part, 1
        message.msg_control, message.msg_controllen = ancillary, CMSG_SPACE(size)
        cdef cmsghdr* header = CMSG_FIRSTHDR(&message)
        header.cmsg_len = CMSG_LEN(size)
        header.cmsg_level = IPPROTO_IP if self._ours == 4 else IPPROTO_IPV6
        header.cmsg_type = _IP_PKTINFO if self._ours == 4 else IPV6_PKTINFO
        memcpy(CMSG_DATA(header) + (4 if self._ours == 4 else 0), address + length, self._ours)
        return sendmsg(self._fd, &message, MSG_NOSIGNAL)

    cpdef object close(self):
        self._fd = -1
        self._sock.close()

    cpdef object peer(self, bytes key):
        cdef sockaddr_storage address
        cdef char text[46]
        cdef sockaddr_in6* six = <sockaddr_in6*>&address
        memset(&address, 0, sizeof(address))
        memcpy(&address, PyBytes_AS_STRING(key), len(key) - self._ours)
        if address.ss_family == AF_INET:
            return _host(&address), _port(&address)
        inet_ntop(AF_INET6, &six.sin6_addr, text, sizeof(text))
        return text.decode("ascii"), _port(&address), ntohl(six.sin6_flowinfo), six.sin6_scope_id

    def asked(self, bytes key):
        return key[len(key) - self._ours:]

    def key_of(self, peer, bytes asked):
        if len(peer) == 2:
            return struct.pack("=H", AF_INET) + struct.pack("!H4s8x", peer[1], _socket.inet_aton(peer[0])) + asked
        host, port, flow, scope = peer
        host = _socket.inet_pton(AF_INET6, host.partition("%")[0])
        return struct.pack("=H", AF_INET6) + struct.pack("!HI16s", port, flow, host) + struct.pack("=I", scope) + asked


cpdef Py_ssize_t say(Socket sock, bytes data, int flags) except -3:
    cdef const char* start = data
    return _told(send(sock.fd, start, len(data), flags | MSG_NOSIGNAL))
