/* The stamp: which executable unpacked a runtime, then one line for each thing in it with all that a change
 * would change. Checking it costs one lstat each and reads no file. It is the last file to be written; its last
 * line says how many lines there must be, so a torn one is known for what it is. */

#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __APPLE__
#define st_mtim st_mtimespec
#define st_ctim st_ctimespec
#endif

static const char STAMP[] = "stamp", ORIGIN[] = "origin ", END[] = "end ";

void remember(struct entries *entries, const char *path) {
    if (entries->count == entries->room) {
        entries->room = entries->room * 2 + 64;
        entries->paths = realloc(entries->paths, entries->room * sizeof *entries->paths);
        if (entries->paths == NULL) out_of_memory();
    }
    entries->paths[entries->count++] = text("%s", path);
}

/* size modified changed path. Nobody can set the time of the change, so it alone tells of whatever was put in
 * place of another: inodes, and sizes of folders, would tell no more, and change with every mount of some
 * disks (sshfs, CIFS). Of the runtime itself (".") only what renaming it leaves alone: a file added at the top
 * changes the time of its modification. NULL if there is no such thing. */
static char *describe(int runtime, const char *path) {
    struct stat found;
    if (fstatat(runtime, path, &found, AT_SYMLINK_NOFOLLOW) != 0) return NULL;
    if (strcmp(path, ".") == 0) found.st_ctim = (struct timespec){0};
    return text("%jd %jd.%09ld %jd.%09ld %s", S_ISDIR(found.st_mode) ? 0 : (intmax_t)found.st_size,
                (intmax_t)found.st_mtim.tv_sec, (long)found.st_mtim.tv_nsec, (intmax_t)found.st_ctim.tv_sec,
                (long)found.st_ctim.tv_nsec, path);
}

static bool put_entry(FILE *stamp, int runtime, const char *path) {
    char *line = describe(runtime, path);
    bool done = line != NULL && fprintf(stamp, "%s\n", line) > 0;
    free(line);
    return done;
}

/* The file is made first and filled then: making it changes the folder it describes. */
bool write_stamp(int runtime, const char *origin, const struct entries *entries) {
    int fd = openat(runtime, STAMP, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    FILE *stamp = fd < 0 ? NULL : fdopen(fd, "w");
    if (stamp == NULL) return false;
    /* A path with a line break could not be read back; an empty one counts as "no longer there". */
    bool done = fchmod(fd, 0600) == 0;
    done = done && fprintf(stamp, "%s%s\n", ORIGIN, strchr(origin, '\n') == NULL ? origin : "") > 0;
    done = done && put_entry(stamp, runtime, ".");
    for (size_t i = 0; done && i < entries->count; i++) done = put_entry(stamp, runtime, entries->paths[i]);
    done = done && fprintf(stamp, "%s%zu\n", END, entries->count + 1) > 0;
    return fclose(stamp) == 0 && done;
}

/* The whole stamp as text; NULL if there is none that can be read. */
static char *read_stamp(int runtime) {
    int fd = openat(runtime, STAMP, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    struct stat found;
    if (fd < 0) return NULL;
    size_t size = fstat(fd, &found) == 0 && S_ISREG(found.st_mode) ? (size_t)found.st_size : 0;
    char *content = size == 0 ? NULL : malloc(size + 1);
    size_t have = 0;
    while (content != NULL && have < size) {
        ssize_t got = read(fd, content + have, size - have);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        have += (size_t)got;
    }
    close(fd);
    if (content == NULL || have < size || memchr(content, '\0', size) != NULL) {
        free(content);
        return NULL;
    }
    content[size] = '\0';
    return content;
}

/* Cuts the next line off; NULL at the end and for a line that does not end. */
static char *next_line(char **rest) {
    char *line = *rest, *end = strchr(line, '\n');
    if (end == NULL) return NULL;
    *end = '\0';
    *rest = end + 1;
    return line;
}

static bool entry_holds(int runtime, const char *line) {
    const char *path = line;
    for (int field = 0; field < 3 && path != NULL; field++) {
        path = strchr(path, ' ');
        if (path != NULL) path++;
    }
    char *now = path == NULL ? NULL : describe(runtime, path);
    bool same = now != NULL && strcmp(now, line) == 0;
    free(now);
    return same;
}

static bool lines_hold(int runtime, char *rest) {
    char *line = next_line(&rest);
    if (line == NULL || strncmp(line, ORIGIN, strlen(ORIGIN)) != 0) return false;
    size_t count = 0;
    while ((line = next_line(&rest)) != NULL && strncmp(line, END, strlen(END)) != 0) {
        if (!entry_holds(runtime, line)) return false;
        count++;
    }
    if (line == NULL || *rest != '\0' || count == 0) return false;
    char *ending = text("%s%zu", END, count);
    bool complete = strcmp(line, ending) == 0;
    free(ending);
    return complete;
}

bool stamp_holds(int runtime) {
    char *stamp = read_stamp(runtime);
    bool holds = stamp != NULL && lines_hold(runtime, stamp);
    free(stamp);
    return holds;
}

char *read_origin(int runtime) {
    char *rest = read_stamp(runtime), *line = rest == NULL ? NULL : next_line(&rest);
    if (line == NULL || strncmp(line, ORIGIN, strlen(ORIGIN)) != 0) return NULL;
    return line + strlen(ORIGIN);
}
