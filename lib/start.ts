/** `start`: from a configuration to a running stream. */
import manifest from "../deno.json" with { type: "json" };
import { type Config, identity, withoutSecrets } from "./config.ts";
import { checkedEtcdVersion, postgresOptions, withEtcd, withPostgres } from "./connect.ts";
import { kindOf } from "./errors.ts";
import { EtcdClient } from "./etcd/client.ts";
import { readKey, readRange } from "./etcd/kv.ts";
import type { Log } from "./log.ts";
import { servePages } from "./pages.ts";
import { type PostgresOptions, Session } from "./postgres/client.ts";
import { migrate } from "./postgres/migrate.ts";
import { ensureStream, setGate } from "./postgres/state.ts";
import { runStream } from "./run.ts";
import { markerKey, prefixRange, type Stream } from "./stream.ts";
import { openTelemetry } from "./telemetry/open.ts";
import type { Telemetry } from "./telemetry/telemetry.ts";
import { alive, ready } from "./telemetry/vitals.ts";
import { Troubles } from "./troubles.ts";

const MAX_KEY_BYTES = 2_500;
/** etcd's default for a request (--max-request-bytes is 1.5 MiB), less the marker and the framing. */
const MAX_TXN_BYTES = 1_500_000;

/** Runs until `signal` aborts. @throws {Fatal} with an exit code where it cannot begin */
export async function start(config: Config, log: Log, signal: AbortSignal): Promise<void> {
  await using opened = new AsyncDisposableStack();
  const kv = opened.adopt(new EtcdClient(config.etcd), (client) => client.close());
  const watch = opened.adopt(new EtcdClient(config.etcd), (client) => client.close());
  const troubles = new Troubles(log);
  const postgres = postgresOptions(config, troubles);
  const { telemetry, page } = opened.use(
    await openTelemetry({
      stream: config.stream,
      version: manifest.version,
      freshTimeoutMs: config.freshTimeoutMs,
      postgres,
      log,
      troubles,
      listens: config.listen !== null,
    }),
  );
  signal.addEventListener("abort", () => telemetry.vitals.stops(), { once: true });
  if (config.listen) opened.use(servePages(config.listen, pages(config, telemetry, page!), log));
  await withPostgres(config, () => install(config, postgres, log));
  const server = await withEtcd(config, async () => {
    const server = await checkedEtcdVersion(config, kv, log);
    await checkRights(config, kv);
    return server;
  });
  const stream: Stream = {
    settings: {
      name: config.stream,
      schema: config.schema,
      prefix: config.prefix,
      limits: { maxRows: config.maxTxnOps - 1, maxBytes: MAX_TXN_BYTES },
      rescanAfter: config.rescanAfter,
      freshTimeoutMs: config.freshTimeoutMs,
      retention: config.retention,
      walLimit: config.walLimit,
      oneWay: config.oneWay,
    },
    select: { prefix: config.prefix, maxKeyBytes: MAX_KEY_BYTES },
    postgres,
    kv,
    watch,
    server,
    log,
    troubles,
    telemetry,
    fragment: false,
  };
  await runStream(stream, signal);
}

function pages(config: Config, { vitals }: Telemetry, metrics: () => Promise<string>) {
  return {
    metrics,
    healthz: () => alive(vitals),
    readyz: () => ready(vitals, config.freshTimeoutMs),
    status: () => Promise.resolve({ stream: config.stream, role: vitals.role, trouble: vitals.trouble }),
  };
}

async function install(config: Config, postgres: PostgresOptions, log: Log): Promise<void> {
  await using session = await Session.open(postgres);
  const { applied } = await migrate(session, config.schema);
  await ensureStream(session, identity(config));
  await setGate(session, {
    maxTxnRows: config.maxTxnOps - 1,
    maxTxnBytes: MAX_TXN_BYTES,
    refuseOversize: config.refuseOversize,
    maxDeletes: config.maxDeletes,
    oneWay: config.oneWay,
  });
  const [{ version }] = await session.run<{ version: string }>(
    "server-version",
    "select current_setting('server_version') as version",
  );
  const where = withoutSecrets(config.postgresDsn);
  log.info(
    { postgres: where, version, schema: config.schema, migrations: applied },
    "connected to PostgreSQL",
  );
}

/** Who may not read will not mirror, however long it tries. A server that does not answer now is waited for. */
async function checkRights(config: Config, kv: EtcdClient): Promise<void> {
  const { from, to } = prefixRange(config.prefix);
  try {
    await readRange(kv, from, to, 1);
    if (!config.oneWay) await readKey(kv, markerKey(config.stream));
  } catch (error) {
    if (kindOf(error) === "permission") throw error;
  }
}
