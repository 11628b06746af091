'use strict';
// A shop without dependencies whose password hash works in libuv's pool: what the tests of user probes watch.
//
//   node shop.js [CERTIFICATE KEY]     prints "listening PORT"; over TLS when it is given a certificate
//
// POST /login     a hash of about HASH_ROUNDS rounds in the pool
// GET  /browse    BROWSE_ROUNDS rounds of arithmetic on the loop
// GET  /burnt     {"loop_ns", "pool_ns", "logins"}: what handlers and pool have used so far, by the scheduler's account

const crypto = require('node:crypto');
const fs = require('node:fs');

const HASH_ROUNDS = Number(process.env.HASH_ROUNDS ?? 30000);
const BROWSE_ROUNDS = Number(process.env.BROWSE_ROUNDS ?? 200000);
const POOL_THREADS = Number(process.env.UV_THREADPOOL_SIZE ?? 4);

const tasks = () => new Set(fs.readdirSync('/proc/self/task'));
const used = (task) => Number(fs.readFileSync(`/proc/self/task/${task}/schedstat`, 'latin1').split(' ')[0]);
const hash = () => new Promise((done) => crypto.pbkdf2('secret', 'salt', HASH_ROUNDS, 32, 'sha256', done));

let pool = [];
let logins = 0;

function browse() {
  let sum = 0;
  for (let i = 0; i < BROWSE_ROUNDS; i += 1) sum = (sum * 31 + i) | 0;
  return String(sum);
}

async function handle(request, response) {
  if (request.url === '/login') {
    request.resume();
    await hash();
    logins += 1;
    response.end('welcome');
  } else if (request.url === '/browse') {
    response.end(browse());
  } else if (request.url === '/burnt') {
    const pool_ns = pool.map(used).reduce((sum, ns) => sum + ns, 0);
    response.end(JSON.stringify({ loop_ns: used(process.pid), pool_ns, logins }));
  } else {
    response.writeHead(404).end();
  }
}

async function main() {
  const before = tasks();
  await Promise.all(Array.from({ length: POOL_THREADS }, hash));
  pool = [...tasks()].filter((task) => !before.has(task));
  for (let i = 0; i < 200; i += 1) browse();
  const [certificate, key] = process.argv.slice(2);
  const server = certificate
    ? require('node:https').createServer({ cert: fs.readFileSync(certificate), key: fs.readFileSync(key) }, handle)
    : require('node:http').createServer(handle);
  server.listen(0, '127.0.0.1', () => console.log(`listening ${server.address().port}`));
}

main();
