// A disk that fails when it is told to. Loaded before the C library; told by opening a path:
//   /faulty/KIND/N/once   the N-th call of that kind from now on fails
//   /faulty/KIND/N/ever   and all after it
//   /faulty/none/0/once   none
// KIND is write (EIO), full (ENOSPC after half of it was written), or sync (EIO). Only files of a
// database are concerned.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char kind[16] = "none";
static int ever;
static long left;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static int is_database(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    char *end = path + length;
    return (length > 3 && !strcmp(end - 3, ".db")) || (length > 4 && !strcmp(end - 4, "-wal"));
}

static int fails(const char *what, int fd) {
    if (strcmp(kind, what) || !is_database(fd)) return 0;
    long now = __atomic_sub_fetch(&left, 1, __ATOMIC_SEQ_CST);
    return now == 0 || (now < 0 && ever);
}

static int told(const char *path) {
    char how[8];
    if (strncmp(path, "/faulty/", 8)) return 0;
    strcpy(kind, "none");
    if (sscanf(path, "/faulty/%15[^/]/%ld/%7s", kind, &left, how) != 3) return 0;
    ever = !strcmp(how, "ever");
    errno = ENOENT;
    return 1;
}

#define OPEN(name)                                            \
    int name(const char *path, int flags, ...) {              \
        va_list rest;                                         \
        va_start(rest, flags);                                \
        int mode = va_arg(rest, int);                         \
        va_end(rest);                                         \
        if (told(path)) return -1;                            \
        return ((int (*)(const char *, int, ...))real(#name))(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define PWRITE(name)                                                              \
    ssize_t name(int fd, const void *bytes, size_t count, off64_t at) {            \
        ssize_t (*write)(int, const void *, size_t, off64_t) = real(#name);        \
        if (fails("write", fd)) { errno = EIO; return -1; }                        \
        if (fails("full", fd)) {                                                   \
            if (count > 1) write(fd, bytes, count / 2, at);                        \
            errno = ENOSPC;                                                        \
            return -1;                                                             \
        }                                                                          \
        return write(fd, bytes, count, at);                                        \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

#define SYNC(name)                                                    \
    int name(int fd) {                                                \
        if (fails("sync", fd)) { errno = EIO; return -1; }            \
        return ((int (*)(int))real(#name))(fd);                       \
    }
SYNC(fsync)
SYNC(fdatasync)
