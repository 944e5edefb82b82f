/* Loaded into a program (LD_PRELOAD), makes writes or syncs of its outbox fail.
 *
 * FAULT_KIND   "sync" or "write"
 * FAULT_FIRST  the first call of that kind that fails, from 1
 * FAULT_OFTEN  how many fail in a row
 *
 * A sync that fails zeroes what was written to the file since the last one that did not, as if the
 * kernel had dropped the pages: the next sync succeeds and knows nothing of them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILES 1024
#define RANGES 4096

struct range { off_t at; size_t length; };
static struct range unsynced[FILES][RANGES];
static int count[FILES];
static unsigned long calls;

static ssize_t really_write(int fd, const void *data, size_t length, off_t at)
{
    static ssize_t (*real)(int, const void *, size_t, off_t);
    if (!real)
        real = dlsym(RTLD_NEXT, "pwrite64");
    return real(fd, data, length, at);
}

static int is_outbox(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0 || fd >= FILES)
        return 0;
    path[length] = 0;
    return strstr(path, "usage.outbox") != NULL;
}

static int fails(const char *kind)
{
    const char *wanted = getenv("FAULT_KIND");
    if (!wanted || strcmp(wanted, kind))
        return 0;
    unsigned long first = strtoul(getenv("FAULT_FIRST"), NULL, 10);
    unsigned long often = strtoul(getenv("FAULT_OFTEN"), NULL, 10);
    calls++;
    return calls >= first && calls - first < often;
}

ssize_t pwrite64(int fd, const void *data, size_t length, off_t at)
{
    if (is_outbox(fd)) {
        if (fails("write")) {
            errno = ENOSPC;
            return -1;
        }
        if (count[fd] < RANGES)
            unsynced[fd][count[fd]++] = (struct range) { at, length };
    }
    return really_write(fd, data, length, at);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t at)
{
    return pwrite64(fd, data, length, at);
}

static int sync_file(int fd, const char *name)
{
    if (is_outbox(fd)) {
        int written = count[fd];
        count[fd] = 0;
        if (fails("sync")) {
            for (int i = 0; i < written; i++) {
                char *zeroes = calloc(1, unsynced[fd][i].length);
                really_write(fd, zeroes, unsynced[fd][i].length, unsynced[fd][i].at);
                free(zeroes);
            }
            errno = EIO;
            return -1;
        }
    }
    int (*real)(int) = dlsym(RTLD_NEXT, name);
    return real(fd);
}

int fsync(int fd) { return sync_file(fd, "fsync"); }
int fdatasync(int fd) { return sync_file(fd, "fdatasync"); }
