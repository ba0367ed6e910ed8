/* Counts what changes files in a folder, and kills the process at one of these operations; for LD_PRELOAD.
 *
 * An operation is a file that is opened for writing, a write, a truncation, a link, a renaming, a removal, a folder that
 * is made, or a synchronisation: of Python, C++ and Rust alike, which all call the C library. crash_arm(folder, at, power)
 * begins to count; at operation `at` the process is killed before it. A write is then done by half. With `power` files
 * that were written and not synchronised are cut in half, too, as after a power cut; without it, only a file that was
 * about to be synchronised. What is before the first crash_arm costs a comparison.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES 4096

static char folder[PATH_MAX];
static size_t length;
static long at, count;
static int power, armed;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* files that were opened for writing: a descriptor of our own, and how much of them is on the disk */
static struct { dev_t device; ino_t number; int own; off_t safe; } files[FILES];
static int known;

void crash_arm(const char *where, long when, int power_cut) {
    snprintf(folder, sizeof folder, "%s", where);
    length = strlen(folder), at = when, count = 0, known = 0, power = power_cut, armed = 1;
}

long crash_count(void) { return count; }

static int inside(const char *path) { return !strncmp(path, folder, length) && (path[length] == '/' || !path[length]); }

static int path_of(int descriptor, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    path[size < 0 ? 0 : size] = 0;
    return size > 0;
}

static int concerns(int base, const char *path) {
    char whole[PATH_MAX + NAME_MAX];
    if (!armed || !path) return 0;
    if (path[0] == '/') return inside(path);
    if (base == AT_FDCWD ? !getcwd(whole, PATH_MAX) : !path_of(base, whole)) return 0;
    strncat(whole, "/", 2), strncat(whole, path, sizeof whole - strlen(whole) - 1);
    return inside(whole);
}

static int writes_into(int descriptor) {
    char path[PATH_MAX];
    return armed && path_of(descriptor, path) && inside(path);
}

static int place(int descriptor) {
    struct stat found;
    if (fstat(descriptor, &found) || !S_ISREG(found.st_mode)) return -1;
    for (int i = 0; i < known; i++)
        if (files[i].device == found.st_dev && files[i].number == found.st_ino) return i;
    return -1;
}

static void halve(int i) {
    struct stat found;
    if (fstat(files[i].own, &found) || found.st_size <= files[i].safe) return;
    syscall(SYS_ftruncate, files[i].own, files[i].safe + (found.st_size - files[i].safe) / 2);
}

/* Counts one operation; ends the process at the one that was asked for. */
static void operation(int written, const void *data, size_t size, int synchronised) {
    pthread_mutex_lock(&lock);
    if (++count == at) {
        if (written >= 0) syscall(SYS_write, written, data, size / 2);
        int which = synchronised >= 0 ? place(synchronised) : -1;
        for (int i = 0; i < known; i++)
            if (power || i == which) halve(i);
        syscall(SYS_kill, getpid(), SIGKILL);
        for (;;) pause();
    }
    pthread_mutex_unlock(&lock);
}

static void opened(int descriptor, int truncated) {
    char link[64];
    struct stat found;
    pthread_mutex_lock(&lock);
    int i = place(descriptor);
    if (i < 0 && known < FILES && !fstat(descriptor, &found) && S_ISREG(found.st_mode)) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
        i = known++;
        files[i].device = found.st_dev, files[i].number = found.st_ino;
        files[i].safe = found.st_size; /* what another process left is on the disk */
        files[i].own = syscall(SYS_openat, AT_FDCWD, link, O_RDWR | O_CLOEXEC, 0); /* shares no lock with the other */
    }
    if (i >= 0 && truncated) files[i].safe = 0;
    pthread_mutex_unlock(&lock);
}

static void synchronised(int descriptor) {
    struct stat found;
    pthread_mutex_lock(&lock);
    int i = place(descriptor);
    if (i >= 0 && !fstat(descriptor, &found)) files[i].safe = found.st_size;
    pthread_mutex_unlock(&lock);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define PLAIN operation(-1, 0, 0, -1)

static int open_at(int base, const char *path, int flags, mode_t mode) {
    int writes = (flags & O_ACCMODE) != O_RDONLY && concerns(base, path);
    if (writes) PLAIN;
    int descriptor = syscall(SYS_openat, base, path, flags, mode);
    if (writes && descriptor >= 0) opened(descriptor, flags & O_TRUNC);
    return descriptor;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int openat(int base, const char *path, int flags, ...) { MODE(flags) return open_at(base, path, flags, mode); }
int openat64(int base, const char *path, int flags, ...) { MODE(flags) return open_at(base, path, flags, mode); }
int creat(const char *path, mode_t mode) { return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

ssize_t write(int descriptor, const void *data, size_t size) {
    if (size && writes_into(descriptor)) operation(descriptor, data, size, -1);
    return NEXT(write)(descriptor, data, size);
}

ssize_t writev(int descriptor, const struct iovec *parts, int number) {
    if (writes_into(descriptor)) operation(descriptor, parts[0].iov_base, number == 1 ? parts[0].iov_len : 2 * parts[0].iov_len, -1);
    return NEXT(writev)(descriptor, parts, number);
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t where) {
    if (writes_into(descriptor)) PLAIN;
    return NEXT(pwrite)(descriptor, data, size, where);
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t where) {
    if (writes_into(descriptor)) PLAIN;
    return NEXT(pwrite64)(descriptor, data, size, where);
}

ssize_t copy_file_range(int from, off64_t *a, int to, off64_t *b, size_t size, unsigned flags) {
    if (writes_into(to)) PLAIN;
    return NEXT(copy_file_range)(from, a, to, b, size, flags);
}

int ftruncate(int descriptor, off_t size) {
    if (writes_into(descriptor)) PLAIN;
    return NEXT(ftruncate)(descriptor, size);
}

int ftruncate64(int descriptor, off64_t size) {
    if (writes_into(descriptor)) PLAIN;
    return NEXT(ftruncate64)(descriptor, size);
}

int fsync(int descriptor) {
    int ours = writes_into(descriptor);
    if (ours) operation(-1, 0, 0, descriptor);
    int result = NEXT(fsync)(descriptor);
    if (ours) synchronised(descriptor);
    return result;
}

int fdatasync(int descriptor) {
    int ours = writes_into(descriptor);
    if (ours) operation(-1, 0, 0, descriptor);
    int result = NEXT(fdatasync)(descriptor);
    if (ours) synchronised(descriptor);
    return result;
}

int rename(const char *from, const char *to) {
    if (concerns(AT_FDCWD, from) || concerns(AT_FDCWD, to)) PLAIN;
    return NEXT(rename)(from, to);
}

int renameat(int base, const char *from, int other, const char *to) {
    if (concerns(base, from) || concerns(other, to)) PLAIN;
    return NEXT(renameat)(base, from, other, to);
}

int renameat2(int base, const char *from, int other, const char *to, unsigned flags) {
    if (concerns(base, from) || concerns(other, to)) PLAIN;
    return NEXT(renameat2)(base, from, other, to, flags);
}

int link(const char *from, const char *to) {
    if (concerns(AT_FDCWD, to)) PLAIN;
    return NEXT(link)(from, to);
}

int linkat(int base, const char *from, int other, const char *to, int flags) {
    if (concerns(other, to)) PLAIN;
    return NEXT(linkat)(base, from, other, to, flags);
}

int symlink(const char *from, const char *to) {
    if (concerns(AT_FDCWD, to)) PLAIN;
    return NEXT(symlink)(from, to);
}

int unlink(const char *path) {
    if (concerns(AT_FDCWD, path)) PLAIN;
    return NEXT(unlink)(path);
}

int unlinkat(int base, const char *path, int flags) {
    if (concerns(base, path)) PLAIN;
    return NEXT(unlinkat)(base, path, flags);
}

int mkdir(const char *path, mode_t mode) {
    if (concerns(AT_FDCWD, path)) PLAIN;
    return NEXT(mkdir)(path, mode);
}

int mkdirat(int base, const char *path, mode_t mode) {
    if (concerns(base, path)) PLAIN;
    return NEXT(mkdirat)(base, path, mode);
}

int rmdir(const char *path) {
    if (concerns(AT_FDCWD, path)) PLAIN;
    return NEXT(rmdir)(path);
}
