/* The payload: a zstd stream of an ustar archive, as packer/payload.py writes it (folders, files, links; every
 * folder before what is in it). It is written out as it is decompressed: the checksum at its end decides
 * whether any of it counts, and until then no name is trusted to stay inside the folder. */

#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>
#include <zstd_errors.h>

extern const unsigned char mlxone_payload[], mlxone_payload_end[]; /* payload.S */

enum { BLOCK = 512 };

struct stream {
    ZSTD_DStream *decoder;
    ZSTD_inBuffer packed;
    char *buffer;
    size_t room, have, used;
    bool ended;
};

/* Where the parts of a header lie: POSIX.1-1988, "ustar". */
struct header {
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100];
    char magic[6], version[2], user[32], group[32], major[8], minor[8], prefix[155], padding[12];
};
_Static_assert(sizeof(struct header) == BLOCK, "a header is one block");

static size_t payload_size(void) { return (size_t)(mlxone_payload_end - mlxone_payload); }

unsigned long long unpacked_size(void) {
    unsigned long long size = ZSTD_getFrameContentSize(mlxone_payload, payload_size());
    return size == ZSTD_CONTENTSIZE_UNKNOWN || size == ZSTD_CONTENTSIZE_ERROR ? 0 : size;
}

static bool open_stream(struct stream *stream) {
    *stream = (struct stream){.decoder = ZSTD_createDStream(), .room = 1 << 18};
    stream->packed = (ZSTD_inBuffer){mlxone_payload, payload_size(), 0};
    stream->buffer = malloc(stream->room);
    if (stream->decoder == NULL || stream->buffer == NULL) out_of_memory();
    /* The window is what our own packer chose, so there is no stranger to be careful of. */
    int most = ZSTD_dParam_getBounds(ZSTD_d_windowLogMax).upperBound;
    return !ZSTD_isError(ZSTD_DCtx_setParameter(stream->decoder, ZSTD_d_windowLogMax, most));
}

static void close_stream(struct stream *stream) {
    ZSTD_freeDStream(stream->decoder);
    free(stream->buffer);
}

/* False at the end, and if the stream is damaged: only `ended` tells them apart. */
static bool refill(struct stream *stream) {
    ZSTD_outBuffer out = {stream->buffer, stream->room, 0};
    while (out.pos == 0 && !stream->ended) {
        size_t before = stream->packed.pos;
        size_t left = ZSTD_decompressStream(stream->decoder, &out, &stream->packed);
        if (ZSTD_getErrorCode(left) == ZSTD_error_memory_allocation) out_of_memory(); /* the window */
        if (ZSTD_isError(left)) return false;
        stream->ended = left == 0 && stream->packed.pos == stream->packed.size;
        bool stuck = stream->packed.pos == before && out.pos == 0;
        if (stuck && !stream->ended) return false; /* cut short */
    }
    stream->have = out.pos;
    stream->used = 0;
    return out.pos > 0;
}

/* Up to `wanted` bytes, as many as lie ready; NULL if there are none. */
static const char *take(struct stream *stream, size_t wanted, size_t *got) {
    if (stream->used == stream->have && !refill(stream)) return NULL;
    size_t ready = stream->have - stream->used;
    *got = wanted < ready ? wanted : ready;
    const char *bytes = stream->buffer + stream->used;
    stream->used += *got;
    return bytes;
}

static bool take_block(struct stream *stream, void *block) {
    for (size_t have = 0, got; have < BLOCK; have += got) {
        const char *bytes = take(stream, BLOCK - have, &got);
        if (bytes == NULL) return false;
        memcpy((char *)block + have, bytes, got);
    }
    return true;
}

/* Only at its very end does zstd compare its checksum. */
static bool drain(struct stream *stream) {
    size_t got;
    while (take(stream, stream->room, &got) != NULL) {
    }
    return stream->ended;
}

static bool write_all(int fd, const char *bytes, size_t size) {
    while (size > 0) {
        ssize_t written = write(fd, bytes, size);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return false;
        bytes += written;
        size -= (size_t)written;
    }
    return true;
}

static enum unpacked copy_out(struct stream *stream, int fd, unsigned long long size) {
    unsigned long long padded = (size + BLOCK - 1) / BLOCK * BLOCK, done = 0;
    while (done < padded) {
        size_t got;
        unsigned long long left = padded - done;
        const char *bytes = take(stream, left < stream->room ? (size_t)left : stream->room, &got);
        if (bytes == NULL) return DAMAGED;
        size_t ours = done >= size ? 0 : size - done < got ? (size_t)(size - done) : got;
        if (!write_all(fd, bytes, ours)) return NOT_WRITTEN;
        done += got;
    }
    return UNPACKED;
}

static enum unpacked write_file(struct stream *stream, int folder, const char *path, mode_t mode,
                                unsigned long long size) {
    int fd = openat(folder, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0) return NOT_WRITTEN;
    enum unpacked result = copy_out(stream, fd, size);
    if (result == UNPACKED && fchmod(fd, mode) != 0) result = NOT_WRITTEN; /* whatever the umask says */
    int problem = errno;
    bool closed = close(fd) == 0 || errno == EINTR; /* a full quota may be told only here */
    if (result == UNPACKED) return closed ? UNPACKED : NOT_WRITTEN;
    errno = problem;
    return result;
}

/* Inside the folder and nowhere else: no empty, "." or ".." part, so no leading slash either. */
static bool is_inside(const char *path) {
    for (const char *part = path;; part++) {
        size_t length = strcspn(part, "/");
        if (length == 0 || (length == 1 && part[0] == '.') || (length == 2 && memcmp(part, "..", 2) == 0)) return false;
        part += length;
        if (*part == '\0') return true;
    }
}

static bool read_octal(const char *digits, size_t width, unsigned long long *value) {
    *value = 0;
    size_t i = 0;
    for (; i < width && digits[i] >= '0' && digits[i] <= '7'; i++) *value = *value * 8 + (unsigned)(digits[i] - '0');
    return i > 0 && (i == width || digits[i] == ' ' || digits[i] == '\0');
}

static char *entry_path(const struct header *header) {
    bool split = header->prefix[0] != '\0';
    char *path = split ? text("%.155s/%.100s", header->prefix, header->name) : text("%.100s", header->name);
    size_t length = strlen(path);
    if (header->type == '5' && length > 1 && path[length - 1] == '/') path[length - 1] = '\0'; /* as tar has it */
    return path;
}

static enum unpacked unpack_entry(struct stream *stream, int folder, const struct header *header,
                                  const char *path) {
    unsigned long long mode, size;
    if (!read_octal(header->mode, sizeof header->mode, &mode) || !read_octal(header->size, sizeof header->size, &size))
        return DAMAGED;
    if (header->type == '0') return write_file(stream, folder, path, (mode_t)(mode & 0777), size);
    bool done;
    if (header->type == '5') {
        done = mkdirat(folder, path, (mode_t)(mode & 0777)) == 0 && fchmodat(folder, path, mode & 0777, 0) == 0;
    } else if (header->type == '2') {
        char *target = text("%.100s", header->link);
        done = symlinkat(target, folder, path) == 0;
        free(target);
    } else {
        return DAMAGED;
    }
    return done ? UNPACKED : NOT_WRITTEN;
}

static enum unpacked unpack_entries(struct stream *stream, int folder, struct entries *entries) {
    struct header header;
    while (take_block(stream, &header)) {
        if (header.name[0] == '\0') return drain(stream) ? UNPACKED : DAMAGED; /* the archive's end */
        if (memcmp(header.magic, "ustar", 6) != 0) return DAMAGED;
        char *path = entry_path(&header);
        enum unpacked result = is_inside(path) ? unpack_entry(stream, folder, &header, path) : DAMAGED;
        if (result == UNPACKED) remember(entries, path);
        free(path);
        if (result != UNPACKED) return result;
    }
    return DAMAGED;
}

enum unpacked unpack_archive(int folder, struct entries *entries) {
    struct stream stream;
    enum unpacked result = open_stream(&stream) ? unpack_entries(&stream, folder, entries) : DAMAGED;
    int problem = errno;
    /* A damaged archive may ask for the impossible before its checksum is reached: then that is the reason. */
    if (result == NOT_WRITTEN && !drain(&stream)) result = DAMAGED;
    close_stream(&stream);
    errno = problem;
    return result;
}
