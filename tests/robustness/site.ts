/**
 * One installation under test: an etcd and a PostgreSQL of its own, instances of the program that reach both through
 * proxies of their own, and direct doors for those who record and write.
 *
 * ```
 *   clients, recorder ─────────────────────────────┐
 *   instance a ── proxy ─┬── proxy ── etcd         ├── etcd, PostgreSQL
 *   instance b ── proxy ─┴── proxy ── PostgreSQL ──┘
 * ```
 */
import { eventually } from "../support/eventually.ts";
import type { Build } from "../support/program.ts";
import { type OwnEtcd, ownEtcd } from "../support/servers.ts";
import { type Op, World } from "../support/world.ts";
import { installAudit } from "./audit.ts";
import { Instance } from "./instance.ts";
import { Memory } from "./memory.ts";
import { type OwnPostgres, ownPostgres } from "./servers.ts";

const PREFIX = "/r/";
/** Keys that nobody changes: they make a scan take several pages. Snapshots leave them out, but for the last. */
export const COLD = `${PREFIX}cold/`;

export interface SiteOptions {
  build: Build;
  postgresBin?: string;
  instances: number;
  /** How many cold keys there are. */
  cold: number;
}

export class Site implements AsyncDisposable {
  readonly instances: Instance[] = [];
  readonly memory: Memory;
  readonly #stack: AsyncDisposableStack;

  private constructor(
    readonly world: World,
    readonly etcd: OwnEtcd,
    readonly postgres: OwnPostgres,
    stack: AsyncDisposableStack,
  ) {
    this.#stack = stack;
    this.memory = stack.use(new Memory(() => this.instances.map(({ pid }) => pid)));
  }

  /** Starts all; returns when the mirror is whole for the first time. */
  static async open({ build, postgresBin, instances, cold }: SiteOptions): Promise<Site> {
    await using stack = new AsyncDisposableStack();
    const [etcd, postgres] = await Promise.all([ownEtcd(), ownPostgres(postgresBin)]);
    stack.use(etcd);
    stack.use(postgres);
    const world = stack.use(
      new World({
        prefix: PREFIX,
        schema: "public",
        database: "postgres",
        postgresDsn: postgres.dsn,
        etcdDsn: etcd.dsn.replace(/\/$/, PREFIX),
        etcd: etcd.etcd,
      }, new AsyncDisposableStack()),
    );
    await fill(world, cold);
    const site = new Site(world, etcd, postgres, stack.move());
    try {
      site.#start("a", build); // the program installs the schema: its own, with what a mutation has made of it
      await world.untilState("streaming", 60_000);
      await installAudit(world);
      for (let i = 1; i < instances; i++) site.#start(String.fromCharCode(97 + i), build);
      return site;
    } catch (error) {
      await site[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The instance whose session the state row names; undefined: nobody, or PostgreSQL does not answer. */
  async leader(): Promise<Instance | undefined> {
    const ports = await this.world.sql(
      "select client_port as port from pg_stat_activity where pid = any (select unnest(holder_pids) from etcd_sync_state)",
    ).catch(() => []);
    return this.instances.find(({ postgres }) =>
      ports.some(({ port }) => postgres.upstreamPorts.includes(port))
    );
  }

  /** Ends every fault. */
  async heal(): Promise<void> {
    for (const instance of this.instances) instance.heal();
    await eventually(() => this.etcd.etcd.clearNoSpace().then(() => true), { timeoutMs: 30_000 });
  }

  /** Ends the instances, so that all they wrote is there. */
  async end(): Promise<void> {
    for (const instance of this.instances) await instance[Symbol.asyncDispose]();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#stack.disposeAsync();
  }

  #start(name: string, build: Build): void {
    const { postgresDsn, etcdDsn } = this.world;
    this.instances.push(this.#stack.use(new Instance({ name, build, postgresDsn, etcdDsn })));
  }
}

async function fill(world: World, cold: number): Promise<void> {
  for (let at = 0; at < cold; at += 100) {
    const keys = Array.from({ length: Math.min(100, cold - at) }, (_, i) => String(at + i).padStart(6, "0"));
    await world.etcd.txn(keys.map((key): Op => ({ put: COLD + key, value: "cold" })));
  }
  await world.etcd.put(`${PREFIX}first`, "1");
}
