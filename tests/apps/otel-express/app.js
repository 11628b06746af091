'use strict';
// A shop with Express. Says "listening PORT" when it takes requests on 127.0.0.1; PORT is 0 (any free one) by default.

const crypto = require('node:crypto');
const { promisify } = require('node:util');
const express = require('express');
const { seen } = require('./telemetry.js');

const ITERATIONS = 80_000;
const pbkdf2 = promisify(crypto.pbkdf2);
const SALT = crypto.randomBytes(16);
const CATALOGUE = Array.from({ length: 20 }, (_, number) => ({
  id: number + 1,
  name: `Article ${number + 1}`,
  price: 100 * (number + 1),
}));

const derive = (password) => pbkdf2(password, SALT, ITERATIONS, 32, 'sha256');

async function main() {
  const users = new Map([['ann', await derive('secret')]]);
  const app = express();
  app.use(express.urlencoded({ extended: false }));

  app.post('/login', async (request, response) => {
    const { user, password } = request.body;
    const stored = users.get(user);
    if (stored === undefined || !crypto.timingSafeEqual(await derive(password), stored)) {
      response.status(401).json({ error: 'unknown user or wrong password' });
      return;
    }
    response.json({ welcome: user });
  });
  app.get('/browse', (_request, response) => response.json({ articles: CATALOGUE }));
  app.get('/report', (_request, response) => setTimeout(() => response.json({ sales: 42 }), 50));
  // What the instrumentation has handed to its exporter so far; proves that it works, or that it is off.
  app.get('/telemetry', (_request, response) => response.json(seen));

  const server = app.listen(Number(process.env.PORT ?? 0), '127.0.0.1', () => {
    console.log(`listening ${server.address().port}`);
  });
  server.keepAliveTimeout = 60_000;
}

main();
