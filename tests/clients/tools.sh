# curl or wget, named by the argument: a call, then a stream.
set -e
case $1 in
    curl) get() { curl -sSN -H "Authorization: Bearer $OPENAI_API_KEY" "$1"; } ;;
    wget) get() { wget -qO- --header "Authorization: Bearer $OPENAI_API_KEY" "$1"; } ;;
esac
get https://api.openai.com/v1/models | sed 's/.*"seen":"\(.*\)".*/answer: \1\n/'
get https://api.openai.com/v1/models?stream
env
