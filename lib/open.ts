/** From a configuration to a stream that can be run. */
import { type Config, identity, withoutSecrets } from "./config.ts";
import { checkedEtcdVersion, withEtcd, withPostgres } from "./connect.ts";
import { selectionOf } from "./core/plan.ts";
import { kindOf } from "./errors.ts";
import { EtcdClient } from "./etcd/client.ts";
import { WATCH_WINDOW_BYTES } from "./etcd/watch.ts";
import { readKey } from "./etcd/kv.ts";
import { probeRead } from "./etcd/probe.ts";
import type { Log } from "./log.ts";
import { type PostgresOptions, Session } from "./postgres/client.ts";
import { migrate } from "./postgres/migrate.ts";
import { ensureStream, hasLeader, setGate } from "./postgres/state.ts";
import { gateOf, markerKey, prefixRange, settingsOf, type Stream } from "./stream.ts";

/**
 * Installs what is missing, and connects; `opened` closes the connections. `guest`: where another instance leads, writers
 * are held to what that one was told.
 * @throws {Fatal} with an exit code, where the stream cannot be run
 */
export async function openStream(
  config: Config,
  { log, troubles, telemetry, postgres }: Pick<Stream, "log" | "troubles" | "telemetry" | "postgres">,
  opened: AsyncDisposableStack,
  { guest = false } = {},
): Promise<Stream> {
  const kv = opened.adopt(new EtcdClient(config.etcd), (client) => client.close());
  const watch = opened.adopt(
    new EtcdClient(config.etcd, { windowBytes: WATCH_WINDOW_BYTES }),
    (client) => client.close(),
  );
  await withPostgres(config, () => install(config, postgres, log, guest));
  const server = await withEtcd(config, async () => {
    const server = await checkedEtcdVersion(config, kv, log);
    await checkRights(config, kv);
    return server;
  });
  return {
    settings: settingsOf(config),
    select: selectionOf(config),
    postgres,
    kv,
    watch,
    server,
    log,
    troubles,
    telemetry,
    fragment: false,
  };
}

async function install(
  config: Config,
  postgres: PostgresOptions,
  log: Log,
  guest: boolean,
): Promise<void> {
  await using session = await Session.open(postgres);
  const { applied } = await migrate(session, config.schema);
  await ensureStream(session, identity(config));
  if (!guest || !await hasLeader(session)) await setGate(session, gateOf(config));
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
    await probeRead(kv, from, to);
    if (!config.oneWay) await readKey(kv, markerKey(config.stream));
  } catch (error) {
    if (kindOf(error) === "permission") throw error;
  }
}
