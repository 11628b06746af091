'use strict';
// The shop without a framework, for node:http and for node:http2 through its compatibility API.

const { setTimeout: sleep } = require('node:timers/promises');
const { Meter } = require('./clock.js');
const { cataloguePage, openPasswords } = require('./shop.js');

async function body(request) {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  return new URLSearchParams(Buffer.concat(pieces).toString());
}

function answer(response, meter, status, text) {
  response.writeHead(status, {
    'Content-Type': 'text/html; charset=utf-8',
    'Content-Length': Buffer.byteLength(text),
    'X-Cpu-Ns': String(meter.total()),
  });
  response.end(text);
}

async function plainApp() {
  const passwords = await openPasswords();
  const users = new Map([['ann', await passwords.enrol('secret')]]);

  const routes = {
    async 'POST /login'(request, response, meter) {
      const form = await meter.pausing(body(request));
      meter.resume();
      const stored = users.get(form.get('user'));
      let fits = false;
      if (stored !== undefined) {
        fits = await meter.pausing(passwords.verify(meter, form.get('password'), stored));
        meter.resume();
      }
      answer(response, meter, fits ? 200 : 401, fits ? 'welcome' : 'unknown user or wrong password');
    },
    async 'GET /browse'(_request, response, meter) {
      answer(response, meter, 200, cataloguePage());
    },
    async 'GET /report'(_request, response, meter) {
      await meter.pausing(sleep(50));
      meter.resume();
      answer(response, meter, 200, '42');
    },
    async notFound(_request, response, meter) {
      answer(response, meter, 404, 'not found');
    },
  };

  return (request, response) => {
    const meter = new Meter();
    const route = routes[`${request.method} ${request.url}`] ?? routes.notFound;
    route(request, response, meter).catch((error) => {
      console.error(error);
      response.destroy();
    });
  };
}

module.exports = { plainApp };
