'use strict';
// A collector that reads what comes by OTLP over HTTP and throws it away: the other end for TELEMETRY=otlp. Says
// "listening PORT"; GET / answers with what came so far.

const http = require('node:http');

const came = { requests: 0, bytes: 0 };

const server = http.createServer((request, response) => {
  if (request.method === 'GET') {
    response.setHeader('Content-Type', 'application/json').end(JSON.stringify(came));
    return;
  }
  request.on('data', (piece) => (came.bytes += piece.length));
  request.on('end', () => {
    came.requests += 1;
    // An empty message is a whole success.
    response.writeHead(200, { 'Content-Type': 'application/x-protobuf' }).end();
  });
});
server.listen(Number(process.env.PORT ?? 0), '127.0.0.1', () => console.log(`listening ${server.address().port}`));
