// SPDX-License-Identifier: Apache-2.0
// What functions in JavaScript import as koren-runtime: Reject, RetryAfter, and state.

'use strict';

const { AsyncLocalStorage } = require('node:async_hooks');

const RETRY_MAX_S = 86400;
const VALUE_MAX_BYTES = 64 * 1024;
const TIMEOUT_MS = 5000;
const DEFAULT_GATEWAY = 'gateway.koren-faas.svc:8080';
const DEFAULT_TOKEN = '/var/run/secrets/koren/token';

/** The invocation {id, attempt} on whose behalf the running code acts; the worker sets it. */
const invocations = new AsyncLocalStorage();

/** Thrown by a handler: the event can never be handled and becomes a dead letter at once. */
class Reject extends Error {
  name = 'Reject';
}

/** Thrown by a handler: the event is to be tried again after `seconds`, a day at most. */
class RetryAfter extends Error {
  name = 'RetryAfter';

  constructor(seconds, message = '') {
    if (typeof seconds !== 'number' || !(seconds >= 0)) {
      throw new RangeError(`RetryAfter(${seconds}): give seconds, 0 or more`);
    }
    const bounded = Math.min(seconds, RETRY_MAX_S);
    super(message || `to be tried again after ${bounded} s`);
    this.seconds = bounded;
  }
}

/** The gateway did not do it; the message says why. */
class StateError extends Error {
  name = 'StateError';
}

/** The state is not what `version` says: another pod was there first. Read it again. */
class Conflict extends StateError {
  name = 'Conflict';
}

/** This attempt at the event has ended for the gateway; another may be under way. */
class LeaseLost extends StateError {
  name = 'LeaseLost';
}

const ANY = 'any';
const ABSENT = 'absent';

/**
 * What is kept under `key`: {value, version}, or null when there is nothing. `value` is a Buffer.
 * Rejects with StateError.
 */
async function get(key) {
  const { status, headers, body } = await ask('GET', key, {});
  if (status === 404) return null;
  if (status !== 200) throw new StateError(`state '${key}': the gateway answered ${problem(status, body)}`);
  return { value: body, version: versionOf(headers) };
}

/**
 * Keeps a text or bytes, at most 64 KiB, under `key`; resolves to the new version.
 *
 * `version` is that of the entry to be replaced, or ABSENT, or ANY. After `expiresS` seconds the
 * value is forgotten. Rejects with Conflict when something else is there, with LeaseLost when the
 * event in hand is not this pod's any more, and with StateError for all else.
 */
async function put(key, value, { version = ANY, expiresS } = {}) {
  const bytes = Buffer.from(value);
  if (bytes.length > VALUE_MAX_BYTES) {
    throw new StateError(`state '${key}' has ${bytes.length} bytes; ${VALUE_MAX_BYTES} is the most that is kept`);
  }
  const headers = {};
  if (version === ABSENT) headers['If-None-Match'] = '*';
  else if (version !== ANY) headers['If-Match'] = `"${version}"`;
  if (expiresS !== undefined) headers['Koren-Expires-S'] = String(expiresS);
  const invocation = invocations.getStore();
  if (invocation) {
    headers['Koren-Invocation-Id'] = invocation.id;
    headers['Koren-Attempt'] = invocation.attempt;
  }
  const { status, headers: answered, body } = await ask('PUT', key, headers, bytes);
  if (status === 412) throw new Conflict(`state '${key}' has changed`);
  if (status === 409) throw new LeaseLost(`state '${key}' is not written: ${problem(status, body)}`);
  if (status !== 204) throw new StateError(`state '${key}': the gateway answered ${problem(status, body)}`);
  return versionOf(answered);
}

function versionOf(headers) {
  return (headers.etag ?? '').replaceAll('"', '');
}

function problem(status, body) {
  let text = body.toString();
  try {
    text = JSON.parse(text).error ?? text;
  } catch {
    // What stands between here and the gateway may answer in plain text.
  }
  return `${status} ${String(text).slice(0, 500)}`;
}

function ask(method, key, headers, body) {
  // Here, since it costs functions without state a part of their start.
  const http = require('node:http');
  const { readFileSync } = require('node:fs');
  const gateway = new URL(`http://${process.env.KOREN_GATEWAY || DEFAULT_GATEWAY}`);
  // Read for each request: the kubelet replaces it long before it expires.
  const token = readFileSync(process.env.KOREN_TOKEN || DEFAULT_TOKEN, 'utf8').trim();
  const path = `/v1/state/${key.split('/').map(encodeURIComponent).join('/')}`;
  return new Promise((resolve, reject) => {
    const failed = (error) => reject(new StateError(`state '${key}': the gateway can't be reached: ${error.message}`));
    const options = { method, headers: { ...headers, Authorization: `Bearer ${token}` }, agent: false };
    options.signal = AbortSignal.timeout(TIMEOUT_MS);
    if (body) options.headers['Content-Length'] = body.length;
    const request = http.request(new URL(path, gateway), options, (response) => {
      const parts = [];
      response.on('data', (part) => parts.push(part));
      response.on('end', () =>
        resolve({ status: response.statusCode, headers: response.headers, body: Buffer.concat(parts) }),
      );
      response.on('error', failed);
    });
    request.on('error', failed);
    request.end(body);
  });
}

module.exports = {
  Reject,
  RetryAfter,
  state: { get, put, ANY, ABSENT, StateError, Conflict, LeaseLost },
  /** For the worker alone. */
  [Symbol.for('koren-runtime.invocations')]: invocations,
};
