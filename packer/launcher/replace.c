/* What bears the runtime's name and does not match its stamp. A `chmod -R` or a restored backup is enough for
 * that, so it may be whole, and programs may be running from it: it stays until its replacement lies beside it,
 * is away for no longer than one rename takes, and comes back if that fails. Only for want of room it goes
 * first, if nobody uses it. */

#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

enum { MOST_TRIES = 3 };

/* Where nobody can lock, others may have filled the name meanwhile. */
static void put_back(int runtimes, const char *aside) {
    if (renameat(runtimes, aside, runtimes, RUNTIME_NAME) != 0) remove_aside(runtimes, aside);
}

/* Tried before anything is unpacked: a folder from a lower layer of a container's disk (overlayfs) cannot be
 * renamed, nor can one that something is mounted on. Then it can only be removed where it is. */
bool can_be_replaced(struct place *place) {
    char *aside;
    if (set_aside(place->runtimes, RUNTIME_NAME, &aside)) {
        put_back(place->runtimes, aside);
        return true;
    }
    int problem = errno;
    if (problem == ENOENT || remove_if_free(place->runtimes, RUNTIME_NAME)) return true;
    return refuse(place, text("the runtime there was changed and cannot be replaced: %s", strerror(problem)));
}

bool gives_way(struct place *place) {
    struct stat found;
    if (fstatat(place->runtimes, RUNTIME_NAME, &found, AT_SYMLINK_NOFOLLOW) != 0) return false; /* nothing there */
    if (!remove_if_free(place->runtimes, RUNTIME_NAME)) return false;
    place->why = NULL; /* which was the want of room */
    return true;
}

/* Under the name at last; or, if another start was quicker, as it may be where nobody can lock, what it made. */
int put_in_place(struct place *place, const char *staged, int runtime) {
    int runtimes = place->runtimes, problem = 0;
    for (int tries = 0; tries < MOST_TRIES; tries++) {
        char *aside;
        if (renameat(runtimes, staged, runtimes, RUNTIME_NAME) == 0) return runtime;
        problem = errno;
        int other = find_runtime(place);
        if (other >= 0 || place->why != NULL) return other;
        if (!set_aside(runtimes, RUNTIME_NAME, &aside)) continue; /* it may just have gone */
        if (renameat(runtimes, staged, runtimes, RUNTIME_NAME) == 0) {
            remove_aside(runtimes, aside);
            return runtime;
        }
        problem = errno;
        put_back(runtimes, aside);
    }
    errno = problem;
    return -1;
}
