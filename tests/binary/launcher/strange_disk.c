/* Disks such as no test machine has: what a call answers where $DISK names one of them. Built into a launcher
 * whose calls are named anew (tiny.py, `strange`). */

#undef flock
#undef fstat
#undef fstatat
#undef renameat
#undef symlinkat
#undef time

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static bool is(const char *kind) {
    const char *disk = getenv("DISK");
    return disk != NULL && strstr(disk, kind) != NULL;
}

static int refused(int problem) {
    errno = problem;
    return -1;
}

int strange_flock(int fd, int how) { return is("no locks") ? refused(ENOLCK) : flock(fd, how); }

/* Folders of a lower layer cannot be renamed; or nothing gets the name, which is always taken at first. */
int strange_renameat(int from, const char *name, int to, const char *new_name) {
    struct stat found;
    if (is("layers") && strcmp(name, RUNTIME_NAME) == 0) return refused(EXDEV);
    if (is("stubborn") && strncmp(name, ".unpack-", 8) == 0)
        return refused(fstatat(to, new_name, &found, AT_SYMLINK_NOFOLLOW) == 0 ? ENOTEMPTY : EIO);
    return renameat(from, name, to, new_name);
}

int strange_symlinkat(const char *target, int folder, const char *path) {
    return is("worn out") ? refused(EBADMSG) : symlinkat(target, folder, path);
}

/* Numbers that the disk makes up as it goes along: others in each process, the same within one. */
static int made_up(int result, struct stat *found) {
    if (result != 0 || !is("remote")) return result;
    found->st_ino += (ino_t)getpid();
    if (S_ISDIR(found->st_mode)) found->st_size += getpid();
    return result;
}

int strange_fstat(int fd, struct stat *found) { return made_up(fstat(fd, found), found); }

int strange_fstatat(int folder, const char *path, struct stat *found, int flags) {
    return made_up(fstatat(folder, path, found, flags), found);
}

time_t strange_time(time_t *now) { return time(now) + (is("two days later") ? 2 * 24 * 60 * 60 : 0); }
