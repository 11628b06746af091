'use strict';
// What all variants serve: users with passwords, and the page of a catalogue.

const { PoolLedger } = require('./clock.js');
const { passwordHash } = require('./password.js');

const ARTICLES = Array.from({ length: 240 }, (_, number) => ({
  id: number + 1,
  name: `Article <${number + 1}> & Co.`,
  price: (number * 7919) % 1000,
}));

const ESCAPES = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };

function escape(text) {
  return text.replace(/[&<>"]/g, (character) => ESCAPES[character]);
}

// The catalogue, cheapest first.
function cataloguePage() {
  const rows = [...ARTICLES]
    .sort((a, b) => a.price - b.price || a.name.localeCompare(b.name))
    .map(({ id, name, price }) => `<tr><td>${id}<td>${escape(name)}<td>${(price / 100).toFixed(2)}</tr>`);
  return `<!doctype html><title>Catalogue</title><table>${rows.join('\n')}</table>`;
}

// Passwords by the hash that HASH names, their CPU accounted for on the loop or in the pool. To be called as
// `await meter.pausing(passwords.verify(meter, ...)); meter.resume();`
async function openPasswords() {
  const hash = passwordHash(process.env.HASH);
  if (hash.onLoop) {
    return { enrol: hash.enrol, verify: async (_meter, password, stored) => hash.verify(password, stored) };
  }
  const ledger = await PoolLedger.open(() => hash.enrol('warm'));
  return {
    async enrol(password) {
      const stored = await hash.enrol(password);
      ledger.take();
      return stored;
    },
    async verify(meter, password, stored) {
      const fits = await meter.pausing(hash.verify(password, stored));
      meter.add(ledger.take());
      return fits;
    },
  };
}

module.exports = { cataloguePage, openPasswords };
