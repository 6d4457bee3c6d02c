/* What earlier starts left behind: half-made runtimes, ones set aside, and versions whose executable is gone
 * or was replaced by ours. Only the holder of the unpacking lock sweeps, before it unpacks: it frees the room
 * first, and being killed while sweeping leaves the work to the next start.
 *
 * A runtime in use is locked by every program that runs from it, and is left alone. Where locking does not
 * work nobody can tell, so versions stay there, and leftovers until they are a day old. */

#include "launcher.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

enum { A_DAY = 24 * 60 * 60 };

static const char STAGED[] = ".unpack-", ASIDE[] = ".old-";

static bool begins(const char *name, const char *with) { return strncmp(name, with, strlen(with)) == 0; }

static int open_folder(int parent, const char *name) {
    return openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* A list and not a walk: what happens to the entries may change the folder that is being read. */
static struct entries names_in(int folder) {
    struct entries names = {0};
    int fd = open_folder(folder, ".");
    DIR *reader = fd < 0 ? NULL : fdopendir(fd);
    if (reader == NULL) {
        if (fd >= 0) close(fd);
        return names;
    }
    for (struct dirent *entry; (entry = readdir(reader)) != NULL;)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) remember(&names, entry->d_name);
    closedir(reader);
    return names;
}

/* Never follows a link. What cannot be removed stays: it is in nobody's way. */
void remove_tree(int parent, const char *name) {
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT) return;
    fchmodat(parent, name, 0700, 0); /* a folder, as it could not be unlinked: it may have been closed to us */
    int folder = open_folder(parent, name);
    if (folder < 0) return;
    struct entries names = names_in(folder);
    for (size_t i = 0; i < names.count; i++) {
        remove_tree(folder, names.paths[i]);
        free(names.paths[i]);
    }
    free(names.paths);
    close(folder);
    unlinkat(parent, name, AT_REMOVEDIR);
}

static bool set_aside(int runtimes, const char *name, char **aside) {
    for (int number = 0; number < 100; number++) {
        *aside = text("%s%ld-%d", ASIDE, (long)getpid(), number);
        if (renameat(runtimes, name, runtimes, *aside) == 0) return true;
        free(*aside);
        if (errno != EEXIST && errno != ENOTEMPTY) break;
    }
    return false;
}

/* Holding the lock while removing keeps a start that is just looking at it from starting it. */
static bool is_free(int folder, bool leftover) {
    if (lock_file(folder, LOCK_EX | LOCK_NB)) return true;
    struct stat found;
    if (errno == EWOULDBLOCK || !leftover || fstat(folder, &found) != 0) return false;
    return time(NULL) - found.st_mtime > A_DAY;
}

/* VERSION-HASH16: whatever is called otherwise was not made by us. */
static bool is_runtime_name(const char *name) {
    const char *hash = strrchr(name, '-');
    if (*name == '.' || hash == NULL || hash == name || strlen(++hash) != 16) return false;
    while (isxdigit((unsigned char)*hash)) hash++;
    return *hash == '\0';
}

/* Without a stamp its own executable would unpack anew as well. */
static bool is_replaced(int folder, const char *own_path) {
    char *origin = read_origin(folder);
    return origin == NULL || strcmp(origin, own_path) == 0 || (access(origin, F_OK) != 0 && errno == ENOENT);
}

static void sweep_version(int runtimes, const char *name, const char *own_path) {
    int folder = open_folder(runtimes, name);
    char *aside;
    if (folder < 0) return;
    if (is_replaced(folder, own_path) && is_free(folder, false) && set_aside(runtimes, name, &aside))
        remove_tree(runtimes, aside);
    close(folder);
}

static void sweep_leftover(int runtimes, const char *name) {
    int folder = open_folder(runtimes, name);
    if (folder < 0 || is_free(folder, true)) remove_tree(runtimes, name);
    if (folder >= 0) close(folder);
}

/* The runtime of our own name is here only because it is damaged. It has to give way even if it is in use:
 * set aside, it still serves the programs that run from it. */
void sweep(int runtimes, const char *own_path) {
    char *aside;
    if (set_aside(runtimes, RUNTIME_NAME, &aside)) sweep_leftover(runtimes, aside);
    struct entries names = names_in(runtimes);
    for (size_t i = 0; i < names.count; i++) {
        const char *name = names.paths[i];
        if (begins(name, STAGED) || begins(name, ASIDE)) sweep_leftover(runtimes, name);
        else if (is_runtime_name(name)) sweep_version(runtimes, name, own_path);
    }
}
