#!/bin/sh
# Says whether a built mlxone works on this machine: smoke.sh FILE
#
# With an empty home, an environment of nothing but PATH and HOME, and no Python asked for. Stops at the
# first thing that is not as it should be. The starter has to be inside: a slim file has no answer to give.
set -eu
if [ $# -ne 1 ] || [ ! -f "$1" ]; then
	echo "usage: smoke.sh FILE" >&2
	exit 2
fi
program=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
place=$(mktemp -d)
server=''
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || :; rm -rf "$place"' EXIT
chmod +x "$program"
mkdir "$place/home"

mlxone() {
	env -i HOME="$place/home" PATH=/usr/bin:/bin "$program" "$@"
}

expect() { # WORD FILE: fails, and shows the file, if the word is not in it
	grep -q "$1" "$2" || { echo "smoke.sh: no '$1' in:" >&2; cat "$2" >&2; exit 1; }
}

try() { # WORD VERB...: runs the verb and looks for the word
	word=$1
	shift
	echo "mlxone $*"
	mlxone "$@" >"$place/said" || { echo "smoke.sh: it ended with $?" >&2; exit 1; }
	expect "$word" "$place/said"
}

try '[0-9]\.[0-9]' --version
try Paris run --temperature 0 --max-tokens 12 'Name the capital of France.'
try SmolLM2 ls
try fits fit starter

echo "mlxone serve"
env -i HOME="$place/home" PATH=/usr/bin:/bin "$program" serve --port 0 --log-json >"$place/ready" 2>"$place/log" &
server=$!
tries=0
until [ -s "$place/ready" ]; do
	tries=$((tries + 1))
	if [ $tries -gt 600 ] || ! kill -0 "$server" 2>/dev/null; then
		echo "smoke.sh: serve did not get ready" >&2
		cat "$place/log" >&2
		exit 1
	fi
	sleep 0.1
done
url=$(sed -n 's/.*"url": *"\([^"]*\)".*/\1/p' "$place/ready")
curl -fsS "$url/v1/chat/completions" -H 'content-type: application/json' \
	-d '{"messages": [{"role": "user", "content": "Name the capital of France."}], "temperature": 0, "max_tokens": 12}' \
	>"$place/said"
expect Paris "$place/said"
kill "$server"
wait "$server" || { echo "smoke.sh: serve ended with $?" >&2; exit 1; }
server=''
echo "all well"
