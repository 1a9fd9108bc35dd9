/* A failing file system for one store: loaded before the C library, it counts what a process does to files whose path
 * begins with DTQ_SHIM_PREFIX, and fails, kills or logs at the n-th of these calls. Driven by tests/faults/shim.py.
 *
 * From inside of the process (ctypes): shim_arm, shim_count, shim_hit, shim_log, shim_mark.
 * From outside, by the environment: DTQ_SHIM_FAIL_WHEN names a file; while it is there every write fails with EIO.
 * DTQ_SHIM_SYNC_MS: how long each sync takes. DTQ_SHIM_EVERY: after so many calls one fails with EIO, the next
 * after twice as many, and so on; after ten of them it begins anew, so that whatever is done again works some time.
 * With DTQ_SHIM_NAME in place of DTQ_SHIM_PREFIX the files are those in whose path this stands.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { COUNT, FAIL, DIE, TEAR };
enum { FILES = 4096 };

static char *names[FILES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long counted, first, last, due, turns;
static int action, error;
static char hit[PATH_MAX + 64];
static int logging = -1;

void shim_arm(long from, long calls, int what, int number)
{
    counted = 0;
    first = from;
    last = from + calls - 1;
    action = what;
    error = number;
    hit[0] = 0;
}

long shim_count(void) { return counted; }

const char *shim_hit(void) { return hit; }

void shim_log(const char *path) { logging = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600); }

static void record(char kind, const char *path, const char *data, uint64_t place, uint64_t size)
{
    if (logging < 0)
        return;
    struct { char kind; char pad[3]; uint32_t name; uint64_t place, size, bytes; } head = {
        kind, {0}, (uint32_t)strlen(path), place, size, data ? size : 0};
    static ssize_t (*out)(int, const void *, size_t);
    if (!out)
        out = dlsym(RTLD_NEXT, "write");
    if (out(logging, &head, sizeof head) < 0 || out(logging, path, head.name) < 0 ||
        (data && out(logging, data, size) < 0))
        abort();
}

void shim_mark(long number) { record('M', "", NULL, (uint64_t)number, 0); }

/* 'F' for a file of the store, 'D' for its directory, 0 for all others. */
static char ours(const char *path)
{
    const char *prefix = getenv("DTQ_SHIM_PREFIX"), *name = getenv("DTQ_SHIM_NAME");
    if (name && path && strstr(path, name))
        return 'F';
    if (!prefix || !path)
        return 0;
    if (strncmp(path, prefix, strlen(prefix)) == 0)
        return 'F';
    size_t directory = (size_t)(strrchr(prefix, '/') - prefix);
    return strlen(path) == directory && strncmp(path, prefix, directory) == 0 ? 'D' : 0;
}

static const char *name_of(int file) { return file >= 0 && file < FILES ? names[file] : NULL; }

/* Count a call; whether it is to fail (errno is set then). Calls that are to kill do not return. */
static int fault(const char *what, const char *path, int file, const void *data, size_t size, off_t place)
{
    const char *when = getenv("DTQ_SHIM_FAIL_WHEN");
    const char *every = getenv("DTQ_SHIM_EVERY");
    int failing = 0;
    if (when && access(when, F_OK) == 0 && strcmp(what, "open") != 0) {
        errno = EIO;
        return 1;
    }
    pthread_mutex_lock(&lock);
    counted++;
    if (action != COUNT && counted >= first && counted <= last) {
        snprintf(hit, sizeof hit, "%s %s", what, path);
        failing = 1;
    }
    int turn = every && counted >= due + (atol(every) << turns % 10);
    if (turn) {
        due = counted;
        turns++;
    }
    pthread_mutex_unlock(&lock);
    if (turn) {
        errno = EIO;
        return 1;
    }
    if (!failing)
        return 0;
    size = size / 2 & ~(size_t)511; /* disks and page caches tear writes between sectors */
    if (action == TEAR && data && size) {
        static ssize_t (*half)(int, const void *, size_t, off_t);
        if (!half)
            half = dlsym(RTLD_NEXT, "pwrite64");
        if (half(file, data, size, place) < 0)
            abort();
    }
    if (action == DIE || action == TEAR)
        kill(getpid(), SIGKILL);
    errno = error;
    return 1;
}

static int opened(int file, const char *path)
{
    if (file >= 0 && file < FILES) {
        free(names[file]);
        names[file] = ours(path) ? strdup(path) : NULL;
        if (ours(path) == 'F')
            record('O', path, NULL, 0, 0);
    }
    return file;
}

#define OPEN(name)                                                                                                   \
    int name(const char *path, int flags, ...)                                                                       \
    {                                                                                                                \
        static int (*real)(const char *, int, ...);                                                                  \
        mode_t mode = 0;                                                                                             \
        if (!real)                                                                                                   \
            real = dlsym(RTLD_NEXT, #name);                                                                          \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                                         \
            va_list rest;                                                                                            \
            va_start(rest, flags);                                                                                   \
            mode = va_arg(rest, mode_t);                                                                             \
            va_end(rest);                                                                                            \
        }                                                                                                            \
        if (ours(path) == 'F' && fault("open", path, -1, NULL, 0, 0))                                                \
            return -1;                                                                                               \
        return opened(real(path, flags, mode), path);                                                                \
    }
OPEN(open)
OPEN(open64)

int close(int file)
{
    static int (*real)(int);
    if (!real)
        real = dlsym(RTLD_NEXT, "close");
    if (file >= 0 && file < FILES && names[file]) {
        free(names[file]);
        names[file] = NULL;
    }
    return real(file);
}

#define PWRITE(name)                                                                                                 \
    ssize_t name(int file, const void *data, size_t size, off_t place)                                               \
    {                                                                                                                \
        static ssize_t (*real)(int, const void *, size_t, off_t);                                                    \
        if (!real)                                                                                                   \
            real = dlsym(RTLD_NEXT, #name);                                                                          \
        const char *path = name_of(file);                                                                            \
        if (path && fault("write", path, file, data, size, place))                                                   \
            return -1;                                                                                               \
        ssize_t done = real(file, data, size, place);                                                                \
        if (path && done > 0)                                                                                        \
            record('W', path, data, (uint64_t)place, (uint64_t)done);                                                \
        return done;                                                                                                 \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

#define PWRITEV(name, ...)                                                                                           \
    ssize_t name(int file, const struct iovec *parts, int count, off_t place PWRITEV_PARAMETER(__VA_ARGS__))         \
    {                                                                                                                \
        static ssize_t (*real)(int, const struct iovec *, int, off_t, ...);                                          \
        if (!real)                                                                                                   \
            real = dlsym(RTLD_NEXT, #name);                                                                          \
        const char *path = name_of(file);                                                                            \
        if (path && fault("write", path, file, count ? parts->iov_base : NULL, count ? parts->iov_len : 0, place))   \
            return -1;                                                                                               \
        ssize_t done = real(file, parts, count, place PWRITEV_ARGUMENT(__VA_ARGS__));                                \
        ssize_t left = path ? done : 0;                                                                              \
        for (int n = 0; n < count && left > 0; n++) {                                                                \
            size_t size = (size_t)left < parts[n].iov_len ? (size_t)left : parts[n].iov_len;                         \
            record('W', path, parts[n].iov_base, (uint64_t)place, size);                                             \
            place += (off_t)size;                                                                                    \
            left -= (ssize_t)size;                                                                                   \
        }                                                                                                            \
        return done;                                                                                                 \
    }
#define PWRITEV_PARAMETER(...) __VA_OPT__(, int flags)
#define PWRITEV_ARGUMENT(...) __VA_OPT__(, flags)
PWRITEV(pwritev)
PWRITEV(pwritev64)
PWRITEV(pwritev2, flags)
PWRITEV(pwritev64v2, flags)

static int slowed(int file, const char *path)
{
    const char *ms = getenv("DTQ_SHIM_SYNC_MS");
    if (path && ms) {
        long all = atol(ms);
        struct timespec pause = {all / 1000, all % 1000 * 1000000};
        nanosleep(&pause, NULL);
    }
    return path && fault("sync", path, file, NULL, 0, 0);
}

#define SYNC(name)                                                                                                   \
    int name(int file)                                                                                               \
    {                                                                                                                \
        static int (*real)(int);                                                                                     \
        if (!real)                                                                                                   \
            real = dlsym(RTLD_NEXT, #name);                                                                          \
        const char *path = name_of(file);                                                                            \
        if (slowed(file, path))                                                                                      \
            return -1;                                                                                               \
        int done = real(file);                                                                                       \
        if (path)                                                                                                    \
            record(ours(path) == 'D' ? 'D' : 'S', path, NULL, 0, 0);                                                 \
        return done;                                                                                                 \
    }
SYNC(fsync)
SYNC(fdatasync)

#define TRUNCATE(name)                                                                                               \
    int name(int file, off_t size)                                                                                   \
    {                                                                                                                \
        static int (*real)(int, off_t);                                                                              \
        if (!real)                                                                                                   \
            real = dlsym(RTLD_NEXT, #name);                                                                          \
        const char *path = name_of(file);                                                                            \
        if (path && fault("truncate", path, file, NULL, 0, 0))                                                       \
            return -1;                                                                                               \
        if (path)                                                                                                    \
            record('T', path, NULL, (uint64_t)size, 0);                                                              \
        return real(file, size);                                                                                     \
    }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

#define ALLOCATE(name)                                                                                               \
    int name(int file, off_t place, off_t size)                                                                      \
    {                                                                                                                \
        static int (*real)(int, off_t, off_t);                                                                       \
        if (!real)                                                                                                   \
            real = dlsym(RTLD_NEXT, #name);                                                                          \
        const char *path = name_of(file);                                                                            \
        if (path && fault("allocate", path, file, NULL, 0, 0))                                                       \
            return errno;                                                                                            \
        return real(file, place, size);                                                                              \
    }
ALLOCATE(posix_fallocate)
ALLOCATE(posix_fallocate64)

int rename(const char *from, const char *to)
{
    static int (*real)(const char *, const char *);
    if (!real)
        real = dlsym(RTLD_NEXT, "rename");
    if (ours(from) == 'F') {
        if (fault("rename", from, -1, NULL, 0, 0))
            return -1;
        record('R', from, to, 0, strlen(to));
    }
    return real(from, to);
}

int unlink(const char *path)
{
    static int (*real)(const char *);
    if (!real)
        real = dlsym(RTLD_NEXT, "unlink");
    if (ours(path) == 'F') {
        if (fault("unlink", path, -1, NULL, 0, 0))
            return -1;
        record('U', path, NULL, 0, 0);
    }
    return real(path);
}
