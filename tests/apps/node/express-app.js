'use strict';
// The shop with Express; users in memory.

const { setTimeout: sleep } = require('node:timers/promises');
const express = require('express');
const { Meter } = require('./clock.js');
const { cataloguePage, openPasswords } = require('./shop.js');

// Gives the answer with what the request has cost up to here.
function tell(response, meter) {
  return response.set('X-Cpu-Ns', String(meter.total()));
}

async function expressApp() {
  const passwords = await openPasswords();
  const users = new Map([['ann', await passwords.enrol('secret')]]);
  const app = express();
  app.disable('x-powered-by');
  app.use(express.urlencoded({ extended: false }));

  app.post('/login', async (request, response) => {
    const meter = new Meter();
    const stored = users.get(request.body.user);
    let fits = false;
    if (stored !== undefined) {
      fits = await meter.pausing(passwords.verify(meter, request.body.password, stored));
      meter.resume();
    }
    tell(response, meter)
      .status(fits ? 200 : 401)
      .json(fits ? { welcome: request.body.user } : { error: 'unknown user or wrong password' });
  });

  app.get('/browse', (_request, response) => {
    const meter = new Meter();
    const page = cataloguePage();
    tell(response, meter).type('html').send(page);
  });

  app.get('/report', async (_request, response) => {
    const meter = new Meter();
    await meter.pausing(sleep(50));
    meter.resume();
    tell(response, meter).json({ sales: 42 });
  });
  return app;
}

module.exports = { expressApp, tell };
