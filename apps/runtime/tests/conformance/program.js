// A function that is a program of its own: it speaks the Runtime API without a runtime of this project.
// Its handler does what the conformance test asks for.

'use strict';

const { readFileSync } = require('node:fs');
const { setTimeout: pause } = require('node:timers/promises');

const { KOREN_GATEWAY, KOREN_TOKEN = '/var/run/secrets/koren/token', FUNC_TIMEOUT } = process.env;
const STARTED_MS = String(Date.now());
const stop = new AbortController();
process.on('SIGTERM', () => stop.abort());

async function handle(asked, signal) {
  if (asked.do === 'fail') throw new Error(asked.message);
  if (asked.do === 'wait') await pause(asked.seconds * 1000, undefined, { signal });
  return asked.value;
}

function ask(method, path, headers, body, signal) {
  // Read for each request: the kubelet replaces it.
  const Authorization = `Bearer ${readFileSync(KOREN_TOKEN, 'utf8').trim()}`;
  const sent = body === undefined ? undefined : JSON.stringify(body);
  return fetch(`http://${KOREN_GATEWAY}${path}`, { method, headers: { ...headers, Authorization }, body: sent, signal });
}

async function next() {
  while (!stop.signal.aborted) {
    try {
      const answer = await ask('GET', '/v1/invocation/next', { 'Koren-Started-Ms': STARTED_MS }, undefined, stop.signal);
      if (answer.status === 200) return answer;
      await answer.body?.cancel();
      if (answer.status === 204) continue;
    } catch {
      // The gateway is away, or this is to end.
    }
    await pause(200);
  }
}

async function invoke(answer) {
  const received = Date.now();
  const headers = { 'Koren-Attempt': answer.headers.get('Koren-Attempt'), 'Content-Type': 'application/json' };
  const path = `/v1/invocation/${encodeURIComponent(answer.headers.get('Koren-Invocation-Id'))}`;
  const leaseMs = Number(answer.headers.get('Koren-Lease-Ms'));
  const event = await answer.json();
  const end = new AbortController();
  const lost = new Error('the lease is lost');
  let leaseUntil = received + leaseMs;

  async function keep(word) {
    const sent = Date.now();
    const kept = await ask('POST', `${path}/${word}`, headers, {}).catch(() => undefined);
    if (kept?.status === 409) end.abort(lost);
    if (kept?.status === 204 || kept?.headers.get('Koren-Lease') === 'kept') leaseUntil = sent + leaseMs;
    if (Date.now() >= leaseUntil) end.abort(lost);
  }

  const timer = setTimeout(() => end.abort(new Error(`no answer within ${FUNC_TIMEOUT} s`)), FUNC_TIMEOUT * 1000);
  const beat = setInterval(keep, leaseMs / 3.3, 'heartbeat');
  const ended = new Promise((_, reject) => {
    end.signal.addEventListener('abort', () => reject(end.signal.reason));
  });
  let report;
  try {
    await keep('entered');
    report = ['response', (await Promise.race([handle(event.data, end.signal), ended])) ?? null];
  } catch (error) {
    report = ['error', { type: end.signal.aborted ? 'Timeout' : error.name, message: error.message }];
  }
  clearTimeout(timer);
  clearInterval(beat);
  if (end.signal.reason === lost) return;
  for (;;) {
    const told = await ask('POST', `${path}/${report[0]}`, headers, report[1]).catch(() => undefined);
    if (told && told.status < 500) return;
    await pause(200);
  }
}

async function main() {
  if (process.env.KOREN_CONFORMANCE === 'init-error') {
    await ask('POST', '/v1/init/error', {}, { type: 'Error', message: 'as asked' });
    process.exit(1);
  }
  let answer;
  while ((answer = await next())) await invoke(answer);
  process.exit(0);
}

main();
