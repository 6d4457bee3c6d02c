#!/bin/sh
# Puts the certificate and the notary service's key of a release runner into a keychain of their own.
#
# Reads MACOS_CERTIFICATE (a .p12 in base64), MACOS_CERTIFICATE_PASSWORD, NOTARY_KEY (the text of a .p8),
# NOTARY_KEY_ID, NOTARY_ISSUER; makes the keychain NOTARY_KEYCHAIN and in it
# the profile "mlxone" for notarytool. On a Mac of your own the login's keychain
# has them already: this is for machines that are thrown away.
set -eu
: "${MACOS_CERTIFICATE:?}" "${MACOS_CERTIFICATE_PASSWORD:?}" "${NOTARY_KEY:?}" "${NOTARY_KEY_ID:?}" "${NOTARY_ISSUER:?}"
umask 077
secret=$(mktemp -d)
trap 'rm -rf "$secret"' EXIT
keychain=${NOTARY_KEYCHAIN:?}
password=$(openssl rand -hex 20)

security create-keychain -p "$password" "$keychain"
security set-keychain-settings -lut 7200 "$keychain"
security unlock-keychain -p "$password" "$keychain"
printf '%s' "$MACOS_CERTIFICATE" | base64 --decode >"$secret/certificate.p12"
security import "$secret/certificate.p12" -k "$keychain" -P "$MACOS_CERTIFICATE_PASSWORD" -T /usr/bin/codesign
# Without this codesign would ask at a window that nobody sees.
security set-key-partition-list -S apple-tool:,apple: -s -k "$password" "$keychain" >/dev/null
security list-keychains -d user -s "$keychain" login.keychain-db

printf '%s\n' "$NOTARY_KEY" >"$secret/notary.p8"
xcrun notarytool store-credentials mlxone --keychain "$keychain" \
	--key "$secret/notary.p8" --key-id "$NOTARY_KEY_ID" --issuer "$NOTARY_ISSUER"
