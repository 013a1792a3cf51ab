// SPDX-License-Identifier: Apache-2.0
// The worker of functions in JavaScript: loads the handler and calls it, event by event.
//
// The supervisor (koren_runtime.supervisor) speaks with it on descriptor 3, in the frames of
// koren_runtime.frames: a letter, a length of four bytes, a body. The supervisor keeps the lease and
// the time limit, and ends this process when it must.

'use strict';

const net = require('node:net');
const { inspect } = require('node:util');
const runtime = require('./index.js');
const { functionOf, loadModule } = require('./load.js');

const CONTROL = 3;
const HEAD_BYTES = 5;
const ANSWER_MAX_BYTES = 16 * 1024 * 1024;
const TEXT_MAX = 16_000;
const OWN = new Set(['id', 'type', 'time', 'data', 'data_base64']);
const invocations = runtime[Symbol.for('koren-runtime.invocations')];

const control = new net.Socket({ fd: CONTROL });
let handler;
let busy = false;
let ending = false;

/** Says something to the supervisor; `then` is called once it is said. */
function send(kind, body = '', then) {
  const bytes = Buffer.from(body);
  const head = Buffer.alloc(HEAD_BYTES);
  head.write(kind, 'latin1');
  head.writeUInt32BE(bytes.length, 1);
  control.write(Buffer.concat([head, bytes]), then);
}

/** The function's handler. Throws an Error that says what is missing. */
async function load() {
  const { MOD_NAME, FUNC_HANDLER, KOREN_FUNCTION_FOLDER = '/function' } = process.env;
  const found = functionOf(await loadModule(KOREN_FUNCTION_FOLDER, MOD_NAME), FUNC_HANDLER);
  if (!found) {
    throw new Error(
      `${MOD_NAME} exports no function ${FUNC_HANDLER}; deploy it with the --handler that names what the file exports`,
    );
  }
  return found;
}

/** A CloudEvent as a handler's `event`. Binary data are a Buffer. Throws when it is no CloudEvent. */
function toEvent(cloudEvent) {
  for (const name of ['id', 'type', 'source']) {
    if (typeof cloudEvent?.[name] !== 'string') throw new Error(`no CloudEvent: ${name} is not a text`);
  }
  const binary = cloudEvent.data_base64;
  return {
    data: binary === undefined ? (cloudEvent.data ?? null) : Buffer.from(binary, 'base64'),
    'event-id': cloudEvent.id,
    'event-type': cloudEvent.type,
    'event-time': cloudEvent.time ?? null,
    'event-namespace': cloudEvent.source,
    extensions: Object.fromEntries(Object.entries(cloudEvent).filter(([name]) => !OWN.has(name))),
  };
}

function toContext() {
  return {
    'function-name': process.env.FUNC_HANDLER,
    timeout: Number(process.env.FUNC_TIMEOUT ?? 180),
    runtime: process.env.FUNC_RUNTIME ?? '',
    'memory-limit': process.env.FUNC_MEMORY_LIMIT ?? '',
  };
}

/** What a handler returned, as JSON. Throws an Error that says what to return. */
function toAnswer(value) {
  try {
    if (value instanceof Uint8Array) value = new TextDecoder('utf-8', { fatal: true }).decode(value);
  } catch {
    throw new Error('the handler returned bytes that are not UTF-8; return them as base64 text');
  }
  try {
    const answer = JSON.stringify(value ?? null, (key, part) => {
      if (typeof part === 'number' && !Number.isFinite(part)) throw new TypeError(`${part} is not JSON`);
      // JSON.stringify makes {} of what has its content elsewhere.
      if (part instanceof Map || part instanceof Set || part?.[Symbol.asyncIterator] || typeof part?.next === 'function') {
        throw new TypeError(`a ${part.constructor?.name || 'generator'} is not JSON; return a list or an object`);
      }
      return part;
    });
    if (answer === undefined) throw new TypeError(`a ${typeof value} is not JSON`);
    const size = Buffer.byteLength(answer);
    if (size > ANSWER_MAX_BYTES) throw new RangeError(`it has ${size} bytes`);
    return answer;
  } catch (error) {
    throw new Error(`the handler's answer can't be JSON: ${error.message}`);
  }
}

/** What the supervisor is told of an error, as JSON; it is printed, too. */
function describe(error) {
  const known = error instanceof Error;
  const traceback = inspect(error)
    .split('\n')
    .filter((line) => !/^\s+at (.*[( ])?(node:|.*(worker|load)\.js:)/.test(line))
    .join('\n');
  console.error(traceback);
  const named = known && error.name === 'Error' ? error.constructor.name : error?.name;
  const decision = {};
  if (error instanceof runtime.Reject) decision.reject = true;
  if (error instanceof runtime.RetryAfter) decision.retry_after_s = error.seconds;
  return JSON.stringify({
    type: String(known ? named : typeof error).slice(0, TEXT_MAX),
    message: String(known ? error.message : inspect(error)).slice(0, TEXT_MAX),
    traceback: traceback.slice(-TEXT_MAX),
    ...decision,
  });
}

async function handle(body) {
  const first = body.indexOf('\n');
  const second = body.indexOf('\n', first + 1);
  const invocation = {
    id: body.toString('latin1', 0, first),
    attempt: body.toString('latin1', first + 1, second),
  };
  busy = true;
  let said;
  try {
    const event = toEvent(JSON.parse(body.toString('utf8', second + 1)));
    send('E', event['event-id']);
    said = ['A', toAnswer(await invocations.run(invocation, () => handler(event, toContext())))];
  } catch (error) {
    said = ['F', describe(error)];
  }
  busy = false;
  if (!ending) send(...said);
}

/** Reports an error that nothing has caught, as the failure of the event in hand, and ends. */
function crash(error) {
  const text = describe(error);
  if (ending) return;
  ending = true;
  control.off('data', receive);
  const end = () => process.exit(1);
  // Without an event in hand only what was said before is to arrive: an answer may still be on its way.
  if (handler && !busy) control.write('', end);
  else send(handler ? 'F' : 'N', text, end);
}

let received = Buffer.alloc(0);

function receive(part) {
  received = Buffer.concat([received, part]);
  while (received.length >= HEAD_BYTES) {
    const end = HEAD_BYTES + received.readUInt32BE(1);
    if (received.length < end) break;
    handle(received.subarray(HEAD_BYTES, end));
    received = received.subarray(end);
  }
}

process.on('uncaughtException', crash);
control.on('close', () => process.exit(1));
load().then((found) => {
  handler = found;
  control.on('data', receive);
  send('R');
}, crash);
