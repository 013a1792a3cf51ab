// SPDX-License-Identifier: Apache-2.0
// Lets a function load the package koren-runtime by its name, wherever the function's files are.

'use strict';

const { registerHooks } = require('node:module');
const path = require('node:path');
const { pathToFileURL } = require('node:url');

const url = pathToFileURL(path.join(__dirname, 'index.js')).href;

registerHooks({
  resolve(specifier, context, nextResolve) {
    if (specifier === 'koren-runtime') return { url, format: 'commonjs', shortCircuit: true };
    return nextResolve(specifier, context);
  },
});
