"""What goes into the packed program beyond what its imports say, as data.

PyInstaller's spec asks these questions, inside build/env.
"""

from __future__ import annotations

import importlib.util
from fnmatch import fnmatch

from packer.environment import site_packages

# Imported from C++ or by name, where no import statement tells of them.
HIDDEN = [
    "mlx.__array_api_info",
    "mlx._reprlib_fix",
    "hf_xet",  # asked for by the hub client only when a repository is kept in Xet's storage
    "readline",  # the module is Python's; the library it needs is the system's, see LEFT_TO_THE_SYSTEM
    "tomllib",
]

# Packages that a hook or an optional import would bring along and that no verb needs.
EXCLUDED = [
    *(
        "distutils",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "test",
        "tkinter",
        "turtledemo",
        "unittest",
    ),
    *("pip", "pkg_resources", "setuptools", "shiv", "wheel", "cmeel"),
    *(
        "numpy",
        "torch",
        "tensorflow",
        "pandas",
        "PIL",
        "IPython",
        "matplotlib",
        "pytest",
        "trio",
        "zstandard",
    ),
]

# GPL libraries, never bundled. Python's `readline` finds the system's own, or the desk does without.
LEFT_TO_THE_SYSTEM = ["libreadline*", "libgdbm*", "libtinfo*", "libncurses*", "_gdbm*", "_dbm*", "*libdb-*"]

# The wheel has one library under three names; the metadata is written by collect.py, without the
# parts that say where and how a package was installed.
NOT_NEEDED = ["cmeel.prefix/lib/libopenblas.so.*", "*.dist-info/*", "*.pyi", "py.typed", "*/py.typed"]

# What is looked for in the folder of libraries, and where it is.
OTHER_NAMES = {
    # OpenBLAS asks for the public name; MLX's wheel carries the library under one of its own.
    "libgfortran.so.5": "mlx_cpu.libs/libgfortran-*.so.5*",
    # On macOS MLX looks for its kernels beside its library, which may be found through a link there.
    "mlx.metallib": "mlx/lib/mlx.metallib",
}


def hidden_modules() -> list[str]:
    return [name for name in HIDDEN if importlib.util.find_spec(name.split(".")[0])]


def libraries() -> list[tuple[str, str]]:
    """The OpenBLAS that is opened by its path, where this platform has one."""
    return [
        (str(found), "cmeel.prefix/lib") for found in site_packages().glob("cmeel.prefix/lib/libopenblas.so")
    ]


def data_files() -> list[tuple[str, str]]:
    """Certificates, for systems that have none of their own; on macOS MLX's kernels."""
    patterns = {"certifi": "certifi/cacert.pem", "mlx/lib": "mlx/lib/*.metallib"}
    return [
        (str(found), folder)
        for folder, pattern in patterns.items()
        for found in site_packages().glob(pattern)
    ]


def wanted(name: str) -> bool:
    """Whether the file of this name inside the folder stays there."""
    last = name.rsplit("/", 1)[-1]
    return not any(fnmatch(last, pattern) for pattern in LEFT_TO_THE_SYSTEM) and not any(
        fnmatch(name, pattern) for pattern in NOT_NEEDED
    )
