/** Looking at both servers, one of which may be down; a running instance is not needed for it. */
import { type Target, withoutSecrets } from "./config.ts";
import { advise, exitOf, type Seen } from "./core/advise.ts";
import { keyText } from "./core/codec.ts";
import { withoutKeys } from "./core/hide.ts";
import type { EtcdSide, Failure, PostgresSide, Status } from "./core/status.ts";
import { codeOf, sentence } from "./errors.ts";
import type { EtcdOptions } from "./etcd/client.ts";
import { type Answer, EtcdStatusReader } from "./etcd/status.ts";
import { type PostgresOptions, Session } from "./postgres/client.ts";
import { postgresVersion, readStatus } from "./postgres/status.ts";
import { prefixRange } from "./stream.ts";

export interface StatusTarget {
  stream: string;
  postgres: PostgresOptions;
  /** Without secrets. */
  postgresAddress: string;
  etcd: EtcdOptions;
  prefix: Uint8Array;
  freshTimeoutMs: number;
  /** Whether keys of the mirrored data are told. */
  keys: boolean;
}

/** A server that answers no sooner is one that hangs. */
const STATEMENT_SECONDS = 5;

/** What is looked at, on a session of its own that no holder's place is told by. */
export function statusTarget(target: Target, keys = true): StatusTarget {
  const { stream, schema, postgresDsn, etcd, prefix, freshTimeoutMs } = target;
  return {
    stream,
    postgres: {
      dsn: postgresDsn,
      schema,
      statementSeconds: STATEMENT_SECONDS,
      applicationName: `etcd-pg-sync ${stream} status`.slice(0, 63),
    },
    postgresAddress: withoutSecrets(postgresDsn),
    etcd,
    prefix,
    freshTimeoutMs,
    keys,
  };
}

/** Looks as often as it is asked to; sessions are kept in between, and made anew where they broke. */
export class StatusReader implements AsyncDisposable {
  readonly #target: StatusTarget;
  readonly #etcd: EtcdStatusReader;
  #session: Session | undefined;

  constructor(target: StatusTarget) {
    this.#target = target;
    // the prefix itself is a key that the user may read, there or not
    this.#etcd = new EtcdStatusReader(target.etcd, prefixRange(target.prefix).from);
  }

  /** Never throws: what cannot be seen is a finding. */
  async read(): Promise<Status> {
    const { stream, postgres: { schema }, prefix, freshTimeoutMs, keys } = this.#target;
    // etcd's revision is read beside: a busy stream is some revisions ahead or behind by the time both are known
    const [postgres, etcd] = await Promise.all([this.#readPostgres(), this.#readEtcd()]);
    const all: Seen = {
      at: new Date().toISOString(),
      stream,
      schema,
      prefix: keyText(prefix),
      fresh_timeout: freshTimeoutMs / 1_000,
      postgres,
      etcd,
    };
    const seen = keys ? all : withoutKeys(all);
    const findings = advise(seen);
    const exit_code = exitOf(findings);
    return { ...seen, healthy: exit_code === 0, exit_code, findings };
  }

  async #readPostgres(): Promise<PostgresSide> {
    const { postgres, postgresAddress: address } = this.#target;
    let version: string | null = null;
    try {
      if (this.#session?.broken) await this.#close();
      const session = this.#session ??= await Session.open(postgres);
      version = await postgresVersion(session);
      return { address, version, error: null, report: await readStatus(session, postgres.schema) };
    } catch (error) {
      return { address, version, error: failure(error), report: null };
    }
  }

  async #readEtcd(): Promise<EtcdSide> {
    const { now, alarms, members, endpoints } = await this.#etcd.read();
    return {
      endpoints: endpoints.map(({ address, member }) => ({
        address,
        error: failureOf(member),
        member: member.value ?? null,
      })),
      revision: now.value?.revision ?? null,
      cluster_id: now.value?.clusterId ?? null,
      error: failureOf(now),
      alarms: alarms.value ?? null,
      members: members.value ?? null,
    };
  }

  async #close(): Promise<void> {
    const session = this.#session;
    this.#session = undefined;
    await session?.[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#etcd[Symbol.dispose]();
    await this.#close();
  }
}

function failureOf(answer: Answer<unknown>): Failure | null {
  return "error" in answer && answer.error !== undefined ? failure(answer.error) : null;
}

function failure(error: unknown): Failure {
  return { code: codeOf(error), text: sentence(error) };
}
