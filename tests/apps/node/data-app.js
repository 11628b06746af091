'use strict';
// The shop with Express, its users in PostgreSQL (a pool of connections), sessions and the visitors' counter in Redis
// (one connection for all requests in flight).

const crypto = require('node:crypto');
const express = require('express');
const pg = require('pg');
const { createClient } = require('redis');
const { Meter } = require('./clock.js');
const { tell } = require('./express-app.js');
const { cataloguePage, openPasswords } = require('./shop.js');

const CONNECTIONS = 8;

// DATABASE_URL and REDIS_URL say where they are. Everything is connected when this returns.
async function dataApp() {
  // First, so that no look-up of a name has used the pool before its ledger is open.
  const passwords = await openPasswords();
  const database = new pg.Pool({
    connectionString: process.env.DATABASE_URL,
    max: CONNECTIONS,
    idleTimeoutMillis: 0,
  });
  const cache = await createClient({ url: process.env.REDIS_URL }).connect();
  await database.query('CREATE TABLE users (name text PRIMARY KEY, password bytea NOT NULL)');
  await database.query('INSERT INTO users VALUES ($1, $2)', ['ann', await passwords.enrol('secret')]);
  await Promise.all(Array.from({ length: CONNECTIONS }, () => database.query('SELECT pg_sleep(0.1)')));

  const app = express();
  app.disable('x-powered-by');
  app.use(express.urlencoded({ extended: false }));

  app.post('/login', async (request, response) => {
    const meter = new Meter();
    const { user, password } = request.body;
    const { rows } = await meter.pausing(
      database.query('SELECT password FROM users WHERE name = $1', [user]),
    );
    meter.resume();
    let fits = false;
    if (rows.length > 0) {
      fits = await meter.pausing(passwords.verify(meter, password, rows[0].password));
      meter.resume();
    }
    if (!fits) {
      tell(response, meter).status(401).json({ error: 'unknown user or wrong password' });
      return;
    }
    const session = crypto.randomBytes(16).toString('hex');
    await meter.pausing(cache.set(`session:${session}`, user, { EX: 60 }));
    meter.resume();
    tell(response, meter).json({ welcome: user, session });
  });

  app.get('/browse', async (_request, response) => {
    const meter = new Meter();
    const visits = await meter.pausing(cache.incr('visits'));
    meter.resume();
    const page = cataloguePage();
    tell(response, meter).set('X-Visits', String(visits)).type('html').send(page);
  });

  app.get('/report', async (_request, response) => {
    const meter = new Meter();
    const { rows } = await meter.pausing(database.query('SELECT 42 AS sales, pg_sleep(0.05)::text'));
    meter.resume();
    tell(response, meter).json({ sales: rows[0].sales });
  });
  return app;
}

module.exports = { dataApp };
