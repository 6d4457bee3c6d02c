/* Text and the lines on stderr. */

#include "launcher.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Without asking for more of it. */
void out_of_memory(void) {
    static const char line[] = "mlxone: not enough memory to unpack or start\n";
    if (write(STDERR_FILENO, line, sizeof line - 1) < 0) { /* then nobody can be told */
    }
    _exit(EXIT_MEMORY);
}

static char *vtext(const char *format, va_list arguments) {
    va_list again;
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, again);
    va_end(again);
    char *made = length < 0 ? NULL : malloc((size_t)length + 1);
    if (made == NULL) out_of_memory();
    vsnprintf(made, (size_t)length + 1, format, arguments);
    return made;
}

char *text(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *made = vtext(format, arguments);
    va_end(arguments);
    return made;
}

/* One write, so that lines of several starts do not mix; a reader that went away is no reason to die. */
static void say_line(char *words) {
    char *line = text("mlxone: %s\n", words);
    void (*before)(int) = signal(SIGPIPE, SIG_IGN);
    if (write(STDERR_FILENO, line, strlen(line)) < 0) { /* then nobody can be told */
    }
    signal(SIGPIPE, before);
    free(line);
    free(words);
}

void say(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say_line(vtext(format, arguments));
    va_end(arguments);
}

void fail(int status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say_line(vtext(format, arguments));
    va_end(arguments);
    exit(status);
}
