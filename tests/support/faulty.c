// A disk that fails when it is told to. Loaded before the C library; told by opening a path:
//   /faulty/KIND/N/OFTEN   the N-th call of that kind from now on fails, OFTEN times in a row
//   /faulty/none/0/0       none
// KIND is
//   write   EIO
//   full    ENOSPC, after half of it was written
//   sync    EIO, and what was written reads well
//   lost    the same, and what was written since the last sync that did not fail is gone, as where
//           the kernel drops pages that it could not write: the next sync knows nothing of them
// Only files of a database are concerned.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES 1024

static char kind[16] = "none";
static long left;
static unsigned long often;

struct range { off64_t at; size_t length; };
static struct range *unsynced[FILES];
static int written[FILES], room[FILES];

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static int is_database(int fd) {
    static const char *endings[] = { ".db", ".outbox", "-wal", "-journal" };
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    for (int i = 0; i < 4; i++) {
        size_t ending = strlen(endings[i]);
        if ((size_t)length > ending && !strcmp(path + length - ending, endings[i])) return 1;
    }
    return 0;
}

static int fails(const char *what, int fd) {
    if (strcmp(kind, what) || !is_database(fd)) return 0;
    long now = __atomic_sub_fetch(&left, 1, __ATOMIC_SEQ_CST);
    return now <= 0 && (unsigned long)-now < often;
}

static int told(const char *path) {
    if (strncmp(path, "/faulty/", 8)) return 0;
    strcpy(kind, "none");
    errno = ENOENT;
    return sscanf(path, "/faulty/%15[^/]/%ld/%lu", kind, &left, &often) == 3;
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

int close(int fd) {
    if (fd >= 0 && fd < FILES) written[fd] = 0;
    return ((int (*)(int))real("close"))(fd);
}

static ssize_t really_write(int fd, const void *bytes, size_t count, off64_t at) {
    static ssize_t (*write)(int, const void *, size_t, off64_t);
    if (!write) write = real("pwrite64");
    return write(fd, bytes, count, at);
}

static void note(int fd, off64_t at, size_t count) {
    if (fd >= FILES || !is_database(fd)) return;
    if (written[fd] == room[fd]) {
        room[fd] = room[fd] ? 2 * room[fd] : 64;
        unsynced[fd] = realloc(unsynced[fd], room[fd] * sizeof(struct range));
    }
    unsynced[fd][written[fd]++] = (struct range) { at, count };
}

#define PWRITE(name)                                                              \
    ssize_t name(int fd, const void *bytes, size_t count, off64_t at) {            \
        if (fails("write", fd)) { errno = EIO; return -1; }                        \
        if (fails("full", fd)) {                                                   \
            if (count > 1) really_write(fd, bytes, count / 2, at);                 \
            errno = ENOSPC;                                                        \
            return -1;                                                             \
        }                                                                          \
        note(fd, at, count);                                                       \
        return really_write(fd, bytes, count, at);                                 \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

static void lose(int fd) {
    struct stat file;
    for (int i = 0; i < written[fd]; i++) {
        struct range *range = &unsynced[fd][i];
        if (fstat(fd, &file) || range->at >= file.st_size) continue;
        char *zeroes = calloc(1, range->length);
        really_write(fd, zeroes, range->length, range->at);
        free(zeroes);
    }
}

// A sync is of a file, through whatever handle of it.
static void synced(int fd, int lost) {
    struct stat file, other;
    if (fstat(fd, &file)) return;
    for (int at = 0; at < FILES; at++) {
        if (!written[at] || fstat(at, &other)) continue;
        if (other.st_ino != file.st_ino || other.st_dev != file.st_dev) continue;
        if (lost) lose(at);
        written[at] = 0;
    }
}

#define SYNC(name)                                                    \
    int name(int fd) {                                                \
        int lost = fails("lost", fd);                                 \
        synced(fd, lost);                                             \
        if (lost || fails("sync", fd)) { errno = EIO; return -1; }    \
        return ((int (*)(int))real(#name))(fd);                       \
    }
SYNC(fsync)
SYNC(fdatasync)
