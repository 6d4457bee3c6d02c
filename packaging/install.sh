#!/bin/sh
# Installs mlxone: fetches the file for this machine, compares its SHA-256, puts it into a folder.
#
# No root, nothing but that one file. Everything is a function and the last line calls the first of them,
# so that a download of this script that was cut short does nothing at all.
# The copy in a release knows its version and its address; packer/release.py fills them in.

set -eu

version='@VERSION@'
downloads='@DOWNLOADS@'
least_glibc=35 # 2.35, as MLX's wheels
least_macos=15 # what the release is built on

usage() {
	cat <<'END'
Installs mlxone, one file, without root.

  curl -fsSL ADDRESS/install.sh | sh
  curl -fsSL ADDRESS/install.sh | sh -s -- [OPTIONS]
  sh install.sh [OPTIONS]

  --to DIR         the folder [MLXONE_INSTALL_DIR, ~/.local/bin]
  --version vX     another version than the one this script came with
  --slim           without the small starter model: half the download
  --base-url URL   a mirror, with vX/FILE and vX/SHA256SUMS below it [MLXONE_DOWNLOAD_URL, the project's own]
  --help           this text

Exit codes: 2 wrong option, 8 download, 9 disk or permissions, 12 not for this system.
END
}

main() {
	slim='' dir=${MLXONE_INSTALL_DIR:-} base=${MLXONE_DOWNLOAD_URL:-}
	scratch='' made_below=''
	options "$@"
	asset=mlxone${slim:+-slim}-$version-$(platform)
	choose_folder
	choose_tools
	trap clean_up EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	make_room
	fetch SHA256SUMS
	expected=$(published_sum)
	[ -n "$expected" ] || fail 8 "$base/v$version/SHA256SUMS names no $asset"
	fetch "$asset"
	compare_sum
	put_in_place
	tell
}

fail() { # CODE LINE
	printf 'install.sh: %s\n' "$2" >&2
	exit "$1"
}

options() {
	while [ $# -gt 0 ]; do
		case $1 in
		--help | -h) usage && exit 0 ;;
		--slim) slim=yes ;;
		--to=* | --version=* | --base-url=*) take "${1%%=*}" "${1#*=}" ;;
		--to | --version | --base-url)
			[ $# -ge 2 ] || fail 2 "$1 needs a value"
			take "$1" "$2"
			shift
			;;
		*) fail 2 "unknown option $1 (--help lists them)" ;;
		esac
		shift
	done
	[ -n "$base" ] || base=$downloads
	base=${base%/}
	case $version in @*) fail 2 "this copy belongs to no release: name one with --version" ;; esac
	case $base in @*) fail 2 "this copy belongs to no release: say where they are with --base-url" ;; esac
}

take() { # OPTION VALUE
	[ -n "$2" ] || fail 2 "$1 needs a value"
	case $1 in
	--to) dir=$2 ;;
	--base-url) base=$2 ;;
	--version)
		version=${2#v}
		case $version in '' | *[!0-9A-Za-z.+-]*) fail 2 "--version $2 is no version" ;; esac
		;;
	esac
}

platform() {
	system=$(uname -s)
	machine=$(uname -m)
	case $system in
	Linux) check_linux ;;
	Darwin) check_macos ;;
	MINGW* | MSYS* | CYGWIN* | Windows*) fail 12 "mlxone runs on macOS and Linux; on Windows, inside WSL" ;;
	*) fail 12 "mlxone runs on macOS and Linux, not on $system" ;;
	esac
}

check_linux() {
	[ "$(getconf LONG_BIT 2>/dev/null || :)" != 32 ] || machine="a 32-bit system"
	case $machine in
	x86_64 | amd64) name=linux-x86_64 ;;
	aarch64 | arm64) name=linux-arm64 ;;
	*) fail 12 "mlxone for Linux needs x86-64 or arm64, 64 bits: this is $machine" ;;
	esac
	libc=$(getconf GNU_LIBC_VERSION 2>/dev/null || :)
	case $libc in
	glibc\ 2.*)
		minor=${libc#glibc 2.}
		[ "${minor%%[!0-9]*}" -ge $least_glibc ] ||
			fail 12 "mlxone needs glibc 2.$least_glibc or later (Ubuntu 22.04, Debian 12): this system has ${libc#glibc }"
		;;
	*) # Not known: the program itself looks again when it starts.
		case $(ldd --version 2>&1 || :) in
		*musl*) fail 12 "mlxone needs glibc 2.$least_glibc or later (Ubuntu 22.04, Debian 12): this system has musl" ;;
		esac
		;;
	esac
	echo $name
}

check_macos() {
	# A shell that runs under Rosetta says x86_64 on Apple silicon too.
	if [ "$machine" != arm64 ] && [ "$(sysctl -n sysctl.proc_translated 2>/dev/null || :)" != 1 ]; then
		fail 12 "mlxone for macOS needs Apple silicon: MLX does not run on Intel Macs"
	fi
	system_version=$(sw_vers -productVersion 2>/dev/null || :)
	major=${system_version%%.*}
	case $major in
	'' | *[!0-9]*) ;;
	*) [ "$major" -ge $least_macos ] || fail 12 "mlxone needs macOS $least_macos or later: this is $system_version" ;;
	esac
	echo macos-arm64
}

choose_folder() {
	if [ -z "$dir" ]; then
		[ -n "${HOME:-}" ] || fail 2 "HOME is not set: say where to install with --to DIR"
		dir=$HOME/.local/bin
	fi
	case $dir in /*) ;; *) dir=$PWD/$dir ;; esac
	while [ "$dir" != / ] && [ "$dir" != "${dir%/}" ]; do dir=${dir%/}; done
}

choose_tools() {
	if command -v curl >/dev/null; then
		fetcher=curl
	elif command -v wget >/dev/null; then
		fetcher=wget
	else
		fail 8 "neither curl nor wget is here: install one of them"
	fi
	if command -v sha256sum >/dev/null; then
		hasher=sha256sum
	elif command -v shasum >/dev/null; then
		hasher='shasum -a 256'
	else
		fail 8 "neither sha256sum nor shasum is here to check the download with: install one of them"
	fi
}

# The scratch folder lies in the target: only within one file system is a rename atomic.
make_room() {
	top=$dir
	while [ ! -e "$top" ]; do top=$(dirname "$top"); done
	if [ "$top" != "$dir" ]; then
		made_below=$top
		mkdir -p "$dir" || fail 9 "$dir cannot be made: choose another folder with --to"
	fi
	[ ! -d "$dir/mlxone" ] || fail 9 "$dir/mlxone is a folder: choose another place with --to"
	scratch=$(mktemp -d "$dir/.mlxone-install.XXXXXX") || fail 9 "$dir cannot be written to: choose another folder with --to"
}

# shellcheck disable=SC2317  # the trap calls it
clean_up() {
	[ -z "$scratch" ] || rm -rf "$scratch"
	# Folders that were made for this, if nothing is in them.
	while [ -n "$made_below" ] && [ "$dir" != "$made_below" ] && rmdir "$dir" 2>/dev/null; do
		dir=$(dirname "$dir")
	done
}

fetch() { # FILE
	url=$base/v$version/$1
	quiet=yes
	[ "$1" = SHA256SUMS ] || [ ! -t 2 ] || quiet=''
	[ "$1" = SHA256SUMS ] || printf 'fetching %s\n' "$url"
	case $fetcher in
	curl)
		# Who asked for https is not led elsewhere by a redirect.
		case $url in https:*) only='=https' ;; *) only='=http,https,file' ;; esac
		if [ -n "$quiet" ]; then bar=--silent; else bar=--progress-bar; fi
		curl -fL --show-error $bar --retry 3 --proto "$only" -o "$scratch/$1" "$url" ||
			fail 8 "$url could not be fetched: nothing was changed"
		;;
	wget)
		wget -q -t 2 -O "$scratch/$1" "$url" || fail 8 "$url could not be fetched: nothing was changed"
		;;
	esac
}

published_sum() {
	while read -r sum name; do
		if [ "${name#\*}" = "$asset" ]; then echo "$sum"; fi
	done <"$scratch/SHA256SUMS"
}

compare_sum() {
	found=$($hasher <"$scratch/$asset")
	found=${found%% *}
	[ "$found" = "$expected" ] ||
		fail 8 "$asset is not what was published (SHA-256 $found, not $expected): nothing was changed, try again"
}

put_in_place() {
	if [ -e "$dir/mlxone" ] || [ -L "$dir/mlxone" ]; then done_what='replaced the one there with'; else done_what='installed'; fi
	chmod 755 "$scratch/$asset"
	mv -f "$scratch/$asset" "$dir/mlxone" || fail 9 "$dir/mlxone cannot be written"
	made_below=''
}

tell() {
	size=$(($(wc -c <"$dir/mlxone") / 1000000))
	printf '%s mlxone %s%s, %s MB: %s\n' "$done_what" "$version" "${slim:+ (slim)}" "$size" "$dir/mlxone"
	printf 'its SHA-256 is the published one; it unpacks itself when it first starts\n'
	case :${PATH:-}: in
	*:"$dir":*)
		first=$(command -v mlxone || :)
		[ "$first" = "$dir/mlxone" ] || printf 'but PATH finds another one first: %s\n' "$first"
		;;
	*)
		case ${SHELL:-} in
		*/fish) printf '%s is not on your PATH; in fish:  fish_add_path "%s"\n' "$dir" "$dir" ;;
		*/zsh) path_line .zshrc ;;
		*) path_line .profile ;;
		esac
		;;
	esac
	printf 'to remove it:  "%s/mlxone" uninstall && rm "%s/mlxone"\n' "$dir" "$dir"
}

path_line() { # FILE
	# shellcheck disable=SC2016  # it is the reader's shell that expands PATH
	printf '%s is not on your PATH; add this to ~/%s:  export PATH="%s:$PATH"\n' "$dir" "$1" "$dir"
}

{ main "$@"; exit; }
