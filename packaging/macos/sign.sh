#!/bin/sh
# Builds mlxone signed and notarized, on a Mac. Each step is one command that can be typed by hand.
#
#   packaging/macos/sign.sh "Developer ID Application: NAME (TEAM)" PROFILE
#
# PROFILE is what the notary service's credentials were stored under:
#   xcrun notarytool store-credentials PROFILE --key KEY.p8 --key-id ID --issuer ISSUER
# NOTARY_KEYCHAIN names the keychain they are in, where that is not the login's.
set -eu
[ $# -eq 2 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
identity=$1
profile=$2
cd "$(dirname "$0")/../.."
[ "$(uname -s)" = Darwin ] || { echo "sign.sh: this needs a Mac" >&2; exit 12; }
python=${PYTHON:-python3}

# 1. Build. The libraries and the program inside are signed before they are packed, the files around
#    them when they are linked: packer/signing.py says which files, in which order, with what.
"$python" build.py all --level 19 --sign "$identity"

# 2. Notarize. The service looks into a zip, but not into our payload: so what the payload holds goes
#    beside the executables. The files of tree-slim are all the Mach-O files there are: the full build
#    adds a model only.
rm -rf build/notarize build/notarize.zip
mkdir -p build/notarize
cp dist/mlxone dist/mlxone-slim build/notarize/
ditto build/tree-slim build/notarize/payload
ditto -c -k --keepParent build/notarize build/notarize.zip
notary() { # every call names the same credentials
	xcrun notarytool "$@" --keychain-profile "$profile" ${NOTARY_KEYCHAIN:+--keychain "$NOTARY_KEYCHAIN"}
}
answer=$(notary submit build/notarize.zip --wait --timeout 1h --output-format json)
printf '%s\n' "$answer"
# Its exit code tells whether it was asked, not what it answered.
case $(printf '%s' "$answer" | tr -d ' \n') in
*'"status":"Accepted"'*) ;;
*)
	id=$(printf '%s' "$answer" | sed -n 's/.*"id": *"\([0-9a-f-]*\)".*/\1/p')
	[ -z "$id" ] || notary log "$id" >&2
	echo "sign.sh: the notary service did not accept it" >&2
	exit 1
	;;
esac

# 3. No ticket is stapled: that works for bundles, disk images and packages, not for a bare executable.
#    macOS asks Apple's servers about such a file when it first meets it with a quarantine mark, so that
#    one start needs the network if a browser did the download; curl and Homebrew set no such mark.

# 4. Check.
"$python" -m packer.signing --check build/tree-slim
"$python" -m packer.signing --check --notarized dist/mlxone dist/mlxone-slim
