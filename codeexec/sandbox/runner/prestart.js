// What Node.js requires first in a process that the runner has started ahead of a program
// (standby.c). It waits for its run, and then Node.js goes on to the program's file by itself.
"use strict";
if (require("worker_threads").isMainThread) {
  const fs = require("fs");
  const socket = 3;
  delete require.cache[__filename];
  fs.writeSync(socket, "R");
  let order = Buffer.alloc(0);
  const piece = Buffer.alloc(65536);
  while (order.length < 4 || order.length < 4 + order.readUInt32BE(0)) {
    const count = fs.readSync(socket, piece);
    if (count === 0) {
      process.reallyExit(0);
    }
    order = Buffer.concat([order, piece.subarray(0, count)]);
  }
  const strings = order.subarray(8, -1).toString().split("\0");
  const words = strings.splice(0, order.readUInt16BE(4));
  // An assignment to process.env makes no variable of a name that is a number.
  if (strings.some((variable) => /^\d+=/.test(variable))) {
    fs.writeSync(socket, "C");
    process.reallyExit(0);
  }
  for (const name of Object.keys(process.env)) {
    delete process.env[name];
  }
  for (const variable of strings) {
    const at = variable.indexOf("=");
    process.env[variable.slice(0, at)] = variable.slice(at + 1);
  }
  const own = process.execArgv.length + 2;
  process.argv.push(...words.slice(own));
  fs.writeSync(socket, "G");
  fs.closeSync(socket);
}
