// SPDX-License-Identifier: Apache-2.0
// Finds a handler in a function's files.

'use strict';

require('./resolve.js');

const fs = require('node:fs');
const path = require('node:path');

const ENDINGS = ['.js', '.cjs', '.mjs', '/index.js'];

/** What a module, dotted, of the folder exports. Throws an Error when there is none. */
async function loadModule(folder, module) {
  const base = path.join(folder, ...module.split('.'));
  const file = ENDINGS.map((ending) => base + ending).find((name) => fs.existsSync(name));
  if (!file) throw new Error(`there is no ${base}.js; deploy the function with the --handler that names its file`);
  try {
    return require(file);
  } catch (error) {
    // A module that waits while it is loaded.
    if (error?.code !== 'ERR_REQUIRE_ASYNC_MODULE') throw error;
    return import(require('node:url').pathToFileURL(file));
  }
}

/** The function of that name that a module exports; undefined when there is none. */
function functionOf(loaded, name) {
  return [loaded?.[name], loaded?.default?.[name]].find((found) => typeof found === 'function');
}

module.exports = { loadModule, functionOf };
