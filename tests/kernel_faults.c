/* What the kernel is asked by a program that runs with this library (LD_PRELOAD) fails as long as the file FAILING
   holds the name of a call and an errno; each failure adds a byte to the file COUNTED. gevent's loop is left alone,
   and so are unix sockets, by which one may ask how it is. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static int fails(const char *call, void *caller)
{
    char text[64], name[32];
    int number = 0, fd = open(getenv("FAILING"), O_RDONLY | O_CLOEXEC);
    ssize_t length;
    Dl_info place;

    if (fd < 0)
        return 0;
    length = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (length <= 0)
        return 0;
    text[length] = 0;
    if (sscanf(text, "%31s %d", name, &number) != 2 || strcmp(name, call) != 0)
        return 0;
    if (dladdr(caller, &place) && place.dli_fname && strstr(place.dli_fname, "gevent"))
        return 0;
    fd = open(getenv("COUNTED"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (fd >= 0) {
        if (write(fd, "x", 1) < 0)
            abort();
        close(fd);
    }
    errno = number;
    return 1;
}

static int is_inet(int fd)
{
    struct sockaddr_storage address = {0};
    socklen_t length = sizeof(address);

    return getsockname(fd, (struct sockaddr *)&address, &length) == 0
        && (address.ss_family == AF_INET || address.ss_family == AF_INET6);
}

#define REAL(type, name, ...) ((type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))
#define FAILS(name) fails(#name, __builtin_return_address(0))

int epoll_ctl(int epfd, int operation, int fd, struct epoll_event *event)
{
    if (operation == EPOLL_CTL_ADD && FAILS(epoll_ctl))
        return -1;
    return REAL(int, epoll_ctl, int, int, int, struct epoll_event *)(epfd, operation, fd, event);
}

int epoll_wait(int epfd, struct epoll_event *events, int most, int milliseconds)
{
    if (FAILS(epoll_wait))
        return -1;
    return REAL(int, epoll_wait, int, struct epoll_event *, int, int)(epfd, events, most, milliseconds);
}

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
    if (is_inet(fd) && FAILS(accept4))
        return -1;
    return REAL(int, accept4, int, struct sockaddr *, socklen_t *, int)(fd, address, length, flags);
}

int socket(int family, int type, int protocol)
{
    if (type & SOCK_STREAM && FAILS(socket))
        return -1;
    return REAL(int, socket, int, int, int)(family, type, protocol);
}

int connect(int fd, const struct sockaddr *address, socklen_t length)
{
    if (is_inet(fd) && FAILS(connect))
        return -1;
    return REAL(int, connect, int, const struct sockaddr *, socklen_t)(fd, address, length);
}

int shutdown(int fd, int how)
{
    if (is_inet(fd) && FAILS(shutdown))
        return -1;
    return REAL(int, shutdown, int, int)(fd, how);
}

ssize_t recv(int fd, void *buffer, size_t length, int flags)
{
    if (!(flags & MSG_PEEK) && is_inet(fd) && FAILS(recv))
        return -1;
    return REAL(ssize_t, recv, int, void *, size_t, int)(fd, buffer, length, flags);
}

ssize_t send(int fd, const void *buffer, size_t length, int flags)
{
    if (is_inet(fd) && FAILS(send))
        return -1;
    return REAL(ssize_t, send, int, const void *, size_t, int)(fd, buffer, length, flags);
}
