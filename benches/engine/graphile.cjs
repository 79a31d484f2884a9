// Works off a backlog of empty jobs and prints how many a second: graphile.cjs default|localQueue JOBS
const { run, runMigrations, makeWorkerUtils, Logger } = require("graphile-worker");
const { Pool } = require("pg");

const [mode, jobs] = [process.argv[2], Number(process.argv[3])];
const connectionString = process.env.DATABASE_URL;
const logger = new Logger(() => () => {});
const worker =
  mode === "localQueue"
    ? {
        localQueue: { size: 500, ttl: 60000, refetchDelay: { durationMs: 10 } },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
        concurrentJobs: 24,
        maxPoolSize: 10,
      }
    : { concurrentJobs: 24, maxPoolSize: 10 };

async function main() {
  await runMigrations({ connectionString, logger });
  const utils = await makeWorkerUtils({ connectionString, logger });
  for (let at = 0; at < jobs; at += 1000) {
    const some = Array.from({ length: Math.min(1000, jobs - at) }, (_, n) => ({ identifier: "noop", payload: { n: at + n } }));
    await utils.addJobs(some);
  }
  await utils.release();
  const pool = new Pool({ connectionString, max: 1 });
  await pool.query("vacuum analyze graphile_worker._private_jobs");
  let done = 0;
  let finished;
  const all = new Promise((resolve) => (finished = resolve));
  const began = performance.now();
  const noop = async () => {
    if (++done === jobs) finished();
  };
  const runner = await run({ connectionString, noHandleSignals: true, logger, preset: { worker }, taskList: { noop } });
  await all;
  // Completions are written in batches: it is done when the table says so.
  const left = async () => Number((await pool.query("select count(*) n from graphile_worker._private_jobs")).rows[0].n);
  while (await left()) await new Promise((resolve) => setTimeout(resolve, 10));
  console.log("rate " + jobs / ((performance.now() - began) / 1000));
  await runner.stop();
  await pool.end();
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
