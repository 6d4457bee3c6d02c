/* The file the user started. */

#include "launcher.h"

#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#ifdef __APPLE__
#include <mach-o/dyld.h>

bool is_cut_short(void) { return false; } /* then its signature is broken, and the system refuses it */

static char *named_by_system(void) {
    uint32_t size = 0;
    _NSGetExecutablePath(NULL, &size); /* tells the size it needs */
    char *path = malloc((size_t)size + 1);
    return path != NULL && _NSGetExecutablePath(path, &size) == 0 ? path : NULL;
}

#else
#include <elf.h>
#include <link.h>
#include <sys/auxv.h>

bool is_cut_short(void) {
    struct stat file;
    const ElfW(Phdr) *segments = (const void *)(uintptr_t)getauxval(AT_PHDR);
    if (segments == NULL || stat(own_path(), &file) != 0) return false;
    for (unsigned long i = 0; i < getauxval(AT_PHNUM); i++)
        if (segments[i].p_offset + segments[i].p_filesz > (unsigned long long)file.st_size) return true;
    return false;
}

static char *named_by_proc(void) {
    for (size_t room = 256;; room *= 2) {
        char *path = malloc(room);
        ssize_t length = path == NULL ? -1 : readlink("/proc/self/exe", path, room);
        if (length > 0 && (size_t)length < room) {
            path[length] = '\0';
            return path;
        }
        free(path);
        if (length <= 0) return NULL;
    }
}

/* Without /proc the kernel still tells by which name it was asked to start us. */
static char *named_by_system(void) {
    char *path = named_by_proc();
    return path != NULL ? path : (char *)(uintptr_t)getauxval(AT_EXECFN);
}
#endif

const char *own_path(void) {
    static const char *known;
    if (known != NULL) return known;
    char *named = named_by_system();
    char *resolved = named == NULL ? NULL : realpath(named, NULL);
    known = resolved != NULL ? resolved : named != NULL ? named : "mlxone";
    return known;
}
