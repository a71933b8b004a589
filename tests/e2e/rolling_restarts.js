// Callers with @grpc/grpc-js: the load is the one argument, as JSON; counts go to standard output when the input ends.
const grpc = require("@grpc/grpc-js");

const load = JSON.parse(process.argv[2]);
const client = new grpc.Client(load.target, grpc.credentials.createInsecure(), load.options);
const request = Buffer.from(load.request, "base64");
const counts = { answered: 0, failed: {} };
const asIs = (bytes) => bytes;
let stopping = false;
let running = load.callers;

function call() {
  if (stopping) {
    running -= 1;
    if (running === 0) {
      process.stdout.write(JSON.stringify(counts), () => process.exit(0));
    }
    return;
  }
  const deadline = Date.now() + load.deadline_ms;
  client.makeUnaryRequest(load.method, asIs, asIs, request, { deadline }, (error) => {
    if (error) {
      const what = `${grpc.status[error.code]}: ${error.details}`;
      counts.failed[what] = (counts.failed[what] || 0) + 1;
    } else {
      counts.answered += 1;
    }
    setTimeout(call, load.pause_ms);
  });
}

for (let i = 0; i < load.callers; i += 1) {
  call();
}
process.stdin.on("end", () => { stopping = true; });
process.stdin.resume();
