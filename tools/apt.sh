# Reads the system's own apt configuration. Sourced by tools/dev and tools/fetch-arm64.
#
# No host name of a mirror is written in this tree: whatever is fetched comes from where this
# system's apt gets its packages, or from sources that the person names.

# The release's code name, like "bookworm".
apt_codename() {
    # shellcheck disable=SC1091
    (. /etc/os-release && printf '%s\n' "${VERSION_CODENAME:-}")
}

# Prints every enabled entry of the system's apt sources in the deb822 format, without
# restrictions to an architecture.
apt_entries() {
    local file
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -r "$file" ] && awk '$1 == "deb" {
            signed = ""; at = 2
            if ($2 ~ /^\[/) {
                for (; at <= NF; at++) {
                    word = $at; gsub(/[][]/, "", word)
                    if (word ~ /^signed-by=/) signed = substr(word, 11)
                    if ($at ~ /\]$/) { at++; break }
                }
            }
            components = ""
            for (i = at + 2; i <= NF && $i !~ /^#/; i++) components = components " " $i
            printf "Types: deb\nURIs: %s\nSuites: %s\nComponents:%s\n", $at, $(at + 1), components
            if (signed != "") print "Signed-By: " signed
            print ""
        }' "$file"
    done
    for file in /etc/apt/sources.list.d/*.sources; do
        [ -r "$file" ] && grep -v '^#' "$file" | awk -v RS= '
            /(^|\n)Enabled:[ \t]*(no|false)/ { next }
            /(^|\n)Types:[^\n]*deb([ \t\n]|$)/ { print; print "" }' |
            sed -e 's/^Types:.*/Types: deb/' -e '/^Architectures:/d'
    done
    return 0
}

# Prints an entry for the release's backports, made from the entry of the release itself. Nothing if
# the system has one already; fails where backports are not known (only Debian's are used here).
apt_backports_entry() {
    local release
    release=$(apt_codename)
    [ -n "$release" ] && grep -qx 'ID=debian' /etc/os-release || return 1
    if apt_entries | grep -q "^Suites:.*[[:space:]]$release-backports"; then
        return 0
    fi
    apt_entries | awk -v RS= -v release="$release" '
        $0 ~ "(^|\n)Suites:([^\n]*[ \t])?" release "([ \t\n]|$)" {
            sub(/Suites:[^\n]*/, "Suites: " release "-backports")
            sub(/Components:[^\n]*/, "Components: main")
            print
            found = 1
            exit
        }
        END { exit !found }'
}
