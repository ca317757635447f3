# shellcheck shell=bash
# Shared by ./tools/test and ./tools/demo, which source it: a virtual environment that holds Treadle
# as a user would get it, from a wheel that is built out of this checkout.
#
# Needs bash, coreutils and Python >= 3.11; pip takes what it needs from wherever it is set up to.

say() {
    printf '== %s\n' "$*" >&2
}

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# Prints the path of the first Python >= 3.11 on PATH; plain python3 is preferred.
find_python() {
    local name path
    for name in python3 python3.13 python3.12 python3.11 python3.14 python; do
        path=$("$name" -c 'import sys; print(sys.executable) if sys.version_info >= (3, 11) else sys.exit(1)' \
            2>/dev/null) || continue
        printf '%s\n' "$path"
        return
    done
    fail 'Treadle needs Python >= 3.11, and there is none on PATH (tried python3, python3.11 to python3.14);' \
        'on Debian: apt-get install python3 python3-venv'
}

# Creates a virtual environment: create_venv PYTHON FOLDER
create_venv() {
    local python=$1 folder=$2 package
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        # Debian ships venv apart from Python, in a package per Python version.
        package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
            say "$python has no venv: installing $package"
            apt-get update -qq || say 'apt-get update failed; trying with the package lists that are there'
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends "$package" >&2 ||
                fail "could not install $package; without it no virtual environment can be made"
        else
            fail "$python has no venv module. On Debian or Ubuntu, install it and start again:" \
                "sudo apt-get install $package"
        fi
    fi
    "$python" -m venv --clear "$folder" || fail "could not make the virtual environment $folder"
}

# One line that changes whenever a file that goes into the wheel does.
source_digest() {
    (cd "$1" && find setup.cfg pyproject.toml README.rst LICENSE engine threads \
        -type f -not -path '*/__pycache__/*' -print0 | sort -z | xargs -0 sha256sum | sha256sum)
}

# Builds the wheel from a copy, so that the checkout stays clean and no stale build folder gets in:
# build_wheel ROOT PYTHON FOLDER; prints the wheel's path.
build_wheel() {
    local root=$1 python=$2 folder=$3
    mkdir "$folder/source" || return
    cp -R "$root/setup.cfg" "$root/pyproject.toml" "$root/README.rst" "$root/LICENSE" \
        "$root/engine" "$root/threads" "$folder/source" || return
    "$python" -m pip wheel --quiet --no-deps --wheel-dir "$folder" "$folder/source" >&2 || return
    printf '%s\n' "$folder"/treadle-*.whl
}

# Makes or refreshes a virtual environment: prepare_venv ROOT FOLDER EXTRA
# What is there is used again: the dependencies while setup.cfg stays the same, the wheel while the sources do.
prepare_venv() {
    local root=$1 venv=$2 extra=$3 python wanted sources scratch wheel status=0
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
    wanted="$venv [$extra] $(sha256sum <"$root/setup.cfg")"
    sources=$(source_digest "$root") || fail "cannot read the sources in $root"

    if [ "$(cat "$venv/treadle-dependencies" 2>/dev/null)" != "$wanted" ] ||
        ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
        python=$(find_python) || exit 1
        say "making the virtual environment $venv with $("$python" --version) ($python)"
        create_venv "$python" "$venv"
    elif [ "$(cat "$venv/treadle-sources" 2>/dev/null)" = "$sources" ]; then
        say "using $venv, which is up to date"
        return
    fi

    rm -f "$venv/treadle-sources"
    scratch=$(mktemp -d) || fail 'cannot make a temporary folder'
    say 'building the wheel'
    if ! wheel=$(build_wheel "$root" "$venv/bin/python" "$scratch"); then
        status=1
    elif [ -e "$venv/treadle-dependencies" ]; then
        say 'the sources have changed: installing the new wheel'
        "$venv/bin/python" -m pip install --quiet --no-deps --force-reinstall "$wheel" >&2 || status=1
    else
        say "installing $(basename "$wheel") with its dependencies and the extra '$extra' (this takes a while)"
        "$venv/bin/python" -m pip install --quiet "$wheel[$extra]" >&2 || status=1
    fi
    rm -rf "$scratch"
    [ "$status" -eq 0 ] || fail "could not install Treadle into $venv; pip's messages above say why"
    printf '%s\n' "$wanted" >"$venv/treadle-dependencies"
    printf '%s\n' "$sources" >"$venv/treadle-sources"
}
