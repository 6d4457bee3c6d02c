/* Finding the runtime, or making it. It is made under another name and renamed as the very last step: under
 * its own name it is either whole or not there, whatever kills us and whoever else is looking. */

#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

/* Not closed by exec: its shared lock says "in use" for as long as the program runs. */
static int open_in_use(int runtimes, const char *name) {
    int fd = openat(runtimes, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (fd >= 0) lock_file(fd, LOCK_SH); /* where that cannot be had, old versions are not removed either */
    return fd;
}

/* Between opening and locking it somebody may have set it aside. */
static bool still_there(int runtimes, const struct stat *opened) {
    struct stat named;
    return fstatat(runtimes, RUNTIME_NAME, &named, AT_SYMLINK_NOFOLLOW) == 0 && named.st_ino == opened->st_ino &&
           named.st_dev == opened->st_dev;
}

int find_runtime(struct place *place) {
    struct stat found;
    if (!open_runtimes(place)) return -1;
    int runtime = open_in_use(place->runtimes, RUNTIME_NAME);
    if (runtime < 0) return -1;
    bool known = fstat(runtime, &found) == 0;
    if (known && found.st_uid != geteuid()) refuse(place, "the runtime there belongs to somebody else");
    if (known && made_by_us(&found) && still_there(place->runtimes, &found) && stamp_holds(runtime)) return runtime;
    close(runtime);
    return -1;
}

/* One unpacks, the others wait and then find it done. */
static int wait_for_turn(struct place *place) {
    int lock = openat(place->runtimes, ".lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (lock < 0) {
        refuse(place, strerror(errno));
        return -1;
    }
    fchmod(lock, 0600);
    if (lock_file(lock, LOCK_EX | LOCK_NB) || errno != EWOULDBLOCK) return lock; /* or there are no locks here */
    if (isatty(STDERR_FILENO)) say("waiting for another start that is unpacking into %s", place->folder);
    lock_file(lock, LOCK_EX);
    return lock;
}

static void announce(const struct place *place, const struct place *instead_of) {
    if (instead_of != NULL)
        say("%s cannot be used (%s): unpacking into %s instead; MLXONE_HOME may name a better place",
            instead_of->folder, instead_of->why, place->folder);
    else if (isatty(STDERR_FILENO))
        say("first start of this version: unpacking into %s/runtime", place->folder);
}

/* Into the open staging folder. False: see errno. */
static bool fill(int staging) {
    struct entries entries = {0};
    switch (is_cut_short() ? DAMAGED : unpack_archive(staging, &entries)) {
    case UNPACKED: return write_stamp(staging, own_path(), &entries);
    case NOT_WRITTEN: return false;
    case DAMAGED: errno = EBADMSG; return false;
    }
    return false;
}

/* A file grown past `ulimit -f` shall be an error like a full disk, not our death. */
static bool fill_undisturbed(int staging) {
    void (*before)(int) = signal(SIGXFSZ, SIG_IGN);
    bool filled = fill(staging);
    int problem = errno;
    signal(SIGXFSZ, before); /* the program inherits what is ignored */
    errno = problem;
    return filled;
}

/* On disk before it bears its name: the stamp would find what a power cut tore, but this is cheap. What the
 * system answers may be about anybody's files, so it is not asked. */
static void settle(int staging) {
#ifdef __linux__
    syncfs(staging);
#else
    (void)staging;
#endif
}

static int make_runtime(struct place *place) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    char *name = text(".unpack-%ld-%lx", (long)getpid(), (unsigned long)now.tv_nsec);
    int staging = -1;
    if (mkdirat(place->runtimes, name, 0700) == 0 && fchmodat(place->runtimes, name, 0700, 0) == 0)
        staging = open_in_use(place->runtimes, name);
    if (staging >= 0 && fill_undisturbed(staging)) {
        settle(staging);
        if (renameat(place->runtimes, name, place->runtimes, RUNTIME_NAME) == 0) return staging;
    }
    int problem = errno;
    remove_tree(place->runtimes, name);
    if (staging >= 0) close(staging);
    if (problem == EBADMSG) fail(EXIT_DISK, "%s is damaged: download it again", own_path());
    refuse(place, strerror(problem));
    return -1;
}

int unpack_runtime(struct place *place, const struct place *instead_of) {
    if (place->why != NULL || !make_runtimes(place)) return -1;
    int lock = wait_for_turn(place);
    if (lock < 0) return -1;
    int runtime = find_runtime(place);
    if (runtime < 0 && place->why == NULL) {
        check_system();
        sweep(place->runtimes, own_path());
        if (has_room(place, unpacked_size())) {
            announce(place, instead_of);
            runtime = make_runtime(place);
        }
    }
    close(lock);
    return runtime;
}
