# shellcheck shell=sh
# What citus-node says, and how it ends.

say() {
    printf 'citus-node: %s\n' "$*" >&2
}

# refuse MESSAGE HINT: input that cannot be used; exit code 2.
refuse() {
    say "$1: $2"
    exit 2
}

# give_up MESSAGE: a program failed whose own words are above; exit code 1.
give_up() {
    say "$1"
    exit 1
}
