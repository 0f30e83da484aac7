/**
 * What etcd tells of itself. Decoded here, as the large answers in wire.ts: etcd3's protocol file has no quota, and takes long
 * to load. Field numbers: etcd's api/etcdserverpb/rpc.proto.
 */
import type { EtcdMember, EtcdSide } from "../core/status.ts";
import { EtcdClient, type EtcdOptions } from "./client.ts";
import { encodeRange } from "./encode.ts";
import { decodeRangeResponse, Reader } from "./wire.ts";

const A_LOOK = { timeoutMs: 3_000, repeatable: true };
/** A request without fields: all alarms of all members, the members as this server knows them. */
const NOTHING = new Uint8Array();

/** A side that could not be read has the error itself: who shows it knows what to call it. */
export type Answer<T> = { value: T; error?: undefined } | { value?: undefined; error: unknown };

export interface EtcdAnswers {
  /** By a linearizable read, which wants a quorum. */
  now: Answer<{ revision: number; clusterId: string }>;
  alarms: Answer<NonNullable<EtcdSide["alarms"]>>;
  members: Answer<NonNullable<EtcdSide["members"]>>;
  endpoints: { address: string; member: Answer<EtcdMember> }[];
}

/** Connections that are kept between two looks. */
export class EtcdStatusReader implements Disposable {
  readonly #all: EtcdClient;
  readonly #each: { address: string; client: EtcdClient }[];

  /** @param key one that the user may read, whether it is there or not */
  constructor(options: EtcdOptions, readonly key: Uint8Array) {
    this.#all = new EtcdClient(options);
    this.#each = options.endpoints.map((address) => ({
      address,
      client: options.endpoints.length === 1
        ? this.#all
        : new EtcdClient({ ...options, endpoints: [address] }),
    }));
  }

  /** Asks everything at once, and waits for each answer no longer than a few seconds. Never throws. */
  async read(): Promise<EtcdAnswers> {
    const [now, alarms, members, endpoints] = await Promise.all([
      answer(this.#now()),
      answer(this.#all.call("Maintenance", "Alarm", NOTHING, decodeAlarms, A_LOOK)),
      answer(this.#all.call("Cluster", "MemberList", NOTHING, decodeMembers, A_LOOK)),
      Promise.all(this.#each.map(async ({ address, client }) => ({
        address,
        member: await answer(client.call("Maintenance", "Status", NOTHING, decodeStatus, A_LOOK)),
      }))),
    ]);
    return { now, alarms, members, endpoints };
  }

  async #now(): Promise<{ revision: number; clusterId: string }> {
    const request = encodeRange({ key: this.key, end: null, limit: 0, revision: 0 });
    return (await this.#all.call("KV", "Range", request, decodeRangeResponse, A_LOOK)).header;
  }

  [Symbol.dispose](): void {
    for (const client of new Set([this.#all, ...this.#each.map(({ client }) => client)])) client.close();
  }
}

/** Of the server whose turn it is. @throws {EtcdError} */
export function readMember(client: EtcdClient): Promise<EtcdMember> {
  return client.call("Maintenance", "Status", NOTHING, decodeStatus, { repeatable: true });
}

async function answer<T>(work: Promise<T>): Promise<Answer<T>> {
  try {
    return { value: await work };
  } catch (error) {
    return { error };
  }
}

const text = new TextDecoder();

export function decodeStatus(bytes: Uint8Array): EtcdMember {
  const r = new Reader(bytes, 0, bytes.length);
  const member: EtcdMember = {
    id: "0",
    version: "",
    leader: "0",
    learner: false,
    db_bytes: 0,
    db_in_use_bytes: 0,
    quota_bytes: null,
    errors: [],
  };
  while (r.more()) {
    const tag = r.number();
    if (tag === (1 << 3 | 2)) member.id = memberId(r.message());
    else if (tag === (2 << 3 | 2)) member.version = text.decode(r.slice());
    else if (tag === (3 << 3)) member.db_bytes = r.number();
    else if (tag === (4 << 3)) member.leader = hex(r.bigint());
    else if (tag === (8 << 3 | 2)) member.errors.push(text.decode(r.slice()));
    else if (tag === (9 << 3)) member.db_in_use_bytes = r.number();
    else if (tag === (10 << 3)) member.learner = r.number() === 1;
    else if (tag === (12 << 3)) member.quota_bytes = r.number() || null;
    else r.skip(tag & 7);
  }
  return member;
}

function memberId(header: Reader): string {
  let id = "0";
  while (header.more()) {
    const tag = header.number();
    if (tag === (2 << 3)) id = hex(header.bigint());
    else header.skip(tag & 7);
  }
  return id;
}

/** As etcdctl shows ids of members. */
function hex(id: bigint): string {
  return id.toString(16);
}

const ALARMS = ["NONE", "NOSPACE", "CORRUPT"];

export function decodeAlarms(bytes: Uint8Array): { member: string; alarm: string }[] {
  return repeated(bytes, 2, (r) => {
    const alarm = { member: "0", alarm: ALARMS[0] };
    while (r.more()) {
      const tag = r.number();
      if (tag === (1 << 3)) alarm.member = hex(r.bigint());
      else if (tag === (2 << 3)) alarm.alarm = alarmName(r.number());
      else r.skip(tag & 7);
    }
    return alarm;
  });
}

function alarmName(number: number): string {
  return ALARMS[number] ?? `alarm ${number}`;
}

export function decodeMembers(bytes: Uint8Array): { id: string; name: string; learner: boolean }[] {
  return repeated(bytes, 2, (r) => {
    const member = { id: "0", name: "", learner: false };
    while (r.more()) {
      const tag = r.number();
      if (tag === (1 << 3)) member.id = hex(r.bigint());
      else if (tag === (2 << 3 | 2)) member.name = text.decode(r.slice());
      else if (tag === (5 << 3)) member.learner = r.number() === 1;
      else r.skip(tag & 7);
    }
    return member;
  });
}

/** The messages of one field. */
function repeated<T>(bytes: Uint8Array, field: number, read: (r: Reader) => T): T[] {
  const r = new Reader(bytes, 0, bytes.length);
  const found: T[] = [];
  while (r.more()) {
    const tag = r.number();
    if (tag === (field << 3 | 2)) found.push(read(r.message()));
    else r.skip(tag & 7);
  }
  return found;
}
