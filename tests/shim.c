/* Test tool: a library for LD_PRELOAD that makes chosen file calls of a process fail, lie, wait or
 * kill it, and logs when each began and ended.
 *
 * It watches files and directories whose path contains SHIM_MATCH. A fault is three words:
 *   calls   open, mkdir, rename, write, pwrite, pwritev, writev, fsync, fdatasync, fadvise, joined
 *           by commas; or "any" (every write), "sync" (every sync), "all"
 *   nth     N: the N-th watched call of those, from 1; "from:N": each from the N-th on; 0: each
 *   action  delay:MS, eio, enospc, erofs, eacces, short (half of a write), lie (nothing is done and
 *           success is said), kill
 * given as SHIM_CALL, SHIM_NTH and SHIM_ACTION, or as one line "calls nth action" in the file
 * SHIM_CONTROL, which is read again at each watched call: a test can switch faults in a running
 * process. A changed line counts from 1 again; an empty or missing file is no fault.
 * SHIM_LOG gets "begin CALL ns 0" and "end CALL ns result" of each watched write, sync and fadvise,
 * and the end of a rename (CLOCK_MONOTONIC). It knows nothing of what the process does. Linux only.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { OPEN, MKDIR, RENAME, WRITE, PWRITE, PWRITEV, WRITEV, FSYNC, FDATASYNC, FADVISE, CALLS };
static const char *const call_names[CALLS] = {
    "open",    "mkdir",  "rename", "write",     "pwrite",
    "pwritev", "writev", "fsync",  "fdatasync", "fadvise"};
enum { WRITES = 1 << WRITE | 1 << PWRITE | 1 << PWRITEV | 1 << WRITEV };
enum { SYNCS = 1 << FSYNC | 1 << FDATASYNC, FDS = 65536, RULE_BYTES = 256 };

typedef enum { PROCEED, FAIL, SHORT, LIE } verdict_t;
static atomic_uchar watched[FDS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char rule[RULE_BYTES];
static long seen;
static int log_fd = -1;

/* The real functions are looked up by name: what is preloaded hides them. */
#define REAL(name, type, ...)                                         \
    static type (*real)(__VA_ARGS__);                                 \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

/* Offsets have 64 bits with and without the name saying so. */
#define SAME_AS(name) __attribute__((alias(name)))
_Static_assert(sizeof(off_t) == sizeof(off64_t), "the 64-bit names are the same functions");

static int is_watched_path(const char *path) {
    const char *match = getenv("SHIM_MATCH");
    return match && *match && path && strstr(path, match) != NULL;
}

static int is_watched(int fd) { return fd >= 0 && fd < FDS && watched[fd]; }
/* Raw system calls, so that the shim's own files are never watched. */
static void log_line(const char *what, int call, long result) {
    if (log_fd < 0) return;
    int error = errno;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    char line[128];
    int length = snprintf(line, sizeof line, "%s %s %lld %ld\n", what, call_names[call],
                          now.tv_sec * 1000000000ll + now.tv_nsec, result);
    syscall(SYS_write, log_fd, line, (size_t)length);
    errno = error;
}

static void read_rule(char *now) {
    now[0] = 0;
    const char *control = getenv("SHIM_CONTROL");
    if (control) {
        int fd = (int)syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC, 0);
        if (fd < 0) return;
        long length = syscall(SYS_read, fd, now, RULE_BYTES - 1);
        syscall(SYS_close, fd);
        now[length > 0 ? length : 0] = 0;
        now[strcspn(now, "\n")] = 0;
    } else if (getenv("SHIM_CALL") && getenv("SHIM_NTH") && getenv("SHIM_ACTION")) {
        snprintf(now, RULE_BYTES, "%s %s %s", getenv("SHIM_CALL"), getenv("SHIM_NTH"),
                 getenv("SHIM_ACTION"));
    }
}

static int names(char *calls, int call) {
    char *rest = NULL;
    for (char *name = strtok_r(calls, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
        if (!strcmp(name, "all") || !strcmp(name, call_names[call])) return 1;
        if (!strcmp(name, "any") && WRITES >> call & 1) return 1;
        if (!strcmp(name, "sync") && SYNCS >> call & 1) return 1;
    }
    return 0;
}

/* Whether this call is due for the fault; `action` takes RULE_BYTES. */
static int is_due(int call, char *action) {
    char now[RULE_BYTES], calls[RULE_BYTES], nth[RULE_BYTES];
    int due = 0;
    pthread_mutex_lock(&lock);
    read_rule(now);
    if (strcmp(now, rule) != 0) {
        strcpy(rule, now);
        seen = 0;
    }
    if (sscanf(now, "%255s %255s %255s", calls, nth, action) == 3 && names(calls, call)) {
        seen++;
        if (!strncmp(nth, "from:", 5))
            due = seen >= atol(nth + 5);
        else
            due = atol(nth) == 0 || seen == atol(nth);
    }
    pthread_mutex_unlock(&lock);
    return due;
}

static verdict_t judge(int call) {
    char action[RULE_BYTES];
    if (!is_due(call, action)) return PROCEED;
    if (!strcmp(action, "kill")) {
        kill(getpid(), SIGKILL);
        pause();
    }
    if (!strcmp(action, "short")) return SHORT;
    if (!strcmp(action, "lie")) return LIE;
    if (!strncmp(action, "delay:", 6)) {
        long ms = atol(action + 6);
        struct timespec left = {ms / 1000, ms % 1000 * 1000000};
        while (nanosleep(&left, &left) != 0 && errno == EINTR) {}
    }
    errno = !strcmp(action, "eio") ? EIO : !strcmp(action, "enospc") ? ENOSPC
          : !strcmp(action, "erofs") ? EROFS : !strcmp(action, "eacces") ? EACCES : 0;
    return errno ? FAIL : PROCEED;
}

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("SHIM_LOG");
    int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC;
    if (path) log_fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags, 0600);
}

/* ---- files and directories ------------------------------------------------------------------- */

static int opened(int fd, int on) {
    if (fd >= 0 && fd < FDS) watched[fd] = (unsigned char)on;
    return fd;
}

#define ARGS(...) __VA_ARGS__
#define OPENS(name, parameters, types, arguments)                                \
    int name(parameters const char *path, int flags, ...) {                      \
        va_list rest;                                                            \
        va_start(rest, flags);                                                   \
        mode_t mode = va_arg(rest, mode_t); /* none given: passing one on does no harm */ \
        va_end(rest);                                                            \
        REAL(name, int, types const char *, int, ...);                           \
        int on = is_watched_path(path);                                          \
        if (on && judge(OPEN) == FAIL) return -1;                                \
        return opened(real(arguments path, flags, mode), on);                    \
    }
OPENS(open, , , )
OPENS(openat, ARGS(int at,), ARGS(int,), ARGS(at,))
int open64(const char *, int, ...) SAME_AS("open");
int openat64(int, const char *, int, ...) SAME_AS("openat");

int close(int fd) {
    REAL(close, int, int);
    if (fd >= 0 && fd < FDS) watched[fd] = 0;
    return real(fd);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir, int, const char *, mode_t);
    return is_watched_path(path) && judge(MKDIR) == FAIL ? -1 : real(path, mode);
}

int rename(const char *from, const char *to) {
    REAL(rename, int, const char *, const char *);
    int result = is_watched_path(to) && judge(RENAME) == FAIL ? -1 : real(from, to);
    if (is_watched_path(to)) log_line("end", RENAME, result);
    return result;
}

/* ---- writes and syncs ------------------------------------------------------------------------ */

/* `whole` and `half` are the real call, with all and with half of what it was asked to do. */
#define WATCHED(type, call, told, whole, half)             \
    if (!is_watched(fd)) return whole;                     \
    log_line("begin", call, 0);                            \
    verdict_t verdict = judge(call);                       \
    type result = verdict == FAIL ? -1 : verdict == LIE ? (type)(told) \
                : verdict == SHORT ? half : whole;         \
    log_line("end", call, (long)result);                   \
    return result

static size_t bytes_of(const struct iovec *parts, int count) {
    size_t bytes = 0;
    for (int i = 0; i < count; i++) bytes += parts[i].iov_len;
    return bytes;
}

ssize_t write(int fd, const void *from, size_t bytes) {
    REAL(write, ssize_t, int, const void *, size_t);
    WATCHED(ssize_t, WRITE, bytes, real(fd, from, bytes), real(fd, from, bytes / 2));
}

ssize_t pwrite(int fd, const void *from, size_t bytes, off_t at) {
    REAL(pwrite, ssize_t, int, const void *, size_t, off_t);
    WATCHED(ssize_t, PWRITE, bytes, real(fd, from, bytes, at), real(fd, from, bytes / 2, at));
}
ssize_t pwrite64(int, const void *, size_t, off64_t) SAME_AS("pwrite");
/* Half of several parts is the first half of the parts, or half of the only one. */
#define HALF(parts, count)                                             \
    struct iovec part = {0};                                           \
    if ((count) == 1) part = (struct iovec){(parts)->iov_base, (parts)->iov_len / 2}; \
    const struct iovec *few = (count) == 1 ? &part : (parts);          \
    int few_count = (count) == 1 ? 1 : (count) / 2

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev, ssize_t, int, const struct iovec *, int);
    HALF(parts, count);
    WATCHED(ssize_t, WRITEV, bytes_of(parts, count), real(fd, parts, count),
            real(fd, few, few_count));
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    REAL(pwritev, ssize_t, int, const struct iovec *, int, off_t);
    HALF(parts, count);
    WATCHED(ssize_t, PWRITEV, bytes_of(parts, count), real(fd, parts, count, at),
            real(fd, few, few_count, at));
}
ssize_t pwritev64(int, const struct iovec *, int, off64_t) SAME_AS("pwritev");

#define SYNCS_WITH(name, call)                        \
    int name(int fd) {                                \
        REAL(name, int, int);                         \
        WATCHED(int, call, 0, real(fd), real(fd));    \
    }
SYNCS_WITH(fsync, FSYNC)
SYNCS_WITH(fdatasync, FDATASYNC)

int posix_fadvise(int fd, off_t at, off_t bytes, int advice) {
    REAL(posix_fadvise, int, int, off_t, off_t, int);
    WATCHED(int, FADVISE, 0, real(fd, at, bytes, advice), 0);
}
int posix_fadvise64(int, off64_t, off64_t, int) SAME_AS("posix_fadvise");
