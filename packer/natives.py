"""What is known of the libraries that are bundled and that no Python package brings, as a table.

A library that matches no row stops the build (licences.py): nothing is shipped of which we cannot
say whose it is. `texts` are names in `packer/texts/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch


@dataclass(frozen=True)
class Native:
    """One library: its files' names, its licence as an SPDX expression, and what must be said of it."""

    name: str
    files: tuple[str, ...]
    licence: str
    copyright: str
    source: str
    texts: tuple[str, ...]


GCC_TEXTS = ("GPL-3.0", "GCC-exception-3.1")
GCC_LICENCE = "GPL-3.0-or-later WITH GCC-exception-3.1"
FSF = "Copyright Free Software Foundation, Inc."
GCC = "https://gcc.gnu.org/git/gcc.git"

# As files of their own in the tree, on Linux and macOS.
LIBRARIES = (
    Native(
        "OpenSSL",
        ("libssl.*", "libcrypto.*", "libssl-*", "libcrypto-*"),
        "Apache-2.0",
        "Copyright (c) 1998-2025 The OpenSSL Project Authors; "
        "Copyright (c) 1995-1998 Eric A. Young, Tim J. Hudson",
        "https://openssl-library.org/source/",
        ("Apache-2.0",),
    ),
    Native("SQLite", ("libsqlite3*",), "blessing", "Public domain", "https://sqlite.org/download.html", ()),
    Native(
        "libffi",
        ("libffi*",),
        "MIT",
        "Copyright (c) 1996-2024 Anthony Green, Red Hat, Inc. and others",
        "https://github.com/libffi/libffi",
        ("MIT",),
    ),
    Native("GCC: libgcc", ("libgcc_s*",), GCC_LICENCE, FSF, GCC, GCC_TEXTS),
    Native("GCC: libstdc++", ("libstdc++*",), GCC_LICENCE, FSF, GCC, GCC_TEXTS),
    Native("GCC: libgfortran", ("libgfortran*",), GCC_LICENCE, FSF, GCC, GCC_TEXTS),
    Native("GCC: libgomp", ("libgomp*",), GCC_LICENCE, FSF, GCC, GCC_TEXTS),
    Native("GCC: libquadmath", ("libquadmath*",), "LGPL-2.1-or-later", FSF, GCC, ("LGPL-2.1",)),
    Native(
        "Reference BLAS and LAPACK",
        ("libblas*", "liblapack*"),
        "BSD-3-Clause-Open-MPI",
        "Copyright (c) 1992-2013 The University of Tennessee and others, as in the text",
        "https://www.netlib.org/lapack/",
        ("LAPACK",),
    ),
    Native(
        "XZ Utils: liblzma",
        ("liblzma*",),
        "0BSD",
        "By Lasse Collin, Igor Pavlov and others; in the public domain before 5.6, then 0BSD",
        "https://tukaani.org/xz/",
        (),
    ),
    Native(
        "bzip2",
        ("libbz2*",),
        "bzip2-1.0.6",
        "Copyright (c) 1996-2019 Julian R Seward",
        "https://sourceware.org/bzip2/",
        ("bzip2-1.0.6",),
    ),
    Native(
        "zlib",
        ("libz.*", "libz-*"),
        "Zlib",
        "Copyright (c) 1995-2024 Jean-loup Gailly and Mark Adler",
        "https://zlib.net/",
        ("Zlib",),
    ),
    Native(
        "Expat",
        ("libexpat*",),
        "MIT",
        "Copyright (c) 1998-2000 Thai Open Source Software Center Ltd and Clark Cooper; "
        "Copyright (c) 2001-2025 Expat maintainers",
        "https://libexpat.github.io/",
        ("MIT",),
    ),
    Native(
        "util-linux: libuuid",
        ("libuuid*",),
        "BSD-3-Clause",
        "Copyright (c) 1996-2009 Theodore Ts'o",
        "https://github.com/util-linux/util-linux",
        ("BSD-3-Clause",),
    ),
    Native(
        "libmpdec",
        ("libmpdec*",),
        "BSD-2-Clause",
        "Copyright (c) 2008-2024 Stefan Krah",
        "https://www.bytereef.org/mpdecimal/",
        ("BSD-2-Clause",),
    ),
    Native(
        "libb2",
        ("libb2.*",),
        "CC0-1.0",
        "By Samuel Neves; in the public domain",
        "https://github.com/BLAKE2/libb2",
        ("CC0-1.0",),
    ),
    Native(
        "GNU gettext: libintl",
        ("libintl*",),
        "LGPL-2.1-or-later",
        FSF,
        "https://www.gnu.org/software/gettext/",
        ("LGPL-2.1",),
    ),
    Native(
        "Zstandard",
        ("libzstd*",),
        "BSD-3-Clause",
        "Copyright (c) Meta Platforms, Inc. and affiliates",
        "https://github.com/facebook/zstd",
        ("BSD-3-Clause",),
    ),
)

# Linked into a file of the tree, or into the executable around it, where no file name tells of them.
WITHIN = (
    Native(
        "Zstandard (its decoder, in the executable)",
        (),
        "BSD-3-Clause",
        "Copyright (c) Meta Platforms, Inc. and affiliates",
        "https://github.com/facebook/zstd",
        ("BSD-3-Clause",),
    ),
    Native(
        "Within Python: Expat, libmpdec, BLAKE2, Keccak, SipHash, dtoa, kazlib, mimalloc and others",
        (),
        "MIT AND BSD-2-Clause AND CC0-1.0",
        "Named one by one at https://docs.python.org/3/license.html",
        "https://www.python.org/downloads/source/",
        ("MIT", "BSD-2-Clause", "CC0-1.0"),
    ),
    Native(
        "Within MLX: nanobind, robin-map, {fmt}, nlohmann/json, gguflib, pocketfft, metal-cpp",
        (),
        "BSD-3-Clause AND MIT AND Apache-2.0",
        "Copyright (c) Wenzel Jakob; Thibaut Goetghebuer-Planchon; Victor Zverovich; Niels Lohmann; "
        "Salvatore Sanfilippo; Max-Planck-Society; Apple Inc.",
        "https://github.com/ml-explore/mlx",
        ("BSD-3-Clause", "MIT", "Apache-2.0"),
    ),
    Native(
        "Within PyYAML: LibYAML",
        (),
        "MIT",
        "Copyright (c) 2006-2016 Kirill Simonov; Copyright (c) 2017-2020 Ingy döt Net",
        "https://github.com/yaml/libyaml",
        ("MIT",),
    ),
)

# Linked into the executable around the tree, on Linux; licences.py adds which one, and where its source is.
GLIBC = Native(
    "GNU C Library (in the executable; how it is linked is in packer/launcher.py)",
    (),
    "LGPL-2.1-or-later",
    FSF,
    "https://www.gnu.org/software/libc/",
    ("LGPL-2.1",),
)

# Packages whose wheels carry no licence text, by their names in small letters.
WITHOUT_TEXT = {
    "cmeel-openblas": Native(
        "OpenBLAS, with LAPACK",
        (),
        "BSD-3-Clause AND BSD-3-Clause-Open-MPI",
        "Copyright (c) 2011-2014 The OpenBLAS Project",
        "https://github.com/OpenMathLib/OpenBLAS",
        ("BSD-3-Clause", "LAPACK"),
    ),
    "tokenizers": Native(
        "tokenizers",
        (),
        "Apache-2.0",
        "Copyright Hugging Face",
        "https://github.com/huggingface/tokenizers",
        ("Apache-2.0",),
    ),
}


def describe(file: str) -> Native | None:
    """The row for a library's file name."""
    return next((n for n in LIBRARIES if any(fnmatch(file, pattern) for pattern in n.files)), None)
