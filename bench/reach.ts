/**
 * What the sync reaches, beside doing it by hand, in one run: `deno task bench [keys …]`. Its own servers, with their
 * default durability. Figures are for comparison within the run; the ratios are what counts.
 */
import { findPostgres, startEmbedded } from "../lib/embedded/embedded.ts";
import { defaultSearch } from "../lib/embedded/search.ts";
import { EtcdClient } from "../lib/etcd/client.ts";
import { readKey, sendTxn } from "../lib/etcd/kv.ts";
import { Watch } from "../lib/etcd/watch.ts";
import { prefixRange } from "../lib/stream.ts";
import { Session } from "../lib/postgres/client.ts";

const encode = (text: string) => new TextEncoder().encode(text);
const quiet = { info() {}, warn() {} };
const sizes = Deno.args.length ? Deno.args.map(Number) : [200_000, 1_000_000];

await using servers = await startEmbedded({ log: quiet, etcdArgs: ["--quota-backend-bytes=8589934592"] });
const bin = await findPostgres(defaultSearch(), quiet);
const endpoint = new URL(servers.etcdDsn.replace("etcd:", "http:")).host;
const etcd = new EtcdClient({ endpoints: [endpoint] });
console.log(
  `PostgreSQL ${servers.postgresVersion}, etcd ${servers.etcdVersion}, ${navigator.hardwareConcurrency} cores`,
);

function line(name: string, value: string): void {
  console.log(`${name.padEnd(58)} ${value}`);
}

function median(samples: number[]): number {
  return samples.toSorted((a, b) => a - b)[samples.length >> 1];
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const from = performance.now();
  await work();
  return (performance.now() - from) / 1_000;
}

async function load(prefix: string, keys: number): Promise<void> {
  const value = encode("v".repeat(128));
  let at = 0;
  await Promise.all(Array.from({ length: 8 }, async () => {
    while (at < keys) {
      const from = at;
      at += 120;
      const writes = Array.from({ length: Math.min(120, keys - from) }, (_, i) => ({
        key: encode(`${prefix}${String(from + i).padStart(8, "0")}`),
        value,
        keepLease: false,
      }));
      await sendTxn(etcd, { compares: [], writes });
    }
  }));
}

async function sh(command: string): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command("sh", {
    args: ["-ec", command],
    stdout: "piped",
    stderr: "piped",
  }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout);
}

async function database(name: string): Promise<string> {
  await using session = await Session.open({
    dsn: servers.postgresDsn,
    schema: "public",
    applicationName: "bench",
  });
  await session.script(`create database ${name} template template0 encoding 'UTF8'`);
  return servers.postgresDsn.replace(/\/postgres$/, `/${name}`);
}

interface Program extends AsyncDisposable {
  /** Seconds from the process's start until the state row says so. */
  until(state: string): Promise<number>;
  /** Highest resident memory so far, MB. */
  memory(): Promise<number>;
}

function program(dsn: string, prefix: string, session: Session): Program {
  const permissions = ["net", "env", "read", "write", "run", "sys"].map((p) => `--allow-${p}`);
  const binary = Deno.env.get("ETCD_PG_SYNC_TEST_BINARY");
  const args = [
    "start",
    "-p",
    dsn,
    "-e",
    `etcd://${endpoint}${prefix}`,
    "--stream",
    prefix.replaceAll("/", ""),
  ];
  const from = performance.now();
  const child = new Deno.Command(binary ?? Deno.execPath(), {
    args: binary ? args : ["run", ...permissions, "main.ts", ...args],
    stdout: "null",
    stderr: Deno.env.has("BENCH_LOGS") ? "inherit" : "null",
  }).spawn();
  return {
    async until(state) {
      for (;;) {
        const rows = await session.run<{ state: string }>(
          "bench-state",
          "select state from etcd_sync_state",
        ).catch(() => []);
        if (rows[0]?.state === state) return (performance.now() - from) / 1_000;
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    },
    memory: async () => Number(/VmHWM:\s+(\d+)/.exec(await sh(`cat /proc/${child.pid}/status`))![1]) / 1024,
    async [Symbol.asyncDispose]() {
      child.kill("SIGTERM");
      await child.status;
    },
  };
}

async function byHand(prefix: string, dsn: string): Promise<number> {
  const psql = `${bin}/psql -q -v ON_ERROR_STOP=1 '${dsn}'`;
  await sh(`${psql} -c 'create table by_hand (like etcd_kv including all)'`);
  return await timed(() =>
    sh(
      `unset ETCDCTL_ENDPOINTS; f=$(mktemp); ETCDCTL_API=3 ${
        servers.etcdctl ?? "etcdctl"
      } --endpoints ${endpoint} get --prefix ${prefix} |
      paste - - | awk -F'\\t' -v OFS='\\t' '{ print $1, $2, 1, 1, 1, 0, 1 }' > $f
      ${psql} -c "\\copy by_hand (key, value, revision, create_revision, version, lease, timeline) from $f"; rm $f`,
    )
  );
}

async function bootstrap(
  keys: number,
): Promise<{ dsn: string; prefix: string; session: Session; sync: Program }> {
  const prefix = `/b${keys}/`;
  const dsn = await database(`bench${keys}`);
  await load(prefix, keys);
  const session = await Session.open({ dsn, schema: "public", applicationName: "bench" });
  const sync = program(dsn, prefix, session);
  const seconds = await sync.until("streaming");
  const hand = await byHand(prefix, dsn);
  line(
    `bootstrap of ${keys} keys, from process start`,
    `${seconds.toFixed(2)} s, ${(await sync.memory()).toFixed(0)} MB`,
  );
  line(
    `  the same by hand (etcdctl get, \\copy)`,
    `${hand.toFixed(2)} s; our speed is ${(hand / seconds).toFixed(2)} of it`,
  );
  return { dsn, prefix, session, sync };
}

async function latencies(prefix: string, session: Session): Promise<void> {
  const toSql: number[] = [];
  for (let i = 0; i < 300; i++) {
    const key = `${prefix}latency`;
    const from = performance.now();
    const { revision } = await sendTxn(etcd, {
      compares: [],
      writes: [{ key: encode(key), value: encode(`${i}`), keepLease: false }],
    });
    while (
      (await session.run("bench-see", "select from etcd where key = $1 and revision >= $2", [key, revision]))
        .length === 0
    );
    toSql.push(performance.now() - from);
  }
  line(
    "one write at a time, put → visible in SQL",
    `median ${median(toSql).toFixed(1)} ms, p99 ${toSql.toSorted((a, b) => a - b)[297].toFixed(1)} ms`,
  );
  const toEtcd: number[] = [];
  const { revision } = await readKey(etcd, encode(prefix));
  await using watch = await Watch.open(etcd, prefixRange(encode(`${prefix}fromsql`)), revision + 1, false);
  const seen = watch[Symbol.asyncIterator]();
  await seen.next();
  for (let i = 0; i < 300; i++) {
    await session.run("bench-set", "select etcd_set($1, $2)", [`${prefix}fromsql`, `${i}`]);
    const from = performance.now();
    while ((await seen.next()).value!.events.length === 0);
    toEtcd.push(performance.now() - from);
  }
  line(
    "one write at a time, commit → visible in etcd",
    `median ${median(toEtcd).toFixed(1)} ms, p99 ${toEtcd.toSorted((a, b) => a - b)[297].toFixed(1)} ms`,
  );
}

async function bigTransaction(prefix: string, session: Session, sync: Program): Promise<void> {
  const rows = 100_000;
  const commit = await timed(() =>
    session.run(
      "bench-many",
      "select count(etcd_set($1 || 'big/' || i, 'v' || i)) from generate_series(1, $2) i",
      [prefix, rows],
    )
  );
  const arrive = await timed(async () => {
    while (
      (await session.run("bench-left", "select exists (select from etcd_wal_tx) as left")).some((r) => r.left)
    ) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  });
  line(
    `one SQL transaction of ${rows} rows`,
    `commits in ${commit.toFixed(1)} s, arrives in ${arrive.toFixed(1)} s (${
      Math.round(rows / arrive)
    } rows/s), ${(await sync.memory()).toFixed(0)} MB`,
  );
}

const BARE =
  `create table bare (id bigint generated by default as identity primary key, txid xid8, key text collate "C", value text,
  value_bytes bytea, tombstone boolean not null default false, keep_lease boolean default false, timeline bigint, revision bigint,
  seen_revision bigint, strict boolean default false, status text default 'pending', expected_revision bigint, result_revision bigint,
  retry_count int default 0, error_message text, batch_id bigint, ts timestamptz default now(), settled_at timestamptz)`;

async function pgbench(dsn: string, script: string): Promise<number> {
  const out = await sh(`f=$(mktemp); cat > $f <<'SQL'
\\set k random(1, 100000)
${script}
SQL
${bin}/pgbench -n -M prepared -c 32 -j 2 -T 8 -f $f '${dsn}' 2>&1; rm $f`);
  return Number(/tps = ([\d.]+)/.exec(out)![1]);
}

async function writers(dsn: string, prefix: string, session: Session, draining: boolean): Promise<void> {
  const bare: number[] = [];
  const set: number[] = [];
  for (let i = 0; i < 2; i++) {
    bare.push(
      await pgbench(
        dsn,
        `insert into bare (key, value, txid) values ('${prefix}w/' || :k, 'value-' || :k, pg_current_xact_id());`,
      ),
    );
    set.push(await pgbench(dsn, `select etcd_set('${prefix}w/' || :k, 'value-' || :k);`));
    if (draining) {
      while (
        (await session.run("bench-left", "select exists (select from etcd_wal_tx) as left")).some((r) =>
          r.left
        )
      ) {
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    }
  }
  line(
    `32 writers, etcd_set, ${draining ? "while the program drains" : "drain stopped"}`,
    `${Math.round(median(set))}/s beside ${Math.round(median(bare))}/s into a bare table: ${
      (median(set) / median(bare)).toFixed(2)
    }`,
  );
}

let last: Awaited<ReturnType<typeof bootstrap>> | undefined;
for (const keys of sizes) {
  await last?.sync[Symbol.asyncDispose]();
  await last?.session[Symbol.asyncDispose]();
  last = await bootstrap(keys);
}
const { dsn, prefix, session, sync } = last!;
if (Deno.env.get("BENCH_ONLY") === "bootstrap") {
  await last!.sync[Symbol.asyncDispose]();
  etcd.close();
  Deno.exit(0);
}
await latencies(prefix, session);
await bigTransaction(prefix, session, sync);
await session.script(BARE);
await writers(dsn, prefix, session, true);
await sync[Symbol.asyncDispose]();
await session.script("update etcd_sync_gate set parked = false");
await writers(dsn, prefix, session, false);
await session[Symbol.asyncDispose]();
etcd.close();
