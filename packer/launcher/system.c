/* Whether the program inside can run on this system. This launcher needs nothing of it, the program needs the
 * GNU C library: without this an old system would answer with a line of its loader's for each library. */

#ifdef __APPLE__
#include "launcher.h"

void check_system(void) {}

#else
#include "launcher.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef SYSTEM_ROOT
#define SYSTEM_ROOT "" /* the tests put a made-up system here */
#endif
#ifndef GLIBC_NEEDED
#define GLIBC_NEEDED "2.0"
#endif

#if defined(__x86_64__)
#define LOADER "/lib64/ld-linux-x86-64.so.2"
#define TRIPLE "x86_64-linux-gnu"
#elif defined(__aarch64__)
#define LOADER "/lib/ld-linux-aarch64.so.1"
#define TRIPLE "aarch64-linux-gnu"
#else
#error "no glibc loader known for this machine"
#endif

static const char *const LIBC_FOLDERS[] = {"/lib/" TRIPLE, "/usr/lib/" TRIPLE, "/lib64", "/usr/lib64",
                                           "/lib", "/usr/lib"};

/* The N of 2.N. */
static long minor_of(const char *version) { return strtol(version + strlen("2."), NULL, 10); }

/* The library introduces itself: "GNU C Library (…) stable release version 2.36." */
static long version_in(const char *content, size_t size) {
    static const char phrase[] = "release version 2.";
    const char *found = memmem(content, size, phrase, strlen(phrase));
    if (found == NULL || found + sizeof phrase + 4 > content + size) return -1;
    return minor_of(found + strlen("release version "));
}

/* -1 if there is none, or none that says its version. */
static long version_of_file(const char *path) {
    struct stat found;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    size_t size = fstat(fd, &found) == 0 && S_ISREG(found.st_mode) ? (size_t)found.st_size : 0;
    void *content = size == 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (content == MAP_FAILED) return -1;
    long version = version_in(content, size);
    munmap(content, size);
    return version;
}

static long newest_glibc(void) {
    long newest = -1;
    for (size_t i = 0; i < sizeof LIBC_FOLDERS / sizeof *LIBC_FOLDERS; i++) {
        char *path = text(SYSTEM_ROOT "%s/libc.so.6", LIBC_FOLDERS[i]);
        long version = version_of_file(path);
        if (version > newest) newest = version;
        free(path);
    }
    return newest;
}

/* In doubt it is tried: a library in an unusual folder is no reason to refuse. */
void check_system(void) {
    static const char needs[] = "needs glibc " GLIBC_NEEDED " or later (as in Ubuntu 22.04 or Debian 12)";
    if (access(SYSTEM_ROOT LOADER, F_OK) != 0)
        fail(EXIT_SYSTEM, "this program %s: this system has no glibc (" LOADER " is missing)", needs);
    long version = newest_glibc();
    if (version >= 0 && version < minor_of(GLIBC_NEEDED))
        fail(EXIT_SYSTEM, "this program %s: this system has glibc 2.%ld", needs, version);
}
#endif
