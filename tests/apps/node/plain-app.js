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

async function plainApp() {
  const passwords = await openPasswords();
  const users = new Map([['ann', await passwords.enrol('secret')]]);

  async function login(request, meter) {
    const form = await meter.around(body(request));
    const stored = users.get(form.get('user'));
    const fits = stored !== undefined && (await passwords.verify(meter, form.get('password'), stored));
    return fits ? [200, 'welcome'] : [401, 'unknown user or wrong password'];
  }

  const routes = {
    'POST /login': login,
    'GET /browse': async () => [200, cataloguePage()],
    'GET /report': async (_request, meter) => {
      await meter.around(sleep(50));
      return [200, '42'];
    },
  };

  return async (request, response) => {
    const meter = new Meter();
    const route = routes[`${request.method} ${request.url}`] ?? (async () => [404, 'not found']);
    try {
      const [status, text] = await route(request, meter);
      response.writeHead(status, {
        'Content-Type': 'text/html; charset=utf-8',
        'Content-Length': Buffer.byteLength(text),
        'X-Cpu-Ns': String(meter.total()),
      });
      response.end(text);
    } catch (error) {
      console.error(error);
      response.destroy();
    }
  };
}

module.exports = { plainApp };
