/* What earlier starts left behind: half-made runtimes, ones set aside, and versions whose executable is gone
 * or was replaced by ours. Only the holder of the unpacking lock sweeps, before it unpacks: it frees the room
 * first, and being killed while sweeping leaves the work to the next start. Nothing is removed that need not
 * be ours: a name of the kind that we give, and of a version also a stamp or a manifest.
 *
 * A runtime in use is locked by every program that runs from it, and is left alone. Where locking does not
 * work nobody can tell, so versions stay there, and leftovers until they are a day old. */

#include "launcher.h"

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

static const char ASIDE[] = ".old-";

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
    struct stat found;
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT) return;
    if (fstatat(parent, name, &found, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISDIR(found.st_mode)) return;
    fchmodat(parent, name, 0700, 0); /* it may have been closed to us */
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

bool set_aside(int runtimes, const char *name, char **aside) {
    for (int number = 0; number < 100; number++) {
        *aside = text("%s%ld-%d", ASIDE, (long)getpid(), number);
        if (renameat(runtimes, name, runtimes, *aside) == 0) return true;
        int problem = errno;
        free(*aside);
        errno = problem;
        if (errno != EEXIST && errno != ENOTEMPTY) break;
    }
    return false;
}

/* Holding the lock while removing keeps a start that is just looking at it from starting it. */
static bool is_free(int folder, bool leftover) {
    if (lock_file(folder, LOCK_EX | LOCK_NB)) return true;
    struct stat found;
    if (errno == EWOULDBLOCK || !leftover || fstat(folder, &found) != 0) return false;
    return time(NULL) - found.st_ctime > A_DAY; /* set by the rename that made it a leftover */
}

/* A start that only looks at it has it locked for a moment, and then waits for us. */
static bool is_free_soon(int folder) {
    static const struct timespec moment = {.tv_nsec = 5 * 1000 * 1000};
    for (int tries = 0; tries < 20; tries++) {
        if (is_free(folder, false)) return true;
        if (errno != EWOULDBLOCK) return false;
        nanosleep(&moment, NULL);
    }
    return false;
}

static bool is_hexadecimal(const char *digits) {
    return *digits != '\0' && digits[strspn(digits, "0123456789abcdef")] == '\0';
}

/* VERSION-HASH16 */
static bool is_runtime_name(const char *name) {
    const char *hash = strrchr(name, '-');
    return *name != '.' && hash != NULL && hash != name && strlen(hash + 1) == 16 && is_hexadecimal(hash + 1);
}

/* .unpack-PID-HEX and .old-PID-HEX; `mlxone uninstall` makes the latter, too. */
static bool is_leftover_name(const char *name) {
    static const char *const kinds[] = {".unpack-", ASIDE};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strncmp(name, kinds[i], strlen(kinds[i])) != 0) continue;
        const char *process = name + strlen(kinds[i]), *rest = process + strspn(process, "0123456789");
        return rest != process && *rest == '-' && is_hexadecimal(rest + 1);
    }
    return false;
}

/* A name proves nothing: a folder of somebody's own may have it. */
static bool holds_only_parts(int folder) {
    static const char *const parts[] = {"mlxone",       "_internal", "manifest.json",
                                        "licenses.txt", "stamp",     "site-packages"}; /* the last: a zipapp's */
    struct entries names = names_in(folder);
    bool only = true;
    for (size_t i = 0; i < names.count; i++) {
        bool known = false;
        for (size_t j = 0; j < sizeof parts / sizeof *parts; j++) known = known || strcmp(names.paths[i], parts[j]) == 0;
        only = only && known;
        free(names.paths[i]);
    }
    free(names.paths);
    return only;
}

/* Without a stamp its own executable would unpack it anew as well, if it is a runtime at all. */
static bool is_replaced(int folder, const char *own_path) {
    struct stat manifest;
    char *origin = read_origin(folder);
    if (origin == NULL)
        return fstatat(folder, "manifest.json", &manifest, AT_SYMLINK_NOFOLLOW) == 0 && holds_only_parts(folder);
    return strcmp(origin, own_path) == 0 || (access(origin, F_OK) != 0 && errno == ENOENT);
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
    if (folder < 0) return;
    if (holds_only_parts(folder) && is_free(folder, true)) remove_tree(runtimes, name);
    close(folder);
}

void remove_aside(int runtimes, const char *name) {
    int folder = open_folder(runtimes, name);
    if (folder < 0 || is_free(folder, true)) remove_tree(runtimes, name);
    if (folder >= 0) close(folder);
}

bool remove_if_free(int runtimes, const char *name) {
    struct stat found;
    int folder = open_folder(runtimes, name);
    if (folder < 0 || is_free_soon(folder)) remove_tree(runtimes, name);
    if (folder >= 0) close(folder);
    return fstatat(runtimes, name, &found, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT;
}

void sweep(int runtimes, const char *own_path) {
    struct entries names = names_in(runtimes);
    for (size_t i = 0; i < names.count; i++) {
        const char *name = names.paths[i];
        if (is_leftover_name(name)) sweep_leftover(runtimes, name);
        else if (strcmp(name, RUNTIME_NAME) != 0 && is_runtime_name(name)) sweep_version(runtimes, name, own_path);
    }
}
