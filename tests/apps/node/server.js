'use strict';
// Starts one of the shop's variants on 127.0.0.1.
//
//   PORT       where to listen
//   APP        express (default), data (Express with PostgreSQL and Redis), plain (no framework)
//   TRANSPORT  http (default), https, h2c, h2 (TLS; speaks HTTP/1.1 too)
//   HASH       scrypt (default), pbkdf2, bcrypt: in libuv's pool; sync: on the loop
//   HASH_COST  1 (default); n makes a login n times as heavy
//   WORKERS    0 (default): one process; n: node:cluster with n workers
//   TLS_KEY, TLS_CERT        PEM files for https and h2
//   DATABASE_URL, REDIS_URL  for APP=data

const cluster = require('node:cluster');
const fs = require('node:fs');

const APPS = {
  express: () => require('./express-app.js').expressApp(),
  data: () => require('./data-app.js').dataApp(),
  plain: () => require('./plain-app.js').plainApp(),
};

function certificate() {
  return { key: fs.readFileSync(process.env.TLS_KEY), cert: fs.readFileSync(process.env.TLS_CERT) };
}

const TRANSPORTS = {
  http: (app) => require('node:http').createServer(app),
  https: (app) => require('node:https').createServer(certificate(), app),
  h2c: (app) => require('node:http2').createServer(app),
  h2: (app) => require('node:http2').createSecureServer({ ...certificate(), allowHTTP1: true }, app),
};

function choose(choices, variable, usual) {
  const name = process.env[variable] ?? usual;
  if (!choices[name]) throw new Error(`${variable}=${name}: want one of ${Object.keys(choices).join(', ')}`);
  return choices[name];
}

async function serve() {
  const app = await choose(APPS, 'APP', 'express')();
  const server = choose(TRANSPORTS, 'TRANSPORT', 'http')(app);
  // Longer than any pause of the load: a connection that the server closes while a request is on its way to it would
  // look like a failure.
  server.keepAliveTimeout = 60_000;
  await new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ host: '127.0.0.1', port: Number(process.env.PORT), backlog: 1024 }, resolve);
  });
}

function fail(why) {
  console.error(why);
  process.exit(1);
}

const workers = Number(process.env.WORKERS ?? 0);
if (workers > 0 && cluster.isPrimary) {
  cluster.on('exit', (worker, code, signal) => fail(`worker ${worker.process.pid} ended: ${signal ?? code}`));
  process.once('SIGTERM', () => process.exit(0));
  for (let number = 0; number < workers; number += 1) cluster.fork();
} else {
  serve().catch(fail);
}
