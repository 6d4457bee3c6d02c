/* Where runtimes may lie: MLXONE_HOME, else ~/.cache/mlxone; and, if that cannot be used, a folder of ours
 * among the temporary ones. Whoever can write to a folder of runtimes, or put another in its place, decides
 * what we execute: so nothing is taken from one that is not ours alone, in a folder that is not ours, and no
 * link to one is followed.
 *
 * `mlxone/hub/places.py` reads the environment by the same rules. */

#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

static const char *setting(const char *name) {
    const char *value = getenv(name);
    return value != NULL && *value != '\0' ? value : NULL;
}

/* The user's own folder, as the environment names it; NULL if it names none. */
static char *chosen_folder(void) {
    const char *chosen = setting("MLXONE_HOME"), *home = setting("HOME");
    if (chosen == NULL) return home == NULL ? NULL : text("%s/.cache/mlxone", home);
    if (strcmp(chosen, "~") != 0 && strncmp(chosen, "~/", 2) != 0) return text("%s", chosen);
    return home == NULL ? NULL : text("%s%s", home, chosen + 1);
}

/* The system's loader takes a list of folders, and knows no way to write these two within a name. */
static const char SEPARATORS[] = ":;";

static void add_place(struct place *place, char *folder, bool temporary) {
    *place = (struct place){.folder = folder, .temporary = temporary, .runtimes = -1};
    char *here = *folder == '/' ? NULL : getcwd(NULL, 0); /* allocates what it needs, here and on macOS */
    if (here != NULL) place->folder = text("%s/%s", here, folder);
    else if (*folder != '/')
        refuse(place, text("a relative path, and the current folder is unknown: %s", strerror(errno)));
    if (place->why == NULL && strpbrk(place->folder, SEPARATORS) != NULL)
        refuse(place, "libraries cannot be found in a folder with a colon or semicolon in its path");
}

size_t list_places(struct place *places) {
    size_t count = 0;
    char *chosen = chosen_folder();
    if (chosen != NULL) add_place(&places[count++], chosen, false);
    const char *temporary = setting("TMPDIR");
    char *fallback = text("%s/mlxone-%lu", temporary != NULL ? temporary : "/tmp", (unsigned long)geteuid());
    add_place(&places[count++], fallback, true);
    return count;
}

bool refuse(struct place *place, const char *why) {
    place->why = text("%s", why);
    return false;
}

bool made_by_us(const struct stat *found) {
    return found->st_uid == geteuid() && (found->st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

/* Among the temporary folders anybody may have made one of this name before us, a link even. */
static bool is_private(struct place *place) {
    struct stat found, around;
    char *parent = text("%s/..", place->folder);
    if (lstat(place->folder, &found) != 0) return errno == ENOENT ? false : refuse(place, strerror(errno));
    if (!S_ISDIR(found.st_mode)) return refuse(place, "something else has that name");
    if (found.st_uid != geteuid()) return refuse(place, "it belongs to somebody else");
    if ((found.st_mode & 077) != 0) return refuse(place, "others may enter it: chmod 700 puts that right");
    if (stat(parent, &around) != 0) return refuse(place, strerror(errno));
    if ((around.st_mode & S_IWOTH) != 0 && (around.st_mode & S_ISVTX) == 0)
        return refuse(place, "anybody may rename it: the folder around it lacks its sticky bit");
    return true;
}

/* Root could replace anything anyway, and gives folders to groups of users. The group may write to it: with a
 * umask of 002 that is a group of one. */
static bool is_ours(struct place *place, int folder) {
    struct stat found;
    if (fstat(folder, &found) != 0) return refuse(place, strerror(errno));
    if (found.st_uid != geteuid() && found.st_uid != 0) return refuse(place, "it belongs to somebody else");
    if ((found.st_mode & S_IWOTH) != 0) return refuse(place, "anybody may write to it: chmod o-w puts that right");
    return true;
}

/* The open folder/runtime; -1 without `why`: it is not there yet. */
static int look_inside(struct place *place, int folder) {
    struct stat found;
    if (!is_ours(place, folder)) return -1;
    int fd = openat(folder, "runtime", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int problem = errno;
    if (fd >= 0 || problem == ENOENT) return fd;
    bool other = fstatat(folder, "runtime", &found, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISDIR(found.st_mode);
    refuse(place, other ? "runtime there is not a folder" : strerror(problem));
    return -1;
}

bool open_runtimes(struct place *place) {
    if (place->why != NULL) return false;
    if (place->runtimes >= 0) return true;
    if (place->temporary && !is_private(place)) return false;
    struct stat found;
    int folder = open(place->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) return errno == ENOENT ? false : refuse(place, strerror(errno));
    place->runtimes = look_inside(place, folder);
    close(folder);
    if (place->runtimes < 0) return false;
    if (fstat(place->runtimes, &found) != 0) return refuse(place, strerror(errno));
    if (found.st_uid != geteuid()) return refuse(place, "runtime there belongs to somebody else");
    if (!made_by_us(&found)) return refuse(place, "others may write to runtime there: chmod go-w puts that right");
    return true;
}

void close_runtimes(struct place *place) {
    close(place->runtimes);
    place->runtimes = -1;
}

/* Only in a folder of ours or the system's, or one that like /tmp is there for everybody: called through sudo,
 * with the home of somebody, we shall leave no folders of root's in there. */
static bool may_be_made(struct place *place) {
    struct stat found;
    char *around = text("%s", place->folder);
    while (stat(around, &found) != 0) {
        char *slash = strrchr(around, '/');
        if (errno != ENOENT || strcmp(around, "/") == 0) return refuse(place, strerror(errno));
        slash[slash == around ? 1 : 0] = '\0';
    }
    if (found.st_uid == geteuid() || found.st_uid == 0 || (found.st_mode & S_ISVTX) != 0) return true;
    return refuse(place, text("%s belongs to somebody else", around));
}

/* Private, whatever the umask says. */
static bool make_folder(const char *path) {
    if (mkdir(path, 0700) == 0) return chmod(path, 0700) == 0;
    return errno == EEXIST;
}

static bool make_folders(char *path) {
    if (make_folder(path)) return true;
    char *slash = strrchr(path, '/');
    if (errno != ENOENT || slash == NULL || slash == path) return false;
    *slash = '\0';
    bool made = make_folders(path);
    *slash = '/';
    return made && make_folder(path);
}

bool make_runtimes(struct place *place) {
    if (open_runtimes(place)) return true;
    if (place->why != NULL || (!place->temporary && !may_be_made(place))) return false;
    bool made = place->temporary ? make_folder(place->folder) : make_folders(place->folder);
    if (!made || (place->temporary && !is_private(place)) || !make_folder(text("%s/runtime", place->folder)))
        return place->why != NULL ? false : refuse(place, strerror(errno));
    if (open_runtimes(place)) return true;
    return place->why != NULL ? false : refuse(place, strerror(ENOENT));
}

/* Asked beforehand: filling a disk to its last byte would hurt every other program meanwhile. */
bool has_room(struct place *place, unsigned long long needed) {
    struct statvfs disk;
    if (fstatvfs(place->runtimes, &disk) != 0 || disk.f_blocks == 0) return true; /* then writing will tell */
#ifdef ST_NOEXEC
    if ((disk.f_flag & ST_NOEXEC) != 0) {
        errno = EACCES;
        return refuse(place, "it is mounted noexec: no program may be started from it");
    }
#endif
    unsigned long long free_bytes = (unsigned long long)disk.f_bavail * disk.f_frsize;
    if (free_bytes >= needed) return true;
    refuse(place, text("%s: %llu MB needed, %llu MB free", strerror(ENOSPC), needed / 1000000 + 1,
                       free_bytes / 1000000));
    errno = ENOSPC;
    return false;
}

bool lock_file(int fd, int how) {
    while (flock(fd, how) != 0)
        if (errno != EINTR) return false;
    return true;
}
