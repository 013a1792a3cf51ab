// SPDX-License-Identifier: Apache-2.0

'use strict';

const { state } = require('koren-runtime');

/** Says what came, by which Node.js it runs, and what it kept of the call before. */
module.exports.handler = async (event, context) => {
  const before = await state.get('last');
  await state.put('last', event['event-id']);
  console.log(`handles ${event['event-id']}`);
  return { data: event.data, node: process.version, runtime: context.runtime, before: before?.value.toString() ?? null };
};
