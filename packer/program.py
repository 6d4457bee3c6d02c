"""Where the packed program begins: puts the environment right, then runs the verb.

The loader needed LD_LIBRARY_PATH and its own variables to get this far. Whatever is started from
here on (an editor, `nvidia-smi`, mlxone itself) must find the caller's environment again.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Where the systems keep their certificates; OpenSSL itself knows those of the machine it was built on.
CERTIFICATES = (
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
)


def restore_environment() -> None:
    for name in [name for name in os.environ if name.startswith("_PYI_")]:
        del os.environ[name]
    before = os.environ.pop("LD_LIBRARY_PATH_ORIG", None)
    os.environ.pop("LD_LIBRARY_PATH", None)
    if before:
        os.environ["LD_LIBRARY_PATH"] = before


def bring_certificates() -> None:
    """A bare container has no certificates: then downloads trust those that were packed."""
    if "SSL_CERT_FILE" in os.environ or "SSL_CERT_DIR" in os.environ:
        return
    if sys.platform == "linux" and not any(os.path.exists(place) for place in CERTIFICATES):
        packed = Path(__file__).parent / "certifi" / "cacert.pem"
        if packed.exists():
            os.environ["SSL_CERT_FILE"] = str(packed)


def main() -> int:
    restore_environment()
    bring_certificates()
    from mlxone.cli.main import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
