/* Becoming the program inside.
 *
 * It was packed with PyInstaller, whose own loader needs a library (libz) from the runtime before it can say
 * where the runtime's libraries lie: where the system has none it would not even start. So the search path is
 * set here, as that loader sets it before it starts itself a second time, and it is told that this has been
 * done (which saves the second start). Should another version of it not understand, it does it over again.
 * packer/program.py gives the caller's variables back. */

#include "launcher.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void set(const char *name, const char *value) {
    if (setenv(name, value, 1) != 0) out_of_memory();
}

#ifdef __APPLE__
static void name_libraries(const char *folder, const char *program) {
    (void)folder, (void)program; /* they know where they are there */
}
#else
extern char **environ;

/* What another packed program, which may have started us, told its own loader. */
static void forget_other_loaders(void) {
    for (char **variable = environ; *variable != NULL;) {
        size_t length = strcspn(*variable, "=");
        char *name = text("%.*s", (int)length, *variable);
        bool theirs = strncmp(name, "_PYI_", 5) == 0;
        if (theirs) unsetenv(name);
        else variable++;
        free(name);
    }
}

/* As it was given to us: another place may have been tried already. */
static const char *given_path(void) {
    static const char *given;
    if (given == NULL) {
        const char *now = getenv("LD_LIBRARY_PATH");
        given = text("%s", now != NULL ? now : "");
    }
    return given;
}

static void name_libraries(const char *folder, const char *program) {
    const char *before = given_path();
    bool any = *before != '\0';
    forget_other_loaders();
    set("_PYI_ARCHIVE_FILE", program);
    set("_PYI_PARENT_PROCESS_LEVEL", "-1");
    set("_PYI_LINUX_PROCESS_NAME", "mlxone");
    char *path = any ? text("%s/_internal:%s", folder, before) : text("%s/_internal", folder);
    if (any) set("LD_LIBRARY_PATH_ORIG", before);
    else unsetenv("LD_LIBRARY_PATH_ORIG");
    set("LD_LIBRARY_PATH", path);
}
#endif

void start_program(struct place *place, char **arguments) {
    static char *alone[2];
    char *folder = text("%s/runtime/%s", place->folder, RUNTIME_NAME);
    char *program = text("%s/mlxone", folder);
    if (arguments[0] == NULL) arguments = alone; /* some programs start others without even a name */
    arguments[0] = program; /* by which it finds itself where there is no /proc */
    name_libraries(folder, program);
    set("MLXONE_EXECUTABLE", own_path());
    execv(program, arguments);
    int problem = errno;
    if (problem == EACCES || problem == EPERM) { /* a disk mounted noexec, or a policy about it */
        refuse(place, text("programs may not be started from it: %s", strerror(problem)));
        return;
    }
    check_system(); /* "no such file" is what the kernel says of a missing loader */
    fail(EXIT_SYSTEM, "%s cannot be started on this system: %s", program, strerror(problem));
}
