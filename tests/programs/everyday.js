const assert = require("assert"), child = require("child_process"), crypto = require("crypto");
const fs = require("fs"), http = require("http"), net = require("net"), os = require("os");
const dgram = require("dgram"), zlib = require("zlib"), vm = require("vm"), cluster = require("cluster");
const { Worker, isMainThread, parentPort } = require("worker_threads");
if (!isMainThread) { parentPort.postMessage(6 * 7); }
else if (process.argv[2] === "child") { process.on("message", (m) => { process.send(m + 1); process.disconnect(); }); }
else (async () => {
  const once = (from, name) => new Promise((done, fail) => { from.once(name, done); from.once("error", fail); });
  assert.equal(await once(new Worker(__filename), "message"), 42);
  assert.equal(String(child.execSync("echo hi | cat")), "hi\n");
  assert.equal(String(child.spawnSync("sh", ["-c", "exit 0"]).status), "0");
  const forked = child.fork(__filename, ["child"]); forked.send(1);
  assert.equal(await once(forked, "message"), 2);
  const watcher = fs.watch("."), seen = once(watcher, "change");
  fs.writeFileSync("watched", "x"); await seen; watcher.close();
  fs.copyFileSync("watched", "copied"); fs.cpSync("copied", "again"); fs.mkdtempSync("/tmp/n");
  await fs.promises.appendFile("copied", "y"); await fs.promises.rm("again"); fs.statfsSync(".");
  const server = http.createServer((_, answer) => answer.end("body")).listen(0, "127.0.0.1");
  await once(server, "listening");
  assert.equal(await (await fetch(`http://127.0.0.1:${server.address().port}`)).text(), "body");
  server.closeAllConnections(); server.close();
  const local = net.createServer((socket) => socket.end("unix")).listen("/tmp/socket");
  await once(local, "listening");
  assert.equal(String(await once(net.connect("/tmp/socket"), "data")), "unix"); local.close();
  const udp = dgram.createSocket("udp4"); udp.bind(0); await once(udp, "listening"); udp.close();
  crypto.generateKeyPairSync("rsa", { modulusLength: 1024 }); crypto.randomBytes(8);
  await new Promise((done) => crypto.scrypt("a", "b", 16, done));
  assert.equal(String(zlib.gunzipSync(zlib.gzipSync("z"))), "z");
  const bytes = Uint8Array.from([0, 97, 115, 109, 1, 0, 0, 0]); await WebAssembly.instantiate(bytes);
  const shared = new Int32Array(new SharedArrayBuffer(4));
  assert.equal(Atomics.wait(shared, 0, 0, 5), "timed-out");
  os.cpus(); os.networkInterfaces(); os.userInfo(); os.setPriority(0, 1); os.loadavg(); os.freemem();
  assert.equal(vm.runInNewContext("6*7"), 42);
  const awake = setInterval(() => {}, 50);
  await new Promise((done) => { process.once("SIGUSR2", done); process.kill(process.pid, "SIGUSR2"); });
  clearInterval(awake);
  console.log("fine");
})();
