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

enum { MOST_TRIES = 10 };

static const char LOCK[] = ".lock";

static bool lacks_room(void) { return errno == ENOSPC || errno == EDQUOT; }

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

static void wait_for_lock(const struct place *place, int lock) {
    if (lock_file(lock, LOCK_EX | LOCK_NB) || errno != EWOULDBLOCK) return; /* or there are no locks here */
    if (isatty(STDERR_FILENO)) say("waiting for another start that is unpacking into %s", place->folder);
    lock_file(lock, LOCK_EX);
}

/* `mlxone uninstall` may have deleted it meanwhile, and the folder too: nobody else would wait for us. */
static bool is_in_force(const struct place *place, int lock) {
    struct stat locked, named;
    return fstat(lock, &locked) == 0 && fstatat(place->runtimes, LOCK, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
           locked.st_ino == named.st_ino && locked.st_dev == named.st_dev;
}

/* One unpacks, the others wait and then find it done. */
static int wait_for_turn(struct place *place) {
    for (int tries = 1;; tries++) {
        int lock = openat(place->runtimes, LOCK, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (lock < 0 && (errno != ENOENT || tries == MOST_TRIES)) refuse(place, strerror(errno));
        if (lock >= 0) {
            fchmod(lock, 0600);
            wait_for_lock(place, lock);
            if (is_in_force(place, lock) || tries == MOST_TRIES) return lock;
            close(lock);
        }
        if (place->why != NULL) return -1;
        close_runtimes(place);
        if (!make_runtimes(place)) return -1;
    }
}

static void announce(const struct place *place, const struct place *instead_of) {
    if (instead_of != NULL)
        say("%s cannot be used (%s): unpacking into %s instead; MLXONE_HOME may name a better place",
            instead_of->folder, instead_of->why, place->folder);
    else if (isatty(STDERR_FILENO))
        say("first start of this version: unpacking into %s/runtime", place->folder);
}

static enum unpacked fill(int staging) {
    struct entries entries = {0};
    enum unpacked result = is_cut_short() ? DAMAGED : unpack_archive(staging, &entries);
    return result == UNPACKED && !write_stamp(staging, own_path(), &entries) ? NOT_WRITTEN : result;
}

/* A file grown past `ulimit -f` shall be an error like a full disk, not our death. */
static enum unpacked fill_undisturbed(int staging) {
    void (*before)(int) = signal(SIGXFSZ, SIG_IGN);
    enum unpacked result = fill(staging);
    int problem = errno;
    signal(SIGXFSZ, before); /* the program inherits what is ignored */
    errno = problem;
    return result;
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

/* -1: see `why`, and errno. */
static int make_runtime(struct place *place) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    char *name = text(".unpack-%ld-%lx", (long)getpid(), (unsigned long)now.tv_nsec);
    int staging = -1, runtime = -1;
    if (mkdirat(place->runtimes, name, 0700) == 0 && fchmodat(place->runtimes, name, 0700, 0) == 0)
        staging = open_in_use(place->runtimes, name);
    enum unpacked result = staging < 0 ? NOT_WRITTEN : fill_undisturbed(staging);
    if (result == UNPACKED) {
        settle(staging);
        runtime = put_in_place(place, name, staging);
        if (runtime == staging) return runtime;
    }
    int problem = errno;
    remove_tree(place->runtimes, name);
    if (staging >= 0) close(staging);
    if (result == DAMAGED) fail(EXIT_DISK, "%s is damaged: download it again", own_path());
    if (runtime < 0 && place->why == NULL) refuse(place, strerror(problem));
    errno = problem;
    return runtime;
}

/* Beside what does not match its stamp, or if there is no room for both and nobody uses it, in its stead. */
static int make_in_room(struct place *place, const struct place *instead_of) {
    unsigned long long size = unpacked_size();
    if (!can_be_replaced(place)) return -1;
    if (!has_room(place, size) && !(lacks_room() && gives_way(place) && has_room(place, size))) return -1;
    announce(place, instead_of);
    int runtime = make_runtime(place);
    if (runtime < 0 && lacks_room() && gives_way(place)) runtime = make_runtime(place);
    return runtime;
}

int unpack_runtime(struct place *place, const struct place *instead_of) {
    if (place->why != NULL || !make_runtimes(place)) return -1;
    int lock = wait_for_turn(place);
    if (lock < 0) return -1;
    int runtime = find_runtime(place);
    if (runtime < 0 && place->why == NULL) {
        check_system();
        sweep(place->runtimes, own_path());
        runtime = make_in_room(place, instead_of);
    }
    close(lock);
    return runtime;
}
