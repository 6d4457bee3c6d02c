/* The archive as read-only data: part of the program like any other constant, so it is signed with it, is
 * mapped and not read until it is needed, and nobody has to find and open the executable again.
 * On Linux it has a section of its own, which the build places behind everything else: then a file whose
 * download was cut short still starts, and can say so. */

#ifdef __APPLE__
#define PAYLOAD     _mlxone_payload
#define PAYLOAD_END _mlxone_payload_end
    .section __TEXT,__const
#else
#define PAYLOAD     mlxone_payload
#define PAYLOAD_END mlxone_payload_end
    .section .payload, "a", %progbits
#endif

    .globl PAYLOAD
    .globl PAYLOAD_END
    .p2align 4
PAYLOAD:
    .incbin "payload.tar.zst"
PAYLOAD_END:
    .byte 0

#ifndef __APPLE__
    .section .note.GNU-stack, "", %progbits
#endif
