/** What a row is, and what it is given: servers, programs, and a place for its samples. */
import { type Cost, type Follower, Running, type Sync } from "./program.ts";
import { BareWatch } from "./watch.ts";
import { Connection } from "./etcd.ts";
import { type Load, load } from "./load.ts";
import { clear, Place, type Servers } from "./servers.ts";
import { OURS, type Sample } from "./stats.ts";

export interface Row {
  name: string;
  /** What is measured, from when until when. */
  what: string;
  /** How often, if not said otherwise: what takes long is measured less often. */
  rounds: number;
  run(bench: Bench): Promise<void>;
}

export interface Measure {
  name: string;
  /** Of a unit that ends with '/s' more is better. */
  unit: string;
}

/** One value for each measure, and what it cost. */
export interface Figures extends Partial<Cost> {
  values: number[];
}

export interface Attempt {
  who: string;
  measures: Measure[];
  /** Far more than it takes: then it is given up. */
  seconds: number;
}

const QUICK_SECONDS = 60;
/** etcd takes 1.5 MiB in a request. */
const REQUEST_BYTES = 1_000_000;

export class Bench {
  constructor(
    readonly row: Row,
    readonly rounds: number,
    readonly quick: boolean,
    readonly servers: Servers,
    readonly syncs: Sync[],
    private readonly interrupted: AbortSignal,
    private readonly record: (sample: Sample) => void,
  ) {}

  /** How much there is to do. */
  size(full: number, quick: number): number {
    return this.quick ? quick : full;
  }

  /** Those that bring what etcd has to SQL. */
  get following(): Sync[] {
    return this.syncs.filter(({ follows }) => follows);
  }

  /** Those that bring what SQL writes to etcd. */
  get writing(): Sync[] {
    return this.syncs.filter(({ write }) => write);
  }

  get ours(): Sync {
    return this.syncs.find(({ name }) => name === OURS)!;
  }

  /** Rounds in which everybody has a turn, so that noise falls on all alike. */
  async eachRound(body: (round: number) => Promise<void>): Promise<void> {
    for (let round = 1; round <= this.rounds; round++) await body(round);
  }

  /** One measurement. It may fail: this is a sample too, and the run goes on. */
  async attempt(
    round: number,
    { who, measures, seconds }: Attempt,
    body: (signal: AbortSignal) => Promise<Figures>,
  ): Promise<void> {
    this.interrupted.throwIfAborted();
    const limit = this.size(seconds, Math.min(seconds, QUICK_SECONDS));
    const deadline = AbortSignal.timeout(limit * 1_000);
    const signal = AbortSignal.any([deadline, this.interrupted]);
    const common = { row: this.row.name, who, round };
    try {
      const { values, ...cost } = await body(signal);
      measures.forEach(({ name, unit }, i) => {
        this.record({ ...common, measure: name, unit, value: values[i], ...(i === 0 && cost) });
      });
    } catch (error) {
      this.interrupted.throwIfAborted();
      const { message } = error as Error;
      const failed = deadline.aborted ? `not within ${limit} s (${message})` : message;
      for (const { name, unit } of measures) {
        this.record({ ...common, measure: name, unit, value: null, failed });
      }
    }
  }

  /** The keyspace that a row's measurements share: these keys alone. */
  async fill(what: Omit<Load, "endpoint" | "puts" | "perTxn" | "clients">): Promise<void> {
    const { endpoint } = this.servers;
    using etcd = await Connection.open(endpoint);
    await clear(etcd, "");
    const perTxn = Math.max(1, Math.min(127, Math.floor(REQUEST_BYTES / what.valueBytes)));
    await load({ ...what, endpoint, puts: what.keys, perTxn, clients: 4 }, this.interrupted);
  }

  /** A limit or a program's alternative, on a database and a keyspace of its own. */
  async onPlace(
    round: number,
    attempt: Attempt,
    body: (place: Place) => Promise<Figures>,
    prefix?: string,
  ): Promise<void> {
    await this.attempt(round, attempt, async (signal) => {
      await using place = await Place.open(this.servers, signal, prefix);
      return await body(place);
    });
  }

  /** A program on a place of its own, with its schema but not started. */
  async onPrepared(
    round: number,
    sync: Sync,
    attempt: Omit<Attempt, "who">,
    body: (place: Place) => Promise<Figures>,
    prefix?: string,
  ): Promise<void> {
    await this.onPlace(round, { who: sync.name, ...attempt }, async (place) => {
      await place.session.script(sync.schema);
      return await body(place);
    }, prefix);
  }

  /** Everything that follows etcd has its turn: each program, and a bare watch beside them. */
  async eachFollower(
    round: number,
    attempt: Omit<Attempt, "who">,
    body: (follower: Follower, place: Place) => Promise<Figures>,
  ): Promise<void> {
    for (const sync of this.following) await this.onRunning(round, sync, attempt, body);
    await this.onPlace(round, { who: "bare watch", ...attempt }, async (place) => {
      await using watch = await BareWatch.open(place, 0);
      return await body(watch, place);
    });
  }

  /** A program that runs, and has shown that it does. */
  async onRunning(
    round: number,
    sync: Sync,
    attempt: Omit<Attempt, "who">,
    body: (running: Running, place: Place) => Promise<Figures>,
  ): Promise<void> {
    await this.onPrepared(round, sync, attempt, async (place) => {
      await using running = await Running.start(sync, place);
      await running.untilStreaming();
      return await body(running, place);
    });
  }
}

/** What it cost since `before`; memory is the highest of all. */
export function costSince(before: Cost, after: Cost): Cost {
  return {
    memoryMb: after.memoryMb,
    programCpu: after.programCpu - before.programCpu,
    postgresCpu: after.postgresCpu - before.postgresCpu,
  };
}

/** 200000 as '200,000'. */
export function count(n: number): string {
  return n.toLocaleString("en-US");
}
