# pip, npm or cargo, named by the first argument, gets a package from the URL in the second one and runs it.
# The third is the Python to use. Nothing of a cache or of the machine's settings takes part.
set -e
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
case $1 in
    pip)
        PIP_CONFIG_FILE=/dev/null "$3" -m pip install -q --disable-pip-version-check --no-cache-dir --no-deps \
            --index-url "$2/simple/" --target packages bystander
        PYTHONPATH=packages "$3" -c 'import bystander'
        ;;
    npm)
        echo '{}' >package.json
        npm_config_userconfig=/dev/null npm_config_cache=$dir/cache npm_config_update_notifier=false \
            npm install --silent --no-audit --no-fund --registry "$2/npm/" bystander
        node -e 'require("bystander")'
        ;;
    cargo)
        mkdir -p src .cargo
        printf '[registries.here]\nindex = "sparse+%s/index/"\n' "$2" >.cargo/config.toml
        printf '[package]\nname = "a"\nversion = "1.0.0"\nedition = "2021"\n\n' >Cargo.toml
        printf '[dependencies]\nbystander = { version = "1", registry = "here" }\n' >>Cargo.toml
        echo 'fn main() { println!("{}", bystander::SAYS); }' >src/main.rs
        RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup} CARGO_HOME=$dir/home CARGO_TARGET_DIR=$dir/target cargo run -q
        ;;
esac
env
