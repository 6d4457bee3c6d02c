/* Starts the program from the first place that holds it whole or takes it. See launcher.h. */

#include "launcher.h"

#include <fcntl.h>
#include <unistd.h>

/* A file opened where stdin, stdout or stderr is closed would become it. Something takes their numbers until
 * exec, which closes it again: the program finds them as they were given. The root folder is always there. */
static void reserve_standard_streams(void) {
    int fd;
    do fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0) close(fd);
}

static _Noreturn void give_up(const struct place *places, size_t count) {
    const char *tried = text("%s (%s)", places[0].folder, places[0].why);
    if (count > 1) tried = text("neither %s nor %s (%s)", tried, places[1].folder, places[1].why);
    fail(EXIT_DISK, "no place to unpack into: %s; set MLXONE_HOME to a folder of yours with %llu MB free", tried,
         unpacked_size() / 1000000 + 1);
}

int main(int count, char **arguments) {
    (void)count;
    struct place places[MOST_PLACES];
    reserve_standard_streams();
    size_t places_count = list_places(places);
    for (size_t i = 0; i < places_count; i++) {
        int runtime = find_runtime(&places[i]);
        if (runtime < 0) runtime = unpack_runtime(&places[i], i > 0 ? &places[0] : NULL);
        if (runtime < 0) continue;
        start_program(&places[i], arguments);
        close(runtime);
    }
    give_up(places, places_count);
}
