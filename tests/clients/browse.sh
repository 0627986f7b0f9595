# Chromium under Playwright. Chromium trusts the authorities of the system and those of its user's NSS store,
# and reads no variable for them: the CA goes into the store of a home of its own.
set -e
HOME=$(mktemp -d)
export HOME
unset XDG_DATA_HOME
trap 'rm -rf "$HOME"' EXIT
mkdir -p "$HOME/.pki/nssdb"
certutil -d "sql:$HOME/.pki/nssdb" -N --empty-password
certutil -d "sql:$HOME/.pki/nssdb" -A -t C,, -n sallyport -i "$NODE_EXTRA_CA_CERTS"
"$1" "$2" "$3"
