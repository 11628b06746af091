'use strict';
// Password hashes as Node's own documentation and npm's most used package have them. HASH_COST (default 1) makes a
// login that many times as heavy; bcrypt only knows powers of two.

const crypto = require('node:crypto');
const { promisify } = require('node:util');

const COST = Number(process.env.HASH_COST ?? 1);
const SCRYPT = { N: 2 ** 13, r: 8, p: COST, maxmem: 2 ** 28 };
const PBKDF2_ITERATIONS = Math.round(80_000 * COST);
const BCRYPT_ROUNDS = 8 + Math.round(Math.log2(COST));

const scrypt = promisify(crypto.scrypt);
const pbkdf2 = promisify(crypto.pbkdf2);

// Each: `enrol(password)` makes what is stored, `verify(password, stored)` tells whether it fits. All but `sync` hash in
// libuv's pool.
const HASHES = {
  scrypt: {
    async enrol(password) {
      const salt = crypto.randomBytes(16);
      return Buffer.concat([salt, await scrypt(password, salt, 32, SCRYPT)]);
    },
    async verify(password, stored) {
      const key = await scrypt(password, stored.subarray(0, 16), 32, SCRYPT);
      return crypto.timingSafeEqual(key, stored.subarray(16));
    },
  },
  pbkdf2: {
    async enrol(password) {
      const salt = crypto.randomBytes(16);
      return Buffer.concat([salt, await pbkdf2(password, salt, PBKDF2_ITERATIONS, 32, 'sha256')]);
    },
    async verify(password, stored) {
      const key = await pbkdf2(password, stored.subarray(0, 16), PBKDF2_ITERATIONS, 32, 'sha256');
      return crypto.timingSafeEqual(key, stored.subarray(16));
    },
  },
  bcrypt: {
    enrol: async (password) => Buffer.from(await require('bcrypt').hash(password, BCRYPT_ROUNDS)),
    verify: (password, stored) => require('bcrypt').compare(password, stored.toString()),
  },
  sync: {
    onLoop: true,
    async enrol(password) {
      const salt = crypto.randomBytes(16);
      return Buffer.concat([salt, crypto.scryptSync(password, salt, 32, SCRYPT)]);
    },
    verify(password, stored) {
      const key = crypto.scryptSync(password, stored.subarray(0, 16), 32, SCRYPT);
      return crypto.timingSafeEqual(key, stored.subarray(16));
    },
  },
};

function passwordHash(name = 'scrypt') {
  const hash = HASHES[name];
  if (!hash) throw new Error(`HASH=${name}: want one of ${Object.keys(HASHES).join(', ')}`);
  return hash;
}

module.exports = { passwordHash };
