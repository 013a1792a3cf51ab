// A handler that does what the conformance test asks for.

'use strict';

const { setTimeout } = require('node:timers/promises');

if (process.env.KOREN_CONFORMANCE === 'init-error') throw new Error('as asked');

module.exports.handle = async (event) => {
  const asked = event.data;
  if (asked.do === 'fail') throw new Error(asked.message);
  if (asked.do === 'wait') await setTimeout(asked.seconds * 1000);
  return asked.value;
};
