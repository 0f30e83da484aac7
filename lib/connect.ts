/** From a configuration to connections of both servers; what goes wrong is told in one line. */
import { type StreamPlace, type Target, withoutSecrets } from "./config.ts";
import { keyText } from "./core/codec.ts";
import { type EtcdVersion, etcdVersion } from "./core/version.ts";
import { codeOf, Fatal, kindOf, sentence } from "./errors.ts";
import type { EtcdClient } from "./etcd/client.ts";
import { EtcdError } from "./etcd/error.ts";
import { readMember } from "./etcd/status.ts";
import type { Log } from "./log.ts";
import { type PostgresOptions, Session } from "./postgres/client.ts";
import { isInstalled } from "./postgres/migrate.ts";
import { Troubles } from "./troubles.ts";

export function postgresOptions(config: StreamPlace, troubles: Troubles): PostgresOptions {
  return {
    dsn: config.postgresDsn,
    schema: config.schema,
    applicationName: `etcd-pg-sync ${config.stream}`.slice(0, 63),
    blocked: (by) =>
      troubles.tell("locks", { code: "EPS-706", by }, "locks of other sessions stand in the way; trying on"),
  };
}

function postgresFatal(config: StreamPlace, error: unknown): Fatal {
  if (error instanceof Fatal) return error;
  const where = withoutSecrets(config.postgresDsn);
  return new Fatal(codeOf(error), `Cannot use PostgreSQL at '${where}': ${sentence(error)}`);
}

function etcdFatal(config: Target, error: unknown): Fatal {
  if (error instanceof Fatal) return error;
  const where = config.etcd.endpoints.join(",");
  return new Fatal(codeOf(error), `Cannot use etcd at '${where}': ${sentence(error)}`);
}

/** What `use` returns. @throws {Fatal} with an exit code, where PostgreSQL cannot be used */
export async function withPostgres<T>(config: StreamPlace, use: () => Promise<T>): Promise<T> {
  try {
    return await use();
  } catch (error) {
    throw postgresFatal(config, error);
  }
}

/** What `use` returns. @throws {Fatal} with an exit code, where etcd cannot be used */
export async function withEtcd<T>(config: Target, use: () => Promise<T>): Promise<T> {
  try {
    return await use();
  } catch (error) {
    throw etcdFatal(config, error);
  }
}

/** What `use` returns. @throws {Fatal} with an exit code, where one of the servers cannot be used */
export async function withBoth<T>(config: Target, use: () => Promise<T>): Promise<T> {
  try {
    return await use();
  } catch (error) {
    if (error instanceof EtcdError) throw etcdFatal(config, error);
    if (kindOf(error) === "runtime") throw error;
    throw postgresFatal(config, error);
  }
}

/**
 * A session for a command that looks at a stream that `start` has installed.
 * @throws {Fatal} with an exit code, where PostgreSQL cannot be used, or the schema holds no stream
 */
export async function openInstalled(config: StreamPlace, log: Log): Promise<Session> {
  return await withPostgres(config, async () => {
    await using opened = new AsyncDisposableStack();
    const session = opened.use(await Session.open(postgresOptions(config, new Troubles(log))));
    if (!await isInstalled(session, config.schema)) {
      throw new Fatal(
        "EPS-101",
        `Cannot find stream '${config.stream}': schema '${config.schema}' holds none; 'etcd-pg-sync start' installs it`,
      );
    }
    opened.move();
    return session;
  });
}

/** The server's version, where it is one that can be used; known bugs of it are logged. */
export async function checkedEtcdVersion(config: Target, kv: EtcdClient, log: Log): Promise<EtcdVersion> {
  const { version } = await readMember(kv);
  const server = etcdVersion(version);
  if (!server.supported) {
    throw new Fatal("EPS-106", `Cannot use etcd '${version}': the oldest supported version is 3.4`);
  }
  const where = config.etcd.endpoints.join(",");
  log.info({ etcd: where, version, prefix: keyText(config.prefix) }, "connected to etcd");
  for (const warning of server.warnings) {
    log.warn({ code: "EPS-711", version }, `this version of etcd has a known bug: ${warning}`);
  }
  return server;
}
