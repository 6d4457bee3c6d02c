/* The launcher: the outer `mlxone`. It carries the program as a compressed archive, unpacks it once into a
 * private folder and from then on only starts it from there, in its own process.
 *
 *   main.c     from place to place until one works
 *   handover.c becoming the program inside
 *   place.c    the folders that may hold runtimes, and whether one can be trusted
 *   stamp.c    is the runtime there still the one that was unpacked?
 *   unpack.c   one start unpacks, the others wait; nothing half-made ever bears the runtime's name
 *   replace.c  what has the name already and does not match its stamp gives way, no sooner than it must
 *   archive.c  zstd and tar, into a folder
 *   sweep.c    removes what was left behind: half-made, set aside, replaced by an upgrade
 *   system.c   can this system run the program at all?
 *   self.c, words.c   our own file; lines on stderr
 *
 * Given by the build: RUNTIME_NAME, GLIBC_NEEDED (Linux). */

#ifndef LAUNCHER_H
#define LAUNCHER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

/* As in docs/exit-codes.md. */
enum { EXIT_DISK = 9, EXIT_MEMORY = 10, EXIT_SYSTEM = 12 };

/* ---- words.c: allocated text (never NULL; this process is too short-lived to free it), one line on stderr */
__attribute__((format(printf, 1, 2))) char *text(const char *format, ...);
__attribute__((format(printf, 1, 2))) void say(const char *format, ...);
__attribute__((format(printf, 2, 3))) _Noreturn void fail(int status, const char *format, ...);
_Noreturn void out_of_memory(void);

/* ---- self.c */
const char *own_path(void); /* absolute, links resolved where the system tells */
bool is_cut_short(void);     /* the file is shorter than it says of itself */

/* ---- place.c */
struct place {
    char *folder;   /* absolute; runtimes lie in folder/runtime, and both are ours */
    bool temporary; /* the fallback, in a folder that others can write to */
    char *why;      /* why it cannot be used, once that is known */
    int runtimes;   /* descriptor of folder/runtime, -1 until it was opened */
};

enum { MOST_PLACES = 2 };

size_t list_places(struct place *places);
bool open_runtimes(struct place *place);                       /* false without `why`: it is not there yet */
bool make_runtimes(struct place *place);                       /* false: see `why` */
void close_runtimes(struct place *place);                      /* to look for them anew */
bool has_room(struct place *place, unsigned long long needed); /* false: see `why`, and errno */
bool made_by_us(const struct stat *found);                     /* ours, and nobody else may write to it */
bool refuse(struct place *place, const char *why);             /* notes the reason; always false */

/* ---- stamp.c: what a runtime consists of, and the proof that it is untouched */
struct entries {
    char **paths;
    size_t count, room;
};

void remember(struct entries *entries, const char *path);
bool write_stamp(int runtime, const char *origin, const struct entries *entries);
bool stamp_holds(int runtime);
char *read_origin(int runtime); /* the executable that unpacked it; NULL without a stamp */

/* ---- unpack.c: both return the runtime's descriptor, locked as "in use", or -1 */
int find_runtime(struct place *place);
int unpack_runtime(struct place *place, const struct place *instead_of);

/* ---- replace.c: what bears the runtime's name and is not the runtime */
bool can_be_replaced(struct place *place); /* false: see `why` */
bool gives_way(struct place *place);       /* true: it is gone, as nobody ran from it */
int put_in_place(struct place *place, const char *staged, int runtime); /* or what others put; -1: see errno */

/* ---- handover.c: returns only if the program may not be started from there */
void start_program(struct place *place, char **arguments);

/* ---- archive.c */
enum unpacked { UNPACKED, NOT_WRITTEN /* see errno */, DAMAGED };

unsigned long long unpacked_size(void); /* about; 0 if unknown */
enum unpacked unpack_archive(int folder, struct entries *entries);

/* ---- sweep.c */
void sweep(int runtimes, const char *own_path);
void remove_aside(int runtimes, const char *name);
bool set_aside(int runtimes, const char *name, char **aside); /* as a leftover; false: see errno */
bool remove_if_free(int runtimes, const char *name);          /* false: it is still there */
void remove_tree(int parent, const char *name);

/* ---- system.c */
void check_system(void); /* returns only if the program can run here, as far as one can tell */

/* ---- small things for all */
bool lock_file(int fd, int how); /* flock that outlasts signals */

#endif
